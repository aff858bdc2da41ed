"""The leakage of a split, by hand and compared with sets of pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.leakage import leak_rate, leaked_rows
from process_data import Sessions

# Each user's items in order. There are few items, so that users share prefixes and repeat items.
histories = st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=6), min_size=1, max_size=6)


def test_leak_rate_distinguishes_the_same_user_from_any_user():
    train = Sessions.from_lists([[1, 2], [7]], [3, 8], users=[0, 1])
    rows = [
        ([1], 2, 0),  # step 1 of [1, 2]->3 of the same user
        ([1, 2], 3, 5),  # a row of another user
        ([7], 8, 6),  # a row of another user
        ([1, 2, 3], 4, 0),  # longer than the training rows
        ([2], 3, 0),  # part of a session, but not a prefix
        ([1], 3, 0),
        ([8], 7, 1),
        ([], 7, 1),  # empty after encoding: not a pair
    ]
    validation = Sessions.from_lists(*map(list, zip(*rows, strict=True)))
    assert leak_rate(train, validation) == (1 / 8, 3 / 8)
    assert leaked_rows(train, validation).tolist() == [True] + [False] * 7
    assert leak_rate(train, validation.take(np.array([], int))) == (0, 0)


@given(histories, st.integers(0, 99))
def test_leak_rate_agrees_with_sets(histories, seed):
    # All prefix rows of each user's history: [a, b, c] gives [a]->b and [a, b]->c.
    rows = [(h[:t], h[t], u) for u, h in enumerate(histories) for t in range(1, len(h))]
    rows = Sessions.from_lists(*map(list, zip(*rows, strict=True)))
    held_out = np.random.default_rng(seed).random(len(rows)) < 0.4
    train, validation = rows.take(~held_out), rows.take(held_out)
    trained = set()
    for row, (label, user) in enumerate(zip(train.labels.tolist(), train.users.tolist(), strict=True)):
        sequence = (*train[row], label)
        trained |= {(user, sequence[:t]) for t in range(2, len(sequence) + 1)}
    anybody = {sequence for _, sequence in trained}
    asked = [(*validation[row], label) for row, label in enumerate(validation.labels.tolist())]
    own = [pair in trained for pair in zip(validation.users.tolist(), asked, strict=True)]
    expected = (np.mean(own), np.mean([s in anybody for s in asked])) if asked else (0, 0)
    assert leak_rate(train, validation) == pytest.approx(expected)
    assert leaked_rows(train, validation).tolist() == own
