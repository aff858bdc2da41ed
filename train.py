"""Train one model: `fit` or `count`, what surrounds it (recipes, split, checkpoint), and the command line.

python train.py --dataset Amazon_Beauty --model NARM --output narm.safetensors
torchrun --nproc-per-node 2 train.py --dataset Amazon_Beauty --model NARM --output narm.safetensors
"""

from __future__ import annotations

import argparse
import glob
import inspect
import json
import sys
import time
import tomllib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import distributed
from checkpoint import Checkpoint, CheckpointError, read_tensors, replacing, save_checkpoint, write_tensors
from dataset.fetch_amazon import DownloadError
from ensemble import OBJECTIVE, choose_weights, combine
from losses import Negatives, next_item_loss, pick_precision
from metrics import NotFinite, summarize
from models import COUNT_MODELS, MODELS, CountModel, Model, SessionModel, build_model
from models.counted import CatalogueTooLarge
from models.item_graph import item_graph, smoothed
from process_data import (
    ROOT,
    Batch,
    DataError,
    MyDataset,
    Prepared,
    SessionDataset,
    Sessions,
    TrainDataset,
    get_dataloader,
    load_dataset,
    maximal_sessions,
    prepare,
)
from scoring import rank_labels, top_items


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says where it stopped and what to do."""


def pick_device(name: str | None = None) -> torch.device:
    """The device asked for, else cuda, else mps, else cpu. Raises TrainingError where it is absent."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name is None:
        return torch.device(next(kind for kind, there in available.items() if there))
    if not available.get(name.split(":")[0], False):
        there = ", ".join(kind for kind, there in available.items() if there)
        raise TrainingError(f"device {name!r} is not available here; choose {there}")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What to write beside a number: the GPU's name, or how many CPU threads computed it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def seed_everything(seed: int, *, epoch: int = 0, rank: int = 0) -> None:
    """One seed for the weights (epoch 0), and for each epoch's dropout and negatives.

    An epoch's draws depend on nothing before it, so a resumed run draws what the whole run would have.
    """
    torch.manual_seed((seed * 1_000_003 + epoch) * 1_009 + rank)  # every device's generator


# --------------------------------------------------------------------------------------------------
# The loop


def fit(
    model: SessionModel,
    train: TrainDataset | MyDataset,
    valid: Sessions | None,
    *,
    popularity: np.ndarray,
    mask_seen: bool,
    epochs: int,
    batch_size: int = 256,
    lr: float = 1e-3,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    patience: int | None = None,
    smoothing: float = 0.0,
    neighbours: float = 0.0,
    graph: csr_array | None = None,
    precision: str = "auto",
    negatives: int = 0,
    lazy: bool = False,
    stop_after: int | None = None,
    seed: int = 0,
    state: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
) -> pd.DataFrame:
    """Train with Adam; return one row an epoch: loss, validation metrics, learning rate, seconds of training.

    The weights of the epoch with the best validation MRR@20 are in the model at the end (the last
    epoch's where there is no validation part); `patience` epochs without a better one end the run.
    schedule: "constant", or over `epochs` "onecycle" (Smith & Topin 2018) or "cosine" (Loshchilov & Hutter
    2017, without restarts); `stop_after` ends a run early without changing its schedule. smoothing: of the
    labels, see `losses.next_item_loss`. neighbours: how much of its neighbours in `graph` (`item_graph` makes
    it of the training sessions) an item's embedding takes over, see `smoothed`. precision: the logits' type,
    see `losses.pick_precision`.
    negatives: 0 for the full softmax, else how many sampled items estimate it. lazy: with negatives, Adam
    touches only the embeddings that a step uses, which a catalogue of a million items needs.
    on_epoch: gets every epoch's row; what it raises ends the run.
    state: a file that keeps the last epoch's state; with `resume` a run goes on from it.
    Ctrl-C ends after saving nothing half: the table up to the last epoch comes back,
    with `table.attrs["interrupted"]` set. Under torchrun all processes call this together, each trains on
    its share of every batch, and the first one writes.
    Raises TrainingError for a loss or scores that are not finite: it names the step and its learning rate,
    and the best epoch's weights so far are in the model.
    """
    device = model.device
    rank, processes = distributed.rank(), distributed.processes()
    loader = get_dataloader(train.to(device), batch_size=batch_size, seed=seed, deal=(rank, processes))
    objective = _Objective(
        model,
        negatives=Negatives(popularity, negatives) if negatives else None,
        precision=(dtype := pick_precision(precision, device)),
        smoothing=smoothing,
    )
    if smoothing and negatives:
        raise ValueError("label smoothing needs the full softmax: leave out smoothing or negatives")
    if lazy and not negatives:
        raise ValueError("lazy=True needs negatives: the full softmax touches every embedding at every step")
    if lazy and neighbours:
        raise ValueError("neighbours touch every embedding at every step: leave out neighbours or lazy")
    if neighbours and graph is None:
        raise ValueError("neighbours need the graph of the training sessions' items: item_graph makes it")
    steps = epochs * len(loader)
    schedules = {
        "constant": None,
        "onecycle": partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=lr, total_steps=steps),
        "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps),
    }
    if schedule not in schedules:
        raise ValueError(f"schedule={schedule!r}: choose {', '.join(schedules)}")
    settings = {
        "arguments": getattr(model, "arguments", None),
        "data": zlib.crc32(train.x.cpu().numpy()),
        "weight": train.total_weight,
        "batch_size": batch_size,
        "lr": lr,
        "schedule": [schedule, epochs] if schedules[schedule] else schedule,
        "weight_decay": weight_decay,
        "smoothing": smoothing,
        "neighbours": neighbours,
        "precision": str(dtype),
        "negatives": [negatives, lazy],
        "seed": seed,
    }
    model.embedding.sparse = lazy
    with smoothed(model.embedding, graph, neighbours):
        optimizers = _optimizers(model, lr=lr, weight_decay=weight_decay, lazy=lazy)
        schedulers = [schedules[schedule](optimizer) for optimizer in optimizers if schedules[schedule]]
        run = _Run(model, optimizers, schedulers, settings, rows=[], best=None)
        if resume and state is not None and state.exists():
            run.load(state)
        return _run_epochs(
            run,
            DistributedDataParallel(objective) if processes > 1 else objective,
            loader,
            partial(rank_labels, model, valid, popularity, mask_seen=mask_seen)
            if valid is not None
            else None,
            # The processes' gradients are averaged; their sum is what the batch's loss means.
            denominator=train.total_weight / len(loader) / processes,
            total_weight=train.total_weight,
            last=min(epochs, stop_after or epochs),
            patience=patience,
            state=state,
            progress=progress,
            on_epoch=on_epoch,
        )


def _run_epochs(
    run: _Run,
    objective: nn.Module,
    loader: DataLoader,
    rank_valid: Callable[[], np.ndarray] | None,
    *,
    denominator: float,
    total_weight: float,
    last: int,
    patience: int | None,
    state: Path | None,
    progress: bool,
    on_epoch: Callable[[dict], None] | None,
) -> pd.DataFrame:
    """The epochs of `fit` after those of the run so far; in the end the model has the best one's weights."""
    model, optimizers, seed = run.model, run.optimizers, run.settings["seed"]
    rank = distributed.rank()
    bar = tqdm(
        total=last * len(loader),
        initial=len(run.rows) * len(loader),
        desc=getattr(model, "name", type(model).__name__),
        disable=not progress or rank > 0,
        mininterval=0.5,
    )
    interrupted = False
    try:
        for epoch in range(len(run.rows) + 1, last + 1):
            if run.is_stale(patience):
                break
            started = time.perf_counter()
            model.train()
            seed_everything(seed, epoch=epoch, rank=rank)
            loader.batch_sampler.epoch = epoch
            losses, rates = torch.zeros(len(loader), device=model.device), []
            for step, batch in enumerate(loader):
                rates.append(optimizers[0].param_groups[0]["lr"])
                with parametrize.cached():  # smoothed embeddings: once a step
                    loss = objective(batch)
                    for optimizer in optimizers:
                        optimizer.zero_grad(set_to_none=True)
                    (loss / denominator).backward()
                for updated in (*optimizers, *run.schedulers):
                    updated.step()
                losses[step] = loss.detach()
                bar.update()
            losses = distributed.add_up(losses).cpu().double()
            if not losses.isfinite().all():
                raise _not_finite("the loss", int(losses.isfinite().int().argmin()), run, rates, state)
            if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
                raise _not_finite("a weight", len(rates) - 1, run, rates, state)
            loss = float(losses.sum()) / total_weight
            row = {"epoch": epoch, "loss": loss}
            trained = time.perf_counter()
            if rank_valid is not None:
                try:
                    with parametrize.cached():
                        ranks = rank_valid()
                except NotFinite as error:
                    raise _not_finite("a score", len(rates) - 1, run, rates, state) from error
                row |= summarize(ranks)
            row |= {"lr": optimizers[0].param_groups[0]["lr"], "seconds": trained - started}
            run.add(row)
            if state is not None and rank == 0:
                run.save(state)
            if on_epoch is not None:
                on_epoch(row)
            shown = {"epoch": epoch, "loss": f"{loss:.3f}"}
            if "MRR@20" in row:
                shown["MRR@20"] = f"{row['MRR@20']:.4f}"
            bar.set_postfix(shown)
    except KeyboardInterrupt:
        interrupted = True
        bar.write(
            f"Interrupted after epoch {len(run.rows)}"
            + ("; resume goes on from there." if state else "; run it again to start anew.")
        )
    finally:
        bar.close()
        model.embedding.sparse = False
        if run.best is not None:
            model.load_state_dict(run.best)
    table = pd.DataFrame(run.rows)
    table.attrs["interrupted"] = interrupted
    return table


def count(
    model: CountModel,
    train: Sessions,
    valid: Sessions | None,
    *,
    popularity: np.ndarray,
    mask_seen: bool,
    progress: bool = True,
) -> pd.DataFrame:
    """What `fit` is to a model that only counts its training rows: a table of one row, and no state.

    Ctrl-C leaves the table empty, with `table.attrs["interrupted"]` set.
    """
    rows = []
    hidden = not progress or distributed.rank() > 0
    try:
        with tqdm(total=1, desc=getattr(model, "name", type(model).__name__), disable=hidden) as bar:
            started = time.perf_counter()
            model.count(train, popularity)
            seconds = time.perf_counter() - started
            row = {"epoch": 1}
            if valid is not None:
                row |= summarize(rank_labels(model, valid, popularity, mask_seen=mask_seen))
                bar.set_postfix({"MRR@20": f"{row['MRR@20']:.4f}"})
            rows.append(row | {"seconds": seconds})
            bar.update()
    except KeyboardInterrupt:
        pass
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["epoch", "seconds"])
    table.attrs["interrupted"] = not rows
    return table


def _not_finite(what: str, step: int, run: _Run, rates: list[float], state: Path | None) -> TrainingError:
    """The error for what broke at a step (from 0) of the epoch after the run's last one."""
    good = len(run.rows)
    kept = f"; {state} keeps epoch {good}" if state is not None and good else ""
    return TrainingError(
        f"{what} is not finite at step {step + 1} of {len(rates)} in epoch {good + 1}, at learning rate "
        f"{rates[step]:.2g}; try a smaller one{kept}"
    )


class _Objective(nn.Module):
    """Batch -> loss, as the module whose forward pass DistributedDataParallel wraps."""

    def __init__(self, model: SessionModel, **options):
        super().__init__()
        self.model, self.options = model, options

    def forward(self, batch: Batch) -> Tensor:
        return next_item_loss(self.model, batch, **self.options)


def _optimizers(
    model: SessionModel, *, lr: float, weight_decay: float, lazy: bool
) -> list[torch.optim.Optimizer]:
    """Adam for all; or a lazy one for the embedding, whose gradient then is sparse, and Adam for the rest."""
    dense = [p for p in model.parameters() if not (lazy and p is model.embedding.weight)]
    optimizers = [torch.optim.Adam(dense, lr=lr, weight_decay=weight_decay, fused=True)]
    if lazy:
        optimizers.append(torch.optim.SparseAdam([model.embedding.weight], lr=lr))
    return optimizers


@dataclass
class _Run:
    """What an epoch leaves behind: weights, optimisers, schedules, table, best weights."""

    model: SessionModel
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[torch.optim.lr_scheduler.LRScheduler]
    settings: dict
    rows: list[dict]
    best: dict | None

    def best_epoch(self) -> int:
        return max(self.rows, key=lambda row: row["MRR@20"])["epoch"]  # the first of equals

    def add(self, row: dict) -> None:
        self.rows.append(row)
        if "MRR@20" in row and self.best_epoch() == row["epoch"]:
            self.best = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def is_stale(self, patience: int | None) -> bool:
        if not patience or not self.rows or "MRR@20" not in self.rows[-1]:
            return False
        return self.rows[-1]["epoch"] - self.best_epoch() >= patience

    def save(self, path: Path) -> None:
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
        tensors, header = read_tensors(path)
        theirs = header.get("settings") or {}
        other = [key for key, value in self.settings.items() if theirs.get(key) != value]
        if other:
            raise CheckpointError(
                f"{path} is another run's state ({', '.join(other)} differ); run without --resume"
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
            raise CheckpointError(f"{path} is another run's state ({error}); run without --resume") from None
        self.rows = header["rows"]
        device = self.model.device
        self.best = {key: value.to(device) for key, value in part("best").items()} or None


# --------------------------------------------------------------------------------------------------
# Recipes


def load_recipe(recipe: str, model: str, dataset: str, *, file: Path = ROOT / "recipes.toml") -> dict:
    """Arguments of one recipe for a model on a dataset: {"model", "fit", "data", "ensemble": {...}}.

    A dataset that the recipe does not name gets its default; `common` is for the neural models and `counted`
    for those that only count. Raises ValueError for an unknown recipe or model, and for a file that holds
    something else than recipes.
    """
    try:
        recipes = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    if recipe not in recipes:
        raise ValueError(f"no recipe {recipe!r}; there are {', '.join(recipes)}")
    if model not in MODELS:
        raise ValueError(f"no model {model!r}; there are {', '.join(MODELS)}")
    sections = {one.recipe_section for one in MODELS.values()} | MODELS.keys()
    for source, of_source in _tables(recipes[recipe], f"{file}: [{recipe}]").items():
        for section in _tables(of_source, f"{file}: [{recipe}.{source}]"):
            if section not in sections:
                raise ValueError(
                    f"{file}: [{recipe}.{source}.{section}] names no model; there are "
                    f"{', '.join(MODELS)}, and {', '.join(sorted(sections - MODELS.keys()))} for many"
                )
        if source != source.lower():
            raise ValueError(f"{file}: [{recipe}.{source}] is never read; datasets are in small letters")
    merged = {"model": {}, "fit": {}, "data": {}, "ensemble": {}}
    for source in ("default", dataset):
        of_source = recipes[recipe].get(source, {})
        for section in (MODELS[model].recipe_section, model):
            try:
                merge_settings(merged, of_source.get(section, {}))
            except ValueError as error:
                raise ValueError(f"{file}: [{recipe}.{source}.{section}]: {error}") from None
    return merged


def _tables(values: object, where: str) -> dict[str, dict]:
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise ValueError(f"{where} holds something else than tables such as [best.default.NARM]")
    return values


def merge_settings(settings: dict, changes: dict) -> None:
    """Put `changes` over `settings`, both as `load_recipe` gives them; ValueError for what does not exist.

    A model's own arguments are checked by `build_model`.
    """
    for kind, values in changes.items():
        if kind not in settings or not isinstance(values, dict):
            raise ValueError(f"no settings {kind!r}; there are {', '.join(settings)}, each a table")
        if unknown := values.keys() - SETTINGS.get(kind, values.keys()):
            raise ValueError(f"{kind} takes no {min(unknown)}; it takes {', '.join(sorted(SETTINGS[kind]))}")
        settings[kind] |= values


def make_train_dataset(
    sessions: Sessions,
    *,
    dataset: str = "TrainDataset",
    fold: bool = True,
    weights: str = "rows",
    reverse: float = 0.0,
) -> TrainDataset | MyDataset:
    """The dataset a recipe names, of the training part."""
    if dataset == "MyDataset":
        return MyDataset(sessions)
    if dataset != "TrainDataset":
        raise ValueError(f"dataset={dataset!r}: choose 'TrainDataset' or 'MyDataset'")
    return TrainDataset(sessions, fold=fold, weights=weights, reverse=reverse)


def make_graph(data: Prepared, of_fit: dict) -> csr_array | None:
    """The graph of the training part's items, where a recipe's `fit` asks for neighbours."""
    if not of_fit.get("neighbours"):
        return None
    return item_graph(maximal_sessions(data.train)[0], data.n_items)


CLEANING = ("min_item_count", "min_session_length", "fit_on")  # what of a recipe's data `prepare` takes
# What a recipe may say beside a model's own arguments; the rest of `fit`'s options is a run's.
SETTINGS = {
    "fit": {p.name for p in inspect.signature(fit).parameters.values() if p.kind == p.KEYWORD_ONLY}
    - {"popularity", "mask_seen", "graph", "stop_after", "seed", "state", "resume", "progress", "on_epoch"},
    "data": {*inspect.signature(make_train_dataset).parameters, *CLEANING} - {"sessions"},
    "ensemble": {"members", "start", "seeds", "epochs", "weights"},
}


# --------------------------------------------------------------------------------------------------
# A whole run


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model with its table, its data, and per held-out part its ranks and metrics."""

    model: Model
    table: pd.DataFrame
    data: Prepared
    ranks: dict[str, np.ndarray]
    metrics: dict[str, dict[str, float]]
    header: dict

    @property
    def interrupted(self) -> bool:
        return self.table.attrs["interrupted"]

    def checkpoint(self) -> Checkpoint:
        """What `save` writes, without the way to disk."""
        return Checkpoint(self.model, self.data.vocabulary, self.data.popularity, self.header)

    def save(self, path: str | Path, *, half: bool = False, compact: bool = False) -> None:
        """Write the checkpoint; half, compact: `save_checkpoint`'s."""
        saved = self.model, self.data.vocabulary, self.data.popularity, self.header
        save_checkpoint(path, *saved, half=half, compact=compact)


def train_model(
    dataset: SessionDataset | str | Path,
    model: str,
    *,
    recipe: str = "best",
    changes: dict | None = None,
    split: str = "user",
    split_seed: int = 0,
    valid_share: float | None = None,
    test_share: float | None = None,
    seed: int = 0,
    epochs: int | None = None,
    stop_after: int | None = None,
    device: str | None = None,
    state: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
    parts: Sequence[str] = ("valid", "test"),
    members: Sequence[Run] | None = None,
) -> Run:
    """Split, clean, build, fit (or count) and evaluate one model by a recipe.

    changes: values over the recipe's, e.g. {"fit": {"lr": 0.01}, "model": {"layers": 2}}. epochs: over the
    recipe's, the schedule with it. stop_after, on_epoch: see `fit`. With split="none" all rows train and
    nothing is held out; say with `stop_after` when to stop (see `train_on_all_rows`). parts: the held-out
    parts that are ranked at the end. members: an Ensemble's, one for each that its recipe names, where they
    are trained already.
    Raises DataError, ValueError (an option that does not exist), TrainingError.
    """
    if not isinstance(dataset, SessionDataset):
        dataset = load_dataset(dataset)
    arguments = load_recipe(recipe, model, dataset.short_name)
    merge_settings(arguments, changes or {})
    if epochs is not None and model not in COUNT_MODELS:
        arguments["fit"] |= {"epochs": epochs}
    parted = {"split": split, "split_seed": split_seed, "valid_share": valid_share, "test_share": test_share}
    ran = {"seed": seed, "state": state, "resume": resume, "progress": progress}
    header = {}
    if model == "Ensemble":
        given = {f"{kind}.{key}" for kind, values in (changes or {}).items() for key in values}
        if alien := {name for name in given if not name.startswith("ensemble.")} - {"fit.epochs"}:
            raise ValueError(f"an Ensemble's members have their own recipes; it takes no {min(alien)}")
        train_member = partial(train_model, dataset, recipe=recipe, epochs=epochs, device=device, **parted)
        network, table, data, header = _train_members(members, train_member, arguments["ensemble"], **ran)
    else:
        if model in COUNT_MODELS and epochs not in (None, 1):
            raise ValueError(f"{model} counts its training rows once; it takes no epochs")
        cleaned = {key: value for key, value in arguments["data"].items() if key in CLEANING}
        data = prepare(dataset, **parted, **cleaned)
        of_rows = {key: value for key, value in arguments["data"].items() if key not in CLEANING}
        ran |= {"stop_after": stop_after, "on_epoch": on_epoch, "device": device}
        network, table = _train_one(data, model, arguments["model"], arguments["fit"], of_rows, **ran)
    mask_seen = not data.repeats
    ranks = {
        part: rank_labels(network, sessions, data.popularity, mask_seen=mask_seen)
        for part in parts
        if len(sessions := getattr(data, part))
    }
    by = OBJECTIVE if model == "Ensemble" else "MRR@20"  # its epochs are rounds
    best = int(table.loc[table[by].idxmax(), "epoch"]) if by in table else len(table)
    header |= {
        "dataset": dataset.name,
        "sha256": dataset.sha256,
        "recipe": recipe,
        "recipe_values": arguments,
        "seed": seed,
        "split": split,
        "split_seed": split_seed,
        "shares": [valid_share, test_share],
        "epochs": best,
        "mask_seen": mask_seen,
        "metrics": {part: summarize(values) for part, values in ranks.items()},
    }
    return Run(network, table, data, ranks, header["metrics"], header)


def _train_one(
    data: Prepared,
    name: str,
    of_model: dict,
    of_fit: dict,
    of_rows: dict,
    *,
    device: str | None,
    seed: int,
    progress: bool,
    **kept,
) -> tuple[SessionModel | CountModel, pd.DataFrame]:
    """Build one model, and fit or count it. kept: what `fit` alone takes."""
    valid = data.valid if len(data.valid) else None
    given = {"popularity": data.popularity, "mask_seen": not data.repeats, "progress": progress}
    seed_everything(seed)
    network = build_model(name, n_items=data.n_items, **of_model).to(pick_device(device))
    if name not in COUNT_MODELS:
        if "epochs" not in of_fit:
            raise ValueError("this recipe does not say how many epochs: fit = { epochs = ... }, or --epochs")
        rows, graph = make_train_dataset(data.train, **of_rows), make_graph(data, of_fit)
        return network, fit(network, rows, valid, graph=graph, seed=seed, **given, **kept, **of_fit)
    if of_fit or of_rows:
        raise ValueError(f"{name} only counts the training rows; it takes no {', '.join(of_fit | of_rows)}")
    return network, count(network, data.train, valid, **given)


def _train_members(
    runs: Sequence[Run] | None,
    train_member: Callable[..., Run],
    ensemble: dict,
    *,
    seed: int,
    state: Path | None,
    **options,
) -> tuple[Model, pd.DataFrame, Prepared, dict]:
    """Train what a recipe's `ensemble` names (or take these runs), choose weights on validation, combine.

    `ensemble` is completed with what was found: the members that have a weight, their seeds (added to
    `seed`), weights and epochs. Given back, as `train_on_all_rows` does, nothing is chosen anew. Where there
    is no validation part all weigh the same. A member that cannot take so many items is left out, and what
    it weighed falls to the others.
    """
    names = ensemble.get("members")
    if not names:
        raise ValueError("an Ensemble needs a recipe with its members: ensemble = { members = [...] }")
    start = ensemble.get("start", 0)
    if not isinstance(start, int) or start < 0:
        raise ValueError(f"ensemble.start is {start!r}: say how often each neural model is in, 0 or more")
    seeds = ensemble.get("seeds") or [names[:i].count(name) for i, name in enumerate(names)]
    epochs = ensemble.get("epochs") or [None] * len(names)
    weights = ensemble.get("weights")
    if runs is None:
        runs, left_out = [], []
        for i, (name, more, stop_after) in enumerate(zip(names, seeds, epochs, strict=True)):
            own = {"seed": seed + more, "stop_after": stop_after, "parts": ["valid"]}
            own["state"] = state.with_suffix(f".{i}{state.suffix}") if state else None
            if name in COUNT_MODELS:
                own["epochs"] = None
            try:
                run = train_member(name, **own, **options)
            except CatalogueTooLarge as error:
                if distributed.rank() == 0:
                    print(f"The ensemble goes without {name}: {error}")
                left_out.append(i)
                continue
            if run.interrupted:
                return run.model, run.table, run.data, {}
            runs.append(run)
        if not runs:
            raise ValueError("no member of the ensemble takes so many items")
        if weights and left_out:
            weights = [weight for i, weight in enumerate(weights) if i not in left_out]
            weights = [weight / sum(weights) for weight in weights] if any(weights) else None
    elif [run.model.name for run in runs] != list(names):
        raise ValueError(f"the members must be the recipe's: {', '.join(names)}")
    data, models = runs[0].data, [run.model for run in runs]
    if weights or not len(data.valid):
        weights = weights or [1 / len(runs)] * len(runs)
        table = pd.DataFrame({"epoch": [1], "seconds": [0.0]})
    else:
        mask_seen = not data.repeats
        weights, table = choose_weights(models, data.valid, data.popularity, mask_seen=mask_seen, start=start)
    table.loc[0, "seconds"] += sum(run.table["seconds"].sum() for run in runs)
    table.attrs["interrupted"] = False
    found = list(zip(runs, weights, strict=True))
    members = [
        {"model": run.model.name, "seed": run.header["seed"], "weight": weight, "metrics": run.metrics}
        for run, weight in found
    ]
    used = [(run, weight) for run, weight in found if weight]
    ensemble |= {
        "members": [run.model.name for run, _ in used],
        "seeds": [run.header["seed"] - seed for run, _ in used],
        "epochs": [run.header["epochs"] for run, _ in used],
        "weights": [weight for _, weight in used],
    }
    return combine(models, weights), table, data, {"members": members}


def train_on_all_rows(
    dataset: SessionDataset | str | Path,
    model: str,
    *,
    twin: Run | None = None,
    state: Path | None = None,
    **options,
) -> Run:
    """Train on every row, for the epoch count that a twin with the same recipe found by user split.

    The twin's held-out metrics go into the header as `metrics`, since nothing is held out here.
    """
    if not isinstance(dataset, SessionDataset):
        dataset = load_dataset(dataset)
    twin_state = state.with_suffix(".twin" + state.suffix) if state else None
    twin = twin or train_model(dataset, model, split="user", state=twin_state, **options)
    if twin.interrupted:
        return twin
    shares = {"valid_share": None, "test_share": None}
    changes = (options.pop("changes", None) or {}) | {"ensemble": twin.header["recipe_values"]["ensemble"]}
    run = train_model(
        dataset,
        model,
        split="none",
        stop_after=twin.header["epochs"],
        state=state,
        changes=changes,
        **{**options, **shares},
    )
    run.header["metrics"] = {f"twin_{part}": values for part, values in twin.metrics.items()}
    run.header["recipes"] = _recipes_behind(model, dataset, options.get("recipe", "best"))
    if "members" in twin.header:
        run.header["members"] = twin.header["members"]
    return run


def _recipes_behind(model: str, dataset: SessionDataset, recipe: str) -> dict:
    """The recipe of a model, and those of an Ensemble's members, by name."""
    own = load_recipe(recipe, model, dataset.short_name)
    members = own["ensemble"].get("members", ()) if model == "Ensemble" else ()
    return {model: own} | {name: load_recipe(recipe, name, dataset.short_name) for name in members}


def _states(state: Path) -> list[Path]:
    """The states that a run has left: its own, and those of its twin and members."""
    others = state.parent.glob(f"{glob.escape(state.stem)}.*{state.suffix}")
    return [path for path in (state, *others) if path.exists()]


def discard_state(state: Path) -> None:
    """Remove a finished run's states."""
    for path in _states(state):
        path.unlink(missing_ok=True)


PRETRAINED = {"beauty": "Beauty", "cell": "Cell"}


def find_pretrained(dataset: SessionDataset, model: str, epochs: int | None = None) -> Path | None:
    """A checkpoint of this model trained on all rows of exactly this data: committed, or made here before.

    One made here counts only if it is of the recipe as it stands, and was allowed as many epochs (None: the
    recipe's).
    """
    committed = ROOT / "pretrained_model" / PRETRAINED.get(dataset.short_name, "-") / f"{model}.safetensors"
    local = ROOT / "checkpoints" / dataset.short_name / f"{model}.safetensors"
    epochs = epochs or load_recipe("best", model, dataset.short_name)["fit"].get("epochs")
    epochs = None if model in COUNT_MODELS else epochs
    for path in (committed, local):
        header = read_tensors(path)[1] if path.exists() else {}
        allowed = header.get("recipe_values", {}).get("fit", {}).get("epochs")
        if header.get("sha256") != dataset.sha256:
            continue
        if path == committed:
            return path
        if allowed == epochs and header.get("recipes") == _recipes_behind(model, dataset, "best"):
            return path
    return None


def get_pretrained(dataset: SessionDataset, model: str, **options) -> Path:
    """`find_pretrained`, or train it now and keep it in the ignored folder `checkpoints/`."""
    path = find_pretrained(dataset, model, options.get("epochs"))
    if path is None:
        path = ROOT / "checkpoints" / dataset.short_name / f"{model}.safetensors"
        print(
            f"{dataset.name}: no {model} for exactly these files yet, so it is trained now: "
            "a twin on 80 % of the users finds the epochs, then all rows."
        )
        run = train_on_all_rows(dataset, model, **options)
        if run.interrupted:
            raise KeyboardInterrupt
        run.save(path)
    return path


def result_of(run: Run) -> dict:
    """What `--json` writes: how it was run, metrics, and one rank per query in file order.

    For the test part also what metrics alone do not tell, see `look_closer`.
    """
    keys = (
        "dataset",
        "sha256",
        "recipe",
        "recipe_values",
        "split",
        "split_seed",
        "seed",
        "epochs",
        "mask_seen",
        "metrics",
    )
    members = {"members": run.header["members"]} if "members" in run.header else {}
    return {
        "model": run.model.name,
        **{key: run.header[key] for key in keys},
        **members,
        "queries": {part: len(values) for part, values in run.ranks.items()},
        "coverage": {part: float(np.mean(getattr(run.data, part).labels > 0)) for part in run.ranks},
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "train_seconds": float(run.table["seconds"].sum()),
        "hardware": device_name(run.model.device),
        **(look_closer(run) if "test" in run.ranks else {}),
        "ranks": {part: values.tolist() for part, values in run.ranks.items()},
        "table": run.table.round(6).to_dict("list"),
    }


def look_closer(run: Run, *, k: int = 20, seed: int = 0) -> dict:
    """Of a run's test part: what its top k are like, its metrics without the order, and its speed.

    catalogue_share: how much of the catalogue is recommended to anybody. popularity: the mean training count
    of the recommended items over that of the targets, None where no target was trained. shuffled: the metrics
    with every session's items in a random order, the last one included. queries_per_second: scores and top k.
    """
    sessions, popularity = run.data.test, run.data.popularity
    given = {"mask_seen": run.header["mask_seen"]}
    started = time.perf_counter()
    items, scores = top_items(run.model, sessions, popularity, k=min(k, run.data.n_items), **given)
    seconds = time.perf_counter() - started
    items = items[np.isfinite(scores)]  # where the catalogue is small, what is masked fills up the k
    order = np.lexsort((np.random.default_rng(seed).random(len(sessions.items)), sessions.row_of_item))
    shuffled = replace(sessions, items=sessions.items[order])
    of_targets = popularity[sessions.labels].mean()
    return {
        "catalogue_share": len(np.unique(items)) / run.data.n_items,
        "popularity": float(popularity[items].mean() / of_targets) if of_targets else None,
        "shuffled": summarize(rank_labels(run.model, shuffled, popularity, **given)),
        "queries_per_second": len(sessions) / seconds,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="folder, or a name such as Amazon_Beauty or Demo")
    parser.add_argument("--model", required=True, choices=list(MODELS))
    parser.add_argument("--output", required=True, type=Path, help="the checkpoint, a .safetensors file")
    parser.add_argument("--recipe", default="best", help="of recipes.toml: best, fast, report")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout, batches")
    parser.add_argument("--split", default="user", choices=["user", "row", "none"])
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--valid-share", type=float, help="default: .1 by user, .2 by row")
    parser.add_argument("--test-share", type=float, help="default: .1 by user, 0 by row")
    parser.add_argument("--device", help="cuda, mps or cpu; default: the first that is there")
    parser.add_argument("--half", action="store_true", help="store the weights as float16")
    parser.add_argument(
        "--compact", action="store_true", help="the same, but item embeddings in 8 bits: a quarter in all"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last epoch of an interrupted run"
    )
    parser.add_argument("--json", type=Path, help="write settings, metrics, ranks and table to this file")
    args = parser.parse_args(argv)
    if args.output.suffix != ".safetensors":
        parser.error(f"--output {args.output}: name a .safetensors file")
    if args.json and args.json.resolve() == args.output.resolve():
        parser.error("--json would replace the checkpoint; name another file")
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    if args.split_seed < 0 or args.seed < 0:
        parser.error("--seed and --split-seed must be 0 or more")

    state = args.output.with_suffix(".state.safetensors")
    options = {
        "recipe": args.recipe,
        "split_seed": args.split_seed,
        "valid_share": args.valid_share,
        "test_share": args.test_share,
        "seed": args.seed,
        "epochs": args.epochs,
        "device": args.device,
        "state": state,
        "resume": args.resume,
    }
    try:
        options["device"] = distributed.start(args.device)
        if (n := distributed.processes()) > 1 and distributed.rank() == 0:
            print(f"{n} processes train together. Should one fail, all stop: --resume goes on from {state}.")
        dataset = load_dataset(args.dataset)
        if args.resume and not _states(state) and distributed.rank() == 0:
            print(f"There is no {state} to resume from; the run starts anew.")
        if args.split == "none":
            run = train_on_all_rows(dataset, args.model, **options)
        else:
            run = train_model(dataset, args.model, split=args.split, **options)
        # Together, since it ranks queries; the first process writes.
        result = result_of(run) if args.json and not run.interrupted else None
        if distributed.rank() > 0:
            return 0
        if run.interrupted:
            again = "counts again" if args.model in COUNT_MODELS else f"with --resume goes on from {state}"
            print(f"Nothing was saved yet; the same command {again}.")
            return 130
        run.save(args.output, half=args.half, compact=args.compact)
        if args.json:
            with replacing(args.json) as part:
                part.write_text(json.dumps(result) + "\n", encoding="utf-8")
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside the loop that saves: while reading data, or ranking
        left = f"; --resume goes on from {state}" if _states(state) else ""
        if distributed.rank() == 0:
            print(f"train.py: interrupted{left}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if distributed.processes() == 1:
            raise
        print(f"train.py: another process failed; --resume goes on from {state} ({error})", file=sys.stderr)
        return 1
    finally:
        distributed.stop()
    discard_state(state)
    passes = "counted" if args.model in COUNT_MODELS else f"{run.header['epochs']} epochs"
    if "members" in run.header:
        passes = ", ".join(f"{m['weight']:.2f} {m['model']}" for m in run.header["members"] if m["weight"])
    print(f"{args.output}: {args.model} on {dataset.name}, {passes}")
    for part, values in run.header["metrics"].items():
        shown = ", ".join(
            f"{name} {values[name]:.4f}" for name in ("HR@20", "MRR@20", "HR@5", "MRR@5", "accuracy")
        )
        print(f"  {part}: {shown}")
    return 0


if __name__ == "__main__":
    distributed.leave(main())
