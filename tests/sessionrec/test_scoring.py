"""Scores, ranks and top items, compared with hand computations and plain loops."""

import io
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import N_ITEMS, LastItem, as_queries, random_model, small_model
from tqdm import tqdm

from models import NEURAL_MODELS
from sessionrec import distributed, scoring
from sessionrec.scoring import popularity_scores, rank_labels, score_sessions, top_items, top_k

# --------------------------------------------------------------------------------------------------
# Scores


def all_scores(model, sessions, *, mask_seen):
    sessions = replace(sessions, mask_seen=mask_seen)
    chunks = score_sessions(model, sessions)
    copies = [(rows, scores.clone()) for rows, scores in chunks]  # the next chunk overwrites it
    rows = np.concatenate([rows for rows, _ in copies])
    assert sorted(rows) == [*range(len(sessions))]
    assert sorted(sessions.lengths[rows]) == sessions.lengths[rows].tolist()
    return torch.cat([scores for _, scores in copies])[rows.argsort()]


def raw_scores(model, session):
    """Scores of items 1..n, computed with a loop from the definition of `LastItem`."""
    vectors = model.embedding.weight[1:].detach().double().numpy()
    state = vectors[session[-1] - 1] * model.factor
    return [float(v @ state) for v in vectors]


SESSIONS = as_queries([[3, 4], [], [7], [1, 2, 3], [5, 5, 6], [], [12]], [5, 1, 7, 3, 6, 9, 0])


def test_scores_are_products_with_padding_masked():
    model = random_model()
    scores = all_scores(model, SESSIONS, mask_seen=False)
    assert scores.dtype == torch.float32
    assert scores.shape == (7, N_ITEMS + 1)
    assert (scores[:, 0] == -torch.inf).all()
    assert torch.isfinite(scores[:, 1:]).all()
    for row in (0, 2, 3, 4, 6):
        assert scores[row, 1:].tolist() == pytest.approx(raw_scores(model, SESSIONS[row]), abs=1e-5)


def test_seen_items_are_masked_with_mask_seen():
    model = random_model()
    plain = all_scores(model, SESSIONS, mask_seen=False)
    masked = all_scores(model, SESSIONS, mask_seen=True)
    for row in range(len(SESSIONS)):
        for item in range(1, N_ITEMS + 1):
            seen = item in SESSIONS[row]
            assert masked[row, item] == (-torch.inf if seen else plain[row, item])


def test_an_empty_session_is_scored_by_popularity():
    # By count, with ties by the lower id.
    order = [5, 1, 3, 10, 6, 7, 8, 2, 11, 12, 4, 9]
    for mask_seen in (True, False):
        scores = all_scores(random_model(), SESSIONS, mask_seen=mask_seen)
        for row in (1, 5):
            assert scores[row, 1:].argsort(descending=True).add(1).tolist() == order
            assert len(set(scores[row].tolist())) == N_ITEMS + 1
    assert sorted(popularity_scores(np.array([0, 2, 2])).tolist()) == [1, 2, 3]


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_scores_do_not_depend_on_the_chunk_size(name, mask_seen, monkeypatch):
    model = small_model(name)
    queries = replace(SESSIONS, mask_seen=mask_seen)
    whole, ranks = all_scores(model, SESSIONS, mask_seen=mask_seen), rank_labels(model, queries)
    for rows in (0, 1, 3):  # with a catalogue larger than a chunk, rows are scored one at a time
        monkeypatch.setattr(scoring, "_CHUNK_ENTRIES", rows * (N_ITEMS + 1))
        chunks = list(score_sessions(model, queries))
        assert max(len(scores) for _, scores in chunks) == max(rows, 1)
        chunked = all_scores(model, SESSIONS, mask_seen=mask_seen)
        torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)
        assert rank_labels(model, queries).tolist() == ranks.tolist()


def test_only_the_last_items_of_a_long_session_are_read_but_all_are_masked(monkeypatch):
    monkeypatch.setattr(scoring, "LONGEST_SESSION", 3)
    model = small_model("SASRec", longest=3)
    long, short = (as_queries([s]) for s in ([1, 2, 3, 4, 5], [3, 4, 5]))
    scores = all_scores(model, long, mask_seen=True)[0]
    want = all_scores(model, short, mask_seen=False)[0]
    assert (scores == -torch.inf).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(scores[6:], want[6:])


def test_scoring_is_without_dropout_and_restores_the_mode():
    model = random_model(dropout=0.5).train()
    first = all_scores(model, SESSIONS, mask_seen=False)
    assert torch.equal(first, all_scores(model, SESSIONS, mask_seen=False))
    assert model.training
    all_scores(model.eval(), SESSIONS, mask_seen=False)
    assert not model.training


def test_half_precision_weights_are_ranked_in_float32():
    scores = all_scores(random_model().bfloat16(), SESSIONS, mask_seen=False)
    assert scores.dtype == torch.float32


def test_modules_get_their_own_mode_back():
    model = small_model("GRU4REC", hidden_dropout=0.5).train()
    model.dropout.eval()
    all_scores(model, SESSIONS, mask_seen=False)
    assert [module.training for module in (model, model.gru, model.dropout, model.hidden_dropout)] == [1, 1, 0, 1]


@pytest.mark.parametrize("score", ["cosine", "dot"])
def test_a_few_queries_get_the_scores_of_many(score):
    model = random_model(score=score, scale=3.0)
    with torch.no_grad():
        model.embedding.weight[4] = 0  # a vector without a direction
    many = SESSIONS.take(np.arange(7).repeat(3))
    want = all_scores(model, many, mask_seen=True)[::3]
    torch.testing.assert_close(all_scores(model, SESSIONS, mask_seen=True), want, rtol=1e-6, atol=1e-6)


def test_a_few_queries_are_scored_by_the_models_own_functions():
    class Own(LastItem):
        def item_matrix(self, ids=None):
            return 2 * super().item_matrix(ids)

    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 4))
    own, plain = (kind(vectors, score="cosine") for kind in (Own, LastItem))
    scores = [all_scores(model, SESSIONS.take([0, 2]), mask_seen=False)[:, 1:] for model in (own, plain)]
    torch.testing.assert_close(scores[0], 2 * scores[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("item", [0, 3])
def test_a_model_that_is_not_finite_raises_before_anything_is_masked(item, value):
    """The invalid entry belongs to the padding or to a seen item, so masking it first would hide the error."""
    model = random_model()
    with torch.no_grad():
        model.embedding.weight[item] = value
    model.forward = lambda x: torch.ones(*x.shape, 4)
    session = as_queries([[3]], [5])
    for use in (rank_labels, partial(top_items, k=2)):
        with pytest.raises(ValueError, match="NaN or infinity"):
            use(model, session)
    assert model.training


# --------------------------------------------------------------------------------------------------
# Ranks and top lists


def order_by_hand(model, session, mask_seen):
    """(score, item) of every item that may be recommended, by plain loops."""
    scores = raw_scores(model, session)
    return [(score, item) for item, score in enumerate(scores, 1) if not (mask_seen and item in session)]


@given(
    st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=5), min_size=1, max_size=6),
    st.data(),
    st.booleans(),
)
def test_ranks_equal_brute_force(lists, data, mask_seen):
    # Integers, so that there are exact ties.
    vectors = np.random.default_rng(5).integers(-2, 3, size=(N_ITEMS, 2))
    model = LastItem(vectors)
    labels = data.draw(st.lists(st.integers(0, N_ITEMS), min_size=len(lists), max_size=len(lists)))
    queries = as_queries(lists, labels, mask_seen=mask_seen)
    want = []
    for session, label in zip(lists, labels, strict=True):
        allowed = {item: score for score, item in order_by_hand(model, session, mask_seen)}
        others = [score for item, score in allowed.items() if item != label]
        if label in allowed:
            want.append(1 + sum(score >= allowed[label] for score in others))
        else:
            want.append(N_ITEMS + 1)
    ranks = rank_labels(model, queries)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == want


@pytest.mark.parametrize("mask_seen", [True, False])
def test_top_items_are_distinct_and_sorted(mask_seen):
    model = random_model()
    sessions = as_queries([[3, 4], [7], [1, 2, 3], [5, 5, 6]], mask_seen=mask_seen)
    ids, scores = top_items(model, sessions, k=5)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    for row in range(len(sessions)):
        best = sorted(order_by_hand(model, sessions[row], mask_seen), reverse=True)[:5]
        assert ids[row].tolist() == [item for _, item in best]
        assert scores[row].tolist() == pytest.approx([score for score, _ in best], abs=1e-5)


def test_top_items_are_distinct_under_ties():
    ids, _ = top_items(random_model(factor=0.0), SESSIONS, k=8)
    for row, found in enumerate(ids.tolist()):
        assert len(set(found)) == 8
        assert not {0, *SESSIONS[row]} & set(found)


def test_a_constant_scorer_ranks_last():
    queries = as_queries([[3, 4], [7]], [5, 1], mask_seen=False)
    constant = random_model(factor=0.0)
    ranks = rank_labels(constant, queries)
    assert ranks.tolist() == [N_ITEMS, N_ITEMS]


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 700))
def test_top_k_agrees_with_a_sort(seed, k, columns):
    """With few distinct values, some of them -inf, so that there are ties."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(-3, 12, (3, max(columns, k))).astype(np.float32)
    scores[scores < 0] = -np.inf
    values, places = top_k(torch.as_tensor(scores), k, block=8)
    assert values.numpy().tolist() == (-np.sort(-scores, axis=1)[:, :k]).tolist()
    assert np.take_along_axis(scores, places.numpy(), 1).tolist() == values.tolist()
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_chunks(world_size, monkeypatch):
    monkeypatch.setattr(scoring, "_CHUNK_SESSIONS", 2)
    model = random_model()
    whole = all_scores(model, SESSIONS, mask_seen=True)
    rows = []
    for rank in range(world_size):
        for chunk, scores in score_sessions(model, SESSIONS, rank=rank, world_size=world_size):
            torch.testing.assert_close(scores, whole[chunk])
            rows += chunk.tolist()
    assert sorted(rows) == [*range(len(SESSIONS))]


def test_ranking_shows_its_progress(monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options, file=io.StringIO(), disable=False)
            bars.append(self)

        def close(self):
            self.counted = self.n
            super().close()

    monkeypatch.setattr(scoring, "progress_bar", Bar)
    model = random_model()
    top_items(model, SESSIONS, k=2)
    rank_labels(model, SESSIONS)
    assert not bars  # a single chunk
    monkeypatch.setattr(scoring, "_CHUNK_SESSIONS", 2)
    rank_labels(model, SESSIONS, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "rank", lambda: 1)
        rank_labels(model, SESSIONS)
    assert not bars
    top_items(model, SESSIONS, k=2)
    rank_labels(model, SESSIONS)
    assert [(bar.desc, bar.total, bar.counted, bar.leave, bar.delay) for bar in bars] == [
        ("Recommending", 7, 7, True, 1),
        ("Ranking", 7, 7, False, 1),
    ]


def test_no_queries_have_no_ranks():
    nothing = SESSIONS.take([])
    assert rank_labels(random_model(), nothing).shape == (0,)
    ids, scores = top_items(random_model(), nothing, k=3)
    assert ids.shape == scores.shape == (0, 3)
