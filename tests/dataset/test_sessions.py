"""dataset/sessions.py, with examples and properties: sessions, their users, and the vocabulary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_lists import as_lists, as_rows

from dataset.sessions import (
    DataError,
    Sessions,
    Vocabulary,
    clean_sessions,
    count_items,
    find_users,
    has_repeats,
    maximal_sessions,
)

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
    with pytest.raises(DataError, match="each session must be a list of ids"):
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
    ],
)
def test_a_user_continues_where_a_row_is_the_previous_row_and_its_label(rows, users):
    lists, labels = zip(*rows, strict=True)
    assert find_users(Sessions.from_lists(lists, labels)).tolist() == users


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
