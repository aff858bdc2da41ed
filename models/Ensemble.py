"""Ensemble: the weighted average of several models' probabilities.

A neural member's probabilities are the softmax of its scores; a baseline's are its scores divided by their sum.
`sessionrec.ensemble` chooses the members and their weights on validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dataset.options import check

MOST_MEMBERS = 100


class Ensemble(nn.Module):
    """models: trained models of the same items, none of them an Ensemble. weights: one per model, positive, sum 1."""

    recipe_section = "Ensemble"
    name = "Ensemble"

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float]):
        super().__init__()
        if len(models) != len(weights) or not models:
            raise ValueError(f"{len(models)} members with {len(weights)} weights: pass one weight per member")
        if len(models) > MOST_MEMBERS or any(isinstance(model, Ensemble) for model in models):
            raise ValueError(f"an Ensemble has at most {MOST_MEMBERS} members, and none of them is an Ensemble")
        check("weights", list(weights), list[float])
        if not (all(weight > 0 for weight in weights) and abs(sum(weights) - 1) < 1e-6):
            raise ValueError(f"weights={list(weights)}: must be positive and add up to 1")
        if len(sizes := {model.n_items for model in models}) > 1:
            raise ValueError(f"the members have catalogues of {sorted(sizes)} items; train them on the same data")
        self.n_items, self.weights = models[0].n_items, [float(weight) for weight in weights]
        self.members = nn.ModuleList(models)

    @property
    def arguments(self) -> dict:
        """Arguments for `models.build_model`: each member's class name and arguments, and the weights."""
        members = [
            {"model": m.name, "arguments": {k: v for k, v in m.arguments.items() if k != "n_items"}}
            for m in self.members
        ]
        return {"n_items": self.n_items, "members": members, "weights": self.weights}

    @property
    def device(self) -> torch.device:
        """The device of the neural members; baselines stay on the CPU."""
        devices = [member.device for member in self.members]
        return next((device for device in devices if device.type != "cpu"), devices[0])

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Like `SessionModel.scorer`: x (B, L) -> the average probabilities, written to `out` (B, n + 1)."""
        scorers = [member.probabilities() for member in self.members]
        # One buffer per device, reused for all chunks: allocating new memory takes as long as the matrix product.
        buffers: dict[torch.device, Tensor] = {}

        def score(x: Tensor, out: Tensor) -> Tensor:
            out.zero_()
            for member, scorer, weight in zip(self.members, scorers, self.weights, strict=True):
                device = member.device
                if device not in buffers or len(buffers[device]) < len(out):
                    buffers[device] = torch.empty_like(out, device=device)
                probabilities = scorer(x.to(device), buffers[device][: len(out)])
                out.add_(probabilities.to(out.device), alpha=weight)
            return out

        return score

    probabilities = scorer
