"""The non-neural baselines: they equal their papers' formulas, have no ties, and are used like neural models.

The reference implementations below are plain loops over sessions and items, written from the papers.
"""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.sparse import csr_array

from metrics import summarize
from models import BASELINES, build_model
from models.baselines import SLIST, RandomWalk, base
from models.baselines.base import CatalogueTooLarge, cut_sessions, popularity_ranks, strongest, write_scores
from models.item_graph import item_graph
from process_data import LONGEST_SESSION, Queries, Sessions, Vocabulary, load_dataset, maximal_sessions, prepare
from sessionrec import scoring
from sessionrec.checkpoint import Checkpoint, CheckpointError, load_checkpoint, write_checkpoint
from sessionrec.recipes import load_recipe
from sessionrec.recommend import evaluate, recommend
from sessionrec.scoring import rank_labels, top_items

# Six users. Items 1..8; item 8 is in no session.
WALKS = [[1, 2, 3], [2, 3, 4], [1, 3], [5, 2, 3, 1], [4, 6], [7, 1]]
N_ITEMS = 8
QUERIES = [[1], [2, 3], [5, 1, 2], [4], [3, 2, 1], [8], [6, 8, 1]]
# Items are repeated within sessions and within queries.
REPEATING = [[1, 2, 1, 3], [3, 3, 2], [2, 4, 2, 2, 5], [5, 6], [7, 1, 7], [6, 5, 6, 4]]
REPEATED_QUERIES = [[1, 2, 1], [2, 2], [3, 4, 3, 2], [7], [6, 5, 6]]


def prefix_rows(walks, n_items=N_ITEMS):
    """Every prefix of every walk as a training row, as the data files have them."""
    rows = [(w[:t], w[t], user) for user, w in enumerate(walks) for t in range(1, len(w))]
    return Sessions.from_lists(*zip(*rows, strict=True), n_items=n_items)


def popularity_of(walks, n_items=N_ITEMS):
    return np.bincount([i for w in walks for i in w], minlength=n_items + 1)


def fitted(name, walks=WALKS, n_items=N_ITEMS, **arguments):
    model = build_model(name, n_items=n_items, **arguments)
    return model.fit(prefix_rows(walks, n_items), popularity_of(walks, n_items))


def padded(queries):
    return Sessions.from_lists(queries).padded()


def raw_scores(model, queries):
    """The model's scores before ties are broken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "without_ties", lambda score: score)
        return model.scorer()(padded(queries)).toarray()


def final_scores(model, queries):
    x = torch.as_tensor(padded(queries))
    return model.scorer()(x, torch.empty(len(x), model.n_items + 1))


# --------------------------------------------------------------------------------------------------
# By hand


def test_popularity_by_hand():
    # Occurrences of 1..8: 4, 3, 4, 2, 1, 1, 1, 0. Equal counts are ordered by id.
    order = final_scores(fitted("Popularity"), [[4], [8]])[:, 1:].argsort(1, descending=True) + 1
    assert order.tolist() == [[1, 3, 2, 4, 5, 6, 7, 8]] * 2


def test_cooccurrence_by_hand():
    model = fitted("CoOccurrence")
    # With 1: 2 in [1 2 3] and [5 2 3 1]; 3 there and in [1 3]; 5 in one, 7 in one.
    assert raw_scores(model, [[1]])[0].tolist() == [0, 0, 2, 3, 0, 1, 0, 1, 0]
    # With 2 (three times 3, twice 1, 4 and 5 once), added to that.
    assert raw_scores(model, [[1, 2]])[0].tolist() == [0, 2, 2, 6, 1, 2, 0, 1, 0]
    # 3 first; 1, 2 and 5 have 2 each, of which 1 is the most popular; 4 and 7 have 1 each, 4 is more popular.
    order = final_scores(model, [[1, 2]])[0, 1:].argsort(descending=True) + 1
    assert order.tolist() == [3, 1, 2, 5, 4, 7, 6, 8]


def test_sequential_rules_by_hand():
    model = fitted("CoOccurrence", distance="div", backward=0.0, memory=0.5, norm=1.0)
    # After 2: 3 next (three times), 1 two steps on in [5 2 3 1], 4 two steps on in [2 3 4]; 2 occurs 3 times.
    # After 5: 2 next, 3 two and 1 three steps on; 5 occurs once, and is one step back: half.
    assert raw_scores(model, [[5, 2]])[0] == pytest.approx([0, 1 / 6 + 1 / 6, 1 / 2, 3 / 3 + 1 / 4, 1 / 6, 0, 0, 0, 0])


def test_random_walk_by_hand():
    # Sessions [1 2] and [2 3]: 1 and 3 are beside 2, once each; degrees 1, 2, 1, so each edge is 1 / sqrt(2).
    model = fitted("RandomWalk", [[1, 2], [2, 3]], n_items=3, walk=2.0, memory=0.5, backward=0.0)
    # From 1: 2 follows it; and over its neighbour 2 (2 / sqrt(2)) one comes to 3. From 2: 3 follows it; over
    # 1 one comes back to 2, over 3 nowhere. [2 1]: 2 is one step back, half.
    far = math.sqrt(2)
    half = {"rel": 1e-3}  # the graph is stored in half precision
    assert raw_scores(model, [[1], [2]]) == pytest.approx(np.array([[0, 0, 1, far], [0, 0, far, 1]]), **half)
    assert raw_scores(model, [[2, 1]])[0] == pytest.approx([0, 0, 1 + far / 2, far + 1 / 2], **half)


@pytest.mark.parametrize("keep", [2, 5, 100])
def test_on_a_graph_with_many_edges_the_best_ends_of_walks_are_kept(keep, monkeypatch):
    monkeypatch.setattr(RandomWalk, "_ROWS", 3)
    monkeypatch.setattr(RandomWalk, "_KEEP", keep)
    plain = fitted("RandomWalk", REPEATING, walk=0.7, norm=0.5)
    monkeypatch.setattr(RandomWalk, "_MOST_STEPS", 0)
    bounded = fitted("RandomWalk", REPEATING, walk=0.7, norm=0.5)
    graph = item_graph(prefix_rows(REPEATING)).toarray()
    strongest_edges = np.zeros_like(graph)
    for row in range(N_ITEMS + 1):
        best = np.argsort(-graph[row], kind="stable")[:keep]
        strongest_edges[row, best] = graph[row, best]
    ends = (np.eye(N_ITEMS + 1) + 0.7 * strongest_edges) @ plain.matrix("pairs").toarray()
    kept = bounded.matrix("pairs").toarray()
    for row in range(N_ITEMS + 1):
        largest = np.sort(ends[row])[::-1][:keep]
        assert np.sort(kept[row])[::-1][: len(largest)] == pytest.approx(largest, rel=1e-6)
        assert kept[row][kept[row] > 0] == pytest.approx(ends[row][kept[row] > 0], rel=1e-6)
    assert (kept > 0).sum(1).max() <= keep
    assert bounded.matrix("neighbours").nnz == 0 < plain.matrix("neighbours").nnz
    if keep == 100:  # nothing is left out: the same scores, except that the plain graph is in half precision
        want = raw_scores(plain, REPEATED_QUERIES)
        assert raw_scores(bounded, REPEATED_QUERIES) == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_walks_are_bounded_by_themselves_where_items_have_many_neighbours():
    """500 items in 3,000 random sessions: each item has more than 100 neighbours."""
    walks = np.random.default_rng(0).integers(1, 501, (3000, 12)).tolist()
    rows = Sessions.from_lists([w[:-1] for w in walks], [w[-1] for w in walks], range(3000), n_items=500)
    model = build_model("RandomWalk", n_items=500).fit(rows, popularity_of(walks, 500))
    assert model.matrix("neighbours").nnz == 0
    assert np.diff(model.matrix("pairs").indptr).tolist() == [0] + [100] * 500


def test_the_walks_of_beauty_and_cell_are_not_bounded_and_would_lose_little(real_data, monkeypatch):
    for name in ("Beauty", "Cell"):
        data = prepare(load_dataset(real_data / f"Amazon_{name}"))
        arguments = load_recipe("best", "RandomWalk", name.lower()).model
        found = []
        for most in (RandomWalk._MOST_STEPS, 0):
            monkeypatch.setattr(RandomWalk, "_MOST_STEPS", most)
            model = build_model("RandomWalk", n_items=data.n_items, **arguments).fit(data.train, data.popularity)
            assert (model.matrix("neighbours").nnz > 0) == (most > 0)
            metrics = summarize(rank_labels(model, data.valid))
            found.append([metrics["HR@20"], metrics["MRR@20"]])
        assert found[0] == pytest.approx(found[1], abs=0.001)
        monkeypatch.undo()


def test_sknn_by_hand():
    model = fitted("SKNN", k=2)
    # [2 3] and [1 2 3]: 2 of 2 and 3 items; [2 3 4] the same. [1 3]: 1 / 2; [5 2 3 1]: 2 / sqrt(8).
    a = 2 / math.sqrt(6)
    assert raw_scores(model, [[2, 3]])[0] == pytest.approx([0, a, 2 * a, 2 * a, a, 0, 0, 0, 0])
    b, c = 2 / math.sqrt(8), 1 / 2
    all_of_them = raw_scores(fitted("SKNN"), [[2, 3]])[0]
    assert all_of_them == pytest.approx([0, a + b + c, 2 * a + b, 2 * a + b + c, a, b, 0, 0, 0])


def test_vsknn_by_hand():
    model = fitted("VSKNN", k=10, weighting="div", weighting_score="div")
    # [4 1]: 1 weighs 1 and is no step back; 4 weighs 1/2 and is one: its neighbours count half again.
    want = [0, 4, 2, 3, 0, 1, 0, 1, 0] + np.array([0, 0, 1, 1, 2, 0, 1, 0, 0]) / 4
    assert raw_scores(model, [[4, 1]])[0] == pytest.approx(want)
    # idf: 7 is in one of the six sessions, 1 in four.
    rare = raw_scores(fitted("VSKNN", idf=2.0), [[7]])[0]
    want = [0, 1 + 2 * math.log(6 / 4), 0, 0, 0, 0, 0, 1 + 2 * math.log(6), 0]
    assert rare == pytest.approx(want)


def test_stan_by_hand():
    model = fitted("STAN", lambda_spw=1.0, lambda_inh=2.0)
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
    model = fitted("SLIST", alpha=0.0, **one)
    assert raw_scores(model, [[1], [2]]).tolist() == [[0, 0, 1 / 4], [0, 0, 0]]
    # SLIS alone: the input is (1/2, 1/2), the target (1, 1): (G + reg)^-1 T with G of quarters, T of halves.
    want = np.linalg.solve(np.full((2, 2), 1 / 4) + 3 * np.eye(2), np.full((2, 2), 1 / 2))
    model = fitted("SLIST", alpha=1.0, **one)
    assert raw_scores(model, [[1], [2]])[:, 1:] == pytest.approx(want, rel=1e-3)
    # Two items: the earlier one weighs exp(-1 / predict_weight).
    model = fitted("SLIST", alpha=1.0, **one, predict_weight=0.5)
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
    follows = [cooccurrence_loops(walks, [i], **rules) if i else np.zeros(N_ITEMS + 1) for i in range(N_ITEMS + 1)]
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
        ("RandomWalk", random_walk_loops, {"walk": walk, "distance": d, "backward": b, "memory": m, "norm": n})
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
    got = raw_scores(fitted(name, walks, **arguments), queries)
    # These store a matrix in half precision.
    tolerance = {"rel": 2e-3, "abs": 1e-6} if name in ("SLIST", "RandomWalk") else {"rel": 1e-6}
    for row, query in enumerate(queries):
        assert got[row] == pytest.approx(loops(walks, query, **arguments), **tolerance), query


def test_slist_in_several_blocks_equals_one_block(monkeypatch):
    whole = raw_scores(fitted("SLIST", reg=2.0), QUERIES)
    monkeypatch.setattr(SLIST, "_BLOCK", 2)
    assert raw_scores(fitted("SLIST", reg=2.0), QUERIES) == pytest.approx(whole, rel=2e-3)


def test_long_sessions_are_cut_from_their_end_and_keep_all_items():
    lengths = [1, 3, 6, 7, 0, 4]
    sessions = Sessions.from_lists([[*range(10 * k, 10 * k + n)] for k, n in enumerate(lengths, 1)])
    pieces = cut_sessions(sessions, 3)
    assert pieces.items.tolist() == sessions.items.tolist()
    assert pieces.lengths.tolist() == [1, 3, 3, 3, 1, 3, 3, 1, 3]
    long = [*range(1, 3 * LONGEST_SESSION)]
    for name in BASELINES:
        model = fitted(name, [long, [1, 2]], n_items=len(long))
        assert torch.isfinite(final_scores(model, [[1], [140, 60], long[-LONGEST_SESSION:]])).all()


# --------------------------------------------------------------------------------------------------
# Ties


def tied_matrix(data, rows, n_items):
    """Raw scores with few distinct values, some of them neighbouring floats or very small."""
    values = [0.0, 1e-42, 0.5, float(np.nextafter(np.float32(0.5), 1)), 0.5000001788139343, 3.0]
    entries = st.lists(st.sampled_from(values), min_size=n_items, max_size=n_items)
    return np.array([[0.0, *data.draw(entries)] for _ in range(rows)])


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 20))
def test_no_two_scores_are_equal_and_their_order_is_a_sort(data, rows, n_items):
    raw = tied_matrix(data, rows, n_items)
    popularity = np.array([0, *data.draw(st.lists(st.integers(0, 3), min_size=n_items, max_size=n_items))])
    scores = write_scores(csr_array(raw), popularity_ranks(popularity), torch.empty(rows, n_items + 1))
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


def test_a_large_catalogue_has_no_ties():
    n = 2**18
    raw = csr_array((np.ones(3), [5, n, 1], [0, 3]), shape=(1, n + 1))
    scores = write_scores(raw, popularity_ranks(np.zeros(n + 1)), torch.empty(1, n + 1))[0, 1:]
    assert (scores.topk(4).indices + 1).tolist() == [1, 5, n, 2]
    assert bool((scores[5:-1].diff() < 0).all())
    with pytest.raises(ValueError, match="20000 sessions at once are too many for 262144 items"):
        write_scores(csr_array((20_000, n + 1)), np.arange(n + 1), torch.empty(0))
    last = -1.0 - np.arange(base.MOST_ITEMS - 2, base.MOST_ITEMS + 1)
    assert len(set(last.astype(np.float32))) == 3
    with pytest.raises(CatalogueTooLarge, match="a baseline takes at most 16777214 items"):
        build_model("SKNN", n_items=base.MOST_ITEMS + 1)


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
# Checkpoints and evaluation

SAVED = {"dataset": "Demo", "seed": 0, "metrics": {}, "mask_seen": True}
RAW_IDS = np.arange(10, 10 + 7 * N_ITEMS, 7)


def save(path, model, **options):
    header = {"model": model.name, "arguments": model.arguments, **SAVED}
    write_checkpoint(path, Checkpoint(model, Vocabulary(RAW_IDS), popularity_of(WALKS), header), **options)
    return path


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("name", BASELINES)
def test_a_loaded_model_gives_the_same_scores_and_lists(name, compact, tmp_path):
    model = fitted(name)
    loaded = load_checkpoint(save(tmp_path / "x.safetensors", model, compact=compact))
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


def test_counts_beyond_half_precision_are_saved_exactly(tmp_path):
    model = fitted("CoOccurrence", [[1, 2]] * 70_000, n_items=N_ITEMS)
    loaded = load_checkpoint(save(tmp_path / "x.safetensors", model, compact=True))
    assert raw_scores(loaded.model, [[1]])[0].tolist() == [0, 0, 70_000, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", BASELINES)
def test_results_do_not_depend_on_the_chunk(name, monkeypatch):
    model = fitted(name)
    scores = final_scores(model, QUERIES)
    assert torch.equal(final_scores(model, QUERIES[::-1]).flip(0), scores)
    for row, query in enumerate(QUERIES):
        assert torch.equal(final_scores(model, [query])[0], scores[row])
    rows = Sessions.from_lists([*QUERIES, []], labels=[2, 1, 3, 6, 4, 1, 0, 2], n_items=N_ITEMS)
    sessions = Queries.of(rows, popularity_of(WALKS), mask_seen=True)
    ranks = rank_labels(model, sessions).tolist()
    ids, _ = top_items(model, sessions, k=4)
    monkeypatch.setattr(scoring, "_CHUNK_ENTRIES", 2 * (N_ITEMS + 1))
    assert rank_labels(model, sessions).tolist() == ranks
    assert (top_items(model, sessions, k=4)[0] == ids).all()
    for row in range(len(sessions)):  # without ties, the rank is the index in the list
        if ranks[row] <= 4:
            assert ids[row, ranks[row] - 1] == sessions.labels[row]


@pytest.mark.parametrize("name", BASELINES)
def test_prefix_rows_are_folded(name):
    """All prefix rows give the same model as the longest row of each user."""
    rows = prefix_rows(WALKS)
    longest = rows.take(np.array([len(rows[r]) == len(WALKS[rows.users[r]]) - 1 for r in range(len(rows))]))
    model = build_model(name, n_items=N_ITEMS).fit(longest, popularity_of(WALKS))
    assert torch.equal(final_scores(model, QUERIES), final_scores(fitted(name), QUERIES))


def test_a_baseline_that_was_not_fitted_ranks_by_id():
    for name in BASELINES:
        scores = final_scores(build_model(name, n_items=4), [[2], [1, 3]])
        assert (scores[:, 1:].argsort(1, descending=True) + 1).tolist() == [[1, 2, 3, 4]] * 2, name


def test_device_and_types_do_not_change():
    model = fitted("SLIST").half().to("meta")
    assert model.device.type == "cpu"
    assert model.popularity_rank.dtype == torch.int32
    assert model.weights_values.dtype == torch.float16


DAMAGE = {
    "popularity_rank": lambda t: t.flip(0) * 2,
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
    path = save(tmp_path / "x.safetensors", fitted(name))
    loaded = load_checkpoint(path)
    tensors = load_file(path)
    tensors[f"model.{buffer}"] = DAMAGE[buffer](tensors[f"model.{buffer}"]).contiguous()
    header = {"format": 1, "model": name, "arguments": loaded.model.arguments, **SAVED}
    save_file(tensors, path, metadata={"header": json.dumps(header)})
    with pytest.raises(CheckpointError, match="does not fit this code(.|\n)*is damaged"):
        load_checkpoint(path)


WRONG = [
    ("CoOccurrence", {"distance": "log"}, "choose 'same' or 'div'"),
    ("CoOccurrence", {"backward": 2}, "backward=2: must be a number from 0 to 1"),
    ("CoOccurrence", {"memory": 0}, "memory=0: must be a number above 0 and at most 1"),
    ("SKNN", {"k": 0}, "k=0: must be a whole number of at least 1"),
    ("VSKNN", {"weighting": "linear"}, "weighting='linear': choose 'same', 'div', 'log' or 'quadratic'"),
    ("VSKNN", {"idf": -1}, "idf=-1: must be a number of at least 0"),
    ("STAN", {"lambda_inh": 0}, "lambda_inh=0: must be a number of at least 0.1"),
    ("SLIST", {"alpha": 2}, "alpha=2: must be a number from 0 to 1"),
    ("SLIST", {"direction": "all"}, "choose 'sr' or 'part'"),
    ("SLIST", {"reg": 0}, "reg=0: must be a number above 0"),
    ("SLIST", {"smallest": 0}, "smallest=0: must be a number above 0"),
    ("SLIST", {"keep": 0}, "keep=0: must be a whole number of at least 1"),
    ("SLIST", {"predict_weight": 0}, "predict_weight=0: must be a number of at least 0.1"),
    ("SLIST", {"n_items": 30_001}, "30001 items would take 3 GiB, and the limit is 30000 items"),
    ("Popularity", {"k": 3}, "Popularity takes no k; it takes n_items"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG)
def test_a_wrong_argument_is_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **{"n_items": 5} | arguments)


def test_small_entries_of_slist_do_not_change_the_metrics():
    """Compares the stored entries in half precision with the whole matrix in double precision."""
    data = prepare(load_dataset("Demo"))
    model = build_model("SLIST", n_items=data.n_items, **load_recipe("best", "SLIST", "demo").model)
    model.fit(data.train, data.popularity)
    inputs, targets = model.training_pairs(maximal_sessions(data.train)[0])
    gram = (inputs.T @ inputs).toarray() + model.reg * np.eye(data.n_items + 1)
    whole = np.linalg.solve(gram, (inputs.T @ targets).toarray())
    assert model.weights_values.dtype == torch.float16
    assert model.weights_values.numel() <= model.keep * data.n_items

    def metrics():
        ranks = [rank_labels(model, queries) for queries in (data.valid, data.test)]
        return summarize(np.concatenate(ranks))

    stored = metrics()
    model.matrix = lambda name: csr_array(np.where(whole < model.smallest, 0, whole))
    assert stored == pytest.approx(metrics(), abs=0.002)  # two queries in a thousand


@pytest.mark.long
def test_small_entries_of_slist_do_not_change_the_metrics_on_real_data(real_data):
    """Storing ten times as many entries, in float32, changes no metric."""
    data = prepare(load_dataset(real_data / "Amazon_Beauty"))
    arguments = load_recipe("best", "SLIST", "beauty").model
    metrics = []
    for options in ({}, {"keep": 2000}):
        model = build_model("SLIST", n_items=data.n_items, **arguments | options)
        if options:
            model.register_matrix("weights", rows=data.n_items + 1, values=torch.float32)
        model.fit(data.train, data.popularity)
        ranks = [rank_labels(model, queries) for queries in (data.valid, data.test)]
        metrics.append(summarize(np.concatenate(ranks)))
    assert metrics[0] == pytest.approx(metrics[1], abs=0.001)


def test_a_catalogue_that_is_too_large_raises_its_own_error():
    """An ensemble catches it and omits the member."""
    with pytest.raises(CatalogueTooLarge, match="use CoOccurrence or VSKNN instead"):
        build_model("SLIST", n_items=30_001)
