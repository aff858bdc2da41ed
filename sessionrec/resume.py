"""The state of a training run after an epoch, and the file from which an interrupted run continues.

A file is compared with the present model, optimizers and schedulers before any of it is used: the numbers that
training changes are read from it, and everything else must be as it is here.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset.options import NonNegative, Share, check
from models import SessionModel
from sessionrec.checkpoint import CheckpointError, check_tensors, read_header, read_tensors, write_tensors

_HEADER = {"settings": dict, "rows": list[dict], "groups": list[list[dict]], "schedulers": list[dict]}
# What training changes in an optimizer's parameter group, and in a scheduler; all of it is numbers.
_OF_GROUP = {"lr", "betas"}
_OF_SCHEDULER = {"last_epoch", "_step_count", "_last_lr"}


def checksum(*arrays: np.ndarray | torch.Tensor) -> str:
    """A hash of arrays with their shapes and types."""
    digest = hashlib.sha256()
    for array in map(np.asarray, arrays):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


@dataclass
class TrainingState:
    """Weights, optimizers, schedulers, the rows of the history, and the weights of the best epoch.

    settings: everything that the run's result depends on; a file of other settings is refused.
    steps: batches of an epoch.
    """

    model: SessionModel
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[torch.optim.lr_scheduler.LRScheduler]
    settings: dict
    steps: int
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
        for i, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{index}.{key}": torch.as_tensor(v) for key, v in slots.items()}
        header = {
            "format": 1,
            "settings": self.settings,
            "rows": self.rows,
            "groups": [optimizer.state_dict()["param_groups"] for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
        }
        write_tensors(path, tensors, header)

    def load(self, path: Path) -> None:
        """Continue from a file. Raises CheckpointError, before anything is changed, if it does not fit this run."""
        tensors, header = read_tensors(path)
        try:
            for key, hint in _HEADER.items():
                check(key, header.get(key), hint)
            saved, settings = header["settings"], self.settings
            if other := [key for key in {**settings, **saved} if saved.get(key) != settings.get(key)]:
                raise ValueError(f"{', '.join(other)} differ")
            self._check_rows(header["rows"])
            self._check_groups(header["groups"])
            self._check_schedulers(header["schedulers"], len(header["rows"]))
            self._check_tensors(tensors, header["rows"])
        except ValueError as error:
            raise CheckpointError(
                f"{path} belongs to another run ({error}); delete it, or run without --resume"
            ) from None

        def part(prefix: str) -> dict:
            start = prefix + "."
            return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}

        self.model.load_state_dict(part("model"))
        for i, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict] = {}
            for key, value in part(f"optimizer.{i}").items():
                index, name = key.split(".")
                # SparseAdam counts its steps in a plain int, and computes in float32 with a tensor.
                plain = value.dim() == 0 and not value.is_floating_point()
                slots.setdefault(int(index), {})[name] = value.item() if plain else value
            optimizer.load_state_dict({"state": slots, "param_groups": header["groups"][i]})
        for scheduler, values in zip(self.schedulers, header["schedulers"], strict=True):
            scheduler.load_state_dict(values)
        self.rows[:] = header["rows"]
        device = self.model.device
        self.best = {key: value.to(device) for key, value in part("best").items()} or None

    def _check_rows(self, rows: list[dict]) -> None:
        """One row per finished epoch, in order, each with its numbers."""
        measured = {"MRR@20"} & {*rows[0]} if rows else set()
        for i, row in enumerate(rows):
            for key in ("epoch", "loss", "lr", "seconds", *measured):
                check(f"rows[{i}].{key}", row.get(key), float)
            if row["epoch"] != i + 1 or measured != {"MRR@20"} & {*row}:
                raise ValueError(f"rows[{i}] is not epoch {i + 1}")
        if not rows:
            raise ValueError("it has no epoch")

    def _check_groups(self, groups: list[list[dict]]) -> None:
        present = _as_json([optimizer.state_dict()["param_groups"] for optimizer in self.optimizers])
        if _without(_OF_GROUP, groups) != _without(_OF_GROUP, present):
            raise ValueError("its optimizers are others")
        for group in (group for of_optimizer in groups for group in of_optimizer):
            check("lr", group.get("lr"), NonNegative)
            check("betas", group.get("betas"), list[Share])
            if len(group["betas"]) != 2 or max(group["betas"]) == 1:
                raise ValueError("its optimizers are others")

    def _check_schedulers(self, schedulers: list[dict], epochs: int) -> None:
        present = _as_json([scheduler.state_dict() for scheduler in self.schedulers])
        if _without(_OF_SCHEDULER, schedulers) != _without(_OF_SCHEDULER, present):
            raise ValueError("its schedulers are others")
        for saved, fresh in zip(schedulers, present, strict=True):
            check("_last_lr", saved.get("_last_lr"), list[NonNegative])
            done = epochs * self.steps
            if (saved.get("last_epoch"), saved.get("_step_count")) != (done, done + 1):
                raise ValueError(f"its schedulers are not at step {done}")
            if len(saved["_last_lr"]) != len(fresh["_last_lr"]):
                raise ValueError("its schedulers are others")

    def _check_tensors(self, tensors: dict[str, torch.Tensor], rows: list[dict]) -> None:
        """Weights and moments have the names, shapes and types of the model's; steps were taken in these epochs."""
        expected = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if "MRR@20" in rows[0]:
            expected |= {key.replace("model.", "best.", 1): value for key, value in expected.items()}
        steps = {}
        for i, optimizer in enumerate(self.optimizers):
            is_sparse = isinstance(optimizer, torch.optim.SparseAdam)
            step = torch.zeros((), dtype=torch.int64 if is_sparse else torch.float32)
            for j, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
                slots = {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}
                slots = {f"optimizer.{i}.{j}.{name}": value for name, value in slots.items()}
                if slots.keys() & tensors.keys():  # a parameter that no step used has none
                    expected |= slots
                    steps[f"optimizer.{i}.{j}.step"] = step
        check_tensors(tensors, expected)
        if wrong := [key for key in steps if not 1 <= tensors[key] <= len(rows) * self.steps]:
            raise ValueError(f"{wrong[0]} is {tensors[wrong[0]].item():g} after {len(rows) * self.steps} steps")
        if wrong := [key for key in expected if not tensors[key].isfinite().all()]:
            raise ValueError(f"{wrong[0]} is not finite")


def _as_json(values: object) -> object:
    return json.loads(json.dumps(values))


def _without(keys: set[str], values: object) -> object:
    """Lists of dicts without some keys' values; the keys themselves stay."""
    if isinstance(values, list):
        return [_without(keys, value) for value in values]
    return {key: None if key in keys else value for key, value in values.items()}


def resume_files(path: Path) -> list[Path]:
    """Resume files left by a run, its held-out run and its ensemble members, known by their name and content."""
    name = re.compile(rf"{re.escape(path.stem)}(\.heldout)?(\.[0-9]+)?{re.escape(path.suffix)}")
    folder = path.parent
    files = sorted(file for file in folder.iterdir() if name.fullmatch(file.name)) if folder.is_dir() else []
    return [file for file in files if _is_resume_file(file)]


def _is_resume_file(path: Path) -> bool:
    try:
        return read_header(path).keys() >= _HEADER.keys()
    except CheckpointError:
        return False


def discard_resume_files(path: Path) -> None:
    """Delete the resume files of a finished run. A file of that name that is none of them stays."""
    for file in resume_files(path):
        file.unlink(missing_ok=True)
