"""The device that computes, its name beside a number, and the seed of everything random."""

from __future__ import annotations

import torch


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says where it stopped and what to do."""


def pick_device(name: torch.device | str | None = None) -> torch.device:
    """The given device, or the first available of cuda, mps and cpu. Raises TrainingError if it is absent."""
    of_cuda = max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 0
    count = {"cuda": of_cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if name is None:
        return torch.device(next(kind for kind in count if count[kind]))
    kind, colon, index = str(name).partition(":")
    has_index = index.isdecimal() and int(index) < count.get(kind, 0)
    if not count.get(kind) or colon and not has_index:
        choices = ", ".join(kind for kind in count if count[kind])
        raise TrainingError(f"device {str(name)!r} is not available here; choose {choices}")
    return torch.device(f"{kind}:{int(index)}" if colon else kind)


def device_name(device: torch.device) -> str:
    """The hardware to write beside a number: the GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}"


def seed_everything(seed: int, *, epoch: int = 0, rank: int = 0) -> None:
    """Seed torch: for the initial weights (epoch 0), and for each epoch's dropout and negatives.

    An epoch's random numbers depend on nothing before it, so a resumed run draws the same ones.
    """
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + rank)  # every device's generator
