"""Ranks -> HR@K, MRR@K, NDCG@K, accuracy, confidence intervals. Full catalogue, pessimistic ties.

Shapes: Q queries, n items; scores have n + 1 columns, column 0 is the padding.
"""

from __future__ import annotations

import reprlib
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from torch import Tensor


class NotFinite(ValueError):
    """Scores with NaN or infinity."""


def check_finite(scores: Tensor) -> None:
    """Raise NotFinite for NaN or infinite scores, whose ranks would mean nothing; ValueError for no tensor."""
    if not isinstance(scores, Tensor):
        raise ValueError(f"scores must be a tensor (Q, n + 1), not {type(scores).__name__}")
    # One pass and no copy: min and max are NaN if any entry is.
    low, high = torch.aminmax(scores) if scores.numel() else (torch.zeros(()), torch.zeros(()))
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise NotFinite("scores hold NaN or infinity; the model has diverged or its checkpoint is damaged")


def _as_ranks(ranks: object) -> np.ndarray:
    """Ranks as an array (Q,). Raises ValueError for anything else than numbers of at least 1, such as one rank."""
    try:
        array = np.asarray(ranks)
    except (ValueError, TypeError, RuntimeError):  # lists of different lengths, or a tensor on another device
        array = np.empty((), object)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0)
    if array.ndim != 1 or array.dtype.kind not in "iuf" or not (array >= 1).all():  # NaN is not at least 1
        raise ValueError("ranks must be numbers of at least 1, one a query: those of rank_labels(model, queries)")
    return array.astype(float)


def _check_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={_short(value)}: must be a whole number of at least {least}")


def _short(value: object) -> str:
    """The value in one short line."""
    return " ".join(reprlib.repr(value).split())


def _check_one_a_query(name: str, values: object, n: int) -> None:
    try:
        shape = np.shape(values)
    except ValueError:  # lists of different lengths
        shape = None
    if shape != (n,):
        raise ValueError(f"{name}: there must be one number or name for each of the {n} queries")


def ranks_of_targets(scores: Tensor, targets: Tensor) -> Tensor:
    """Pessimistic ranks: 1 + number of other items with score >= the target's.

    scores (Q, n + 1), with -inf in the columns that must not be recommended (the padding always);
    targets (Q,) encoded ids, 0 for an item that the model does not know. Returns (Q,) int64: 1..n, and n + 1
    for an unknown or masked target. A constant scorer gets n everywhere. Raises ValueError for other shapes and types.
    """
    if not isinstance(scores, Tensor) or not isinstance(targets, Tensor) or not scores.is_floating_point():
        raise ValueError("scores must be a tensor (Q, n + 1) of floats, and targets a tensor (Q,) of integers")
    if scores.dim() != 2 or targets.shape != scores.shape[:1] or targets.dtype != torch.long:
        shapes = f"{tuple(scores.shape)} and {tuple(targets.shape)} {targets.dtype}"
        raise ValueError(f"scores must be (Q, n + 1) and targets (Q,) of type int64, and they are {shapes}")
    target_scores = scores.gather(1, targets[:, None])
    # The target itself is among the >=, hence no "1 +". Ones are summed as floats, in parts that float32
    # counts exactly: on a CPU that is ten times faster than summing booleans.
    at_least = torch.ge(scores, target_scores, out=torch.empty_like(scores))
    return sum(part.sum(1).long() for part in at_least.split(2**24, dim=1))


def per_query_metric(ranks: np.ndarray, metric: str, k: int) -> np.ndarray:
    """(Q,) the value of HR@K, MRR@K or NDCG@K for each query; the metric is their mean. ranks (Q,).

    With one relevant item NDCG is 1 / log2(1 + rank) (Jarvelin & Kekalainen 2002). All are 0 beyond k. Raises
    ValueError for another metric, a k that is no whole number of at least 1, and anything else than ranks.
    """
    ranks = _as_ranks(ranks)
    _check_count("k", k)
    values = {"HR": np.ones_like, "MRR": np.reciprocal, "NDCG": lambda r: 1 / np.log2(1 + r)}
    value = values.get(metric) if isinstance(metric, str) else None
    if value is None:
        raise ValueError(f"metric={_short(metric)}: choose {', '.join(values)}")
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
    ranks = _as_ranks(ranks)
    if not ranks.size:
        return {name: float("nan") for name in summarize(np.ones(1))}
    table = {f"HR@{k}": hit_rate(ranks, k) for k in (5, 10, 20)}
    table |= {f"MRR@{k}": mean_reciprocal_rank(ranks, k) for k in (5, 10, 20)}
    return table | {"NDCG@20": ndcg(ranks, 20), "accuracy": hit_rate(ranks, 1)}


def summarize_groups(ranks: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    """HR and MRR at 5 and 20 by group, e.g. by session length: ranks (Q,), groups (Q,) -> a row a group."""
    ranks, groups = _as_ranks(ranks), np.asarray(groups)
    _check_one_a_query("groups", groups, len(ranks))
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
    Raises ValueError for other shapes, values that are no numbers, and no query at all.
    """
    values = np.asarray(values)
    if values.ndim != 1 or not values.size or values.dtype.kind not in "biuf":
        raise ValueError("values must be numbers, one a query, and at least one")
    _check_one_a_query("users", users, len(values))
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"level={_short(level)}: must be a share between 0 and 1")
    _check_count("rounds", rounds)
    _check_count("seed", seed, 0)
    _, unit = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(unit, values), np.bincount(unit)
    generator = np.random.default_rng(seed)
    means = np.empty(rounds)
    for r in range(rounds):
        drawn = generator.integers(len(sums), size=len(sums))
        means[r] = sums[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
