"""What a finished run is worth: its metrics and ranks, and what accuracy does not show."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dataset.options import Seed, Size, checked
from metrics import summarize
from sessionrec.device import device_name
from sessionrec.run import Run
from sessionrec.scoring import rank_labels, top_items


@checked
def summarize_run(run: Run) -> dict:
    """What `--json` writes: how the run was made, its metrics, and one rank per query in file order.

    For the test split it also contains `beyond_accuracy`.
    """
    header = run.header
    keys = ("dataset", "sha256", "recipe", "recipe_values", "split", "split_seed", "seed", "epochs", "mask_seen")
    members = {"members": header["members"]} if "members" in header else {}
    return {
        "model": run.model.name,
        **{key: header[key] for key in (*keys, "metrics")},
        **members,
        "queries": {split: len(ranks) for split, ranks in run.ranks.items()},
        "coverage": {split: float(np.mean(getattr(run.data, split).labels > 0)) for split in run.ranks},
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "train_seconds": float(run.history.table["seconds"].sum()),
        "hardware": device_name(run.model.device),
        **(beyond_accuracy(run) if "test" in run.ranks else {}),
        "ranks": {split: ranks.tolist() for split, ranks in run.ranks.items()},
        "table": run.history.table.round(6).to_dict("list"),
    }


@checked
def beyond_accuracy(run: Run, *, k: Size = 20, seed: Seed = 0) -> dict:
    """How a run's top k on the test split look, its metrics without the items' order, and its speed.

    catalogue_share: share of the catalogue that is recommended at least once. popularity: mean training count of
    the recommended items over that of the targets, None if no target was trained. shuffled: the metrics with
    every session's items in random order. queries_per_second: scores and top k.
    """
    queries, popularity = run.data.test, run.data.popularity
    started = time.perf_counter()
    items, scores = top_items(run.model, queries, k=min(k, run.data.n_items))
    seconds = time.perf_counter() - started
    items = items[np.isfinite(scores)]  # in a small catalogue masked items fill up the k
    order = np.lexsort((np.random.default_rng(seed).random(len(queries.items)), queries.row_of_item))
    of_targets = popularity[queries.labels].mean()
    return {
        "catalogue_share": len(np.unique(items)) / run.data.n_items,
        "popularity": float(popularity[items].mean() / of_targets) if of_targets else None,
        "shuffled": summarize(rank_labels(run.model, replace(queries, items=queries.items[order]))),
        "queries_per_second": len(queries) / seconds,
    }
