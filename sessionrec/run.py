"""A whole run by a recipe: split, train and evaluate. A convenience on top of `prepare`, `fit` and `rank_labels`.

run = run_recipe(load_recipe("best", "NARM", dataset.short_name), dataset)
run.metrics["test"]["MRR@20"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from dataset.options import Count, Precision, Seed, Size, checked
from dataset.split import TooFewUsers
from metrics import summarize
from models import BASELINES, Model, SessionModel, build_model
from models.item_graph import item_graph
from process_data import MyDataset, Prepared, SessionDataset, Sessions, TrainDataset, get_dataloader, prepare
from sessionrec import distributed
from sessionrec.checkpoint import Checkpoint, make_checkpoint, write_checkpoint
from sessionrec.device import pick_device, seed_everything
from sessionrec.ensemble import train_ensemble
from sessionrec.fit import EarlyStopping, History, Schedule, check_callbacks, fit, fit_baseline
from sessionrec.losses import Loss, SampledSoftmax, full_softmax
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.scoring import rank_labels
from sessionrec.smoothing import smoothed

CLEANING = ("min_item_count", "min_session_length", "fit_on")  # recipe `data` keys that are passed to `prepare`


class Split(NamedTuple):
    """How the training rows are split; see `process_data.split_sessions`."""

    made_by = 'Split("user", seed=1)'  # without an annotation it is no field

    by: str = "user"
    seed: int = 0
    valid_share: float | None = None
    test_share: float | None = None


BY_USER = Split()


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model with its history, its data, and its ranks and metrics on each held-out split."""

    made_by: ClassVar[str] = "run_recipe(recipe, dataset)"

    model: Model
    history: History
    data: Prepared
    ranks: dict[str, np.ndarray]
    info: dict

    @property
    def interrupted(self) -> bool:
        return self.history.interrupted

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Split -> metric -> value."""
        return {split: summarize(ranks) for split, ranks in self.ranks.items()}

    @property
    def header(self) -> dict:
        """The header of this run's checkpoint."""
        return self.checkpoint().header

    def checkpoint(self) -> Checkpoint:
        """The checkpoint as an in-memory object."""
        return make_checkpoint(self.model, self.data, metrics=self.metrics, info=self.info)

    def save(self, path: str | Path, *, compact: bool = False) -> None:
        """Write the checkpoint; see `save_checkpoint`."""
        write_checkpoint(path, self.checkpoint(), compact=compact)


@checked
def run_recipe(
    recipe: Recipe,
    dataset: SessionDataset,
    *,
    split: Split = BY_USER,
    seed: Seed = 0,
    device: torch.device | str | None = None,
    stop_after: Size | None = None,
    resume_file: Path | None = None,
    callbacks: Sequence[Callable[[History], None]] = (),
    evaluate_on: list[Literal["valid", "test"]] = ("valid", "test"),
    members: list[Run] | None = None,
) -> Run:
    """Split, clean, build, train and evaluate one model.

    stop_after: epochs after which to stop, without changing the learning-rate schedule. resume_file: see `fit`.
    evaluate_on: the held-out splits to rank at the end. members: trained runs of an Ensemble's members, one for
    each that the recipe names; None trains them.
    Raises DataError, ValueError (an option that does not exist), TrainingError.
    """
    check_callbacks(callbacks)
    if recipe.model_name == "Ensemble":
        train = partial(run_recipe, dataset=dataset, split=split, device=device, evaluate_on=("valid",))
        model, history, data, info = train_ensemble(recipe, dataset, members, train, seed, resume_file)
    else:
        data = prepare_by_recipe(recipe, dataset, split)
        seed_everything(seed)
        model = build_model(recipe.model_name, n_items=data.n_items, **recipe.model).to(pick_device(device))
        if recipe.model_name in BASELINES:
            if used := recipe.fit | {k: v for k, v in recipe.data.items() if k not in CLEANING}:
                raise ValueError(f"{recipe.model_name} is a baseline; it takes no {', '.join(used)}")
            history = fit_baseline(model, data)
        else:
            history = fit_by_recipe(
                model, data, recipe, seed=seed, stop_after=stop_after, resume_file=resume_file,
                callbacks=callbacks,
            )  # fmt: skip
        info = {"epochs": history.best_epoch, "recipe_values": recipe.values}
    ranks = {} if history.interrupted else rank_splits(model, data, evaluate_on)
    return Run(model, history, data, ranks, {"recipe": recipe.name, "seed": seed} | info)


def prepare_by_recipe(recipe: Recipe, dataset: SessionDataset, split: Split = BY_USER) -> Prepared:
    """`prepare` with a recipe's cleaning."""
    options = {key: value for key, value in recipe.data.items() if key in CLEANING}
    shares = {"valid_share": split.valid_share, "test_share": split.test_share}
    return prepare(dataset, split=split.by, split_seed=split.seed, **shares, **options)


def rank_splits(model: Model, data: Prepared, splits: Sequence[str] = ("valid", "test")) -> dict[str, np.ndarray]:
    """Split -> ranks (Q,) of its labels; an empty split is left out."""
    return {split: rank_labels(model, getattr(data, split)) for split in splits if len(getattr(data, split))}


@checked
def fit_by_recipe(
    model: SessionModel,
    data: Prepared,
    recipe: Recipe,
    *,
    seed: Seed = 0,
    stop_after: Size | None = None,
    resume_file: Path | None = None,
    callbacks: Sequence[Callable[[History], None]] = (),
) -> History:
    """`fit` with a recipe's dataset, loader, loss, schedule and graph smoothing."""
    if not isinstance(model, SessionModel):
        raise ValueError(f"fit_by_recipe takes a SessionModel, not {type(model).__name__}")
    if "epochs" not in recipe.fit:
        raise ValueError("this recipe does not say how many epochs: fit = { epochs = ... }, or --epochs")
    options = dict(recipe.fit)
    epochs, share = options.pop("epochs"), options.pop("graph_smoothing", 0.0)
    schedule = Schedule(options.pop("schedule", "constant"), epochs)
    if patience := options.pop("patience", None):
        callbacks = (EarlyStopping(patience), *callbacks)
    loader = make_loader(data, recipe, seed=seed)
    options.pop("batch_size", None)
    loss = make_loss(data, options.pop("negatives", 0), options.pop("precision", "auto"))
    model.embedding.sparse = options.pop("lazy", False)
    if model.embedding.sparse and loss is full_softmax:
        raise ValueError("lazy=true needs negatives: the full softmax uses every embedding at every step")
    graph = item_graph(data.train) if share else None
    with smoothed(model.embedding, graph, share):
        history = fit(
            model, loader, data.valid if len(data.valid) else None, epochs=min(epochs, stop_after or epochs),
            schedule=schedule, loss=loss, resume_file=resume_file, callbacks=callbacks,
            **{"lr": 1e-3} | options,
        )  # fmt: skip
    model.embedding.sparse = False
    return history


@checked
def make_loss(data: Prepared, negatives: Count, precision: Precision) -> Loss:
    """The loss that a recipe names: sampled softmax with so many negatives, or for 0 the full softmax."""
    if negatives:
        return SampledSoftmax(data.popularity, negatives, precision=precision)
    return full_softmax if precision == "auto" else partial(full_softmax, precision=precision)


def make_loader(data: Prepared, recipe: Recipe, *, seed: int = 0) -> DataLoader:
    """The loader that a recipe names, of the training split; this process's share of it."""
    rows = make_train_dataset(data.train, recipe)
    rows.sha256 = data.sha256
    ranks = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    return get_dataloader(rows, recipe.fit.get("batch_size", 256), seed=seed, **ranks)


@checked
def make_train_dataset(sessions: Sessions, recipe: Recipe) -> TrainDataset | MyDataset:
    """The dataset that a recipe names, of the training split."""
    kind = recipe.data.get("dataset", "TrainDataset")
    if kind == "MyDataset":
        return MyDataset(sessions)
    return TrainDataset(sessions, fold=recipe.data.get("fold", True), weights=recipe.data.get("weights", "rows"))


# --------------------------------------------------------------------------------------------------
# All rows


@checked
def train_on_all_rows(
    recipe: Recipe,
    dataset: SessionDataset,
    *,
    heldout_run: Run | None = None,
    split: Split = BY_USER,
    resume_file: Path | None = None,
    **options,
) -> Run:
    """Train on every row, for as many epochs as a held-out run with the same recipe found best.

    The held-out run's metrics go into the header (`heldout_valid`, `heldout_test`), since all rows train here. With
    too few users for a held-out run, print a message and train for the recipe's epochs; nothing is measured.
    options: seed, device, as in `run_recipe`.
    """
    file = resume_file.with_suffix(".heldout" + resume_file.suffix) if resume_file else None
    options_of_all = options | {"split": Split(by="none"), "resume_file": resume_file}
    try:
        heldout_run = heldout_run or run_recipe(recipe, dataset, split=split, resume_file=file, **options)
    except TooFewUsers as error:
        if distributed.rank() == 0:
            print(_describe_run_without_validation(recipe, error))
        run = run_recipe(recipe, dataset, **options_of_all)
        return replace(run, info=run.info | {"recipes": recipes_of(recipe, dataset)})
    if heldout_run.interrupted:
        return heldout_run
    info = heldout_run.info
    recipe_of_all = recipe.with_changes({"ensemble": info["recipe_values"]["ensemble"]})
    run = run_recipe(recipe_of_all, dataset, stop_after=info["epochs"], **options_of_all)
    heldout = {f"heldout_{split}": values for split, values in heldout_run.metrics.items()}
    info = run.info | {"metrics": heldout, "recipes": recipes_of(recipe, dataset)}
    members = {"members": heldout_run.info["members"]} if "members" in heldout_run.info else {}
    return replace(run, info=info | members)


def _describe_run_without_validation(recipe: Recipe, error: TooFewUsers) -> str:
    how = f"trains for the recipe's {recipe.fit.get('epochs')} epochs"
    if recipe.model_name in BASELINES:
        how = "is fitted"
    elif recipe.model_name == "Ensemble":
        how = "averages its members with equal weights, each trained for its recipe's epochs,"
    reason = str(error).split(";")[0]
    return f"No held-out run ({reason}): {recipe.model_name} {how} on all rows, and nothing is measured."


@checked
def recipes_of(recipe: Recipe, dataset: SessionDataset) -> dict[str, dict]:
    """The values in recipes.toml for a model, and those for an Ensemble's members, by model name.

    A recipe whose name is not in the file has its own values.
    """
    names = recipe.ensemble.get("members", ()) if recipe.model_name == "Ensemble" else ()
    try:
        own = load_recipe(recipe.name, recipe.model_name, dataset.short_name)
    except ValueError:
        own = recipe
    members = {name: load_recipe(recipe.name, name, dataset.short_name).values for name in names}
    return {recipe.model_name: own.values} | members
