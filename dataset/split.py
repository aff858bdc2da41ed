"""Training, validation and test rows."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dataset.options import Seed, Share, checked
from dataset.sessions import Sessions, check_columns


class Splits(NamedTuple):
    train: Sessions
    valid: Sessions
    test: Sessions


class TooFewUsers(ValueError):
    """There are too few users (or rows) for a split."""


# Of validation and test, by default.
_SHARES = {"user": (0.1, 0.1), "row": (0.2, 0.0), "last": (0.1, 0.0), "none": (0.0, 0.0)}
SPLITS = (*_SHARES, "leave-one-out")


@checked
def split_sessions(
    sessions: Sessions,
    by: Literal["user", "row", "last", "none", "leave-one-out"] = "user",
    *,
    valid_share: Share | None = None,
    test_share: Share | None = None,
    seed: Seed = 0,
) -> Splits:
    """Split rows into train, validation and test, each in file order.

    by="user": whole users, 80/10/10 by default. The seed permutes the user numbers, so with those of `load_dataset`
    the order of the rows does not matter. by="row": the report's random rows, 80/20 and no test split by default; it
    leaks, see `experiments.leakage`. by="last": the users whose rows end last in the
    file, 90/10 and no test split by default, as in the SR-GNN protocol; it has no seed. by="leave-one-out": each user's
    last row is for validation, and no row for test; it has no shares and no seed. by="none": all rows train.

    Raises ValueError for an unknown option, TooFewUsers for shares that leave a needed split empty.
    """
    if by in ("user", "last", "leave-one-out"):
        check_columns(sessions, "users")
    if by == "leave-one-out":
        if valid_share is not None or test_share is not None:
            raise ValueError("leave-one-out takes one row of each user; it has no shares")
        last = _last_rows(sessions)
        return Splits(sessions.take(~last), sessions.take(last), sessions.take(np.zeros(0, np.int64)))
    rows = np.arange(len(sessions))
    units = np.unique(sessions.users, return_inverse=True)[1] if by in ("user", "last") else rows
    n = units.max(initial=-1) + 1
    n_test, n_valid = _count_held_out(n, by, valid_share, test_share)
    rank = np.empty(n, np.int64)
    if by == "last":
        last_row = np.zeros(n, np.int64)
        np.maximum.at(last_row, units, rows)
        order = np.argsort(-last_row)
    else:
        order = np.random.default_rng(seed).permutation(n)
    rank[order] = np.arange(n)
    rank = rank[units]
    test, valid = rank < n_test, (n_test <= rank) & (rank < n_test + n_valid)
    splits = Splits(sessions.take(~test & ~valid), sessions.take(valid), sessions.take(test))
    if by in ("user", "last"):
        assert not np.intersect1d(splits.train.users, np.r_[splits.valid.users, splits.test.users]).size
        assert not np.intersect1d(splits.valid.users, splits.test.users).size
    return splits


def _count_held_out(n: int, by: str, valid_share: float | None, test_share: float | None) -> tuple[int, int]:
    """The number of users or rows to test, and to validate on."""
    valid_share = _SHARES[by][0] if valid_share is None else valid_share
    test_share = _SHARES[by][1] if test_share is None else test_share
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        raise ValueError(f"shares must be at least 0 and leave something to train on: {valid_share}, {test_share}")
    n_valid, n_test = round(n * valid_share), round(n * test_share)
    unit = "user" if by == "last" else by
    for share, count, split in ((valid_share, n_valid, "validation"), (test_share, n_test, "test")):
        if share > 0 and count == 0:
            few = f"1 {unit} is" if n == 1 else f"{n} {unit}s are"
            raise TooFewUsers(f"{few} too few for a {split} share of {share}; take larger shares, or the split 'none'")
    if n_valid + n_test >= n > 0:
        raise TooFewUsers(f"{n} {unit}s: {n_valid} for validation and {n_test} for test leave none to train on")
    return n_test, n_valid


def _last_rows(sessions: Sessions) -> np.ndarray:
    """(R,) bool: the longest row of each user; of the chain that begins last in the file, if a user has several."""
    chains = sessions.users if sessions.chains is None else sessions.chains
    order = np.lexsort((sessions.lengths, chains, sessions.users))
    users = sessions.users[order]
    last = np.zeros(len(sessions), bool)
    last[order[np.r_[users[1:] != users[:-1], True][: len(users)]]] = True
    return last
