"""Sessions as flat arrays, the users they belong to, and the vocabulary that numbers their items.

Shapes:  R rows (sessions), N items in all rows, L longest session, n items of the vocabulary.
Ids:     raw ids are those of the file; encoded ids are 1..n in the order of the sorted raw ids. 0 is padding and,
         as a target, an item that the model does not know.

Training rows are prefix-augmented: `[a]->b`, `[a, b]->c`, `[a, b, c]->d` belong to one user. A split must keep the
rows of a user together. `dataset.users` finds the users.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.options import Count, check, checked
from dataset.users import find_users  # noqa: F401

PADDING = 0
# Models read only the last 50 items of a session. This limits the cost of attention and session graphs.
LONGEST_SESSION = 50


class DataError(ValueError):
    """Data that cannot be used: `file`, `line` (1 is the header, None means the whole file) and `reason`."""

    def __init__(self, file: str | Path, line: int | None, reason: str):
        self.file, self.line, self.reason = str(file), line, reason
        super().__init__(f"{file}{f', line {line}' if line else ''}: {reason}")


@dataclass(frozen=True, eq=False)
class Sessions:
    """R sessions as flat arrays.

    items (N,) int64, offsets (R + 1,) int64: session r is items[offsets[r]:offsets[r + 1]].
    labels (R,) int64 or None: the next item. users (R,) int64 or None: the user of each row.
    chains (R,) int64 or None: the chain of prefix rows that each row belongs to; None: each user is one chain.
    n_items: None for raw ids; for encoded ids the size of their vocabulary.
    """

    items: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    users: np.ndarray | None = None
    n_items: int | None = None
    chains: np.ndarray | None = None

    made_by: ClassVar[str] = "Sessions.from_lists(lists, labels, users)"

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]], labels=None, users=None, n_items=None) -> Sessions:
        """Sessions from lists of ids.

        labels, users: one integer a session. n_items: the ids are encoded, 1..n_items, and a label may be 0. Raises
        DataError for anything that is not a non-negative integer, and for a wrong number of labels or users.
        """
        check("n_items", n_items, Count | None)
        lists = as_lists(lists)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        items = _as_ids("sessions", "item ids", [item for session in lists for item in session])
        columns = {"labels": labels, "users": users}
        for name, values in columns.items():
            if values is not None:
                columns[name] = _as_ids(name, name, values)
                if len(columns[name]) != len(lists):
                    raise DataError(name, None, f"there are {len(columns[name])} for {len(lists)} sessions")
        if n_items is not None:
            labels = items[:0] if labels is None else columns["labels"]
            if items.size and not 1 <= items.min() <= items.max() <= n_items or labels.max(initial=0) > n_items:
                raise DataError("sessions", None, f"encoded ids are 1..{n_items}; leave n_items out for raw ids")
        return cls(items, offsets_of(lengths), **columns, n_items=n_items)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[int]:
        row = range(len(self))[row]
        return self.items[self.offsets[row] : self.offsets[row + 1]].tolist()

    @property
    def lengths(self) -> np.ndarray:
        """(R,) items per session."""
        return np.diff(self.offsets)

    @property
    def row_of_item(self) -> np.ndarray:
        """(N,) the row of each entry of `items`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Sessions:
        """Select rows by indices, in this order, or by a boolean mask."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        flat = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        columns = {"labels": self.labels, "users": self.users, "chains": self.chains}
        columns = {name: None if column is None else column[rows] for name, column in columns.items()}
        return replace(self, items=self.items[flat], offsets=offsets, **columns)

    def with_labels_appended(self) -> Sessions:
        """Append to each session its label. Raises ValueError if there are no labels."""
        check_columns(self, "labels")
        items = np.insert(self.items, self.offsets[1:], self.labels)
        return replace(self, items=items, offsets=self.offsets + np.arange(len(self) + 1), labels=None)

    def padded(self, longest: int | None = None) -> np.ndarray:
        """(R, L) int64, with zeros to the right. `longest` keeps only the last items of each session."""
        lengths = self.lengths if longest is None else np.minimum(self.lengths, longest)
        steps = np.arange(lengths.max(initial=1))  # one column if there is no item at all
        inside = steps < lengths[:, None]
        out = np.zeros(inside.shape, np.int64)
        start = self.offsets[1:] - lengths
        out[inside] = self.items[(start[:, None] + steps)[inside]]
        return out


def check_columns(sessions: Sessions, *names: str) -> None:
    """Raise ValueError if the sessions have no `labels`, or no `users`."""
    for name in names:
        if getattr(sessions, name) is None:
            raise ValueError(f"the sessions have no {name}; name them: {Sessions.made_by}")


def check_encoded(sessions: Sessions, taker: str) -> None:
    """Raise ValueError unless these are encoded sessions. taker: the function that takes them."""
    if getattr(sessions, "n_items", None) is None:
        raise ValueError(
            f"{taker} takes encoded sessions (ids 1..n), and these have raw ids: "
            "pass `data.train` of `data = prepare(dataset)`, not `dataset.train`"
        )


def check_popularity(popularity: object, n_items: int | None = None) -> None:
    """Raise ValueError unless it holds counts (n + 1,), for `n_items` items if that is given."""
    is_right = isinstance(popularity, np.ndarray) and popularity.ndim == 1 and popularity.dtype.kind in "iu"
    if not is_right or n_items not in (None, len(popularity) - 1) or not len(popularity) or popularity.min() < 0:
        count = "n" if n_items is None else n_items
        raise ValueError(f"popularity must be an array of counts of 0..{count}: that of `data = prepare(dataset)`")


def as_lists(lists: object) -> list[Sequence]:
    """Sessions of ids or names as a list. Raises DataError for anything that is not a sequence of sequences."""
    if hasattr(lists, "ndim") and hasattr(lists, "tolist") and lists.ndim != 1:
        reason = "an array may hold padding; pass a list without it for each session, such as row[row > 0].tolist()"
        raise DataError("sessions", None, reason)
    if not isinstance(lists, Iterable) or isinstance(lists, str | bytes | Mapping | AbstractSet):
        raise DataError("sessions", None, f"pass a list of lists of items, [[1, 2]], not {type(lists).__name__}")
    lists = list(lists)
    for session in lists:
        is_sequence = hasattr(session, "__len__") and hasattr(session, "__getitem__")
        is_sequence &= getattr(session, "ndim", 1) == 1
        if isinstance(session, str | bytes | Mapping) or not is_sequence:
            raise DataError("sessions", None, "each session must be a list of items: [[1, 2]], not [1, 2]")
    return lists


def _as_ids(name: str, what: str, values: object) -> np.ndarray:
    """Values as an array (N,) of int64. Raises DataError for anything else than non-negative integers."""
    try:
        ids = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # lists of different lengths, strange objects
        ids = np.empty((), object)
    is_bool = isinstance(values, list) and any(isinstance(value, bool) for value in values)
    if ids.size == 0 and ids.ndim == 1:
        return np.zeros(0, np.int64)
    if is_bool or ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**63:
        raise DataError(name, None, f"{what} must be non-negative integers below 2^63, one after another")
    return ids.astype(np.int64)


def _as_integers(values: object) -> np.ndarray:
    """Integers of any shape as int64. Raises ValueError."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RuntimeError):
        array = np.empty((), object)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"ids must be integers, and these are of the type {type(values).__name__} ({array.dtype})")
    return array.astype(np.int64)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Lengths (R,) -> offsets (R + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


# --------------------------------------------------------------------------------------------------
# Users


@checked
def maximal_sessions(sessions: Sessions) -> tuple[Sessions, np.ndarray]:
    """Fold the prefix rows of each user (or chain, if users have several) into one maximal session: the longest row
    + its label.

    Returns the U sessions (label appended) and, for each of their steps t (predict item t + 1 from the items up to
    t), the number of the user's rows that contain the step: flat (N - U,) int64. Raises ValueError if the sessions have
    no labels or no users.
    """
    check_columns(sessions, "labels", "users")
    chains = sessions.users if sessions.chains is None else sessions.chains
    order = np.lexsort((sessions.lengths, chains))
    chains, lengths = chains[order], sessions.lengths[order]
    last = np.r_[chains[1:] != chains[:-1], True] if len(order) else np.zeros(0, bool)
    folded = sessions.take(order[last]).with_labels_appended()
    # A row of m steps contains the steps 0..m-1: mark its last step, then sum backwards within the user.
    starts = offsets_of(folded.lengths - 1)
    marks = np.zeros(starts[-1], np.int64)
    chain_of_row = np.cumsum(np.r_[0, last[:-1]]) if len(order) else np.zeros(0, np.int64)
    np.add.at(marks, starts[chain_of_row] + lengths - 1, 1)
    backwards = np.r_[0, np.cumsum(marks[::-1])][::-1]
    return folded, backwards[:-1] - np.repeat(backwards[starts[1:]], np.diff(starts))


@checked
def count_items(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """Sorted item ids and the number of occurrences of each. Prefix rows of a user are folded first."""
    return np.unique(maximal_sessions(sessions)[0].items, return_counts=True)


@checked
def has_repeats(sessions: Sessions) -> bool:
    """Whether any session + label contains an item twice."""
    sequences = sessions.with_labels_appended()
    order = np.lexsort((sequences.items, sequences.row_of_item))
    row, item = sequences.row_of_item[order], sequences.items[order]
    return bool(((row[1:] == row[:-1]) & (item[1:] == item[:-1])).any())


@checked
def clean_sessions(sessions: Sessions, *, keep: np.ndarray, min_session_length: Count = 1) -> Sessions:
    """Remove the items that are not in `keep`, then the rows without a label or with too short a session."""
    check_columns(sessions, "labels")
    rows = np.isin(sessions.labels, keep)
    sessions = _select_items(sessions, np.isin(sessions.items, keep))
    return sessions.take(rows & (sessions.lengths >= max(1, min_session_length)))


def _select_items(sessions: Sessions, mask: np.ndarray) -> Sessions:
    """Keep the entries of `items` where mask (N,) is True. Sessions may become empty."""
    lengths = np.bincount(sessions.row_of_item[mask], minlength=len(sessions))
    return replace(sessions, items=sessions.items[mask], offsets=offsets_of(lengths))


# --------------------------------------------------------------------------------------------------
# Vocabulary


_DECIMAL = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


class Vocabulary:
    """Raw ids <-> 1..n, and raw ids <-> names.

    item_ids (n,) int64: the sorted raw ids. names: the name of each in the log, n strings in the order of item_ids;
    None if the items have no names but their ids. Names need item ids that are sorted already, each once.
    Raises ValueError for names that do not fit.
    """

    made_by = "data.vocabulary of data = prepare(dataset)"

    def __init__(self, item_ids: np.ndarray, names: Sequence[str] | None = None):
        given = _as_ids("vocabulary", "item ids", item_ids)
        self.item_ids = np.unique(given)
        self.names = None if names is None else tuple(names)
        if self.names is not None:
            if not np.array_equal(given, self.item_ids):
                raise ValueError("the item ids of names must be sorted, each once")
            _check_names(self.names, len(self))

    def __len__(self) -> int:
        return len(self.item_ids)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Raw ids -> 1..n, and 0 for an unknown id; same shape."""
        raw = _as_integers(raw)
        if not len(self):
            return np.zeros_like(raw)
        index = np.searchsorted(self.item_ids, raw).clip(max=len(self) - 1)
        return np.where(self.item_ids[index] == raw, index + 1, PADDING)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """1..n -> raw ids; same shape. Raises ValueError for other ids, including 0 (padding)."""
        ids = _as_integers(ids)
        if ids.size and (ids.min() < 1 or ids.max() > len(self)):
            raise ValueError(f"encoded ids must be 1..{len(self)}")
        return self.item_ids[ids - 1]

    def names_of(self, raw_ids: np.ndarray) -> list[str]:
        """The name of each raw id, in lists of the same shape: the id as text if it is unknown or there are no names.

        >>> Vocabulary(np.array([3, 5]), ["pen", "ink"]).names_of([5, 4])
        ['ink', '4']
        """
        raw = np.asarray(raw_ids, np.int64)
        if self.names is None:
            return raw.astype(str).tolist()
        encoded = self.encode(raw)
        names = np.take(self._name_of_encoded, encoded)
        unknown = encoded == PADDING
        names[unknown] = raw[unknown].astype(str)
        return names.tolist()

    def ids_of(self, names: Sequence[str]) -> np.ndarray:
        """(m,) int64, the raw id of each name, -1 if it is unknown. Without names, decimal text is its id.

        >>> Vocabulary(np.array([3, 5]), ["pen", "ink"]).ids_of(["ink", "5"])
        array([ 5, -1])
        """
        if self.names is None:
            ids = (int(name) if _DECIMAL.fullmatch(name) else -1 for name in names)
        else:
            ids = (self._id_of_name.get(name, -1) for name in names)
        return np.fromiter(ids, np.int64, len(names))

    @cached_property
    def _name_of_encoded(self) -> np.ndarray:
        return np.array([None, *self.names], object)

    @cached_property
    def _id_of_name(self) -> dict[str, int]:
        return dict(zip(self.names, self.item_ids.tolist(), strict=True))

    @checked
    def encode_sessions(self, sessions: Sessions) -> Sessions:
        """Encode. Unknown items are removed from their session, which may become empty; unknown labels become 0.

        Raises ValueError for sessions that are encoded already.
        """
        if sessions.n_items is not None:
            raise ValueError("these sessions are encoded already; pass raw ids: `dataset.test`, not `data.test`")
        items = self.encode(sessions.items)
        labels = None if sessions.labels is None else self.encode(sessions.labels)
        encoded = replace(sessions, items=items, labels=labels, n_items=len(self))
        return _select_items(encoded, items != PADDING)


def _check_names(names: tuple, n_items: int) -> None:
    if len(names) != n_items:
        raise ValueError(f"{len(names)} names do not fit {n_items} items")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("the names of items must be text")
    if len(set(names)) != len(names):
        seen: set[str] = set()
        name = next(name for name in names if name in seen or seen.add(name))
        raise ValueError(f"two items have the name {name[:40]!r}")
