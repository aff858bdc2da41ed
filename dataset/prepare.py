"""Prepare a dataset for training: split it, clean the training rows, and encode the items.

Shapes:  R rows (sessions), n items (encoded ids 1..n; 0 is padding and, as a label, an unknown item).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from dataset.folders import SessionDataset
from dataset.options import Count, Seed, Share, checked
from dataset.sessions import (
    DataError,
    Sessions,
    Vocabulary,
    check_columns,
    check_encoded,
    check_popularity,
    clean_sessions,
    count_items,
    has_repeats,
)
from dataset.split import split_sessions


@dataclass(frozen=True, eq=False, kw_only=True)
class Queries(Sessions):
    """Encoded sessions to rank items for, with what the ranking needs to know of the training data.

    popularity (n + 1,) int64: occurrences of each item in the training split. mask_seen: leave out the items
    that the session already holds.
    """

    made_by: ClassVar[str] = "data.valid of data = prepare(dataset)"

    popularity: np.ndarray
    mask_seen: bool

    @classmethod
    @checked
    def of(cls, sessions: Sessions, popularity: np.ndarray, mask_seen: bool) -> Queries:
        """Encoded sessions as queries. Raises ValueError for raw ids, and for a popularity of another length."""
        check_encoded(sessions, "Queries.of")
        check_popularity(popularity, sessions.n_items)
        return cls(**vars(sessions), popularity=popularity, mask_seen=mask_seen)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A dataset ready to train on: encoded splits, vocabulary, and popularity in the training split.

    popularity (n + 1,) int64: occurrences of each encoded item in the training split. repeats: whether
    a training session ever holds an item twice; if none does, seen items are not worth recommending.
    split, split_seed, shares: how it was split, for the header of a checkpoint.
    """

    made_by: ClassVar[str] = "prepare(dataset)"

    name: str
    sha256: str
    vocabulary: Vocabulary
    train: Sessions
    valid: Queries
    test: Queries
    popularity: np.ndarray
    repeats: bool
    split: str
    split_seed: int
    shares: tuple[float | None, float | None]

    @property
    def n_items(self) -> int:
        return len(self.vocabulary)

    @property
    def mask_seen(self) -> bool:
        """Whether items that a session already holds are left out of its recommendations."""
        return not self.repeats


@checked
def prepare(
    dataset: SessionDataset,
    *,
    split: str = "user",
    split_seed: Seed = 0,
    valid_share: Share | None = None,
    test_share: Share | None = None,
    min_item_count: Count = 1,
    min_session_length: Count = 1,
    fit_on: Literal["train", "all"] = "train",
) -> Prepared:
    """Split, clean and encode.

    split: see `split_sessions`. With "leave-one-out" and "last" the test rows are those of the test file, if it has
    labels. `dataset/convert.py --split leave-one-out` writes such a file; its sessions include the items of validation.
    fit_on="train": split first; item counts and vocabulary come from the training split, plus the items
    of the test file's sessions. Held-out rows all stay: unknown items leave their session, and an
    unknown label counts as a miss. fit_on="all" is the report's order: clean all rows, then split.
    Raises ValueError for an unknown option, DataError if nothing is left to train on.
    """

    def clean(rows: Sessions) -> Sessions:
        ids, counts = count_items(rows)
        return clean_sessions(rows, keep=ids[counts >= min_item_count], min_session_length=min_session_length)

    check_columns(dataset.train, "labels", "users")
    rows = clean(dataset.train) if fit_on == "all" else dataset.train
    splits = split_sessions(rows, split, valid_share=valid_share, test_share=test_share, seed=split_seed)
    if split in ("leave-one-out", "last") and not test_share and dataset.test.labels is not None:
        # A test file does not say whose its rows are: each gets a user number of its own, above all others.
        users = dataset.train.users.max(initial=-1) + 1 + np.arange(len(dataset.test))
        splits = splits._replace(test=replace(dataset.test, users=users))
    train = splits.train if fit_on == "all" else clean(splits.train)
    if not len(train):
        file = dataset.folder / "train_sessions.csv"
        raise DataError(file, None, f"nothing is left to train on after cleaning and the split {split!r}")
    fitted = rows if fit_on == "all" else train
    item_ids = np.unique(np.r_[fitted.items, fitted.labels, dataset.test.items])
    names = None if dataset.names is None else [dataset.names[item] for item in item_ids.tolist()]
    vocabulary = Vocabulary(item_ids, names)
    train, valid, test = (vocabulary.encode_sessions(s) for s in (train, splits.valid, splits.test))
    popularity = np.zeros(len(vocabulary) + 1, np.int64)
    ids, counts = count_items(train)
    popularity[ids] = counts
    repeats = has_repeats(train)
    valid, test = (Queries.of(sessions, popularity, not repeats) for sessions in (valid, test))
    return Prepared(
        dataset.name, dataset.sha256, vocabulary, train, valid, test, popularity, repeats,
        split, split_seed, (valid_share, test_share),
    )  # fmt: skip
