"""Ensembles: train the members that a recipe names, and choose their weights on validation.

Shapes: M members, Q queries, n items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dataset.options import Count, Size, checked
from metrics import ranks_of_targets, summarize
from models import BASELINES, Ensemble, Model
from models.baselines.base import CatalogueTooLarge
from process_data import Prepared, Queries, SessionDataset
from sessionrec import distributed
from sessionrec.fit import History
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.scoring import rank_labels, score_sessions

OBJECTIVE = "NDCG@20"
ROUNDS = 20
# Probabilities kept at once (float32: 4 GiB); with more queries, a sample of them chooses.
_MOST_ENTRIES = 2**30


@checked
def choose_weights(
    models: Sequence[Model], valid: Queries, *, rounds: Size = ROUNDS, start: Count = 0, queries: Size | None = None
) -> tuple[list[float], pd.DataFrame]:
    """Weights (M,) that add up to 1, and one row a round: the models that joined, validation metrics, seconds.

    Greedy selection with replacement (Caruana et al. 2004): every round adds the model whose probabilities
    raise NDCG@20 the most, so a model's weight is how often it was added. Returns the best round's weights.
    start: how many times each neural model is added before greedy selection begins (Caruana et al.'s
    initialisation, which keeps the weights from overfitting few queries). queries: at most so many, drawn at random,
    choose.

    NDCG@20 chooses better than MRR@20, which depends mostly on the first ranks. Weights chosen on half of the
    validation users and measured on the others, one seed a member, HR@20/MRR@20: by MRR .2434/.1176 on Beauty
    (two random halvings, both ways), .2044/.0806 on Cell (one, both ways); by NDCG .2478/.1176 and .2075/.0814.
    """
    if not isinstance(models, list | tuple) or not models or not all(hasattr(m, "probabilities") for m in models):
        raise ValueError("models must be a list of trained models, and at least one")
    kept = _most_queries(models, valid, queries)
    if len(valid) > kept:
        valid = valid.take(np.sort(np.random.default_rng(0).choice(len(valid), kept, replace=False)))
    targets = torch.as_tensor(valid.labels)
    probabilities = [_probabilities(m, valid) for m in models]
    total, taken, rows = torch.zeros_like(probabilities[0]), [], []
    joining = [m for m, model in enumerate(models) if model.name not in BASELINES] * start
    for round_ in range(1, rounds + 1):
        started = time.perf_counter()
        if not joining:
            metrics = [_metrics(total + p, targets) for p in probabilities]
            joining = [max(range(len(models)), key=lambda m: metrics[m][OBJECTIVE])]
        for m in joining:
            total += probabilities[m]
        taken.append(np.bincount(joining, minlength=len(models)))
        row = {"epoch": round_, "joined": ", ".join(models[m].name for m in joining)}
        rows.append(row | _metrics(total, targets) | {"seconds": time.perf_counter() - started})
        joining = []
    table = pd.DataFrame(rows)
    counts = np.sum(taken[: int(table[OBJECTIVE].idxmax()) + 1], axis=0)
    return (counts / counts.sum()).tolist(), table


def _most_queries(models: Sequence[Model], valid: Queries, queries: int | None) -> int:
    """The number of queries that choose the weights, if there are so many."""
    return min(queries or len(valid), max(1, _MOST_ENTRIES // (len(models) * len(valid.popularity))))


def _metrics(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    return summarize(ranks_of_targets(probabilities, targets).numpy())


def _probabilities(model: Model, queries: Queries) -> Tensor:
    """(Q, n + 1) masked probabilities of one model, on the CPU."""
    out = torch.empty(len(queries), model.n_items + 1)
    for rows, scores in score_sessions(Ensemble([model], [1.0]), queries):
        out[torch.as_tensor(rows)] = scores.cpu()
    return out


def train_ensemble(
    recipe: Recipe,
    dataset: SessionDataset,
    members: Sequence | None,
    train: Callable,
    seed: int,
    resume_file: Path | None,
) -> tuple[Model, History, Prepared, dict]:
    """Train the members (or take the given runs), choose their weights on validation, and average them.

    Weights that the recipe already has are kept, as for training on all rows. Without a validation split all
    members weigh the same. A member that cannot take so many items is left out, and the others share its weight.
    If the best member's validation MRR@20 is as high as the ensemble's, that member alone has weight.
    """
    names = recipe.ensemble.get("members")
    if not names:
        raise ValueError("an Ensemble needs a recipe with its members: ensemble = { members = [...] }")
    start = recipe.ensemble.get("start", 0)
    if recipe.model or recipe.data or recipe.fit.keys() - {"epochs"}:
        extra = min([*recipe.model, *recipe.data, *recipe.fit.keys() - {"epochs"}])
        raise ValueError(f"an Ensemble's members have their own recipes; it takes no {extra}")
    weights = recipe.ensemble.get("weights")
    if members is None:
        runs = _train_members(recipe, dataset, train, seed, resume_file)
        if runs[-1] and runs[-1].interrupted:
            return runs[-1].model, runs[-1].history, runs[-1].data, {}
        if weights:
            weights = [weight for weight, run in zip(weights, runs, strict=True) if run]
            weights = [weight / sum(weights) for weight in weights] if any(weights) else None
        runs = [run for run in runs if run]
        if not runs:
            raise ValueError("no member of the ensemble takes so many items")
    else:
        runs = list(members)
        if [run.model.name for run in runs] != list(names):
            raise ValueError(f"the members must be the recipe's: {', '.join(names)}")
    data, models = runs[0].data, [run.model for run in runs]
    history, epochs = History([{"epoch": 1, "seconds": 0.0}]), 1
    if not weights and len(data.valid):
        weights, table = choose_weights(models, data.valid, start=start, queries=recipe.ensemble.get("queries"))
        history, epochs = History(table.to_dict("records")), int(table[OBJECTIVE].idxmax()) + 1
        mrr = history.rows[epochs - 1]["MRR@20"]
        if _most_queries(models, data.valid, recipe.ensemble.get("queries")) < len(data.valid):
            # The members were measured on all queries, and only a sample chose.
            mrr = summarize(rank_labels(Ensemble(models, weights), data.valid))["MRR@20"]
        weights = _or_the_best_alone(weights, mrr, runs)
    weights = weights or [1 / len(runs)] * len(runs)
    history.rows[0]["seconds"] += sum(row["seconds"] for run in runs for row in run.history.rows)
    used = [(run, weight) for run, weight in zip(runs, weights, strict=True) if weight]
    chosen = {
        "members": [run.model.name for run, _ in used],
        "seeds": [run.info["seed"] - seed for run, _ in used],
        "epochs": [run.info["epochs"] for run, _ in used],
        "weights": [weight for _, weight in used],
    }
    info = {
        "epochs": epochs,
        "recipe_values": recipe.values | {"ensemble": recipe.ensemble | chosen},
        "members": [
            {"model": run.model.name, "seed": run.info["seed"], "weight": weight, "metrics": run.metrics}
            for run, weight in zip(runs, weights, strict=True)
        ],
    }
    model = used[0][0].model if len(used) == 1 else Ensemble([run.model for run, _ in used], chosen["weights"])
    return model, history, data, info


def _or_the_best_alone(weights: list[float], mrr: float, runs: Sequence) -> list[float]:
    """The weights; or all weight to the best member if its validation MRR@20 is as high as the ensemble's."""
    alone = [run.metrics["valid"]["MRR@20"] for run in runs]
    best = int(np.argmax(alone))
    if alone[best] < mrr:
        return weights
    if distributed.rank() == 0:
        print(f"On validation, {runs[best].model.name} alone is as good as the ensemble, so it is used alone.")
    return [float(i == best) for i in range(len(runs))]


def members_of(recipe: Recipe, dataset: SessionDataset) -> list[tuple[Recipe, int]]:
    """Each member's own recipe, and what is added to the seed: a model that is named twice has two seeds."""
    names = recipe.ensemble["members"]
    seeds = recipe.ensemble.get("seeds") or [names[:i].count(name) for i, name in enumerate(names)]
    members = [load_recipe(recipe.name, name, dataset.short_name) for name in names]
    if "epochs" in recipe.fit:
        change = {"fit": {"epochs": recipe.fit["epochs"]}}
        members = [m if m.model_name in BASELINES else m.with_changes(change) for m in members]
    return list(zip(members, seeds, strict=True))


def _train_members(
    recipe: Recipe, dataset: SessionDataset, train: Callable, seed: int, resume_file: Path | None
) -> list:
    """Train each member from its own recipe; None for one that cannot take so many items.

    The list ends with an interrupted run.
    """
    members = members_of(recipe, dataset)
    stops = recipe.ensemble.get("epochs") or [None] * len(members)
    progress = MemberProgress([member.model_name for member, _ in members])
    runs = []
    for i, ((member, offset), stop_after) in enumerate(zip(members, stops, strict=True)):
        file = resume_file.with_suffix(f".{i}{resume_file.suffix}") if resume_file else None
        progress.start(i)
        try:
            runs.append(train(member, seed=seed + offset, stop_after=stop_after, resume_file=file))
        except CatalogueTooLarge as error:
            if distributed.rank() == 0:
                print(f"The ensemble goes without {member.model_name}: {error}")
            runs.append(None)
            continue
        if runs[-1].interrupted:
            break
    return runs


class MemberProgress:
    """Says which member of how many is trained next, and about how long the rest takes.

    Only neural members count and are announced: the baselines take seconds.
    """

    def __init__(self, names: Sequence[str]):
        self.names, self.started, self.spent = names, time.perf_counter(), []

    def start(self, i: int) -> None:
        """Member i starts, and the one before it has ended."""
        now = time.perf_counter()
        if i and self.names[i - 1] not in BASELINES:
            self.spent.append(now - self.started)
        self.started = now
        left = sum(name not in BASELINES for name in self.names[i:])
        rest = f"; the rest takes about {describe_seconds(left * float(np.mean(self.spent)))}" if self.spent else ""
        if self.names[i] not in BASELINES and distributed.rank() == 0:
            print(f"Member {i + 1} of {len(self.names)}: {self.names[i]}{rest}", flush=True)


def describe_seconds(seconds: float) -> str:
    """A duration for a reader: `12 s`, `3 minutes`, `1.5 hours`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
