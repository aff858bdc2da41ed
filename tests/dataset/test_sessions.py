"""dataset/sessions.py, with examples and properties: sessions, their users, and the vocabulary."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_lists import as_lists, as_rows, prefix_rows

from dataset import users as users_module
from dataset.sessions import DataError, Sessions, Vocabulary, clean_sessions, count_items, has_repeats, maximal_sessions
from dataset.users import find_chains, find_users, identify_users

ids = st.integers(0, 10**18 - 1)

# --------------------------------------------------------------------------------------------------
# Sessions


@given(st.lists(st.lists(ids, max_size=5), max_size=8), st.data())
def test_sessions_agree_with_lists(lists, data):
    labels = list(range(100, 100 + len(lists)))
    sessions = Sessions.from_lists(lists, labels, users=labels)
    assert as_lists(sessions) == lists
    assert sessions.lengths.tolist() == [len(s) for s in lists]
    assert sessions.row_of_item.tolist() == [r for r, s in enumerate(lists) for _ in s]
    appended = [s + [label] for s, label in zip(lists, labels, strict=True)]
    assert as_lists(sessions.with_labels_appended()) == appended

    rows = data.draw(st.lists(st.sampled_from(range(len(lists))), max_size=10)) if lists else []
    taken = sessions.take(np.array(rows, int))
    assert as_lists(taken) == [lists[r] for r in rows]
    assert taken.labels.tolist() == taken.users.tolist() == [labels[r] for r in rows]
    mask = np.array([r in rows for r in range(len(lists))], bool)
    assert as_lists(sessions.take(mask)) == [lists[r] for r in sorted(set(rows))]

    longest = data.draw(st.none() | st.integers(1, 4))
    tails = [s if longest is None else s[-longest:] for s in lists]
    width = max([1, *map(len, tails)])
    assert sessions.padded(longest).tolist() == [s + [0] * (width - len(s)) for s in tails]


def test_operations_keep_n_items():
    raw = Sessions.from_lists([[7, 9], [8]], [8, 7], users=[0, 1])
    assert raw.n_items is None
    encoded = Vocabulary(np.array([7, 8, 9, 10])).encode_sessions(raw)
    assert encoded.n_items == 4
    assert Sessions.from_lists([[1]], n_items=5).n_items == 5
    assert encoded.take(np.array([1])).n_items == encoded.with_labels_appended().n_items == 4
    assert maximal_sessions(encoded)[0].n_items == clean_sessions(encoded, keep=np.array([1])).n_items == 4


@pytest.mark.parametrize("bad", [-1, 1.5, "1", True, 2**63, 2**64])
def test_sessions_from_lists_refuse_invalid_ids(bad):
    with pytest.raises(DataError, match="non-negative integers"):
        Sessions.from_lists([[bad]])
    with pytest.raises(DataError, match="each session must be a list of items"):
        Sessions.from_lists([1, 2])


def test_negative_rows_count_from_the_end():
    sessions = Sessions.from_lists([[1], [2, 3]])
    assert sessions[-1] == [2, 3]
    with pytest.raises(IndexError):
        sessions[2]


# --------------------------------------------------------------------------------------------------
# Users


@pytest.mark.parametrize(
    ("rows", "users"),
    [
        ([([1], 2), ([1, 2], 3), ([1, 2, 3], 4)], [0, 0, 0]),
        ([([1], 2), ([1], 2)], [0, 1]),  # the same length
        ([([1], 2), ([1, 3], 4)], [0, 1]),  # another item than the label
        ([([1], 2), ([5, 2], 4)], [0, 1]),  # another item before it
        ([([1, 2], 3), ([2, 1, 3], 4)], [0, 1]),  # the same items in another order
        ([([1], 2), ([1, 2, 3], 4)], [0, 1]),  # two items longer
        ([([1], 2), ([1, 1, 2], 4)], [0, 1]),
        ([([1, 2], 3), ([1], 2), ([1, 2], 3)], [0, 1, 1]),  # shorter: a new user
        ([([1], 2), ([1, 2], 3), ([1, 2], 3)], [0, 0, 1]),
        ([([1, 1], 1), ([1, 1, 1], 1)], [0, 0]),
        ([([1], 2), ([3], 4), ([5], 6)], [0, 1, 2]),
        ([([1, 2], 3)], [0]),
        ([([1, 2, 3], 4), ([1, 2], 3), ([1], 2)], [0, 0, 0]),  # longest first
        ([([1, 2], 3), ([5], 6), ([1, 2, 3], 4), ([1], 2)], [0, 1, 0, 0]),  # in any order
        ([([1, 2], 3), ([1, 2], 4), ([1], 2), ([1], 2)], [0, 1, 0, 1]),  # equal rows can change places
        ([([2], 2), ([2, 2, 2], 2), ([2, 2], 2)], [0, 0, 0]),
    ],
)
def test_a_user_is_a_chain_of_rows_in_any_order(rows, users):
    lists, labels = zip(*rows, strict=True)
    assert find_users(Sessions.from_lists(lists, labels)).tolist() == users
    assert find_chains(Sessions.from_lists(lists, labels, users=[0] * len(rows)))[0].tolist() == users


@pytest.mark.parametrize(
    ("rows", "users", "uncertain"),
    [
        ([([1, 2], 4), ([1], 2), ([1, 2], 3)], [0, 1, 1], 2),  # the smaller label continues
        ([([1], 2), ([1, 2, 3], 4)], [0, 1], 1),  # [1, 2]->3 is missing
        ([([1, 2, 3, 4], 5), ([1], 2), ([1, 2, 3], 4)], [0, 1, 0], 1),
        ([([1, 2], 3), ([1, 2], 3), ([1], 2)], [0, 1, 0], 2),
        ([([1, 2], 3), ([1, 2], 4), ([5, 6, 7], 8)], [0, 1, 2], 0),  # no row says that they belong together
        ([([1], 2), ([1], 2), ([1, 2], 3)], [0, 1, 1], 0),
    ],
)
def test_rows_whose_user_is_uncertain_are_counted(rows, users, uncertain):
    lists, labels = zip(*rows, strict=True)
    found, count = find_chains(Sessions.from_lists(lists, labels))
    assert (found.tolist(), count) == (users, uncertain)


def users_by_items(sessions):
    """The rows of each user, without their order."""
    users = {}
    for row, user in zip(as_rows(sessions), sessions.users.tolist(), strict=True):
        users.setdefault(user, []).append((len(row[0]), row))
    return {user: sorted(rows) for user, rows in users.items()}


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=5), min_size=1, max_size=8), st.data())
def test_any_order_of_the_rows_gives_the_same_users_with_the_same_numbers(histories, data):
    sessions = replace(prefix_rows(histories), users=None)
    if data.draw(st.booleans()):  # rows are missing
        rows = data.draw(st.lists(st.sampled_from(range(len(sessions))), min_size=1, unique=True))
        sessions = sessions.take(np.array(sorted(rows)))
    else:
        found = users_by_items(identify_users(sessions)[0]).values()
        assert sorted([*rows[-1][1][0], rows[-1][1][1]] for rows in found) == sorted(histories)
        assert identify_users(sessions)[1] == 0
    order = np.array(data.draw(st.permutations(range(len(sessions)))))
    (one, uncertain), (two, uncertain_again) = identify_users(sessions), identify_users(sessions.take(order))
    assert users_by_items(one) == users_by_items(two)
    assert uncertain == uncertain_again


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=5), min_size=1, max_size=8), st.data())
def test_equal_hashes_of_different_items_are_no_match(histories, data):
    sessions = replace(prefix_rows(histories), users=None)
    sessions = sessions.take(np.array(data.draw(st.permutations(range(len(sessions))))))
    hash_well = users_module._hash_histories

    def hash_badly_at_first(sessions, seed):
        hashes = hash_well(sessions, seed)
        return hashes if seed else hashes._replace(sessions=hashes.sessions % 4, histories=hashes.histories % 4)

    want = find_chains(sessions)
    with mock.patch.object(users_module, "_hash_histories", hash_badly_at_first):
        found = find_chains(sessions)
    assert (found[0].tolist(), found[1]) == (want[0].tolist(), want[1])


def test_named_users_settle_it_and_may_have_several_chains():
    lists, labels = [[1, 2], [1], [1, 2], [1], [7]], [3, 2, 4, 2, 8]
    sessions, uncertain = identify_users(Sessions.from_lists(lists, labels, users=[5, 9, 9, 5, 9]))
    assert sessions.users.tolist() == [5, 9, 9, 5, 9] and uncertain == 0
    assert sessions.chains.tolist() == [0, 1, 1, 0, 2]
    assert as_lists(maximal_sessions(sessions)[0]) == [[1, 2, 3], [1, 2, 4], [7, 8]]
    assert sessions.take(np.array([4, 1])).chains.tolist() == [2, 1]
    single, _ = identify_users(Sessions.from_lists([[1], [1]], [2, 2], users=[3, 4]))
    assert single.users.tolist() == [3, 4] and single.chains is None


def test_prefix_rows_fold_into_one_session_with_the_count_of_each_step():
    # User 0 has [1]->2, [1, 2]->3, [1, 2, 3]->4; the row [5]->6 of user 1 is missing.
    sessions = Sessions.from_lists([[1], [1, 2], [1, 2, 3], [5, 6]], [2, 3, 4, 7], users=[0, 0, 0, 1])
    folded, weights = maximal_sessions(sessions)
    assert as_lists(folded) == [[1, 2, 3, 4], [5, 6, 7]]
    assert weights.tolist() == [3, 2, 1, 1, 1]
    backwards = maximal_sessions(sessions.take(np.array([3, 2, 1, 0])))  # in any order
    assert (as_lists(backwards[0]), backwards[1].tolist()) == (as_lists(folded), weights.tolist())
    nothing = maximal_sessions(sessions.take(np.array([], int)))
    assert (len(nothing[0]), nothing[1].tolist()) == (0, [])


# --------------------------------------------------------------------------------------------------
# Cleaning and encoding


def test_vocabulary_numbers_sorted_ids_from_one():
    vocabulary = Vocabulary(np.array([70, 0, 5, 70]))
    assert len(vocabulary) == 3
    assert vocabulary.encode(np.array([[0, 5], [70, 6]])).tolist() == [[1, 2], [3, 0]]
    assert vocabulary.encode(np.array([71])).tolist() == [0]
    assert vocabulary.decode(np.array([[3, 1], [2, 2]])).tolist() == [[70, 0], [5, 5]]
    for bad in (0, 4, -1):
        with pytest.raises(ValueError, match=r"must be 1\.\.3"):
            vocabulary.decode(np.array([1, bad]))
    assert Vocabulary(np.array([], int)).encode(np.array([3])).tolist() == [0]


def test_unknown_items_are_removed_and_rows_are_kept():
    sessions = Sessions.from_lists([[9, 5, 9, 7], [9], [7]], [5, 7, 9], users=[3, 4, 5])
    encoded = Vocabulary(np.array([5, 7])).encode_sessions(sessions)
    assert as_rows(encoded) == [([1, 2], 1), ([], 2), ([2], 0)]
    assert encoded.users.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("shortest", "expected"),
    [
        (0, [([1], 3, 0), ([1, 3], 4, 0), ([4], 3, 2)]),
        (1, [([1], 3, 0), ([1, 3], 4, 0), ([4], 3, 2)]),
        (2, [([1, 3], 4, 0)]),
    ],
)
def test_rows_without_a_label_or_session_are_removed(shortest, expected):
    sessions = Sessions.from_lists([[1], [1, 2], [1, 2, 3], [2], [4]], [2, 3, 4, 4, 3], users=[0, 0, 0, 1, 2])
    keep = np.array([1, 3, 4])
    cleaned = clean_sessions(sessions, keep=keep, min_session_length=shortest)
    left = [(*row, user) for row, user in zip(as_rows(cleaned), cleaned.users, strict=True)]
    assert left == expected


def test_an_interaction_in_several_rows_is_counted_once():
    # User 0: [8, 6, 7] in two rows. User 1: [7, 6, 6] in one.
    sessions = Sessions.from_lists([[8], [8, 6], [7, 6]], [6, 7, 6], users=[0, 0, 1])
    items, counts = count_items(sessions)
    assert dict(zip(items.tolist(), counts.tolist(), strict=True)) == {6: 3, 7: 2, 8: 1}


@pytest.mark.parametrize(
    ("session", "label", "expected"),
    [([1, 2], 3, False), ([1, 2], 1, True), ([1, 2, 1], 3, True), ([3], 3, True), ([3], 4, False)],
)
def test_repeats_are_found_in_a_session_and_its_label(session, label, expected):
    others = [[1, 2], [2, 1]], [3, 3]  # the same items in different rows are not a repeat
    assert has_repeats(Sessions.from_lists([*others[0], session], [*others[1], label])) == expected
