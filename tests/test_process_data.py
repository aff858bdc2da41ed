"""process_data.py, with examples and properties: splits, preparation, batches, session graphs."""

import doctest
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from session_lists import as_rows, prefix_rows
from torch.utils.data import DataLoader

import process_data
from dataset.sessions import clean_sessions, find_users
from process_data import (
    DataError,
    MyDataset,
    Queries,
    SessionDataset,
    Sessions,
    TrainDataset,
    expand_prefixes,
    get_dataloader,
    get_slice,
    prepare,
    split_sessions,
)

# The items of each user, in order. There are few items, so that users share prefixes and repeat items.
histories = st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=6), min_size=1, max_size=6)

# --------------------------------------------------------------------------------------------------
# Splitting

# 100 users with 1 to 4 rows each: 250 rows. No item comes twice: a label names its row, and a
# session's first item its user.
FILE = prefix_rows([list(range(10 * u, 10 * u + 2 + u % 4)) for u in range(1, 101)], n_items=1005)


def labels_of(parts):
    return [part.labels.tolist() for part in parts]


def test_user_split_keeps_whole_users_in_file_order():
    parts = split_sessions(FILE)
    users = [set(part.users.tolist()) for part in parts]
    assert [len(part) for part in users] == [80, 10, 10]
    assert set.union(*users) == set(range(100))
    assert sum(labels_of(parts), []) != FILE.labels.tolist()  # the order is random
    assert sorted(sum(labels_of(parts), [])) == FILE.labels.tolist()  # every row occurs once
    for part in parts:
        assert as_rows(part) == [row for row in as_rows(FILE) if row[1] in part.labels]
        assert find_users(part).max() == len(np.unique(part.users)) - 1


def test_row_split_validates_on_a_fifth_of_the_rows():
    parts = split_sessions(FILE, by="row")
    assert [len(part) for part in parts] == [200, 50, 0]
    assert sorted(sum(labels_of(parts), [])) == FILE.labels.tolist()
    assert all(labels == sorted(labels) for labels in labels_of(parts))
    assert np.isin(parts.valid.users, parts.train.users).any()


def test_without_a_split_all_rows_train():
    assert [len(part) for part in split_sessions(FILE, by="none")] == [250, 0, 0]


@pytest.mark.parametrize("by", ["user", "row"])
def test_split_is_reproducible_with_its_seed(by):
    first = labels_of(split_sessions(FILE, by, seed=3))
    assert labels_of(split_sessions(FILE, by, seed=3)) == first
    assert labels_of(split_sessions(FILE, by, seed=4)) != first


@pytest.mark.parametrize(
    ("by", "shares", "sizes"),
    [
        ("user", (0.25, 0.05), [70, 25, 5]),
        ("user", (0.5, 0.0), [50, 50, 0]),
        ("user", (0.0, 0.3), [70, 0, 30]),
        ("row", (0.1, 0.2), [175, 25, 50]),
    ],
)
def test_shares_are_of_users_or_rows(by, shares, sizes):
    parts = split_sessions(FILE, by, valid_share=shares[0], test_share=shares[1])
    units = [len(np.unique(part.users)) if by == "user" else len(part) for part in parts]
    assert units == sizes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valid_share": 1.0}, "shares"),
        ({"valid_share": -0.1}, "valid_share=-0.1: must be a number from 0 to 1"),
        ({"valid_share": 0.6, "test_share": 0.4}, "shares"),
        ({"valid_share": 0.001}, "too few for a validation share"),
        ({"test_share": 0.001}, "too few for a test share"),
        ({"by": "item"}, "choose 'user', 'row', 'last', 'none' or 'leave-one-out'"),
    ],
)
def test_impossible_split_is_an_error(options, words):
    with pytest.raises(ValueError, match=words):
        split_sessions(FILE, **options)


# --------------------------------------------------------------------------------------------------
# Preparing


def make_dataset(histories, test=((0,),)):
    empty = Path("nowhere")
    return SessionDataset("Toy", empty, prefix_rows(histories), Sessions.from_lists(test), "0")


def test_filter_counts_only_the_training_split():
    data = make_dataset([[8, 9]] * 4)  # two of the four users train
    options = {"valid_share": 0.5, "test_share": 0.0}
    assert len(prepare(data, min_item_count=2, **options).train) == 2
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(data, min_item_count=3, **options)
    assert len(prepare(data, min_item_count=4, fit_on="all", **options).train) == 2


def test_min_session_length_applies_to_training_unless_fitted_on_all_rows():
    data = make_dataset([[1, 2, 3]] * 10)  # a row of one item and one of two
    ours = prepare(data, min_session_length=2)
    assert [len(part) for part in (ours.train, ours.valid, ours.test)] == [8, 2, 2]
    report = prepare(data, min_session_length=2, fit_on="all")
    assert [len(part) for part in (report.train, report.valid, report.test)] == [8, 1, 1]


def test_vocabulary_has_the_items_of_the_training_split_and_the_test_file():
    # Every user has item 5 and two items that no other user has. The test file also has the items 0 and 999.
    data = make_dataset([[5, 10 * u, 10 * u + 1] for u in range(1, 11)], test=[[0, 5], [999]])
    prepared = prepare(data)
    own = [[10 * (u + 1), 10 * (u + 1) + 1] for u in np.unique(prepared.train.users)]
    assert prepared.vocabulary.item_ids.tolist() == sorted([0, 5, 999, *sum(own, [])])
    assert prepared.n_items == 3 + 16
    for part in (prepared.valid, prepared.test):
        assert as_rows(part) == [([2], 0), ([2], 0)]  # [5]->? and [5, ?]->?
    popularity = dict(enumerate(prepared.popularity.tolist()))
    assert popularity.pop(2) == 8  # item 5: once per training user
    assert popularity.pop(0) == popularity.pop(1) == popularity.pop(19) == 0
    assert set(popularity.values()) == {1}
    assert not prepared.repeats

    assert prepare(data, fit_on="all").n_items == 3 + 20
    with pytest.raises(ValueError, match="'train' or 'all'"):
        prepare(data, fit_on="test")


@pytest.mark.parametrize("repeated", [False, True])
def test_held_out_rows_are_queries_with_the_training_popularity(repeated):
    history = [1, 2, 1] if repeated else [1, 2, 3]
    prepared = prepare(make_dataset([history] * 10), split_seed=3, valid_share=0.3)
    assert type(prepared.train) is Sessions and prepared.train.n_items == prepared.n_items
    for part in (prepared.valid, prepared.test):
        assert type(part) is Queries and part.n_items == prepared.n_items
        assert part.popularity is prepared.popularity
        assert part.mask_seen is prepared.mask_seen is not repeated
        some = part.take(np.array([0]))
        assert type(some) is Queries and some.popularity is part.popularity and len(some) == 1
    assert (prepared.split, prepared.split_seed, prepared.shares) == ("user", 3, (0.3, None))
    assert (len(prepared.valid), len(prepared.test)) == (6, 2)  # two rows per user


# --------------------------------------------------------------------------------------------------
# Datasets and dataloader


def count_steps(dataset):
    """{(items up to a step, its target): total weight}."""
    steps = Counter()
    for row in range(len(dataset)):
        x, y, w = (part[0].tolist() for part in dataset[[row]])
        for t, target in enumerate(y):
            steps[tuple(x[: t + 1]), target] += w[t]
    return steps


def test_train_dataset_shifts_and_my_dataset_keeps_one_label():
    sessions = Sessions.from_lists([[7], [1, 2, 3, 4]], [8, 5], users=[0, 1], n_items=8)
    for dataset in (TrainDataset(sessions), TrainDataset(sessions, fold=False)):
        x, y, w = dataset[1]
        assert x.tolist() == [1, 2, 3, 4]
        assert y.tolist() == [2, 3, 4, 5]
        assert w.tolist() == [1, 1, 1, 1]
        assert [part.tolist() for part in dataset[0]] == [[7], [8], [1]]
        assert (dataset.n_items, len(dataset), dataset.total_weight) == (8, 2, 5)
    batch = MyDataset(sessions)[[1, 0]]
    assert batch.x.tolist() == [[1, 2, 3, 4], [7, 0, 0, 0]]
    assert batch.y.tolist() == [[0, 0, 0, 5], [8, 0, 0, 0]]
    assert batch.w.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_my_dataset_skips_empty_sessions():
    dataset = MyDataset(Sessions.from_lists([[], [1, 2], [], [3]], [9, 8, 7, 6], n_items=9))
    assert len(dataset) == 2  # empty sessions have no step to train on
    assert dataset[[0, 1]].y.tolist() == [[0, 8], [6, 0]]


def test_prefix_rows_fold_into_one_weighted_session():
    # User 0 has [1]->2, [1, 2]->3, [1, 2, 3]->4; the row [5]->6 of user 1 is missing.
    lists, labels = [[1], [1, 2], [1, 2, 3], [5, 6]], [2, 3, 4, 7]
    sessions = Sessions.from_lists(lists, labels, users=[0, 0, 0, 1], n_items=7)
    batch = TrainDataset(sessions)[[0, 1]]
    assert batch.x.tolist() == [[1, 2, 3], [5, 6, 0]]
    assert batch.y.tolist() == [[2, 3, 4], [6, 7, 0]]
    assert batch.w.tolist() == [[3, 2, 1], [1, 1, 0]]
    assert TrainDataset(sessions).total_weight == 8
    once = TrainDataset(sessions, weights="once")
    assert once[[0, 1]].w.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_each_session_of_a_user_is_folded_on_its_own():
    lists, labels = [[1], [1, 2], [5]], [2, 3, 6]
    sessions = Sessions.from_lists(lists, labels, users=[4, 4, 4], n_items=6)
    batch = TrainDataset(replace(sessions, chains=np.array([0, 0, 1])))[[0, 1]]
    assert (batch.x.tolist(), batch.y.tolist()) == ([[1, 2], [5, 0]], [[2, 3], [6, 0]])
    assert batch.w.tolist() == [[2, 1], [1, 0]]


@given(histories, st.data())
def test_folding_keeps_every_step_and_its_weight(histories, data):
    sessions = prefix_rows(histories, n_items=4)
    # Arbitrary rows in any order, since a row split leaves gaps in the chains.
    places = st.integers(0, len(sessions) - 1)
    rows = data.draw(st.lists(places, min_size=1, unique=True))
    sessions = sessions.take(np.array(rows))
    folded, unfolded = TrainDataset(sessions), TrainDataset(sessions, fold=False)
    assert count_steps(folded) == count_steps(unfolded)
    assert folded.total_weight == unfolded.total_weight == sessions.lengths.sum()
    assert len(folded) == len(np.unique(sessions.users))
    assert len(unfolded) == len(sessions)


@given(histories, st.sets(st.integers(1, 4), min_size=1))
def test_folding_keeps_every_step_of_filtered_rows(histories, keep):
    sessions = clean_sessions(prefix_rows(histories, n_items=4), keep=np.array(sorted(keep)))
    assert count_steps(TrainDataset(sessions)) == count_steps(TrainDataset(sessions, fold=False))


@pytest.mark.parametrize("kind", [TrainDataset, MyDataset])
def test_raw_sessions_are_refused(kind):
    data = make_dataset([[1, 2, 3]] * 10)
    assert len(kind(prepare(data).train)) > 0
    sentence = rf"{kind.__name__} takes encoded sessions \(ids 1..n\), and these have raw ids: pass `data.train` of"
    with pytest.raises(ValueError, match=sentence):
        kind(data.train)
    with pytest.raises(ValueError, match=sentence):
        kind([[1, 2], [3]])


def test_wrong_weights_are_an_error():
    with pytest.raises(ValueError, match="choose 'rows' or 'once'"):
        TrainDataset(FILE, weights="row")
    with pytest.raises(ValueError, match="needs fold=True"):
        TrainDataset(FILE, fold=False, weights="once")


@given(histories, st.data())
def test_batch_is_its_rows_padded(histories, data):
    sessions = prefix_rows(histories, n_items=4)
    dataset = data.draw(st.sampled_from([TrainDataset, MyDataset]))(sessions)
    rows = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=6))
    batch = dataset[torch.tensor(rows)]
    assert batch.x.shape == (len(rows), max(len(dataset[r][0]) for r in rows))
    for place, row in enumerate(rows):
        x, y, w = dataset[row]
        assert batch.x[place, : len(x)].equal(x)
        assert batch.y[place, : len(x)].equal(y)
        assert batch.w[place, : len(x)].equal(w)
        assert not any(part[place, len(x) :].any() for part in batch)


def epochs(n, **options):
    """Row numbers of each batch, for n epochs. FILE has one folded row per user."""
    loader = get_dataloader(TrainDataset(FILE), batch_size=8, **options)
    return [[(batch.x[:, 0] // 10 - 1).tolist() for batch in loader] for _ in range(n)]


def test_every_row_occurs_once_per_epoch_in_a_new_order():
    first, second = epochs(2)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(100))
    assert first != second
    assert len(first) == len(get_dataloader(TrainDataset(FILE), batch_size=8)) == 13
    assert {frozenset(rows) for rows in first} != {frozenset(rows) for rows in second}


def test_same_seed_gives_the_same_epochs():
    first = epochs(2, seed=5)
    torch.rand(3)  # the global generator has no effect
    assert epochs(2, seed=5) == first
    assert epochs(1, seed=6) != first[:1]
    loader = get_dataloader(TrainDataset(FILE), batch_size=8, seed=5)
    loader.sampler.epoch = 1
    assert [(batch.x[:, 0] // 10 - 1).tolist() for batch in loader] == first[1]


def test_batches_have_similar_lengths_and_a_random_order():
    loader = get_dataloader(TrainDataset(FILE), batch_size=8)
    lengths = [(batch.x > 0).sum(1) for batch in loader]
    assert sum(int(length.max() - length.min()) for length in lengths) <= 3  # 1 to 4, sorted
    assert [int(length.max()) for length in lengths] != sorted(int(n.max()) for n in lengths)


def test_unshuffled_batches_keep_the_file_order():
    batches = epochs(1, shuffle=False)[0]
    assert sum(batches, []) == list(range(100))
    assert [len(rows) for rows in batches] == [8] * 9 + [7] * 4  # sizes differ by at most one row


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None])
def test_batch_size_below_one_is_an_error(size):
    with pytest.raises(ValueError, match="at least 1"):
        get_dataloader(TrainDataset(FILE), batch_size=size)


def test_a_loader_of_another_dataset_class_is_an_error():
    with pytest.raises(ValueError, match=r"takes a TrainDataset or MyDataset, not Sessions: get_dataloader\(TrainD"):
        get_dataloader(FILE, 256)


def test_a_loader_has_its_dataset_and_settings():
    dataset = TrainDataset(FILE)
    loader = get_dataloader(dataset, 16, seed=5)
    assert loader.dataset is dataset
    assert (loader.sampler.batch_size, loader.sampler.seed, loader.sampler.epoch) == (16, 5, 0)
    assert len([*loader]) == 7
    assert loader.sampler.epoch == 1


def test_processes_share_every_batch():
    whole = epochs(1, seed=5)[0]
    shares = [epochs(1, seed=5, rank=rank, world_size=3)[0] for rank in range(3)]
    for rows, *parts in zip(whole, *shares, strict=True):
        assert sorted(sum(parts, [])) == sorted(rows)
        assert [len(part) for part in parts] in ([3, 3, 2], [3, 2, 2])
    with pytest.raises(ValueError, match="100 rows in batches of 8 are too few for 8 processes; start fewer"):
        epochs(1, rank=0, world_size=8)


@pytest.mark.parametrize("kind", [TrainDataset, MyDataset])
def test_a_plain_dataloader_pads_like_ours(kind):
    rows = [[1], [2, 3, 4], [5, 6], [7], [1, 2], [3]]
    dataset = kind(Sessions.from_lists(rows, [2, 5, 7, 8, 3, 4], users=range(6), n_items=8))
    ours, plain = get_dataloader(dataset, 3, shuffle=False), DataLoader(dataset, batch_size=3)
    assert len(ours) == len(plain) == 2
    for want, got in zip(ours, plain, strict=True):
        assert type(got) is type(want)
        assert [part.tolist() for part in got] == [part.tolist() for part in want]
        assert [part.dtype for part in got] == [part.dtype for part in want]
    assert next(iter(plain)).x.tolist() == [[1, 0, 0], [2, 3, 4], [5, 6, 0]]
    assert sum(len(batch.x) for batch in DataLoader(dataset, batch_size=4, shuffle=True, num_workers=1)) == 6


def test_rows_can_be_indexed_in_several_ways():
    dataset = TrainDataset(FILE)
    want = dataset[[98, 2]]
    for rows in ((98, 2), torch.tensor([98, 2]), np.array([98, 2])):
        assert all(a.equal(b) for a, b in zip(dataset[rows], want, strict=True))
    assert dataset[-1].x.equal(dataset[99].x) and dataset[np.int64(3)].x.equal(dataset[3].x)
    with pytest.raises(IndexError):
        dataset[100]
    batch = want.to("cpu")
    assert type(batch) is type(want) and batch.y.equal(want.y)


def test_long_sessions_are_cut_from_their_end(monkeypatch):
    monkeypatch.setattr(process_data, "LONGEST_SESSION", 3)
    sessions = Sessions.from_lists([[1, 2, 3, 4, 5, 6, 7], [8]], [9, 10], [0, 1], n_items=10)

    def rows(dataset):
        return [tuple(t.tolist() for t in dataset[i][:2]) for i in range(len(dataset))]

    pieces = [([1], [2]), ([2, 3, 4], [3, 4, 5]), ([5, 6, 7], [6, 7, 9]), ([8], [10])]
    assert rows(TrainDataset(sessions)) == pieces
    assert rows(MyDataset(sessions)) == [([5, 6, 7], [0, 0, 9]), ([8], [10])]


# --------------------------------------------------------------------------------------------------
# Session graphs


def test_slice_of_the_reports_examples():
    sliced = get_slice(torch.tensor([[464, 1150, 0]]))
    assert sliced.items.tolist() == [[0, 464, 1150]]
    assert sliced.alias_inputs.tolist() == [[1, 2, 0]]
    assert sliced.mask.tolist() == [[True, True, False]]
    assert sliced.A.tolist() == [[[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]]]
    sliced = get_slice(torch.tensor([[5, 11, 7, 0, 0, 0]]))
    assert sliced.alias_inputs.tolist() == [[1, 3, 2, 0, 0, 0]]


def test_slice_of_repeated_items():
    # Edges 1->3 (twice, counted once), 3->2, 2->3, 3->1. The nodes are 1, 2, 3 and three unused ones.
    sliced = get_slice(torch.tensor([[1, 3, 2, 3, 1, 3]]))
    assert sliced.items.tolist() == [[1, 2, 3, 0, 0, 0]]
    assert sliced.alias_inputs.tolist() == [[0, 2, 1, 2, 0, 2]]
    unused = [[0] * 12] * 3
    assert sliced.A.tolist() == [
        [
            [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0, 0],
            *unused,
        ]
    ]


def slice_by_loops(row):
    """One padded row -> alias_inputs, A, items, mask, in plain Python."""
    nodes = sorted(set(row))
    pairs = zip(row, row[1:], strict=False)
    edges = {(nodes.index(u), nodes.index(v)) for u, v in pairs if u and v}
    A = [[0.0] * (2 * len(row)) for _ in row]
    for u, v in edges:
        A[v][u] = 1 / sum(end == v for _, end in edges)
        A[u][len(row) + v] = 1 / sum(start == u for start, _ in edges)
    items = nodes + [0] * (len(row) - len(nodes))
    return [nodes.index(i) for i in row], A, items, [i > 0 for i in row]


@given(st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=5))
def test_slice_agrees_with_loops(sessions):
    x = Sessions.from_lists(sessions).padded().tolist()
    sliced = get_slice(torch.tensor(x))
    alias_inputs, A, items, mask = map(list, zip(*map(slice_by_loops, x), strict=True))
    assert sliced.alias_inputs.tolist() == alias_inputs
    assert sliced.items.tolist() == items
    assert sliced.mask.tolist() == mask
    assert torch.allclose(sliced.A, torch.tensor(A))


def test_get_slice_refuses_other_inputs():
    for wrong in (torch.tensor([1, 2, 0]), torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"takes a batch of encoded ids \(B, L\), not \(.*torch\."):
            get_slice(wrong)


def test_the_mask_restores_the_order_of_expanded_prefixes():
    x = torch.tensor([[4, 7, 4], [5, 0, 0]])
    prefixes, mask = expand_prefixes(x)
    assert prefixes.tolist() == [[4, 0, 0], [4, 7, 0], [4, 7, 4], [5, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_examples_in_docstrings():
    result = doctest.testmod(process_data)
    assert result.attempted >= 8 and result.failed == 0
