"""Session files -> checked, encoded sessions -> split -> datasets, dataloader, session graphs.

Shapes:  R rows (sessions), B batch, L longest session of the batch, P prefixes, D width.
Ids:     raw ids are the file's; encoded ids are 1..n in the order of the sorted raw ids, 0 is padding
         (and, as a target, "no item that the model knows").

A dataset is a folder with `train_sessions.csv` (`session,label`) and `test_sessions.csv` (`session`,
optionally `label`). The training rows are prefix-augmented: `[a]->b`, `[a, b]->c`, `[a, b, c]->d` are
one user's, and whatever splits them must keep them together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

ROOT = Path(__file__).resolve().parent
PADDING = 0
# A session counts by its last items: what attention and graphs cost over it stays bounded.
LONGEST_SESSION = 50
AMAZON = {"beauty": "Amazon_Beauty", "cell": "Amazon_Cell"}

# 18 digits always fit into int64.
_ID = re.compile(r"\s*[0-9]{1,18}\s*", re.ASCII)
_LIST = re.compile(r"\s*\[\s*[0-9]{1,18}\s*(?:,\s*[0-9]{1,18}\s*)*\]\s*", re.ASCII)


class DataError(ValueError):
    """A session file that cannot be used: `file`, `line` (1 is the header, None the whole), `reason`."""

    def __init__(self, file: str | Path, line: int | None, reason: str):
        self.file, self.line, self.reason = str(file), line, reason
        super().__init__(f"{file}{f', line {line}' if line else ''}: {reason}")


# --------------------------------------------------------------------------------------------------
# Sessions: flat arrays with offsets


@dataclass(frozen=True, eq=False)
class Sessions:
    """R sessions as flat arrays.

    items (N,) int64, offsets (R + 1,) int64: session r is items[offsets[r]:offsets[r + 1]].
    labels (R,) int64 or None: the next item. users (R,) int64 or None: which rows are one user's.
    """

    items: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None
    users: np.ndarray | None = None

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]], labels=None, users=None) -> Sessions:
        """Sessions from lists of ids. Raises DataError for an id that is no non-negative integer."""
        if any(isinstance(s, (int, np.integer)) for s in lists):
            raise DataError("sessions", None, "each session must be a list of ids: [[1, 2]], not [1, 2]")
        lengths = np.fromiter((len(s) for s in lists), np.int64, len(lists))
        items = np.array([i for s in lists for i in s])
        if items.size and not (items.dtype.kind in "iu" and 0 <= items.min() <= items.max() < 2**63):
            raise DataError("sessions", None, "item ids must be non-negative integers")
        labels, users = (None if a is None else np.asarray(a, np.int64) for a in (labels, users))
        return cls(items.astype(np.int64), _offsets(lengths), labels, users)

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
        """(N,) the row that each entry of `items` belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Sessions:
        """The given rows (indices or a boolean mask), in that order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, np.int64)
        lengths = self.lengths[rows]
        offsets = _offsets(lengths)
        flat = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        labels, users = (None if a is None else a[rows] for a in (self.labels, self.users))
        return Sessions(self.items[flat], offsets, labels, users)

    def with_labels_appended(self) -> Sessions:
        """Sessions one item longer: session + label."""
        where = self.offsets[1:]
        return Sessions(
            np.insert(self.items, where, self.labels),
            self.offsets + np.arange(len(self) + 1),
            users=self.users,
        )

    def mirrored(self) -> np.ndarray:
        """(N,) where each entry of `items` is when every session is read from its last item to its first."""
        ends = np.repeat(self.offsets[:-1] + self.offsets[1:], self.lengths)
        return ends - 1 - np.arange(len(self.items))

    def padded(self, longest: int | None = None) -> np.ndarray:
        """(R, L) int64, zeros to the right; only the last `longest` items of a session where given."""
        lengths = self.lengths if longest is None else np.minimum(self.lengths, longest)
        steps = np.arange(lengths.max(initial=1))  # one column where there is no item at all
        inside = steps < lengths[:, None]
        out = np.zeros(inside.shape, np.int64)
        start = self.offsets[1:] - lengths
        out[inside] = self.items[(start[:, None] + steps)[inside]]
        return out


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


# --------------------------------------------------------------------------------------------------
# Reading


def read_sessions(path: str | Path, *, labels: bool | None = None) -> Sessions:
    """Read one session file, strictly; a cell is matched, never evaluated.

    labels: True requires the `label` column, None takes it where it is there, False leaves it.
    Raises DataError (file, line, reason) for anything that is not a list of non-negative integers
    and, where wanted, a non-negative integer label; for a missing column, a truncated or empty
    file, an encoding other than UTF-8.
    """
    path = Path(path)
    text = _read_text(path)
    rows = _read_csv(path, text)
    header = [name.strip() for name in rows[0]]
    for name in ("session", "label"):
        if header.count(name) > 1:
            raise DataError(path, 1, f"has the column `{name}` more than once")
    if "session" not in header:
        raise DataError(path, 1, f"has no column `session` (its header is {_short(','.join(header))})")
    if labels and "label" not in header:
        raise DataError(path, 1, f"has no column `label` (its header is {_short(','.join(header))})")

    def fail(row: int, reason: str):
        raise DataError(path, _line_of_row(text, row), reason)

    body = rows[1:]
    while body and not body[-1]:  # blank lines at the end are harmless
        body.pop()
    if not body:
        raise DataError(path, None, "has a header but no rows")
    for row, cells in enumerate(body, 1):
        if len(cells) != len(header):
            if "label" in header and 0 < len(cells) == header.index("label"):
                fail(row, "the label is missing")
            fail(row, f"has {len(cells)} cells where the header has {len(header)}")
    if not text.endswith(("\n", "\r")):
        warnings.warn(f"{path}: no line end after the last row; is the file complete?", stacklevel=2)

    where = header.index("session")
    lists = [cells[where] for cells in body]
    for row, cell in enumerate(lists, 1):
        if not _LIST.fullmatch(cell):
            fail(row, _what_is_wrong(cell))
    flat = ",".join(lists).replace("[", "").replace("]", "")
    sessions = Sessions(
        np.fromstring(flat, np.int64, sep=","),
        _offsets(np.fromiter((cell.count(",") + 1 for cell in lists), np.int64, len(lists))),
    )
    if labels is False or "label" not in header:
        return sessions
    where = header.index("label")
    column = [cells[where] for cells in body]
    for row, cell in enumerate(column, 1):
        if not _ID.fullmatch(cell):
            fail(
                row,
                f"the label {_short(cell)} is no item id" if cell.strip() else "the label is missing",
            )
    return replace(sessions, labels=np.fromstring(",".join(column), np.int64, sep=","))


def read_items(path: str | Path) -> dict[int, str]:
    """The log's own name of every item id, from the `items.csv` (`id,item`) that `dataset/convert.py` writes.

    Raises DataError (file, line, reason).
    """
    path = Path(path)
    text = _read_text(path)
    header, *body = _read_csv(path, text)
    if header != ["id", "item"]:
        raise DataError(path, 1, f"must have the columns id,item (its header is {_short(','.join(header))})")
    names: dict[int, str] = {}
    for row, cells in enumerate(body, 1):
        if len(cells) != 2 or not _ID.fullmatch(cells[0]) or int(cells[0]) in names:
            reason = "is not an item id, given once, and its name"
            raise DataError(path, _line_of_row(text, row), reason)
        names[int(cells[0])] = cells[1]
    return names


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(path, None, f"cannot be read ({error.strerror})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(path, line, "is not UTF-8 text; save the file as UTF-8") from None


def _read_csv(path: Path, text: str) -> list[list[str]]:
    if not text.strip():
        raise DataError(path, None, "is empty")
    csv.field_size_limit(2**31 - 1)  # a long session is no error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        raise DataError(path, reader.line_num, f"is no CSV, or was cut off ({error})") from None


def _line_of_row(text: str, row: int) -> int:
    """First line of a record (0 is the header): only errors need it, so only errors pay for it."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for _ in range(row):
        next(reader)
    return reader.line_num + 1


def _what_is_wrong(cell: str) -> str:
    inner = cell.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return f"the session {_short(cell)} is not a list such as [1, 2]"
    if not inner[1:-1].strip():
        return "the session is an empty list"
    for part in inner[1:-1].split(","):
        if not _ID.fullmatch(part):
            if part.strip().isdecimal() and part.strip().isascii():
                return f"the id {_short(part.strip())} has more than 18 digits"
            return f"the session holds {_short(part.strip())}, which is no item id (0, 1, 2, ...)"
    return f"the session {_short(cell)} is not a list such as [1, 2]"


def _short(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")


# --------------------------------------------------------------------------------------------------
# A dataset folder


@dataclass(frozen=True, eq=False)
class SessionDataset:
    """One dataset folder: raw ids, users found, and the hash of both files."""

    name: str
    folder: Path
    train: Sessions
    test: Sessions
    sha256: str

    @property
    def short_name(self) -> str:
        """As in `test_result_<short_name>.csv`: `beauty`, `cell`, else the folder's name in small letters."""
        return short_name(self.name)


def short_name(name: str) -> str:
    short = {folder.lower(): short for short, folder in AMAZON.items()}
    return short.get(name.lower(), name.lower())


def find_dataset(name: str | Path) -> Path:
    """Folder of a dataset: a path, or a name in DATASET_ROOT or in `dataset/`; the Amazon ones are fetched.

    Raises DataError where there is none, and what `dataset.fetch_amazon.fetch` raises.
    """
    from dataset.fetch_amazon import fetch

    path = Path(name)
    roots = [Path(os.environ["DATASET_ROOT"])] if os.environ.get("DATASET_ROOT") else []
    roots.append(ROOT / "dataset")
    if (path / "train_sessions.csv").is_file():
        return path
    if str(name) in AMAZON.values():
        return fetch(str(name))
    for root in roots:
        if (root / path / "train_sessions.csv").is_file():
            return root / path
    if (short := str(name).lower()) in AMAZON:  # last: a folder Beauty is its owner's
        return fetch(AMAZON[short])
    if path.is_dir():
        raise DataError(path / "train_sessions.csv", None, "does not exist; a dataset folder needs it")
    known = sorted(
        {d.name for r in roots if r.is_dir() for d in r.iterdir() if (d / "train_sessions.csv").is_file()}
    )
    known = sorted({*known, *AMAZON.values()})
    raise DataError(name, None, f"is no dataset folder; name a folder, or one of {', '.join(known)}")


def load_dataset(name: str | Path) -> SessionDataset:
    """Read a dataset by name or folder. Users are found here, on the raw rows.

    Raises DataError (file, line, reason); see also `find_dataset`.
    """
    folder = find_dataset(name)
    train = read_sessions(folder / "train_sessions.csv", labels=True)
    test = read_sessions(folder / "test_sessions.csv")
    train = replace(train, users=find_users(train))
    return SessionDataset(folder.resolve().name, folder, train, test, hash_dataset(folder))


def hash_dataset(folder: Path) -> str:
    """SHA-256 of a dataset's two files: what a checkpoint says it was trained on."""
    digest = hashlib.sha256()
    for file in ("train_sessions.csv", "test_sessions.csv"):
        digest.update(hashlib.sha256((folder / file).read_bytes()).digest())
    return digest.hexdigest()


def load_datasets(names: Sequence[str | Path]) -> list[SessionDataset]:
    """`load_dataset` of each; where the Amazon files' server does not answer, Demo alone, and it is said.

    Raises DataError, and `dataset.fetch_amazon.DownloadError` for an answer that is wrong.
    """
    from dataset.fetch_amazon import ServerUnreachable

    try:
        return [load_dataset(name) for name in names]
    except ServerUnreachable as error:
        print(f"{error} Going on with the embedded Demo dataset instead.")
        return [load_dataset(ROOT / "dataset" / "Demo")]


def find_users(sessions: Sessions) -> np.ndarray:
    """(R,) user of each row: a new one starts where a row is not the previous row's session + label."""
    lengths, items, offsets = sessions.lengths, sessions.items, sessions.offsets
    goes_on = np.zeros(len(sessions), bool)
    goes_on[1:] = (lengths[1:] == lengths[:-1] + 1) & (items[offsets[2:] - 1] == sessions.labels[:-1])
    # Compare each candidate with the row before it, item by item: its first len - 1 items.
    row = sessions.row_of_item
    step = np.arange(len(items)) - offsets[row]
    compare = goes_on[row] & (step < lengths[row] - 1)
    before = offsets[np.maximum(row - 1, 0)] + step
    differs = items[compare] != items[before[compare]]
    goes_on[row[compare][differs]] = False
    return np.cumsum(~goes_on) - 1


# --------------------------------------------------------------------------------------------------
# Splitting


class Parts(NamedTuple):
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
) -> Parts:
    """Split rows into train, validation and test, in file order each.

    by="user": whole users (chains of prefix rows), 80/10/10 by default. by="row": the report's random
    rows, 80/20 and no test part by default; it leaks, see `leak_rate`. by="none": all rows train.
    Raises ValueError for shares that leave a needed part empty.
    """
    defaults = {"user": (0.1, 0.1), "row": (0.2, 0.0), "none": (0.0, 0.0)}
    if by not in defaults:
        raise ValueError(f"by={by!r}: choose 'user', 'row' or 'none'")
    valid_share = defaults[by][0] if valid_share is None else valid_share
    test_share = defaults[by][1] if test_share is None else test_share
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        raise ValueError(
            f"shares must be at least 0 and leave something to train on: {valid_share}, {test_share}"
        )
    units = np.arange(len(sessions))
    if by == "user":
        _, units = np.unique(sessions.users, return_inverse=True)
    n = units.max(initial=-1) + 1
    n_valid, n_test = round(n * valid_share), round(n * test_share)
    for share, count, part in ((valid_share, n_valid, "validation"), (test_share, n_test, "test")):
        if share > 0 and count == 0:
            raise ValueError(f"{n} {by}s are too few for a {part} share of {share}")
    place = np.empty(n, np.int64)
    place[np.random.default_rng(seed).permutation(n)] = np.arange(n)
    place = place[units]
    test, valid = place < n_test, (n_test <= place) & (place < n_test + n_valid)
    parts = Parts(sessions.take(~test & ~valid), sessions.take(valid), sessions.take(test))
    if by == "user":
        assert not np.intersect1d(parts.train.users, np.r_[parts.valid.users, parts.test.users]).size
        assert not np.intersect1d(parts.valid.users, parts.test.users).size
    return parts


class LeakRate(NamedTuple):
    same_user: float
    any_user: float


def leak_rate(train: Sessions, validation: Sessions) -> LeakRate:
    """Share of validation's (session, label) pairs that are, verbatim, a target of shifted training.

    `TrainDataset` trains [a, b, c]->d also on a->b and (a, b)->c. `same_user`: the pair comes from the
    user's own other rows, which is the leak; `any_user`: from anybody, which independent users share too.
    """
    if not len(validation):
        return LeakRate(0.0, 0.0)
    trained, inside = _prefix_hashes(train)
    trained, inside = trained[:, 1:], inside[:, 1:]  # a single item is no pair
    asked = np.take_along_axis(_prefix_hashes(validation)[0], validation.lengths[:, None], 1)[:, 0]
    any_user = np.isin(asked, trained[inside])
    own = _mix(trained, train.users[:, None])
    same_user = np.isin(_mix(asked, validation.users), own[inside])
    return LeakRate(float(same_user.mean()), float(any_user.mean()))


def leaked_rows(train: Sessions, validation: Sessions) -> np.ndarray:
    """(R,) bool: which validation pairs the same user's training rows contain; see `leak_rate`."""
    trained, inside = _prefix_hashes(train)
    asked = np.take_along_axis(_prefix_hashes(validation)[0], validation.lengths[:, None], 1)[:, 0]
    return np.isin(_mix(asked, validation.users), _mix(trained, train.users[:, None])[:, 1:][inside[:, 1:]])


def _prefix_hashes(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """(R, L + 1) 64-bit hash of session + label up to each item, and which of them exist."""
    sequences = sessions.with_labels_appended()
    inside = np.arange(sequences.lengths.max(initial=1)) < sequences.lengths[:, None]
    hashes = np.zeros(inside.shape, np.uint64)
    state = np.zeros(len(sessions), np.uint64)
    for step, column in enumerate(sequences.padded().T):
        state = _mix(state, column + 1)
        hashes[:, step] = state
    return hashes, inside


def _mix(state: np.ndarray, value: np.ndarray) -> np.ndarray:
    """splitmix64 of state and value; wraps around on purpose."""
    z = state * np.uint64(0x9E3779B97F4A7C15) + value.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# --------------------------------------------------------------------------------------------------
# Cleaning and encoding


class Vocabulary:
    """Raw ids <-> 1..n. item_ids (n,) int64: the sorted raw ids."""

    def __init__(self, item_ids: np.ndarray):
        self.item_ids = np.unique(np.asarray(item_ids, np.int64))

    def __len__(self) -> int:
        return len(self.item_ids)

    def encode(self, raw: np.ndarray) -> np.ndarray:
        """Raw ids -> 1..n, and 0 where the id is not known; same shape."""
        raw = np.asarray(raw, np.int64)
        if not len(self):
            return np.zeros_like(raw)
        place = np.searchsorted(self.item_ids, raw).clip(max=len(self) - 1)
        return np.where(self.item_ids[place] == raw, place + 1, PADDING)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """1..n -> raw ids; same shape. Raises ValueError for 0 (padding) or ids beyond n."""
        ids = np.asarray(ids, np.int64)
        if ids.size and (ids.min() < 1 or ids.max() > len(self)):
            raise ValueError(f"encoded ids must be 1..{len(self)}")
        return self.item_ids[ids - 1]

    def encode_sessions(self, sessions: Sessions) -> Sessions:
        """Encode; unknown items leave their session (which may become empty), unknown labels become 0."""
        items = self.encode(sessions.items)
        known = items != PADDING
        lengths = np.bincount(sessions.row_of_item[known], minlength=len(sessions))
        labels = None if sessions.labels is None else self.encode(sessions.labels)
        return Sessions(items[known], _offsets(lengths), labels, sessions.users)


def maximal_sessions(sessions: Sessions) -> tuple[Sessions, np.ndarray]:
    """Fold the prefix rows of each user into one maximal session: its longest row + label.

    Returns the U sessions (label appended) and, for each of their steps t (predict item t + 1 from the
    items up to t), how many of the user's rows contain it: flat (N - U,) int64.
    """
    order = np.lexsort((sessions.lengths, sessions.users))
    users, lengths = sessions.users[order], sessions.lengths[order]
    last = np.r_[users[1:] != users[:-1], True] if len(order) else np.zeros(0, bool)
    folded = sessions.take(order[last]).with_labels_appended()
    # A row of m steps contains steps 0..m-1: mark its last step, then sum backwards within the user.
    starts = _offsets(folded.lengths - 1)
    marks = np.zeros(starts[-1], np.int64)
    user_of_row = np.cumsum(np.r_[0, last[:-1]]) if len(order) else np.zeros(0, np.int64)
    np.add.at(marks, starts[user_of_row] + lengths - 1, 1)
    backwards = np.r_[0, np.cumsum(marks[::-1])][::-1]
    return folded, backwards[:-1] - np.repeat(backwards[starts[1:]], np.diff(starts))


def count_items(sessions: Sessions) -> tuple[np.ndarray, np.ndarray]:
    """Raw or encoded ids (sorted) and how often each occurs, a user's repeated prefixes counted once."""
    return np.unique(maximal_sessions(sessions)[0].items, return_counts=True)


def clean_sessions(sessions: Sessions, *, keep: np.ndarray, min_session_length: int = 1) -> Sessions:
    """Leave only the items in `keep`; rows whose label or whole session vanished, or too short, go too."""
    kept = np.isin(sessions.items, keep)
    lengths = np.bincount(sessions.row_of_item[kept], minlength=len(sessions))
    rows = np.isin(sessions.labels, keep) & (lengths >= max(1, min_session_length))
    filtered = Sessions(sessions.items[kept], _offsets(lengths), sessions.labels, sessions.users)
    return filtered.take(rows)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dataset ready to train on: encoded parts, vocabulary, and popularity from the training part.

    popularity (n + 1,) int64: occurrences of each encoded item in the training part. repeats: whether
    a training session ever holds an item twice; where not, seen items are not worth recommending.
    """

    name: str
    sha256: str
    vocabulary: Vocabulary
    train: Sessions
    valid: Sessions
    test: Sessions
    popularity: np.ndarray
    repeats: bool

    @property
    def n_items(self) -> int:
        return len(self.vocabulary)


def prepare(
    dataset: SessionDataset,
    *,
    split: str = "user",
    split_seed: int = 0,
    valid_share: float | None = None,
    test_share: float | None = None,
    min_item_count: int = 1,
    min_session_length: int = 1,
    fit_on: str = "train",
) -> Prepared:
    """Split, clean and encode.

    fit_on="train": split first; item counts and vocabulary come from the training part, plus the items
    of the test file's sessions; held-out rows keep every row: unknown items leave their session, an
    unknown label stays as a miss. fit_on="all" is the report's order: clean all rows, then split.
    Raises ValueError for an unknown option, DataError where nothing is left to train on.
    """
    if fit_on not in ("train", "all"):
        raise ValueError(f"fit_on={fit_on!r}: choose 'train' or 'all'")

    def clean(rows: Sessions) -> Sessions:
        ids, counts = count_items(rows)
        return clean_sessions(rows, keep=ids[counts >= min_item_count], min_session_length=min_session_length)

    rows = clean(dataset.train) if fit_on == "all" else dataset.train
    parts = split_sessions(rows, split, valid_share=valid_share, test_share=test_share, seed=split_seed)
    train = parts.train if fit_on == "all" else clean(parts.train)
    if not len(train):
        raise DataError(
            dataset.folder / "train_sessions.csv",
            None,
            "nothing is left to train on after cleaning",
        )
    fitted = rows if fit_on == "all" else train
    vocabulary = Vocabulary(np.r_[fitted.items, fitted.labels, dataset.test.items])
    train, valid, test = (vocabulary.encode_sessions(p) for p in (train, parts.valid, parts.test))
    popularity = np.zeros(len(vocabulary) + 1, np.int64)
    ids, counts = count_items(train)
    popularity[ids] = counts
    return Prepared(
        dataset.name, dataset.sha256, vocabulary, train, valid, test, popularity, has_repeats(train)
    )


# The report's data: no effective item filter, sessions of two items or more, vocabulary from all rows.
REPORT_PRESET = {"min_item_count": 1, "min_session_length": 2, "fit_on": "all"}


def has_repeats(sessions: Sessions) -> bool:
    """Whether any session + label holds an item twice."""
    sequences = sessions.with_labels_appended()
    order = np.lexsort((sequences.items, sequences.row_of_item))
    row, item = sequences.row_of_item[order], sequences.items[order]
    return bool(((row[1:] == row[:-1]) & (item[1:] == item[:-1])).any())


# --------------------------------------------------------------------------------------------------
# Datasets and dataloader


class Batch(NamedTuple):
    """x (B, L) items; y (B, L) the next item of each step, 0 where none; w (B, L) the step's weight."""

    x: Tensor
    y: Tensor
    w: Tensor


class _FlatDataset(Dataset):
    """Flat x, y, w tensors and where rows lie in them; batches are gathered on the tensors' device.

    Sessions of more than LONGEST_SESSION steps become several rows, cut from their end; pieces without
    any weight are left out.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, w: np.ndarray, offsets: np.ndarray):
        pieces = -(-np.diff(offsets) // LONGEST_SESSION)
        session = np.repeat(np.arange(len(pieces)), pieces)
        pieces_after = np.cumsum(pieces)[session] - 1 - np.arange(len(session))
        ends = offsets[1:][session] - LONGEST_SESSION * pieces_after
        starts = np.maximum(offsets[:-1][session], ends - LONGEST_SESSION)
        weights = np.r_[0, np.cumsum(w)]
        used = weights[ends] > weights[starts]
        self.x, self.y = (torch.as_tensor(a, dtype=torch.long) for a in (x, y))
        self.w = torch.as_tensor(w, dtype=torch.float)
        self.starts, self.lengths = (torch.as_tensor(a[used]) for a in (starts, ends - starts))
        self.total_weight = float(self.w.double().sum())

    def to(self, device: torch.device | str) -> _FlatDataset:
        """Move the data to the training device; returns self."""
        for name in ("x", "y", "w", "starts", "lengths"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """One row's x (L,) and y (L,), to look at; training takes whole batches by `__getitems__`."""
        row = range(len(self))[row]
        piece = slice(self.starts[row], self.starts[row] + self.lengths[row])
        return self.x[piece], self.y[piece]

    def __getitems__(self, rows: Tensor | Sequence[int]) -> Batch:
        """Rows (B,) -> Batch, padded with zeros to the longest of them."""
        rows = torch.as_tensor(rows, device=self.x.device)
        lengths = self.lengths[rows]
        steps = torch.arange(int(lengths.max()), device=rows.device)
        inside = steps < lengths[:, None]
        place = torch.where(inside, self.starts[rows][:, None] + steps, 0)
        return Batch(*(flat[place] * inside for flat in (self.x, self.y, self.w)))


class TrainDataset(_FlatDataset):
    """Shifted sequences: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], y = [2, 3, 4, 5].

    fold=True merges the prefix rows of a user into one maximal session: the same steps, each computed
    once instead of up to L times. weights="rows": a step counts as often as the rows repeat it, so the
    epoch's loss and gradient are exactly the unfolded rows' (for a causal model); "once": each counts once.
    fold=False keeps the rows, weights="rows" then means 1 each. reverse: adds every sequence backwards, its
    steps weighing `reverse` times those of the same two items forwards.
    """

    def __init__(self, sessions: Sessions, *, fold: bool = True, weights: str = "rows", reverse: float = 0.0):
        if weights not in ("rows", "once"):
            raise ValueError(f"weights={weights!r}: choose 'rows' or 'once'")
        if not fold and weights == "once":
            raise ValueError("weights='once' needs fold=True: unfolded rows repeat their steps")
        if fold:
            sequences, w = maximal_sessions(sessions)
            w = w if weights == "rows" else np.ones_like(w)
        else:
            sequences = sessions.with_labels_appended()
            w = np.ones(len(sessions.items))
        if reverse:
            steps = Sessions(w, sequences.offsets - np.arange(len(sequences) + 1))
            w = np.r_[w, reverse * w[steps.mirrored()]]
            offsets = np.r_[sequences.offsets, len(sequences.items) + sequences.offsets[1:]]
            sequences = Sessions(np.r_[sequences.items, sequences.items[sequences.mirrored()]], offsets)
        # The last item of a sequence is only a target, its first only an input.
        x = np.delete(sequences.items, sequences.offsets[1:] - 1)
        y = np.delete(sequences.items, sequences.offsets[:-1])
        super().__init__(x, y, w, sequences.offsets - np.arange(len(sequences) + 1))


class MyDataset(_FlatDataset):
    """Single labels: session [1, 2, 3, 4] with label 5 -> x = [1, 2, 3, 4], target 5 at the last step."""

    def __init__(self, sessions: Sessions):
        y = np.zeros_like(sessions.items)
        some = sessions.lengths > 0  # encoding may have left a held-out session empty
        y[sessions.offsets[1:][some] - 1] = sessions.labels[some]
        super().__init__(sessions.items, y, y > 0, sessions.offsets)


class LengthBucketSampler(Sampler):
    """Batches of sessions of similar length: shuffle, sort by length (stable), cut, shuffle the batches.

    The batches are of equal size, give or take a row, and at most `batch_size`. Epoch e of a seed is always
    the same order, on any device: set `epoch` to go on from there. deal=(r, n): of every batch the rows of
    process r of n, every n-th.
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        deal: tuple[int, int] = (0, 1),
    ):
        self.lengths, self.batch_size, self.shuffle = lengths.cpu(), batch_size, shuffle
        self.seed, self.epoch, self.deal = seed, 0, deal

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        rows = torch.arange(len(self.lengths))
        order = range(len(self))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            self.epoch += 1
            rows = torch.randperm(len(rows), generator=generator)
            rows = rows[self.lengths[rows].argsort(stable=True)]
            order = torch.randperm(len(self), generator=generator).tolist()
        batches = rows.tensor_split(max(1, len(self)))
        first, every = self.deal
        for b in order:
            yield batches[b][first::every]


def get_dataloader(
    dataset: _FlatDataset,
    *,
    batch_size: int = 256,
    shuffle: bool = True,
    seed: int = 0,
    deal: tuple[int, int] = (0, 1),
) -> DataLoader:
    """Batches of `TrainDataset` or `MyDataset`, length-bucketed, padded, reshuffled every epoch.

    Every row comes exactly once an epoch. `loader.batch_sampler.epoch` says which order comes next.
    deal=(r, n): process r's share of every batch of n processes together.
    Raises ValueError for a batch size below 1, or batches with fewer rows than processes.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    sampler = LengthBucketSampler(dataset.lengths, batch_size, shuffle=shuffle, seed=seed, deal=deal)
    if deal[1] > 1 and len(dataset) // len(sampler) < deal[1]:
        raise ValueError(
            f"{len(dataset)} rows in batches of {batch_size} are too few for {deal[1]} processes; start fewer"
        )
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=lambda batch: batch)


# --------------------------------------------------------------------------------------------------
# Session graphs


class Slice(NamedTuple):
    """alias_inputs (B, L), A (B, L, 2L) = [A_in | A_out], items (B, L), mask (B, L) bool."""

    alias_inputs: Tensor
    A: Tensor
    items: Tensor
    mask: Tensor


def get_slice(x: Tensor) -> Slice:
    """Session graphs of a zero-padded batch x (B, L) for SR-GNN (Wu 2019, section 3.2).

    items: the row's sorted unique ids, padding's 0 among them where the row is padded, zeros at the end.
    alias_inputs: the place of each x in items. An edge u -> v (v follows u) counts once;
    A_in[v, u] = 1 / in-degree(v), A_out[u, v] = 1 / out-degree(u); no edge touches the padding.
    """
    B, L = x.shape
    mask = x > PADDING
    ordered, order = x.sort(dim=1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    node = first.cumsum(1) - 1  # (B, L) place among the unique ids, in sorted order
    items = torch.zeros_like(x).scatter_(1, node, ordered)
    alias_inputs = torch.empty_like(x).scatter_(1, order, node)
    # Edges go to cell u * L + v; those that touch the padding to a spare cell.
    edge = alias_inputs[:, :-1] * L + alias_inputs[:, 1:]
    edge = torch.where(mask[:, 1:] & mask[:, :-1], edge, L * L)
    adjacency = torch.zeros(B, L * L + 1, device=x.device).scatter_(1, edge, 1.0)
    adjacency = adjacency[:, :-1].view(B, L, L)
    A_in = adjacency.transpose(1, 2)
    A_in = A_in / A_in.sum(2, keepdim=True).clamp(min=1)
    A_out = adjacency / adjacency.sum(2, keepdim=True).clamp(min=1)
    return Slice(alias_inputs, torch.cat([A_in, A_out], 2), items, mask)


def expand_prefixes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every prefix of a zero-padded batch x (B, L) as a row: (P, L), and the mask (B, L) they came from.

    Row p belongs to the p-th True of the mask, in row-major order, so `out[mask] = states` puts them back.
    """
    mask = x > PADDING
    L = x.shape[1]
    lower = torch.ones(L, L, dtype=torch.bool, device=x.device).tril()  # row t keeps items 0..t
    return (x[:, None, :] * lower)[mask], mask
