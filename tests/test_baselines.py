"""Models that only count: equal to their papers' sums, without ties, and used like all the others.

The references below are plain loops over sessions and items, written from the papers.
"""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array

import compare
import models.counted as counted
import scoring
import train
from checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from metrics import summarize
from models import COUNT_MODELS, build_model
from models.counted import cut_sessions, popularity_places, write_scores
from models.SKNN import strongest
from process_data import (
    AMAZON,
    LONGEST_SESSION,
    ROOT,
    Sessions,
    Vocabulary,
    load_dataset,
    maximal_sessions,
    prepare,
)
from recommend import evaluate, recommend
from scoring import rank_labels, top_items
from train import find_pretrained, load_recipe, main, train_model

# Six users. Items 1..8; 8 is in no session.
WALKS = [[1, 2, 3], [2, 3, 4], [1, 3], [5, 2, 3, 1], [4, 6], [7, 1]]
N_ITEMS = 8
QUERIES = [[1], [2, 3], [5, 1, 2], [4], [3, 2, 1], [8], [6, 8, 1]]
# Items come back, within a session and within a query.
REPEATING = [[1, 2, 1, 3], [3, 3, 2], [2, 4, 2, 2, 5], [5, 6], [7, 1, 7], [6, 5, 6, 4]]
REPEATED_QUERIES = [[1, 2, 1], [2, 2], [3, 4, 3, 2], [7], [6, 5, 6]]


def prefix_rows(walks):
    """Every prefix of every walk as a training row, as the data files have them."""
    rows = [(w[:t], w[t], user) for user, w in enumerate(walks) for t in range(1, len(w))]
    return Sessions.from_lists(*zip(*rows, strict=True))


def popularity_of(walks, n_items=N_ITEMS):
    return np.bincount([i for w in walks for i in w], minlength=n_items + 1)


def counted_model(name, walks=WALKS, n_items=N_ITEMS, **arguments):
    model = build_model(name, n_items=n_items, **arguments)
    return model.count(prefix_rows(walks), popularity_of(walks, n_items))


def padded(queries):
    return Sessions.from_lists(queries).padded()


def raw_scores(model, queries):
    """What the model itself says, ties and all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "without_ties", lambda score: score)
        return model.scorer()(padded(queries)).toarray()


def final_scores(model, queries):
    x = torch.as_tensor(padded(queries))
    return model.scorer()(x, torch.empty(len(x), model.n_items + 1))


# --------------------------------------------------------------------------------------------------
# By hand


def test_popularity_by_hand():
    # Occurrences of 1..8: 4, 3, 4, 2, 1, 1, 1, 0; equals by the lower id.
    order = final_scores(counted_model("Popularity"), [[4], [8]])[:, 1:].argsort(1, descending=True) + 1
    assert order.tolist() == [[1, 3, 2, 4, 5, 6, 7, 8]] * 2


def test_cooccurrence_by_hand():
    model = counted_model("CoOccurrence")
    # With 1: 2 in [1 2 3] and [5 2 3 1]; 3 there and in [1 3]; 5 in one, 7 in one.
    assert raw_scores(model, [[1]])[0].tolist() == [0, 0, 2, 3, 0, 1, 0, 1, 0]
    # With 2 (three times 3, twice 1, 4 and 5 once), added to that.
    assert raw_scores(model, [[1, 2]])[0].tolist() == [0, 2, 2, 6, 1, 2, 0, 1, 0]
    # 3 first; 1, 2 and 5 have 2 each, of which 1 is the most popular; 4 and 7 have 1 each, 4 is more popular.
    order = final_scores(model, [[1, 2]])[0, 1:].argsort(descending=True) + 1
    assert order.tolist() == [3, 1, 2, 5, 4, 7, 6, 8]


def test_sequential_rules_by_hand():
    model = counted_model("CoOccurrence", distance="div", backward=0.0, memory=0.5, norm=1.0)
    # After 2: 3 next (three times), 1 two steps on in [5 2 3 1], 4 two steps on in [2 3 4]; 2 occurs 3 times.
    # After 5: 2 next, 3 two and 1 three steps on; 5 occurs once, and is one step back: half.
    assert raw_scores(model, [[5, 2]])[0] == pytest.approx(
        [0, 1 / 6 + 1 / 6, 1 / 2, 3 / 3 + 1 / 4, 1 / 6, 0, 0, 0, 0]
    )


def test_random_walk_by_hand():
    # Sessions [1 2] and [2 3]: 1 and 3 are beside 2, once each; degrees 1, 2, 1, so each edge is 1 / sqrt(2).
    model = counted_model("RandomWalk", [[1, 2], [2, 3]], n_items=3, walk=2.0, memory=0.5, backward=0.0)
    # From 1: 2 follows it; and over its neighbour 2 (2 / sqrt(2)) one comes to 3. From 2: 3 follows it; over
    # 1 one comes back to 2, over 3 nowhere. [2 1]: 2 is one step back, half.
    far = math.sqrt(2)
    half = {"rel": 1e-3}  # how exactly the graph is stored
    assert raw_scores(model, [[1], [2]]) == pytest.approx(np.array([[0, 0, 1, far], [0, 0, far, 1]]), **half)
    assert raw_scores(model, [[2, 1]])[0] == pytest.approx([0, 0, 1 + far / 2, far + 1 / 2], **half)


def test_sknn_by_hand():
    model = counted_model("SKNN", k=2)
    # [2 3] and [1 2 3]: 2 of 2 and 3 items; [2 3 4] the same. [1 3]: 1 / 2; [5 2 3 1]: 2 / sqrt(8).
    a = 2 / math.sqrt(6)
    assert raw_scores(model, [[2, 3]])[0] == pytest.approx([0, a, 2 * a, 2 * a, a, 0, 0, 0, 0])
    b, c = 2 / math.sqrt(8), 1 / 2
    all_of_them = raw_scores(counted_model("SKNN"), [[2, 3]])[0]
    assert all_of_them == pytest.approx([0, a + b + c, 2 * a + b, 2 * a + b + c, a, b, 0, 0, 0])


def test_vsknn_by_hand():
    model = counted_model("VSKNN", k=10, weighting="div", weighting_score="div")
    # [4 1]: 1 weighs 1 and is no step back; 4 weighs 1/2 and is one: its neighbours count half again.
    want = [0, 4, 2, 3, 0, 1, 0, 1, 0] + np.array([0, 0, 1, 1, 2, 0, 1, 0, 0]) / 4
    assert raw_scores(model, [[4, 1]])[0] == pytest.approx(want)
    # idf: 7 is in one of the six sessions, 1 in four.
    rare = raw_scores(counted_model("VSKNN", idf=2.0), [[7]])[0]
    want = [0, 1 + 2 * math.log(6 / 4), 0, 0, 0, 0, 0, 1 + 2 * math.log(6), 0]
    assert rare == pytest.approx(want)


def test_stan_by_hand():
    model = counted_model("STAN", lambda_spw=1.0, lambda_inh=2.0)
    # [5 2]: only [5 2 3 1] holds both, 2 weighs 1 and 5 weighs 1 / e. Its last shared item is 2, at step 1:
    # 5 and 3 are a step from there, 1 is two. [1 2 3] and [2 3 4] share 2 alone, at steps 1 and 0.
    e, norm = math.exp, math.sqrt(1 + math.exp(-2))
    both, one = (1 + e(-1)) / norm / 2, 1 / norm / math.sqrt(3)
    want = [
        *(0, both * e(-1) + one * e(-1 / 2), both + 2 * one, both * e(-1 / 2) + 2 * one * e(-1 / 2)),
        *(one * e(-1), both * e(-1 / 2), 0, 0, 0),
    ]
    assert raw_scores(model, [[5, 2]])[0] == pytest.approx(want)


def test_slist_by_hand():
    # One session [1 2], SLIT from the item before alone: the input is e1, the target e2, so that
    # B = (e1 e1' + reg)^-1 e1 e2' has the one entry 1 / (1 + reg).
    one = {"walks": [[1, 2]], "n_items": 2, "reg": 3.0, "direction": "sr"}
    model = counted_model("SLIST", alpha=0.0, **one)
    assert raw_scores(model, [[1], [2]]).tolist() == [[0, 0, 1 / 4], [0, 0, 0]]
    # SLIS alone: the input is (1/2, 1/2), the target (1, 1): (G + reg)^-1 T with G of quarters, T of halves.
    want = np.linalg.solve(np.full((2, 2), 1 / 4) + 3 * np.eye(2), np.full((2, 2), 1 / 2))
    model = counted_model("SLIST", alpha=1.0, **one)
    assert raw_scores(model, [[1], [2]])[:, 1:] == pytest.approx(want, rel=1e-3)
    # Two items: the earlier one weighs exp(-1 / predict_weight).
    model = counted_model("SLIST", alpha=1.0, **one, predict_weight=0.5)
    assert raw_scores(model, [[1, 2]])[0, 1:] == pytest.approx((1 + math.exp(-2)) * want[0], rel=1e-3)


# --------------------------------------------------------------------------------------------------
# By plain loops, with items that repeat


def cooccurrence_loops(walks, query, *, distance, backward, memory, norm):
    scores = np.zeros(N_ITEMS + 1)
    popularity = popularity_of(walks)
    for item in set(query):
        back = query[::-1].index(item)
        for walk in walks:
            for a in range(len(walk)):
                for b in range(len(walk)):
                    if walk[a] != item or walk[b] == item:
                        continue
                    weight = 1 / abs(a - b) if distance == "div" else 1
                    weight *= 1 if b > a else backward
                    scores[walk[b]] += memory**back * weight / popularity[item] ** norm
    return scores


def random_walk_loops(walks, query, *, walk, **rules):
    edges = np.zeros((N_ITEMS + 1, N_ITEMS + 1))
    for one in walks:
        for a in range(len(one)):
            for b in range(len(one)):
                if one[a] != one[b]:
                    edges[one[a], one[b]] += 1 / abs(a - b)
    degree = edges.sum(0)
    follows = [
        cooccurrence_loops(walks, [i], **rules) if i else np.zeros(N_ITEMS + 1) for i in range(N_ITEMS + 1)
    ]
    scores = np.zeros(N_ITEMS + 1)
    for item in set(query):
        weight = rules["memory"] ** query[::-1].index(item)
        scores += weight * follows[item]
        for other in np.flatnonzero(edges[item]):
            edge = edges[item, other] / math.sqrt(degree[item] * degree[other])
            scores += weight * walk * edge * follows[other]
    return scores


def neighbours(walks, likeness, k):
    ranked = sorted(((-like, s) for s, like in enumerate(likeness) if like > 0))
    return [(walks[s], -like) for like, s in ranked[:k]]


def sknn_loops(walks, query, *, k):
    scores, q = np.zeros(N_ITEMS + 1), set(query)
    likeness = [len(q & set(w)) / math.sqrt(len(q) * len(set(w))) for w in walks]
    for walk, like in neighbours(walks, likeness, k):
        for item in set(walk):
            scores[item] += like
    return scores


def vsknn_loops(walks, query, *, k, weighting, weighting_score, idf):
    L = len(query)
    weigh = {
        "same": lambda p: 1,
        "div": lambda p: p / L,
        "log": lambda p: 1 / math.log10(L - p + 1.7),
        "quadratic": lambda p: (p / L) ** 2,
    }[weighting]
    decay = {
        "same": lambda s: 1,
        "div": lambda s: 1 / s,
        "log": lambda s: 1 / math.log10(s + 1.7),
        "quadratic": lambda s: 1 / s**2,
    }[weighting_score]
    weights = {item: weigh(p) for p, item in enumerate(query, 1)}  # the last occurrence stays
    scores = np.zeros(N_ITEMS + 1)
    likeness = [sum(weights[i] for i in set(query) & set(w)) for w in walks]
    for walk, like in neighbours(walks, likeness, k):
        step = next(s for s, item in enumerate(reversed(query), 1) if item in walk)
        for item in set(walk):
            rarity = math.log(len(walks) / sum(item in w for w in walks))
            scores[item] += like * decay(step) * (1 + idf * rarity)
    return scores


def stan_loops(walks, query, *, k, lambda_spw, lambda_inh):
    weights = {item: math.exp((p - len(query)) / lambda_spw) for p, item in enumerate(query, 1)}
    norm = math.sqrt(sum(w**2 for w in weights.values()))
    likeness = [sum(weights[i] for i in set(query) & set(w)) / norm / math.sqrt(len(set(w))) for w in walks]
    scores = np.zeros(N_ITEMS + 1)
    for walk, like in neighbours(walks, likeness, k):
        last = {item: p for p, item in enumerate(walk)}
        shared = max(p for p, item in enumerate(walk) if item in weights)
        for item, p in last.items():
            scores[item] += like * math.exp(-abs(p - shared) / lambda_inh)
    return scores


def slist_loops(walks, query, *, alpha, direction, reg, train_weight, predict_weight):
    inputs, targets = [], []
    for walk in walks:
        whole = np.zeros(N_ITEMS + 1)
        whole[list(set(walk))] = 1
        inputs.append(math.sqrt(alpha) * whole / whole.sum())
        targets.append(math.sqrt(alpha) * whole)
        for t in range(len(walk) - 1):
            z, y = np.zeros((2, N_ITEMS + 1))
            for s in range(t + 1) if direction == "part" else [t]:
                z[walk[s]] += math.exp((s - t) / train_weight)
            for s in range(t + 1, len(walk)):
                y[walk[s]] += math.exp((t + 1 - s) / train_weight)
            inputs.append(math.sqrt(1 - alpha) * z / z.sum())
            targets.append(math.sqrt(1 - alpha) * y)
    z, y = np.array(inputs), np.array(targets)
    weights = np.linalg.solve(z.T @ z + reg * np.eye(N_ITEMS + 1), z.T @ y)
    weights = np.where(weights > 0, weights, 0)
    back = np.arange(len(query))[::-1]
    return np.exp(-back / predict_weight) @ weights[query]


SLIST_NEXT = {"alpha": 0.3, "direction": "sr", "reg": 2.0, "train_weight": 2.0, "predict_weight": 1.0}
SLIST_PART = {"alpha": 0.5, "direction": "part", "reg": 2.0, "train_weight": 1.5, "predict_weight": 2.0}
LOOPS = [
    ("CoOccurrence", cooccurrence_loops, {"distance": "same", "backward": 1.0, "memory": 1.0, "norm": 0.0}),
    ("CoOccurrence", cooccurrence_loops, {"distance": "div", "backward": 0.3, "memory": 0.7, "norm": 0.5}),
    *(
        (
            "RandomWalk",
            random_walk_loops,
            {"walk": walk, "distance": d, "backward": b, "memory": m, "norm": n},
        )
        for walk, d, b, m, n in ((1.0, "div", 0.0, 0.5, 0.0), (0.3, "same", 0.4, 1.0, 0.7))
    ),
    ("SKNN", sknn_loops, {"k": 2}),
    ("SKNN", sknn_loops, {"k": 100}),
    *(
        ("VSKNN", vsknn_loops, {"k": k, "weighting": a, "weighting_score": b, "idf": idf})
        for k, a, b, idf in (
            (100, "div", "div", 0.0),
            (2, "quadratic", "same", 1.0),
            (3, "log", "log", 0.0),
            (100, "same", "quadratic", 5.0),
        )
    ),
    ("STAN", stan_loops, {"k": 500, "lambda_spw": 1.02, "lambda_inh": 2.05}),
    ("STAN", stan_loops, {"k": 2, "lambda_spw": 0.3, "lambda_inh": 0.5}),
    ("SLIST", slist_loops, SLIST_NEXT),
    ("SLIST", slist_loops, SLIST_PART),
]


@pytest.mark.parametrize(("name", "loops", "arguments"), LOOPS)
@pytest.mark.parametrize(("walks", "queries"), [(WALKS, QUERIES), (REPEATING, REPEATED_QUERIES)])
def test_raw_scores_equal_plain_loops(name, loops, arguments, walks, queries):
    got = raw_scores(counted_model(name, walks, **arguments), queries)
    # These store a matrix in half precision.
    tolerance = {"rel": 2e-3, "abs": 1e-6} if name in ("SLIST", "RandomWalk") else {"rel": 1e-6}
    for row, query in enumerate(queries):
        assert got[row] == pytest.approx(loops(walks, query, **arguments), **tolerance), query


def test_several_blocks_of_slists_matrix_are_one(monkeypatch):
    whole = raw_scores(counted_model("SLIST", reg=2.0), QUERIES)
    monkeypatch.setattr(import_module("models.SLIST"), "_BLOCK", 2)
    assert raw_scores(counted_model("SLIST", reg=2.0), QUERIES) == pytest.approx(whole, rel=2e-3)


def test_long_sessions_are_cut_from_their_end_and_lose_no_item():
    lengths = [1, 3, 6, 7, 0, 4]
    sessions = Sessions.from_lists([[*range(10 * k, 10 * k + n)] for k, n in enumerate(lengths, 1)])
    pieces = cut_sessions(sessions, 3)
    assert pieces.items.tolist() == sessions.items.tolist()
    assert pieces.lengths.tolist() == [1, 3, 3, 3, 1, 3, 3, 1, 3]
    long = [*range(1, 3 * LONGEST_SESSION)]
    for name in COUNT_MODELS:
        model = counted_model(name, [long, [1, 2]], n_items=len(long))
        assert torch.isfinite(final_scores(model, [[1], [140, 60], long[-LONGEST_SESSION:]])).all()


# --------------------------------------------------------------------------------------------------
# Ties


def tied_matrix(data, rows, n_items):
    """Raw scores of few distinct values, neighbouring floats and very small ones among them."""
    values = [0.0, 1e-42, 0.5, float(np.nextafter(np.float32(0.5), 1)), 0.5000001788139343, 3.0]
    entries = st.lists(st.sampled_from(values), min_size=n_items, max_size=n_items)
    return np.array([[0.0, *data.draw(entries)] for _ in range(rows)])


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 20))
def test_no_two_scores_are_equal_and_their_order_is_a_sort(data, rows, n_items):
    raw = tied_matrix(data, rows, n_items)
    popularity = np.array([0, *data.draw(st.lists(st.integers(0, 3), min_size=n_items, max_size=n_items))])
    scores = write_scores(csr_array(raw), popularity_places(popularity), torch.empty(rows, n_items + 1))
    for row in range(rows):
        want = sorted(
            range(1, n_items + 1),
            key=lambda i: (-np.float32(max(raw[row, i], 1.2e-38 * (raw[row, i] > 0))), -popularity[i], i),
        )
        got = scores[row, 1:].numpy()
        assert len(set(got.tolist())) == n_items
        assert (np.argsort(-got) + 1).tolist() == want
        np.testing.assert_allclose(got[raw[row, 1:] > 1e-30], raw[row, 1:][raw[row, 1:] > 1e-30], rtol=1e-5)
        assert (got[raw[row, 1:] == 0] < 0).all()


def test_a_large_catalogue_has_no_ties_either():
    n = 2**18
    raw = csr_array((np.ones(3), [5, n, 1], [0, 3]), shape=(1, n + 1))
    scores = write_scores(raw, popularity_places(np.zeros(n + 1)), torch.empty(1, n + 1))[0, 1:]
    assert (scores.topk(4).indices + 1).tolist() == [1, 5, n, 2]
    assert bool((scores[5:-1].diff() < 0).all())
    with pytest.raises(ValueError, match="20000 sessions at once are too many for 262144 items"):
        write_scores(csr_array((20_000, n + 1)), np.arange(n + 1), torch.empty(0))
    last = -1.0 - np.arange(counted.MOST_ITEMS - 2, counted.MOST_ITEMS + 1)
    assert len(set(last.astype(np.float32))) == 3
    with pytest.raises(ValueError, match="a model that counts takes 16777214 at most"):
        build_model("SKNN", n_items=counted.MOST_ITEMS + 1)


def test_strongest_keeps_the_largest_of_each_row():
    generator = np.random.default_rng(0)
    dense = generator.integers(0, 4, (6, 9)) * (generator.random((6, 9)) < 0.7)
    for k in (1, 3, 20):
        matrix = csr_array(dense.astype(float))
        offsets, chosen = strongest(matrix, k)
        for row in range(6):
            part = chosen[offsets[row] : offsets[row + 1]]
            want = sorted((-v, c) for c, v in enumerate(dense[row]) if v)[:k]
            assert sorted((-matrix.data[p], matrix.indices[p]) for p in part) == want


# --------------------------------------------------------------------------------------------------
# Used like the others

SAVED = {"dataset": "Demo", "seed": 0, "metrics": {}, "mask_seen": True}
RAW_IDS = np.arange(10, 10 + 7 * N_ITEMS, 7)


def save(path, model, **options):
    save_checkpoint(path, model, Vocabulary(RAW_IDS), popularity_of(WALKS), SAVED, **options)
    return path


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", COUNT_MODELS)
def test_a_loaded_model_gives_the_same_scores_and_lists(name, half, tmp_path):
    model = counted_model(name)
    loaded = load_checkpoint(save(tmp_path / "x.safetensors", model, half=half))
    assert torch.equal(final_scores(loaded.model, QUERIES), final_scores(model, QUERIES))
    assert {k: v.dtype for k, v in loaded.model.state_dict().items()} == {
        k: v.dtype for k, v in model.state_dict().items()
    }
    found = recommend(loaded, [RAW_IDS[[4, 0, 1]].tolist(), [1], [1, RAW_IDS[0]]], k=5)
    assert (found.known, found.partly_known, found.unknown) == (1, 1, 1)
    popular = (RAW_IDS[[0, 2, 1, 3, 4]]).tolist()
    assert found.items[1].tolist() == popular
    assert RAW_IDS[0] not in found.items[2]
    assert found.items[2].tolist() == recommend(loaded, [[RAW_IDS[0]]], k=5).items[0].tolist()
    labelled = Sessions.from_lists([RAW_IDS[[1]].tolist(), [3]], [RAW_IDS[2], 4])
    result = evaluate(loaded, labelled)
    assert result.coverage == 0.5
    assert result.ranks[1] == N_ITEMS + 1


def test_counts_beyond_half_precision_stay_whole(tmp_path):
    model = counted_model("CoOccurrence", [[1, 2]] * 70_000, n_items=N_ITEMS)
    loaded = load_checkpoint(save(tmp_path / "x.safetensors", model, half=True))
    assert raw_scores(loaded.model, [[1]])[0].tolist() == [0, 0, 70_000, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", COUNT_MODELS)
def test_nothing_depends_on_the_batch_or_the_chunk(name, monkeypatch):
    model = counted_model(name)
    scores = final_scores(model, QUERIES)
    assert torch.equal(final_scores(model, QUERIES[::-1]).flip(0), scores)
    for row, query in enumerate(QUERIES):
        assert torch.equal(final_scores(model, [query])[0], scores[row])
    sessions = Sessions.from_lists([*QUERIES, []], labels=[2, 1, 3, 6, 4, 1, 0, 2])
    popularity = popularity_of(WALKS)
    ranks = rank_labels(model, sessions, popularity, mask_seen=True).tolist()
    ids, _ = top_items(model, sessions, popularity, k=4, mask_seen=True)
    monkeypatch.setattr(scoring, "_CHUNK_ENTRIES", 2 * (N_ITEMS + 1))
    assert rank_labels(model, sessions, popularity, mask_seen=True).tolist() == ranks
    assert (top_items(model, sessions, popularity, k=4, mask_seen=True)[0] == ids).all()
    for row in range(len(sessions)):  # a rank is the place in the list: there are no ties
        if ranks[row] <= 4:
            assert ids[row, ranks[row] - 1] == sessions.labels[row]


@pytest.mark.parametrize("name", COUNT_MODELS)
def test_prefix_rows_count_once_and_the_label_too(name):
    """All prefix rows, or the longest row of each user alone: the same sessions."""
    rows = prefix_rows(WALKS)
    longest = rows.take(np.array([len(rows[r]) == len(WALKS[rows.users[r]]) - 1 for r in range(len(rows))]))
    model = build_model(name, n_items=N_ITEMS).count(longest, popularity_of(WALKS))
    assert torch.equal(final_scores(model, QUERIES), final_scores(counted_model(name), QUERIES))


def test_a_model_that_has_counted_nothing_is_by_id():
    for name in COUNT_MODELS:
        scores = final_scores(build_model(name, n_items=4), [[2], [1, 3]])
        assert (scores[:, 1:].argsort(1, descending=True) + 1).tolist() == [[1, 2, 3, 4]] * 2, name


def test_it_stays_where_and_what_it_is():
    model = counted_model("SLIST").half().to("meta")
    assert model.device.type == "cpu"
    assert model.place.dtype == torch.int32
    assert model.weights_values.dtype == torch.float16


DAMAGE = {
    "place": lambda t: t.flip(0) * 2,
    "sessions_offsets": lambda t: t + 1,
    "sessions_items": lambda t: t + 100,
    "pairs_values": lambda t: t * math.nan,
    "pairs_offsets": lambda t: t.flip(0),
    "weights_items": lambda t: t[:-1],
    "weights_values": lambda t: t[:, None],
}


@pytest.mark.parametrize("buffer", DAMAGE)
def test_a_damaged_matrix_is_refused_before_it_is_used(buffer, tmp_path):
    name = {"pairs": "CoOccurrence", "weights": "SLIST"}.get(buffer.split("_")[0], "SKNN")
    path = save(tmp_path / "x.safetensors", counted_model(name))
    loaded = load_checkpoint(path)
    tensors = load_file(path)
    tensors[f"model.{buffer}"] = DAMAGE[buffer](tensors[f"model.{buffer}"]).contiguous()
    header = {"format": 1, "model": name, "arguments": loaded.model.arguments, **SAVED}
    save_file(tensors, path, metadata={"header": json.dumps(header)})
    with pytest.raises(CheckpointError, match="does not fit this code(.|\n)*is damaged"):
        load_checkpoint(path)


WRONG = [
    ("CoOccurrence", {"distance": "log"}, "choose 'same' or 'div'"),
    ("CoOccurrence", {"backward": 2}, "backward=2: must be from 0 to 1"),
    ("CoOccurrence", {"memory": 0}, "memory=0: must be above 0"),
    ("SKNN", {"k": 0}, "k=0: at least one neighbour"),
    ("VSKNN", {"weighting": "linear"}, "weighting='linear': choose 'same', 'div', 'log', 'quadratic'"),
    ("VSKNN", {"idf": -1}, "idf=-1: must not be negative"),
    ("STAN", {"lambda_inh": 0}, "lambda_inh=0: must be at least 0.1"),
    ("SLIST", {"alpha": 2}, "alpha=2: must be from 0"),
    ("SLIST", {"direction": "all"}, "choose 'sr' or 'part'"),
    ("SLIST", {"reg": 0}, "reg=0: must be above 0"),
    ("SLIST", {"smallest": 0}, "smallest=0: must be above 0"),
    ("SLIST", {"keep": 0}, "keep=0: must be at least 1"),
    ("SLIST", {"predict_weight": 0}, "predict_weight=0: must be at least 0.1"),
    (
        "SLIST",
        {"n_items": 30_001},
        "30001 items would take 3 GiB, the limit is 30000 items",
    ),
    ("Popularity", {"k": 3}, "Popularity takes no k; it takes n_items"),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), WRONG)
def test_a_wrong_argument_is_refused_in_a_sentence(name, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        build_model(name, **{"n_items": 5} | arguments)


def test_slist_loses_nothing_by_what_it_does_not_store():
    """Its largest entries in half precision against all of them in double."""
    data = prepare(load_dataset(ROOT / "dataset" / "Demo"))
    model = build_model("SLIST", n_items=data.n_items, **load_recipe("best", "SLIST", "demo")["model"])
    model.count(data.train, data.popularity)
    inputs, targets = model.training_pairs(maximal_sessions(data.train)[0])
    gram = (inputs.T @ inputs).toarray() + model.reg * np.eye(data.n_items + 1)
    whole = np.linalg.solve(gram, (inputs.T @ targets).toarray())
    assert model.weights_values.dtype == torch.float16
    assert model.weights_values.numel() <= model.keep * data.n_items

    def metrics():
        parts = (data.valid, data.test)
        ranks = [rank_labels(model, part, data.popularity, mask_seen=True) for part in parts]
        return summarize(np.concatenate(ranks))

    stored = metrics()
    model.matrix = lambda name: csr_array(np.where(whole < model.smallest, 0, whole))
    assert stored == pytest.approx(metrics(), abs=0.002)  # two of a thousand queries


@pytest.mark.long
def test_slist_loses_nothing_on_real_data_either(real_data):
    """Ten times the entries, in float32, move no metric."""
    data = prepare(load_dataset(real_data / "Amazon_Beauty"))
    arguments = load_recipe("best", "SLIST", "beauty")["model"]
    metrics = []
    for options in ({}, {"keep": 2000}):
        model = build_model("SLIST", n_items=data.n_items, **arguments | options)
        if options:
            model.register_matrix("weights", rows=data.n_items + 1, values=torch.float32)
        model.count(data.train, data.popularity)
        ranks = [rank_labels(model, p, data.popularity, mask_seen=True) for p in (data.valid, data.test)]
        metrics.append(summarize(np.concatenate(ranks)))
    assert metrics[0] == pytest.approx(metrics[1], abs=0.001)


@pytest.mark.parametrize("recipe", ["best", "fast", "report"])
@pytest.mark.parametrize("name", ["Popularity", "SKNN"])
def test_commands(name, recipe, tmp_path, capsys):
    output, result = tmp_path / "x.safetensors", tmp_path / "x.json"
    command = ["--dataset", "Demo", "--model", name, "--output", str(output), "--json", str(result)]
    assert main([*command, "--recipe", recipe, "--epochs", "1", "--resume"]) == 0
    assert f"{name} on Demo, counted" in capsys.readouterr().out
    header, found = load_checkpoint(output).header, json.loads(result.read_text())
    assert header["epochs"] == 1
    assert header["metrics"] == found["metrics"]
    assert found["table"]["epoch"] == [1]
    assert "loss" not in found["table"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.safetensors"]


def test_all_rows_have_the_twins_metrics(tmp_path):
    held_out, whole = tmp_path / "held_out.safetensors", tmp_path / "whole.safetensors"
    for path, split in ((held_out, "user"), (whole, "none")):
        command = ["--dataset", "Demo", "--model", "STAN", "--output", str(path), "--split", split, "--half"]
        assert main(command) == 0
    metrics = load_checkpoint(held_out).header["metrics"]
    loaded = load_checkpoint(whole)
    assert loaded.header["metrics"] == {f"twin_{part}": values for part, values in metrics.items()}
    assert loaded.popularity.sum() > load_checkpoint(held_out).popularity.sum()


def test_what_a_model_that_counts_does_not_take_is_said(tmp_path, capsys):
    command = ["--dataset", "Demo", "--model", "SKNN", "--output", str(tmp_path / "x.safetensors")]
    assert main([*command, "--epochs", "3"]) == 1
    assert "SKNN counts its training rows once; it takes no epochs" in capsys.readouterr().err
    with pytest.raises(ValueError, match="only counts the training rows; it takes no lr"):
        train_model("Demo", "SKNN", changes={"fit": {"lr": 0.1}})
    with pytest.raises(ValueError, match="it takes no fold"):
        train_model("Demo", "SKNN", changes={"data": {"fold": True}})


@pytest.mark.parametrize("function", ["maximal_sessions", "rank_labels"])
def test_an_interrupted_count_saves_nothing(function, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(train if function == "rank_labels" else counted, function, interrupt)
    command = ["--dataset", "Demo", "--model", "SKNN", "--output", str(tmp_path / "x.safetensors")]
    assert main(command) == 130
    assert "Nothing was saved yet; the same command counts again." in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_a_checkpoint_of_all_rows_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "ROOT", tmp_path)
    recipe = {"model": {"k": 7}, "fit": {}, "data": {}, "ensemble": {}}
    monkeypatch.setattr(train, "load_recipe", lambda *a: {kind: dict(of) for kind, of in recipe.items()})
    dataset = load_dataset(ROOT / "dataset" / "Demo")
    assert find_pretrained(dataset, "SKNN") is None
    train.get_pretrained(dataset, "SKNN", progress=False)
    assert find_pretrained(dataset, "SKNN") == tmp_path / "checkpoints" / "demo" / "SKNN.safetensors"
    assert find_pretrained(dataset, "SKNN", 1) is not None
    recipe["model"] = {"k": 8}  # as `tune.py --write` may
    assert find_pretrained(dataset, "SKNN") is None


# --------------------------------------------------------------------------------------------------
# Real data


# HR@20 and MRR@20 that public implementations reach on a split of the same kind, less the standard error
# of popularity, which nothing can be done about: other users are held out.
PEERS = {
    "Popularity": (0.0305 - 0.0025, 0.0063, 0.0467 - 0.003, 0.0110 - 0.0015),
    "CoOccurrence": (0.1983, 0.0970, 0.1343, 0.0584),
    "SKNN": (0.1969, 0.0853, 0.1361, 0.0551),
    "VSKNN": (0.1975, 0.0872, 0.1329, 0.0566),
    "STAN": (0.1968, 0.0889, 0.1369, 0.0580),
    "SLIST": (0.2136, 0.1062, 0.1555, 0.0696),
    "RandomWalk": (0.2136, 0.1062, 0.1555, 0.0696),  # has no peer: the best that only counts
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "SLIST")) for name in COUNT_MODELS]
)
def test_the_saved_runs_are_what_the_recipes_give(name, real_data):
    found, saved = [], []
    for short, dataset in AMAZON.items():
        metrics = train_model(real_data / dataset, name, progress=False).metrics["test"]
        result = compare.read_result(compare.Plan(name, short))
        assert result is not None, "no run of this recipe in results/runs: make comparison"
        found += [metrics["HR@20"], metrics["MRR@20"]]
        saved += [result["metrics"]["test"]["HR@20"], result["metrics"]["test"]["MRR@20"]]
    # Near ties of rounded sums may fall differently elsewhere.
    assert found == pytest.approx(saved, abs=0.0006)
    assert all(value >= peer for value, peer in zip(found, PEERS[name], strict=True))
