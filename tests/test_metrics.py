"""metrics.py by hand: ties, unknown and masked targets, ranks near K, and intervals over users."""

import math

import ir_measures
import numpy as np
import pytest
import torch
from ir_measures import RR, Success, nDCG

from metrics import (
    check_finite,
    confidence_interval,
    hit_rate,
    mean_reciprocal_rank,
    ndcg,
    per_query_metric,
    ranks_of_targets,
    summarize,
    summarize_groups,
)

OUT = -math.inf  # a column that must not be recommended
RANKS = np.array([1, 2, 5, 6, 30])


def rank(scores, target):
    return ranks_of_targets(torch.tensor([scores]), torch.tensor([target])).item()


@pytest.mark.parametrize(
    ("scores", "target", "expected"),
    [
        ([OUT, 0.9, 0.5, 0.2, 0.1], 1, 1),
        ([OUT, 0.9, 0.5, 0.2, 0.1], 4, 4),
        ([OUT, 0.9, 0.5, 0.5, 0.1], 2, 3),  # a tie counts against the target
        ([OUT, 0.9, 0.5, 0.5, 0.1], 3, 3),  # on either side of it
        ([OUT, 0.0, 0.0, 0.0, 0.0], 1, 4),  # a constant scorer gets n everywhere
        ([OUT, 0.9, OUT, 0.2, 0.1], 3, 2),  # masked items do not count
        ([OUT, 0.9, OUT, 0.2, 0.1], 2, 5),  # a masked target comes last
        ([OUT, 0.9, 0.5, 0.2, 0.1], 0, 5),  # and so does an unknown one
        ([OUT, -3.0, -1.0, -2.0, -4.0], 3, 2),
    ],
)
def test_rank_is_pessimistic(scores, target, expected):
    assert rank(scores, target) == expected


def test_each_query_has_its_own_rank():
    scores = torch.tensor([[OUT, 3.0, 2.0, 1.0], [OUT, 1.0, 2.0, 3.0], [OUT, 1.0, 1.0, 1.0]])
    ranks = ranks_of_targets(scores, torch.tensor([1, 1, 2]))
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == [1, 3, 3]


def test_a_constant_scorer_has_metrics_of_zero():
    scores = torch.zeros(50, 101)
    scores[:, 0] = OUT
    table = summarize(ranks_of_targets(scores, torch.arange(1, 51)).numpy())
    assert set(table.values()) == {0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_raise(value):
    scores = torch.zeros(3, 4)
    check_finite(scores)
    scores[1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        check_finite(scores)


def test_no_scores_are_finite():
    check_finite(torch.empty(0, 5))


def test_metrics_by_hand():
    assert hit_rate(RANKS, 5) == pytest.approx(3 / 5)
    assert mean_reciprocal_rank(RANKS, 5) == pytest.approx((1 + 0.5 + 0.2) / 5)
    # 1 / log2(2), 1 / log2(3), 1 / log2(6), 1 / log2(7)
    expected = (1 + 0.6309298 + 0.3868528 + 0.3562072) / 5
    assert ndcg(RANKS, 20) == pytest.approx(expected)


def test_a_metric_is_the_mean_of_its_values():
    assert per_query_metric(RANKS, "HR", 5).tolist() == [1, 1, 1, 0, 0]
    assert per_query_metric(RANKS, "MRR", 5).tolist() == [1, 0.5, 0.2, 0, 0]
    assert per_query_metric(RANKS, "NDCG", 20) == pytest.approx([1, 0.6309298, 0.3868528, 0.3562072, 0])
    for name, metric in (("HR", hit_rate), ("MRR", mean_reciprocal_rank), ("NDCG", ndcg)):
        for k in (1, 5, 20):
            assert metric(RANKS, k) == pytest.approx(per_query_metric(RANKS, name, k).mean())
    with pytest.raises(ValueError, match="choose HR, MRR, NDCG"):
        per_query_metric(RANKS, "MAP", 5)


def test_summary_names_its_numbers():
    assert summarize(RANKS) == pytest.approx(
        {
            "HR@5": 0.6,
            "HR@10": 0.8,
            "HR@20": 0.8,
            "MRR@5": 0.34,
            "MRR@10": (1.7 + 1 / 6) / 5,
            "MRR@20": (1.7 + 1 / 6) / 5,
            "NDCG@20": 0.474798,
            "accuracy": 0.2,
        }
    )


@pytest.mark.parametrize("metric", [hit_rate, mean_reciprocal_rank, ndcg])
def test_rank_k_counts_and_rank_k_plus_1_does_not(metric):
    assert metric(np.array([20]), 20) > 0
    assert metric(np.array([21]), 20) == 0
    assert metric(np.array([1]), 1) == 1
    assert metric(np.array([2]), 1) == 0


def test_summary_of_no_query_is_nan():
    table = summarize(np.array([], int))
    assert table.keys() == summarize(RANKS).keys()
    assert all(math.isnan(value) for value in table.values())


def test_each_group_has_a_row():
    table = summarize_groups(RANKS, np.array([2, 1, 1, 1, 3]))
    assert table.index.tolist() == [1, 2, 3]
    assert table["queries"].tolist() == [3, 1, 1]
    assert table["HR@5"].tolist() == [0.6667, 1, 0]
    assert table["MRR@20"].tolist() == [0.2889, 1, 0]  # (1/2 + 1/5 + 1/6) / 3


def draw_hits(n, seed=0):
    return np.random.default_rng(seed).random(n) < 0.3


def width(*args, **options):
    low, high = confidence_interval(*args, **options)
    return high - low


def test_interval_has_the_width_of_the_normal_approximation():
    hits = np.arange(400) % 2  # mean 0.5, standard error 0.5 / sqrt(400)
    low, high = confidence_interval(hits, np.arange(400))
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.008)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.008)


def test_interval_covers_the_true_mean_with_its_level():
    covered = 0
    for seed in range(100):
        low, high = confidence_interval(draw_hits(200, seed), np.arange(200), rounds=200)
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 99


def test_interval_narrows_with_users_and_widens_with_level():
    few, many = draw_hits(100), draw_hits(1600)
    assert width(few, np.arange(100)) > 3 * width(many, np.arange(1600))
    assert width(few, np.arange(100), level=0.99) > width(few, np.arange(100))


def test_repeating_a_users_query_does_not_narrow_the_interval():
    hits = draw_hits(200)
    once = confidence_interval(hits, np.arange(200))
    assert confidence_interval(np.repeat(hits, 4), np.repeat(np.arange(200), 4)) == once
    assert width(np.repeat(hits, 4), np.arange(800)) < 0.7 * (once[1] - once[0])


def test_interval_is_of_the_mean_over_queries_not_over_users():
    values, users = np.repeat([1.0, 0.0], [900, 100]), np.repeat(np.arange(200), 5)
    low, high = confidence_interval(values, users)
    assert low < 0.9 < high
    uneven = np.r_[np.repeat(np.arange(90), 10), np.arange(90, 190)]  # hits: 10 a user, misses: 1
    low, high = confidence_interval(values, uneven)
    assert low < 0.9 < high < 0.95


def test_interval_is_reproducible_with_its_seed():
    values, users = np.random.default_rng(0).random(50), np.arange(50)
    first = confidence_interval(values, users, seed=1)
    assert confidence_interval(values, users, seed=1) == first
    assert confidence_interval(values, users, seed=2) != first


def test_metrics_agree_with_ir_measures():
    """ir-measures (trec_eval and others) on the same rankings without ties, which it treats in another way."""
    generator = np.random.default_rng(4)
    queries, n_items = 60, 40
    scores = generator.permuted(np.tile(np.arange(n_items, dtype=np.float32), (queries, 1)), axis=1)
    labels = generator.integers(1, n_items + 1, queries)
    shown = np.concatenate([np.full((queries, 1), -np.inf, np.float32), scores], 1)
    ranks = ranks_of_targets(torch.as_tensor(shown), torch.as_tensor(labels)).numpy()
    qrels = [ir_measures.Qrel(str(q), str(label), 1) for q, label in enumerate(labels)]
    run = [
        ir_measures.ScoredDoc(str(q), str(item + 1), float(score))
        for q, row in enumerate(scores)
        for item, score in enumerate(row)
    ]
    for k in (5, 10, 20):
        want = ir_measures.calc_aggregate([Success @ k, RR @ k, nDCG @ k], qrels, run)
        assert hit_rate(ranks, k) == pytest.approx(want[Success @ k])
        assert mean_reciprocal_rank(ranks, k) == pytest.approx(want[RR @ k])
        assert ndcg(ranks, k) == pytest.approx(want[nDCG @ k])
    assert 0.3 < hit_rate(ranks, 20) < 0.7
