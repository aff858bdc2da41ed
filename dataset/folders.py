"""A dataset folder: its sessions, the users of its training rows, and the names of its items."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.fetch import AMAZON
from dataset.files import read_items, read_sessions
from dataset.sessions import DataError, Sessions
from dataset.users import identify_users


@dataclass(frozen=True, eq=False)
class SessionDataset:
    """The contents of a dataset folder, with raw ids and the users of the training rows.

    sha256: hash of both session files, see `hash_dataset`. names: item id -> its name in the log, from `items.csv`;
    None if there is no such file, or all names are the ids.
    """

    made_by: ClassVar[str] = 'load_dataset("Demo")'

    name: str
    folder: Path
    train: Sessions
    test: Sessions
    sha256: str
    names: dict[int, str] | None = None

    @property
    def short_name(self) -> str:
        """The name in `test_result_<short_name>.csv`."""
        return short_name(self.name)


def short_name(name: str) -> str:
    """`beauty` for `Amazon_Beauty`, `cell` for `Amazon_Cell`; any other name in lower case."""
    short = {folder.lower(): short for short, folder in AMAZON.items()}
    return short.get(name.lower(), name.lower())


def read_dataset(folder: str | Path) -> SessionDataset:
    """Read a dataset folder, and find the users of its training rows.

    The column `user` names them. Without it they are found by their items (see `dataset.users`), and the user numbers
    do not depend on the order of the rows. Warns if the user of some rows is uncertain.
    An `items.csv` in the folder gives the items their names.
    Raises DataError (file, line, reason).
    """
    folder = Path(folder)
    train = read_sessions(folder / "train_sessions.csv", labels=True)
    test = read_sessions(folder / "test_sessions.csv")
    train, uncertain = identify_users(train)
    if uncertain:
        doubt = f"the user of {uncertain} of {len(train)} rows is uncertain, because earlier rows are missing"
        warnings.warn(f"{folder / 'train_sessions.csv'}: {doubt}; a column `user` settles it", stacklevel=2)
    names = _read_names(folder / "items.csv", train, test)
    return SessionDataset(folder.resolve().name, folder, train, test, hash_dataset(folder), names)


def _read_names(path: Path, *parts: Sessions) -> dict[int, str] | None:
    """The names of a dataset's items, see `SessionDataset`. Raises DataError if an item of the sessions has none."""
    if not path.exists():
        return None
    names = read_items(path)
    arrays = [array for part in parts for array in (part.items, part.labels) if array is not None]
    unnamed = np.setdiff1d(np.concatenate(arrays), np.fromiter(names, np.int64, len(names)))
    if len(unnamed):
        raise DataError(
            path, None, f"does not name the item {unnamed[0]} of the sessions beside it, so it belongs to other "
            "sessions; put the items.csv that was written with them in its place, or remove it",
        )  # fmt: skip
    return None if all(name == str(item) for item, name in names.items()) else names


def hash_dataset(folder: Path) -> str:
    """SHA-256 of a dataset's two files. A checkpoint stores it to identify its training data."""
    digest = hashlib.sha256()
    for file in ("train_sessions.csv", "test_sessions.csv"):
        with open(folder / file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
