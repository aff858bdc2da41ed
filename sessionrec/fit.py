"""The training loop: `fit` for neural models, `fit_baseline` for the others.

loader = get_dataloader(TrainDataset(data.train), 256, seed=0)
history = fit(model, loader, data.valid, epochs=16, lr=4e-3)
history.table
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset.options import NonNegative, Positive, Size, check, checked
from metrics import NotFinite, summarize
from models import Baseline, SessionModel
from process_data import Batch, Prepared, Queries
from sessionrec import distributed
from sessionrec.device import TrainingError, seed_everything
from sessionrec.losses import Loss, batch_loss, full_softmax, pick_precision
from sessionrec.progress import progress_bar
from sessionrec.resume import TrainingState, checksum
from sessionrec.scoring import rank_labels


@dataclass
class History:
    """The epochs of a training run.

    rows: one dict an epoch: epoch, loss, the validation metrics, lr, seconds (of training alone).
    interrupted: whether Ctrl-C (the kernel's stop button) ended the run before its last epoch.
    """

    rows: list[dict] = field(default_factory=list)
    interrupted: bool = False

    @property
    def table(self) -> pd.DataFrame:
        """One row an epoch."""
        return pd.DataFrame(self.rows) if self.rows else pd.DataFrame(columns=["epoch", "seconds"])

    @property
    def best_epoch(self) -> int:
        """The first epoch with the highest validation MRR@20; the last epoch if there is no validation."""
        if self.rows and "MRR@20" in self.rows[-1]:
            return max(self.rows, key=lambda row: row["MRR@20"])["epoch"]
        return len(self.rows)


class StopTraining(Exception):
    """Raised by a callback: training ends after this epoch."""


@dataclass(frozen=True)
class EarlyStopping:
    """A callback: stop after `patience` epochs without a better validation MRR@20."""

    patience: int

    def __post_init__(self):
        check("patience", self.patience, Size)

    def __call__(self, history: History) -> None:
        if len(history.rows) - history.best_epoch >= self.patience:
            raise StopTraining


@dataclass(frozen=True)
class Schedule:
    """The learning rate over `epochs`: "constant", "onecycle" (Smith & Topin 2018) or "cosine" (Loshchilov &
    Hutter 2017, without restarts). Training may end before the schedule does."""

    name: str
    epochs: int

    def __post_init__(self):
        check("schedule", self.name, Literal["constant", "onecycle", "cosine"])
        check("epochs", self.epochs, Size)

    def scheduler(self, optimizer: torch.optim.Optimizer, lr: float, steps_per_epoch: int):
        """A learning-rate scheduler to step after every batch, or None."""
        steps = self.epochs * steps_per_epoch
        if self.name == "onecycle":
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
        if self.name == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return None


@checked
def fit(
    model: SessionModel,
    loader: DataLoader,
    valid: Queries | None,
    *,
    epochs: Size,
    lr: Positive,
    schedule: str | Schedule = "onecycle",
    weight_decay: NonNegative = 0.0,
    loss: Loss = full_softmax,
    resume_file: str | Path | None = None,
    callbacks: Sequence[Callable[[History], None]] = (),
) -> History:
    """Train with Adam and keep the weights of the epoch with the best validation MRR@20.

    loader: batches (x, y, w) of `get_dataloader`, whose seed also seeds each epoch's dropout and negatives.
    valid: encoded queries such as `data.valid`, ranked after every epoch; without any the last epoch is kept.
    loss: a function of queries (P, D), items (n + 1, D), targets (P,) and weights (P,), see losses.py.
    resume_file: keeps the state after each epoch; if it exists, training continues from it, to the same bits.
    callbacks: each is called with the History after every epoch; it may raise StopTraining.

    On Ctrl-C, returns the completed epochs with `interrupted=True`; the best weights so far are in the model.
    Under torchrun all processes call this together; each trains on its share of every batch.
    Raises ValueError for an option that cannot be used, and TrainingError if the loss, a weight or a score is not
    finite: the message names the step, and the best weights so far are in the model.
    """
    _check(model, loader, schedule, epochs, loss, callbacks)
    schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule, epochs)
    history = History()
    state = _new_state(model, loader, valid, lr, schedule, weight_decay, loss, history.rows)
    resume_file = Path(resume_file) if resume_file else None
    if resume_file is not None and resume_file.exists():
        state.load(resume_file)
    rank, world_size = distributed.rank(), distributed.world_size()
    objective = Objective(model, loss)
    objective = DistributedDataParallel(objective) if world_size > 1 else objective
    bar = progress_bar(
        total=epochs * len(loader), initial=len(history.rows) * len(loader), desc=model.name,
        mininterval=0.5, **_hidden_unless_first(),
    )  # fmt: skip
    try:
        while len(history.rows) < epochs:
            epoch = len(history.rows) + 1
            seed_everything(getattr(loader.sampler, "seed", 0), epoch=epoch, rank=rank)
            loader.sampler.epoch = epoch
            trained = _train_epoch(objective, loader, state, bar, resume_file, epoch)
            metrics = _validate(model, valid, len(loader), trained["lr"], resume_file, epoch)
            row = {"epoch": epoch, "loss": trained.pop("loss"), **metrics, **trained}
            state.add(row)
            shown = {"loss": f"{row['loss']:.3f}"}
            bar.set_postfix(shown | ({"MRR@20": f"{row['MRR@20']:.4f}"} if "MRR@20" in row else {}))
            for callback in callbacks:
                callback(history)
            if resume_file is not None and rank == 0:
                state.save(resume_file)
    except StopTraining:
        pass
    except KeyboardInterrupt:
        history.interrupted = True
        next_step = "resume continues from there" if resume_file else "run it again to start anew"
        bar.write(f"Interrupted after epoch {len(history.rows)}; {next_step}.")
    finally:
        bar.close()
        state.restore_best()
    return history


def _new_state(
    model: SessionModel,
    loader: DataLoader,
    valid: Queries | None,
    lr: float,
    schedule: Schedule,
    weight_decay: float,
    loss: Loss,
    rows: list[dict],
) -> TrainingState:
    """The state before the first epoch, with the settings that identify the run in a resume file."""
    optimizers = make_optimizers(model, lr=lr, weight_decay=weight_decay)
    schedulers = [s for o in optimizers if (s := schedule.scheduler(o, lr, len(loader)))]
    # A constant rate does not depend on the number of epochs: such a run may be resumed for more of them.
    described = schedule.name if schedule.name == "constant" else [schedule.name, schedule.epochs]
    settings = {"lr": lr, "schedule": described, "weight_decay": weight_decay, "loss": _describe(loss, model.device)}
    settings |= _fingerprint(model, loader, valid)
    return TrainingState(model, optimizers, schedulers, settings, len(loader), rows)


def _hidden_unless_first() -> dict[str, bool]:
    """Options of the progress bar: only the first process shows it. An explicit `disable` overrides TQDM_DISABLE."""
    return {"disable": True} if distributed.rank() > 0 else {}


def _train_epoch(
    objective: nn.Module, loader: DataLoader, state: TrainingState, bar: tqdm, resume_file: Path | None, epoch: int
) -> dict:
    """One pass over the loader. Returns loss, lr and seconds."""
    started = time.perf_counter()
    objective.train()
    device = next(objective.parameters()).device
    total_weight = loader.dataset.total_weight
    # A constant, so that a batch's share of the gradient does not depend on the other rows in it. The processes'
    # gradients are averaged, but their sum is meant, hence the world size.
    denominator = total_weight / len(loader) / distributed.world_size()
    losses, rates = torch.zeros(len(loader), device=device), []
    for step, batch in enumerate(loader):
        rates.append(state.optimizers[0].param_groups[0]["lr"])
        with parametrize.cached():  # a smoothed embedding is computed once a step
            loss = objective(batch.to(device))
            for optimizer in state.optimizers:
                optimizer.zero_grad(set_to_none=True)
            (loss / denominator).backward()
        for updated in (*state.optimizers, *state.schedulers):
            updated.step()
        losses[step] = loss.detach()
        bar.update()
    losses = distributed.all_reduce(losses).cpu().double()
    if not losses.isfinite().all():
        raise _not_finite("the loss", int(losses.isfinite().int().argmin()), rates, epoch, resume_file)
    if not all(bool(weights.isfinite().all()) for weights in objective.parameters()):
        raise _not_finite("a weight", len(rates) - 1, rates, epoch, resume_file)
    rate = state.optimizers[0].param_groups[0]["lr"]
    return {"loss": float(losses.sum()) / total_weight, "lr": rate, "seconds": time.perf_counter() - started}


def _validate(
    model: SessionModel, valid: Queries | None, steps: int, rate: float, resume_file: Path | None, epoch: int
) -> dict:
    """The validation metrics after the `steps` of an epoch; none without validation queries."""
    if valid is None or not len(valid):
        return {}
    try:
        with parametrize.cached():
            return summarize(rank_labels(model, valid, progress=False))  # `fit` shows a bar
    except NotFinite as error:
        raise _not_finite("a score", steps - 1, [rate] * steps, epoch, resume_file) from error


def _not_finite(what: str, step: int, rates: list[float], epoch: int, resume_file: Path | None) -> TrainingError:
    kept = f"; {resume_file} keeps epoch {epoch - 1}" if resume_file and epoch > 1 else ""
    return TrainingError(
        f"{what} is not finite at step {step + 1} of {len(rates)} in epoch {epoch}, at learning rate "
        f"{rates[step]:.2g}; try a smaller one{kept}"
    )


class Objective(nn.Module):
    """Batch -> loss, as the module whose forward pass DistributedDataParallel wraps."""

    def __init__(self, model: SessionModel, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Tensor:
        return batch_loss(self.model, batch, self.loss)


def make_optimizers(model: SessionModel, *, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Adam; an embedding with sparse gradients gets SparseAdam, which updates only the rows that a step used."""
    sparse = [model.embedding.weight] if model.embedding.sparse else []
    dense = [p for p in model.parameters() if not any(p is weight for weight in sparse)]
    optimizers = [torch.optim.Adam(dense, lr=lr, weight_decay=weight_decay, fused=True)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=lr))
    return optimizers


def _check(
    model: SessionModel, loader: DataLoader, schedule: str | Schedule, epochs: int, loss: Loss, callbacks: Sequence
) -> None:
    check_callbacks(callbacks)
    if not callable(loss):
        raise ValueError(f"loss must be a function such as full_softmax, not of the type {type(loss).__name__}")
    if not isinstance(model, SessionModel):
        raise ValueError(
            f"fit takes a SessionModel, not {type(model).__name__}: subclass SessionModel, or wrap the module: "
            "WrappedModule(module, module.item_embedding). A baseline is fitted by fit_baseline"
        )
    if not hasattr(loader, "dataset") or not hasattr(loader.dataset, "total_weight"):
        raise ValueError("fit takes a loader: get_dataloader(TrainDataset(data.train), 256)")
    if loader.dataset.n_items != model.n_items:
        raise ValueError(
            f"the model has {model.n_items} items and the data {loader.dataset.n_items}: n_items=data.n_items"
        )
    if isinstance(schedule, Schedule) and schedule.name != "constant" and schedule.epochs < epochs:
        raise ValueError(f"epochs={epochs}: the schedule {schedule.name} ends after {schedule.epochs}")
    if getattr(loader.sampler, "world_size", 1) != distributed.world_size():
        raise ValueError("under torchrun each process needs its share: get_dataloader(..., rank=, world_size=)")


def check_callbacks(callbacks: object) -> None:
    """Raise ValueError unless it is a list of functions."""
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        raise ValueError("callbacks must be a list of functions of a History, such as [EarlyStopping(3)]")


def _describe(loss: Loss, device: torch.device) -> str:
    """A loss in words that are the same in another process."""
    keywords = getattr(loss, "keywords", {})
    function = loss.func if isinstance(loss, partial) else loss
    named = hasattr(function, "__qualname__") or type(function).__repr__ is object.__repr__
    name = getattr(function, "__qualname__", type(function).__qualname__) if named else repr(function)
    precision = keywords.get("precision", getattr(function, "precision", "auto"))
    weights = function.state_dict() if isinstance(function, nn.Module) else getattr(function, "__dict__", {})
    arrays = [value for value in {**weights, **keywords}.values() if isinstance(value, (Tensor, np.ndarray))]
    arrays = [array.detach().cpu() if isinstance(array, Tensor) else array for array in arrays]
    return f"{name} {keywords} {pick_precision(precision, device)} {checksum(*arrays)}"


def _fingerprint(model: SessionModel, loader: DataLoader, valid: Queries | None) -> dict:
    """Everything else that a run reads, so that it is never resumed with other data or another model."""
    rows = loader.dataset
    arrays = [rows.x, rows.y, rows.w, rows.starts, rows.lengths]
    if valid is not None:
        arrays += [valid.items, valid.offsets, valid.labels, valid.popularity, np.array(valid.mask_seen)]
    # The text of a model does not show every argument, for example not SASRec's `heads`.
    arguments = json.dumps(model.arguments, default=lambda value: type(value).__name__)
    sampler = loader.sampler
    return {
        "model": f"{model.name} {arguments} {model!r}",
        "data": checksum(*arrays),
        "dataset": rows.sha256,
        "batch_size": getattr(sampler, "batch_size", loader.batch_size),
        "shuffle": getattr(sampler, "shuffle", None),
        "seed": getattr(sampler, "seed", None),
    }


@checked
def fit_baseline(model: Baseline, data: Prepared) -> History:
    """Fit a non-neural baseline. Returns a one-row history; there is nothing to resume.

    On Ctrl-C the history is empty and `interrupted`. Raises ValueError for another kind of model or of data.
    """
    if not isinstance(model, Baseline):
        raise ValueError(f"fit_baseline takes a baseline, not {type(model).__name__}; a neural model is trained by fit")
    history = History()
    try:
        with progress_bar(total=1, desc=model.name, **_hidden_unless_first()) as bar:
            started = time.perf_counter()
            model.fit(data.train, data.popularity)
            seconds = time.perf_counter() - started
            row = {"epoch": 1}
            if len(data.valid):
                row |= summarize(rank_labels(model, data.valid, progress=False))
                bar.set_postfix({"MRR@20": f"{row['MRR@20']:.4f}"})
            history.rows.append(row | {"seconds": seconds})
            bar.update()
    except KeyboardInterrupt:
        history.interrupted = True
    return history
