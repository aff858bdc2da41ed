"""Turn interactions into sessions: sort, cut at gaps, filter, and choose the test sessions.

Shapes:  N interactions, S sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dataset.logs.opening import ConvertError
from dataset.logs.read_log import Interactions
from dataset.sessions import LONGEST_SESSION

SPLITS = ("user", "time", "leave-one-out")


@dataclass(frozen=True)
class ConvertOptions:
    """How interactions become sessions. The steps are applied in this order:

    gap: hours of inactivity after which a user's next session begins. None: each user has one session.
    keep_repeats: keep an item that occurs again in its session. By default only its first occurrence is kept,
        as in the Amazon datasets: a recommender that excludes seen items could never predict a repeated one.
    min_item_count: remove rarer items.
    min_session_length: then remove shorter sessions. Each filter is applied only once.
    longest: keep only the last items of a session, since the size of its prefix rows grows quadratically.
    split: "user" tests all sessions of a random share of the users. "time" tests the sessions that end last, and
        more than the share if several end at the same time: every training session ends before every test session.
        "leave-one-out" tests the last item of each user, and keeps the other items for training. Users with only two
        items keep both.
    test_share: share of the users or sessions to test. seed: seed of the split by user.

    Raises ConvertError for a value that cannot be used.
    """

    split: str = "user"
    test_share: float = 0.1
    gap: float | None = None
    keep_repeats: bool = False
    min_item_count: int = 1
    min_session_length: int = 2
    longest: int = LONGEST_SESSION
    seed: int = 0

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ConvertError(f"split={self.split!r}: choose 'user', 'time' or 'leave-one-out'")
        if not 0 < self.test_share < 1:
            raise ConvertError(f"test_share={self.test_share}: the share must be above 0 and below 1")
        if self.gap is not None and not self.gap > 0:
            raise ConvertError(f"gap={self.gap}: the gap must be a number of hours above 0")
        limits = {"min_item_count": 1, "min_session_length": 2, "longest": self.min_session_length, "seed": 0}
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise ConvertError(f"{name}={getattr(self, name)}: the value must be at least {least}")


class SessionLog(NamedTuple):
    """Interactions sorted by user and time: four arrays (N,). `session` counts up from 0."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    session: np.ndarray

    def take(self, rows: np.ndarray) -> SessionLog:
        return SessionLog(*(column[rows] for column in self))

    @property
    def starts(self) -> np.ndarray:
        """(S,) the index of each session's first interaction."""
        return np.flatnonzero(_changes(self.session))

    @property
    def ends(self) -> np.ndarray:
        """(S,) the index after each session's last interaction."""
        return np.r_[self.starts[1:], len(self.session)]


def sort_into_sessions(interactions: Interactions, gap: float | None) -> SessionLog:
    """Sort by user and time, and start a session at each new user and after each gap (hours).

    Where the log says which interactions are a session (a list in one row), that is the session.
    """
    user, item, time = interactions[:3]
    order = np.lexsort((time, user))  # stable: interactions of the same time keep the order of the file
    user, item, time = user[order], item[order], time[order]
    starts = _changes(user)
    if gap is not None:
        starts[1:] |= np.diff(time) > gap * 3600
    if interactions.session is not None:
        starts |= _changes(interactions.session[order])
    return SessionLog(user, item, time, np.cumsum(starts, dtype=np.int32) - np.int32(1))


def filter_sessions(log: SessionLog, options: ConvertOptions) -> tuple[SessionLog, dict[str, int]]:
    """Remove what `options` excludes. Also returns the number of interactions removed for each reason."""
    dropped = {}

    def keep(rows: np.ndarray, reason: str) -> SessionLog:
        dropped[reason] = len(rows) - int(rows.sum())
        return log.take(rows)

    rarest, shortest, longest = options.min_item_count, options.min_session_length, options.longest
    if not options.keep_repeats:
        log = keep(_first_occurrences(log), "repeats of an item within a session")
    log = keep(_counts(log.item) >= rarest, f"items with fewer than {rarest} interactions")
    log = keep(_counts(log.session) >= shortest, f"sessions with fewer than {shortest} interactions")
    log = keep(_counts_to_end(log.session) <= longest, f"interactions before the last {longest} of a session")
    return log, dropped


def drop_repeats(log: SessionLog) -> SessionLog:
    """Keep only the first occurrence of each item in its session."""
    return log.take(_first_occurrences(log))


def hold_out(log: SessionLog, options: ConvertOptions) -> np.ndarray:
    """(S,) bool: whether a session is a test session, according to `options.split`.

    With "leave-one-out": whether it is the last session of a user, whose last item is tested.
    """
    if options.split == "leave-one-out":
        user = log.user[log.starts]
        return np.r_[user[1:] != user[:-1], True] & (np.bincount(log.user)[user] > 2)
    if options.split == "user":
        users, user = np.unique(log.user[log.starts], return_inverse=True)
        rank = np.random.default_rng(options.seed).permutation(len(users))
        return rank[user] < round(len(users) * options.test_share)
    times = log.time[log.ends - 1]
    count = round(len(times) * options.test_share)
    return times >= np.sort(times)[-count] if count else np.zeros(len(times), bool)


def _changes(numbers: np.ndarray) -> np.ndarray:
    """(N,) bool: whether a number differs from the one before it."""
    return np.r_[True, numbers[1:] != numbers[:-1]][: len(numbers)]


def _counts(numbers: np.ndarray) -> np.ndarray:
    """(N,) the number of occurrences of each entry."""
    return np.bincount(numbers)[numbers]


def _first_occurrences(log: SessionLog) -> np.ndarray:
    """(N,) bool: whether the interaction is the first one with its item in its session."""
    pairs = log.session * np.int64(log.item.max() + 1) + log.item
    order = pairs.argsort(kind="stable")
    first = np.empty(len(pairs), bool)
    first[order] = _changes(pairs[order])
    return first


def _counts_to_end(session: np.ndarray) -> np.ndarray:
    """(N,) the number of interactions from this one to the end of its session. Sessions are contiguous."""
    return np.cumsum(np.bincount(session))[session] - np.arange(len(session))
