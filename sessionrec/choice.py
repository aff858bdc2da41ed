"""Choose the model that recommends for a dataset without saved hyperparameters.

choice = choose_model(load_dataset("dataset/Shop"))
choice.model, choice.path
choice.candidates["RandomWalk"]["test"]["MRR@20"]

The candidates are trained on 80 % of the users: first baselines, which take seconds, then one neural network. Their
ensemble costs nothing more, so it is a candidate, too. The one with the best validation MRR@20 is trained on all rows.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import parametrize

from dataset.folders import SessionDataset
from dataset.options import Positive, Size, checked
from dataset.split import TooFewUsers
from models import BASELINES, build_model
from models.baselines.base import CatalogueTooLarge
from models.item_graph import item_graph
from process_data import Prepared
from sessionrec.checkpoint import read_header
from sessionrec.device import pick_device, seed_everything
from sessionrec.ensemble import MemberProgress, describe_seconds
from sessionrec.fit import make_optimizers
from sessionrec.losses import batch_loss
from sessionrec.pretrained import (
    checkpoint_folder,
    ensemble_of,
    find_committed,
    get_pretrained,
    has_names_of,
    header_of,
    heldout_run,
    is_kept,
)
from sessionrec.recipes import Recipe, has_recipes, load_recipe
from sessionrec.run import Run, make_loader, make_loss, prepare_by_recipe, train_on_all_rows
from sessionrec.scoring import rank_labels
from sessionrec.smoothing import smoothed

QUICK = ("CoOccurrence", "RandomWalk", "SLIST", "GRU4REC")
MOST_FOR_SLIST = 5_000  # items: it inverts a matrix of items by items
# Sizes that `scale_recipe` knows, in training rows and items.
FEW_ROWS, FEWEST_EPOCHS = 60_000, 3
FULL_SOFTMAX, NEGATIVES = 5_000, 1_024
DENSE_UPDATES = 50_000
# Validation queries that choose the ensemble's weights, and probabilities of all members that are kept meanwhile.
MOST_QUERIES = 4_000
MOST_PROBABILITIES = 2**27
COMMITTED = ("GRU4REC", "GRUwATT", "Ensemble")  # the report's two final models, and the ensemble
Metrics = dict[str, dict[str, float]]  # split -> metric -> value


def get_models(
    dataset: SessionDataset,
    names: Sequence[str] = (),
    *,
    epochs: int | None = None,
    thorough: bool = False,
    budget_minutes: float | None = None,
) -> tuple[dict[str, Path], dict[str, Metrics]]:
    """The checkpoints to recommend with, by model, and the metrics of all held-out runs, by model.

    names: of models. If there are none: COMMITTED for a dataset with saved hyperparameters, and `choose_model` for any
    other. Other options: see `choose_model`. Raises ValueError for options that do not go together.
    """
    is_known = has_recipes("best", dataset.short_name) or any(find_committed(dataset, name) for name in COMMITTED)
    has_choice = not names and not is_known
    if (thorough or budget_minutes is not None) and not has_choice:
        why = "names the models itself" if names else "has saved hyperparameters"
        who = "MODELS" if names else dataset.name
        raise ValueError(f"THOROUGH and BUDGET_MINUTES choose among models, but {who} {why}; leave them out")
    if has_choice:
        choice = choose_model(dataset, epochs=epochs, thorough=thorough, budget_minutes=budget_minutes)
        return {choice.model: choice.path}, choice.candidates
    files = {name: get_pretrained(dataset, name, epochs=epochs) for name in names or COMMITTED}
    return files, {name: heldout_metrics(read_header(file)) for name, file in files.items()}


def heldout_metrics(header: dict) -> Metrics:
    """The metrics of a checkpoint's held-out run, or its own ones; empty if nothing was measured."""
    metrics = header.get("metrics", {})
    return {split: metrics.get(f"heldout_{split}", metrics.get(split, {})) for split in ("valid", "test")}


@dataclass(frozen=True)
class Choice:
    """The model that recommends, and its checkpoint, which was trained on all rows.

    candidates: model -> split -> metric -> value, of the held-out runs; {} if there were too few users for them.
    """

    model: str
    path: Path
    candidates: dict[str, Metrics]


@checked
def choose_model(
    dataset: SessionDataset,
    *,
    epochs: Size | None = None,
    thorough: bool = False,
    budget_minutes: Positive | None = None,
) -> Choice:
    """Train the candidates and choose; or the choice that was made before with the same options for the same files.

    epochs: of the neural networks, instead of the recipe's. thorough: all members of the recipe `best` of the
    Ensemble, instead of the quick candidates with `scale_recipe`. budget_minutes: the quick candidates, then as many
    of the others as this time allows, including the training on all rows.
    """
    recipes = candidate_recipes(dataset, epochs=epochs, thorough=thorough, more=budget_minutes is not None)
    asked = {"recipes": {recipe.model_name: recipe.values for recipe in recipes}, "budget_minutes": budget_minutes}
    path = checkpoint_folder(dataset) / "chosen.safetensors"
    header = header_of(path)
    is_same = header.get("sha256") == dataset.sha256 and header.get("choice", {}).get("asked") == asked
    if is_same and has_names_of(path, dataset):
        return Choice(header["model"], path, header["choice"]["candidates"])
    deadline = time.perf_counter() + 60 * budget_minutes if budget_minutes else np.inf
    _describe(dataset, recipes)
    try:
        runs = _train_candidates(recipes, dataset, deadline)
    except TooFewUsers:
        run, candidates = train_on_all_rows(recipes[0], dataset), {}  # it says so
    else:
        candidates = {run.model.name: run.metrics for run in runs}
        best = max(runs, key=lambda run: run.metrics["valid"]["MRR@20"])
        print(f"Validation chooses {best.model.name}, which is now trained on all rows.", flush=True)
        run = _train_on_all_rows(best, runs, recipes, dataset)
    if run.interrupted:
        raise KeyboardInterrupt
    run = replace(run, info=run.info | {"choice": {"asked": asked, "candidates": candidates}})
    run.save(path)
    return Choice(run.model.name, path, candidates)


# --------------------------------------------------------------------------------------------------
# Candidates and their settings


def candidate_recipes(
    dataset: SessionDataset, *, epochs: int | None = None, thorough: bool = False, more: bool = False
) -> list[Recipe]:
    """The recipes of the candidates, baselines first; more: with the other members of the Ensemble behind them."""
    rows, n_items = size_of(dataset)
    quick = [name for name in QUICK if name != "SLIST" or n_items <= MOST_FOR_SLIST]
    members = load_recipe("best", "Ensemble", dataset.short_name).ensemble["members"]
    names = members if thorough else quick + members * more
    names = sorted(dict.fromkeys(names), key=lambda name: name not in BASELINES)  # stable
    recipes = [load_recipe("best", name, dataset.short_name) for name in names]
    if not thorough:
        recipes = [scale_recipe(recipe, rows=rows, n_items=n_items) for recipe in recipes]
    if epochs:
        change = {"fit": {"epochs": epochs}}
        recipes = [r if r.model_name in BASELINES else r.with_changes(change) for r in recipes]
    return recipes


def size_of(dataset: SessionDataset) -> tuple[int, int]:
    """The number of training rows, each of which is one step to predict, and of items."""
    return len(dataset.train), len(np.unique(np.r_[dataset.train.items, dataset.train.labels]))


def scale_recipe(recipe: Recipe, *, rows: int, n_items: int) -> Recipe:
    """A neural recipe with settings for the size of the data; a baseline's recipe as it is.

    - Epochs fall with the square root of the rows above FEW_ROWS: each epoch then has more steps.
    - Above FULL_SOFTMAX items, the loss samples 1,024 negatives, since the full softmax takes most of the time.
    - Above DENSE_UPDATES items, a step updates only the embeddings that it uses, which excludes graph smoothing.

    Up to these sizes, the recipe stays as it is.
    """
    if recipe.model_name in BASELINES:
        return recipe
    epochs = round(recipe.fit["epochs"] * min(1.0, (FEW_ROWS / rows) ** 0.5))
    changes = {"epochs": max(FEWEST_EPOCHS, epochs)} if rows > FEW_ROWS else {}
    if n_items > FULL_SOFTMAX:
        changes |= {"negatives": NEGATIVES}
    if n_items > DENSE_UPDATES:
        changes |= {"lazy": True, "graph_smoothing": 0.0}
    return recipe.with_changes({"fit": changes})


# --------------------------------------------------------------------------------------------------
# Training


def _describe(dataset: SessionDataset, recipes: list[Recipe]) -> None:
    rows, n_items = size_of(dataset)
    *most, last = [recipe.model_name for recipe in recipes]
    print(
        f"{dataset.name}: {rows:,} training rows, {n_items:,} items. No checkpoint is of exactly these files, so "
        f"{', '.join(most)} and {last} are trained on 80 % of the users. The best on the others recommends.",
        flush=True,
    )


def _train_candidates(recipes: list[Recipe], dataset: SessionDataset, deadline: float) -> list[Run]:
    """The held-out runs, and their ensemble if it is better on validation than each of them."""
    runs, seconds = [], 0.0
    for i, recipe in enumerate(recipes):
        name = recipe.model_name
        try:
            if name not in BASELINES and not is_kept(recipe, dataset):
                print(f"Candidate {i + 1} of {len(recipes)}: ", end="")
                recipe = _fit_into_budget(recipe, dataset, deadline, seconds)
                if recipe is None:
                    continue
            runs.append(heldout_run(recipe, dataset))
        except CatalogueTooLarge as error:
            print(f"{name} is left out: {error}")
            continue
        if name not in BASELINES:
            seconds += runs[-1].info["train_seconds"]
    if len(runs) < 2:
        return runs
    recipe = load_recipe("best", "Ensemble", dataset.short_name)
    queries = max(1, min(MOST_QUERIES, MOST_PROBABILITIES // (len(runs) * runs[0].data.n_items)))
    ensemble = ensemble_of(recipe.with_changes({"ensemble": {"queries": queries}}), dataset, runs)
    alone = max(run.metrics["valid"]["MRR@20"] for run in runs)
    is_better = ensemble.model.name == "Ensemble" and ensemble.metrics["valid"]["MRR@20"] > alone
    return [*runs, ensemble] if is_better else runs


def _fit_into_budget(recipe: Recipe, dataset: SessionDataset, deadline: float, spent: float) -> Recipe | None:
    """The recipe, with fewer epochs if the time is short, or None if it does not suffice for one. Prints an estimate.

    spent: seconds of the networks before. All rows take as long again, and a quarter more, for those that are chosen.
    """
    epochs = recipe.fit["epochs"]
    per_epoch = estimate_epoch(recipe, prepare_by_recipe(recipe, dataset))
    possible = (deadline - time.perf_counter() - 1.25 * spent) / (2.25 * per_epoch)
    if possible < 1 or spent and possible < epochs:
        print(f"{recipe.model_name} would take about {describe_seconds(2.25 * per_epoch * epochs)}: no time is left")
        return None
    if possible < epochs:
        epochs = int(possible)
        recipe = recipe.with_changes({"fit": {"epochs": epochs}})
    duration = describe_seconds(per_epoch * epochs)
    print(
        f"{recipe.model_name}, {epochs} epochs, about {duration}, and as long on all rows if it is chosen", flush=True
    )
    return recipe


def estimate_epoch(recipe: Recipe, data: Prepared, *, steps: int = 6) -> float:
    """Seconds of an epoch with its validation, from the first steps of a model that is thrown away."""
    seed_everything(0)
    model = build_model(recipe.model_name, n_items=data.n_items, **recipe.model).to(pick_device())
    loader = make_loader(data, recipe)
    loss = make_loss(data, recipe.fit.get("negatives", 0), recipe.fit.get("precision", "auto"))
    share = recipe.fit.get("graph_smoothing", 0.0)
    model.embedding.sparse = recipe.fit.get("lazy", False)
    with smoothed(model.embedding, item_graph(data.train) if share else None, share):
        optimizers = make_optimizers(model, lr=1e-3, weight_decay=0.0)

        def step(batch) -> None:
            with parametrize.cached():
                batch_loss(model, batch.to(model.device), loss).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        durations = [_seconds(partial(step, batch)) for batch in itertools.islice(loader, steps)]
    queries = data.valid.take(np.arange(0, len(data.valid), max(1, len(data.valid) // 1000)))
    validation = _seconds(partial(rank_labels, model, queries)) * len(data.valid) / max(1, len(queries))
    return float(np.median(durations)) * len(loader) + validation


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _train_on_all_rows(best: Run, runs: list[Run], recipes: list[Recipe], dataset: SessionDataset) -> Run:
    """The chosen run on all rows; of an ensemble each member that has weight."""
    by_name = {recipe.model_name: recipe for recipe in recipes}
    if best.model.name != "Ensemble":
        recipe = _as_trained(by_name[best.model.name], best)
        return train_on_all_rows(recipe, dataset, heldout_run=best)
    chosen = best.info["recipe_values"]["ensemble"]["members"]
    progress, members = MemberProgress(chosen), []
    for i, name in enumerate(chosen):
        progress.start(i)
        (heldout,) = [run for run in runs if run.model.name == name]
        members.append(train_on_all_rows(_as_trained(by_name[name], heldout), dataset, heldout_run=heldout))
        if members[-1].interrupted:
            return members[-1]
    recipe = load_recipe("best", "Ensemble", dataset.short_name)
    return train_on_all_rows(recipe, dataset, heldout_run=best, members=members)


def _as_trained(recipe: Recipe, run: Run) -> Recipe:
    """The recipe with the epochs that the run had."""
    return recipe.with_changes({"fit": run.info["recipe_values"]["fit"]})
