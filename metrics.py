"""Ranks -> HR@K, MRR@K, NDCG@K, accuracy, confidence intervals. Full catalogue, pessimistic ties.

Shapes: Q queries, n items; scores have n + 1 columns, column 0 is the padding.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor


class NotFinite(ValueError):
    """Scores with NaN or infinity."""


def check_finite(scores: Tensor) -> None:
    """Raise NotFinite for NaN or infinite scores, whose ranks would mean nothing."""
    # One pass and no copy: min and max are NaN if any entry is.
    low, high = torch.aminmax(scores) if scores.numel() else (torch.zeros(()), torch.zeros(()))
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise NotFinite("scores hold NaN or infinity; the model has diverged or its checkpoint is damaged")


def ranks_of_targets(scores: Tensor, targets: Tensor) -> Tensor:
    """Pessimistic ranks: 1 + number of other items with score >= the target's.

    scores (Q, n + 1), with -inf in the columns that must not be recommended (the padding always);
    targets (Q,) encoded ids, 0 for an item that the model does not know. Returns (Q,) int64: 1..n, and n + 1
    for an unknown or masked target. A constant scorer gets n everywhere.
    """
    target_scores = scores.gather(1, targets[:, None])
    # The target itself is among the >=, hence no "1 +". Ones are summed as floats, in parts that float32
    # counts exactly: on a CPU that is ten times faster than summing booleans.
    at_least = torch.ge(scores, target_scores, out=torch.empty_like(scores))
    return sum(part.sum(1).long() for part in at_least.split(2**24, dim=1))


def per_query_metric(ranks: np.ndarray, metric: str, k: int) -> np.ndarray:
    """(Q,) the value of HR@K, MRR@K or NDCG@K for each query; the metric is their mean. ranks (Q,).

    With one relevant item NDCG is 1 / log2(1 + rank) (Jarvelin & Kekalainen 2002). All are 0 beyond k.
    """
    ranks = np.asarray(ranks, float)
    value = {"HR": np.ones_like, "MRR": np.reciprocal, "NDCG": lambda r: 1 / np.log2(1 + r)}[metric]
    return np.where(ranks <= k, value(ranks), 0)


def hit_rate(ranks: np.ndarray, k: int) -> float:
    """HR@K: share of queries whose target is among the first k."""
    return float(np.mean(per_query_metric(ranks, "HR", k)))


def mean_reciprocal_rank(ranks: np.ndarray, k: int) -> float:
    """MRR@K: mean of 1 / rank, 0 beyond k."""
    return float(np.mean(per_query_metric(ranks, "MRR", k)))


def ndcg(ranks: np.ndarray, k: int) -> float:
    """NDCG@K."""
    return float(np.mean(per_query_metric(ranks, "NDCG", k)))


def summarize(ranks: np.ndarray) -> dict[str, float]:
    """All metrics from one rank a query (Q,). All are NaN if there is no query."""
    ranks = np.asarray(ranks)
    if not ranks.size:
        return {name: float("nan") for name in summarize(np.ones(1))}
    table = {f"HR@{k}": hit_rate(ranks, k) for k in (5, 10, 20)}
    table |= {f"MRR@{k}": mean_reciprocal_rank(ranks, k) for k in (5, 10, 20)}
    return table | {"NDCG@20": ndcg(ranks, 20), "accuracy": hit_rate(ranks, 1)}


def summarize_groups(ranks: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """HR and MRR at 5 and 20 by group, e.g. by session length: ranks (Q,), groups (Q,) -> a row a group."""
    names = ["HR@5", "HR@20", "MRR@5", "MRR@20"]
    values = {group: summarize(ranks[groups == group]) for group in np.unique(groups)}
    table = pd.DataFrame(values).T[names].round(4)
    table.insert(0, "queries", [int((groups == group).sum()) for group in table.index])
    return table


def confidence_interval(
    values: np.ndarray, users: np.ndarray, *, level: float = 0.95, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval over users for the mean of one value a query, e.g. `ranks <= 20` or a difference of two.

    A user's queries are drawn together, since they are not independent. values (Q,), users (Q,).
    """
    _, unit = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(unit, values), np.bincount(unit)
    generator = np.random.default_rng(seed)
    means = np.empty(rounds)
    for r in range(rounds):
        drawn = generator.integers(len(sums), size=len(sums))
        means[r] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
