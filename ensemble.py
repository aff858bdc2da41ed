"""Which models to average, and with which weights: chosen on validation alone.

Shapes: M members, Q queries, n items.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from metrics import ranks_of_targets, summarize
from models import COUNT_MODELS, Ensemble, Model, build_model
from process_data import Sessions
from scoring import score_sessions

OBJECTIVE = "NDCG@20"
ROUNDS = 20
# Probabilities kept at once (float32: 4 GiB); of more queries a sample chooses.
_MOST_ENTRIES = 2**30


def combine(models: Sequence[Model], weights: Sequence[float]) -> Ensemble:
    """The ensemble of trained models; those of weight 0 are left out."""
    used = [(model, float(weight)) for model, weight in zip(models, weights, strict=True) if weight]
    described = [
        {
            "model": model.name,
            "arguments": {key: value for key, value in model.arguments.items() if key != "n_items"},
        }
        for model, _ in used
    ]
    ensemble = build_model(
        "Ensemble", n_items=models[0].n_items, members=described, weights=[weight for _, weight in used]
    )
    ensemble.members = nn.ModuleList(model for model, _ in used)
    return ensemble


def choose_weights(
    models: Sequence[Model],
    valid: Sessions,
    popularity: np.ndarray,
    *,
    mask_seen: bool,
    rounds: int = ROUNDS,
    start: int = 0,
) -> tuple[list[float], pd.DataFrame]:
    """Weights (M,) that add up to 1, and a row a round: who joined, validation metrics, seconds.

    Greedy selection with replacement (Caruana et al. 2004): every round adds the model whose probabilities
    raise NDCG@20 the most, so its weight is how often it was taken. The best round's weights are returned.
    start: so often is every neural model taken in the first round, before any choice (Caruana et al.'s
    initialisation, against fitting the weights to few queries).

    Why not MRR@20, which first places dominate: it fits the weights to them. Chosen on half of the validation
    users and measured on the others, members of one seed, HR@20/MRR@20: by MRR .2434/.1176 on Beauty (two
    random halvings, both ways), .2044/.0806 on Cell (one, both ways); by NDCG .2478/.1176 and .2075/.0814.
    """
    kept = max(1, _MOST_ENTRIES // (len(models) * len(popularity)))
    if len(valid) > kept:
        valid = valid.take(np.sort(np.random.default_rng(0).choice(len(valid), kept, replace=False)))
    targets = torch.as_tensor(valid.labels)
    probabilities = [_probabilities(m, valid, popularity, mask_seen=mask_seen) for m in models]
    total, taken, rows = torch.zeros_like(probabilities[0]), [], []
    joining = [m for m, model in enumerate(models) if model.name not in COUNT_MODELS] * start
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


def _metrics(probabilities: Tensor, targets: Tensor) -> dict[str, float]:
    return summarize(ranks_of_targets(probabilities, targets).numpy())


def _probabilities(model: Model, sessions: Sessions, popularity: np.ndarray, *, mask_seen: bool) -> Tensor:
    """(Q, n + 1) masked probabilities of one model, on the CPU."""
    out = torch.empty(len(sessions), len(popularity))
    for rows, scores in score_sessions(combine([model], [1]), sessions, popularity, mask_seen=mask_seen):
        out[torch.as_tensor(rows)] = scores.cpu()
    return out
