"""Training, validation and test rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dataset.sessions import Sessions


class Splits(NamedTuple):
    train: Sessions
    valid: Sessions
    test: Sessions


def split_sessions(
    sessions: Sessions,
    by: str = "user",
    *,
    valid_share: float | None = None,
    test_share: float | None = None,
    seed: int = 0,
) -> Splits:
    """Split rows into train, validation and test, each in file order.

    by="user": whole users (chains of prefix rows), 80/10/10 by default. by="row": the report's random
    rows, 80/20 and no test split by default; it leaks, see `experiments.leakage`. by="none": all rows train.
    Raises ValueError for shares that leave a needed split empty.
    """
    defaults = {"user": (0.1, 0.1), "row": (0.2, 0.0), "none": (0.0, 0.0)}
    if by not in defaults:
        raise ValueError(f"by={by!r}: choose 'user', 'row' or 'none'")
    valid_share = defaults[by][0] if valid_share is None else valid_share
    test_share = defaults[by][1] if test_share is None else test_share
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        raise ValueError(f"shares must be at least 0 and leave something to train on: {valid_share}, {test_share}")
    units = np.arange(len(sessions))
    if by == "user":
        _, units = np.unique(sessions.users, return_inverse=True)
    n = units.max(initial=-1) + 1
    n_valid, n_test = round(n * valid_share), round(n * test_share)
    for share, count, split in ((valid_share, n_valid, "validation"), (test_share, n_test, "test")):
        if share > 0 and count == 0:
            raise ValueError(f"{n} {by}s are too few for a {split} share of {share}")
    rank = np.empty(n, np.int64)
    rank[np.random.default_rng(seed).permutation(n)] = np.arange(n)
    rank = rank[units]
    test, valid = rank < n_test, (n_test <= rank) & (rank < n_test + n_valid)
    splits = Splits(sessions.take(~test & ~valid), sessions.take(valid), sessions.take(test))
    if by == "user":
        assert not np.intersect1d(splits.train.users, np.r_[splits.valid.users, splits.test.users]).size
        assert not np.intersect1d(splits.valid.users, splits.test.users).size
    return splits
