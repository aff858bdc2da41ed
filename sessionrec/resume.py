"""The state of a training run after an epoch, and the file from which an interrupted run continues."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import torch

from models import SessionModel
from sessionrec.checkpoint import CheckpointError, read_tensors, write_tensors


@dataclass
class TrainingState:
    """Weights, optimizers, schedulers, the rows of the history, and the weights of the best epoch.

    settings: everything that the run's result depends on; a file of other settings is refused.
    """

    model: SessionModel
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[torch.optim.lr_scheduler.LRScheduler]
    settings: dict
    rows: list[dict]
    best: dict | None = None

    def add(self, row: dict) -> None:
        """Append an epoch; remember its weights if its validation MRR@20 is the best so far."""
        best = max((r["MRR@20"] for r in self.rows if "MRR@20" in r), default=float("-inf"))
        self.rows.append(row)
        if row.get("MRR@20", float("-inf")) > best:
            self.best = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Load the best epoch's weights into the model, if there was a validation split."""
        if self.best is not None:
            self.model.load_state_dict(self.best)

    def save(self, path: Path) -> None:
        """Write the state, atomically. Raises OSError."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in (self.best or {}).items()}
        groups = []
        for i, optimizer in enumerate(self.optimizers):
            parts = optimizer.state_dict()
            groups.append(parts["param_groups"])
            for index, slots in parts["state"].items():
                tensors |= {f"optimizer.{i}.{index}.{key}": torch.as_tensor(v) for key, v in slots.items()}
        header = {
            "format": 1,
            "settings": self.settings,
            "rows": self.rows,
            "groups": groups,
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }
        write_tensors(path, tensors, header)

    def load(self, path: Path) -> None:
        """Continue from a file. Raises CheckpointError if it belongs to another run."""
        tensors, header = read_tensors(path)
        saved = header.get("settings") or {}
        if other := [key for key, value in self.settings.items() if saved.get(key) != value]:
            raise CheckpointError(
                f"{path} belongs to another run ({', '.join(other)} differ); delete it, or run without --resume"
            )

        def part(prefix: str) -> dict:
            start = prefix + "."
            return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

        try:
            self.model.load_state_dict(part("model"))
            for i, optimizer in enumerate(self.optimizers):
                slots: dict[int, dict] = {}
                for key, value in part(f"optimizer.{i}").items():
                    index, name = key.split(".", 1)
                    # SparseAdam counts its steps in a plain int, and computes in float32 with a tensor.
                    plain = value.dim() == 0 and not value.is_floating_point()
                    slots.setdefault(int(index), {})[name] = value.item() if plain else value
                optimizer.load_state_dict({"state": slots, "param_groups": header["groups"][i]})
            for scheduler, values in zip(self.schedulers, header["schedulers"], strict=True):
                scheduler.load_state_dict(values)
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} belongs to another run ({error}); delete it, or run without --resume"
            ) from None
        self.rows[:] = header["rows"]
        device = self.model.device
        self.best = {key: value.to(device) for key, value in part("best").items()} or None


def resume_files(path: Path) -> list[Path]:
    """Resume files left by a run, its held-out run and its ensemble members."""
    others = path.parent.glob(f"{glob.escape(path.stem)}.*{path.suffix}")
    return [file for file in (path, *others) if file.exists()]


def discard_resume_files(path: Path) -> None:
    """Delete the resume files of a finished run."""
    for file in resume_files(path):
        file.unlink(missing_ok=True)
