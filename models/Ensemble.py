"""Ensemble: the weighted average of several models' probabilities, itself a model like any other.

A neural member's probabilities are the softmax of its scores, those of one that counts its scores divided by
their sum. Which members with which weight is chosen on validation (`ensemble.choose_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """members: {"model": name, "arguments": constructor arguments but n_items} each; weights add up to 1."""

    recipe_section = "Ensemble"

    def __init__(self, *, n_items: int, members: Sequence[dict], weights: Sequence[float]):
        from models import build_model  # which knows this class too

        super().__init__()
        if len(members) != len(weights) or not members:
            raise ValueError(f"{len(members)} members with {len(weights)} weights: give one each")
        if not (all(weight > 0 for weight in weights) and abs(sum(weights) - 1) < 1e-6):
            raise ValueError(f"weights={list(weights)}: must be positive and add up to 1")
        self.n_items, self.weights = n_items, list(weights)
        self.members = nn.ModuleList(
            build_model(member["model"], **{**member["arguments"], "n_items": n_items}) for member in members
        )

    @property
    def device(self) -> torch.device:
        """Where the neural members are."""
        devices = [member.device for member in self.members]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """As `SessionModel.scorer`, of x (B, L) the average probabilities, written to `out` (B, n + 1)."""
        parts = [member.probabilities() for member in self.members]

        # One a device, kept from chunk to chunk: fresh pages cost as much as the product (scoring.py).
        buffers: dict[torch.device, Tensor] = {}

        def score(x: Tensor, out: Tensor) -> Tensor:
            out.zero_()
            for member, part, weight in zip(self.members, parts, self.weights, strict=True):
                device = member.device
                if device not in buffers or len(buffers[device]) < len(out):
                    buffers[device] = torch.empty_like(out, device=device)
                own = part(x.to(device), buffers[device][: len(out)])
                out.add_(own.to(out.device), alpha=weight)
            return out

        return score

    probabilities = scorer
