"""Recommend from a checkpoint, or evaluate one.

found = recommend("pretrained_model/Beauty/GRU4REC.safetensors", [[7406, 2331], [1178]], k=20)
found.items
found = recommend("checkpoints/shop.safetensors", [["sku-14", "sku-16"]], k=20)
found.names
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.files import quote_cell, replacing, short
from dataset.options import Size, checked
from dataset.sessions import as_lists, offsets_of
from metrics import summarize
from process_data import DataError, Queries, Sessions, Vocabulary
from sessionrec.checkpoint import Checkpoint, load_checkpoint
from sessionrec.scoring import rank_labels, top_items


@dataclass(frozen=True, eq=False)
class Recommendations:
    """items (Q, K) raw ids, best first, and their scores (Q, K); how many sessions were known.

    K is k, or the number of items that the checkpoint knows if that is less. Where a session leaves fewer items to
    recommend, its row ends with the id -1 and the score NaN; `lists` has the rows without this padding.
    popular (Q,) bool: the session has no known item, so its row holds the most popular items. Their scores are their
    shares of the training interactions, which do not compare with the scores of a model.
    vocabulary: that of the checkpoint.
    """

    made_by: ClassVar[str] = "recommend(checkpoint, sessions)"

    items: np.ndarray
    scores: np.ndarray
    popular: np.ndarray
    k: int
    known: int
    partly_known: int
    unknown: int
    vocabulary: Vocabulary

    @cached_property
    def names(self) -> list[list[str]]:
        """The names of `lists`; the ids as text if the checkpoint has no names."""
        flat = self.vocabulary.names_of(self.items[self.items >= 0])
        return [flat[start:stop] for start, stop in pairwise(offsets_of(self.lengths).tolist())]

    @property
    def lists(self) -> list[list[int]]:
        """The raw ids of each session, best first; a list may be shorter than k."""
        return [row[:length].tolist() for row, length in zip(self.items, self.lengths, strict=True)]

    @property
    def lengths(self) -> np.ndarray:
        """(Q,) items in each session's list."""
        return (self.items >= 0).sum(1)

    def __str__(self) -> str:
        counts = (
            f"{len(self.items)} sessions: {self.known} known, {self.partly_known} partly known, "
            f"{self.unknown} not known at all (popular items instead)"
        )
        if n := int((self.lengths < self.k).sum()):
            counts += f"; {n} with fewer than {self.k} items, because there are no more to recommend"
        return counts


@checked
def recommend(
    checkpoint: Checkpoint | str | Path,
    sessions: Sessions | Sequence[Sequence[int]] | Sequence[Sequence[str]],
    k: Size = 20,
    *,
    mask_seen: bool | None = None,
) -> Recommendations:
    """The k best items for each session (oldest item first): lists of raw ids, or lists of item names.

    The model reads the items of a session that it knows; if it knows none, the most popular items are
    recommended. mask_seen: leave out the session's own items; None decides as for the training data (they are
    left out if no training session repeats an item). A list is shorter than k if the catalogue, less the items that
    are left out, has fewer items; the other lists stay as long as they can be.
    Raises CheckpointError, DataError (something else than ids or names, names for a checkpoint without names),
    ValueError for a k below 1.
    """
    checkpoint = _loaded(checkpoint)
    queries, known = _encode(checkpoint, sessions, mask_seen)
    items, scores = top_items(checkpoint.model, queries, k=min(k, len(checkpoint.vocabulary)))
    popular = queries.lengths == 0
    share = checkpoint.popularity / max(1, checkpoint.popularity.sum())
    scores[popular] = np.where(np.isfinite(scores[popular]), share[items[popular]], -np.inf)
    masked = ~np.isfinite(scores)
    items[masked] = 1
    items = checkpoint.vocabulary.decode(items)
    items[masked], scores[masked] = -1, np.nan
    return Recommendations(items, scores, popular, k, **known, vocabulary=checkpoint.vocabulary)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics by name, one rank a query (Q,) in file order, and how many sessions were known.

    coverage: share of the labels that the checkpoint knows; the others count as misses.
    """

    metrics: dict[str, float]
    ranks: np.ndarray
    coverage: float
    known: int
    partly_known: int
    unknown: int


@checked
def evaluate(
    checkpoint: Checkpoint | str | Path,
    sessions: Sessions | Sequence[Sequence[int]] | Sequence[Sequence[str]],
    labels: Sequence[int] | Sequence[str] | None = None,
    *,
    mask_seen: bool | None = None,
) -> Evaluation:
    """Rank each session's label among the whole catalogue; `mask_seen` as in `recommend`.

    labels: the next item of each session, for lists of ids or names; `Sessions` have their own.
    Raises CheckpointError, DataError as `recommend` does, ValueError for sessions without labels.
    """
    checkpoint = _loaded(checkpoint)
    if not isinstance(sessions, Sessions):
        sessions = to_sessions(checkpoint.vocabulary, sessions, labels)
    elif labels is not None:
        raise ValueError("these sessions have labels of their own; pass labels only with lists")
    if sessions.labels is None:
        raise ValueError("these sessions have no labels to evaluate against")
    queries, known = _encode(checkpoint, sessions, mask_seen)
    ranks = rank_labels(checkpoint.model, queries)
    return Evaluation(summarize(ranks), ranks, float(np.mean(queries.labels > 0)), **known)


def to_sessions(
    vocabulary: Vocabulary,
    lists: Sequence[Sequence[int]] | Sequence[Sequence[str]],
    labels: Sequence[int] | Sequence[str] | None = None,
    *,
    source: str | Path = "sessions",
) -> Sessions:
    """Lists of raw ids or of names as Sessions of raw ids, with -1 for a name that the vocabulary does not know.

    source: the file of the lists, for the message. Raises DataError for a mixture, labels that do not fit the lists,
    and names that are not ids if the vocabulary has no names.
    """
    lists = as_lists(lists)
    flat, lengths = [item for session in lists for item in session], np.fromiter(map(len, lists), np.int64, len(lists))
    if labels is not None and (not isinstance(labels, Iterable) or isinstance(labels, str | bytes)):
        raise DataError(source, None, f"labels must be a list of ids or names, not {type(labels).__name__}")
    labels = None if labels is None else list(labels)
    if labels is not None and len(labels) != len(lists):
        raise DataError(source, None, f"{len(labels)} labels do not fit {len(lists)} sessions")
    cells = flat + (labels or [])
    n_names = sum(isinstance(cell, str) for cell in cells)
    if not n_names:
        return Sessions.from_lists(lists, labels)
    if n_names < len(cells):
        name = next(cell for cell in cells if isinstance(cell, str))
        other = next(cell for cell in cells if not isinstance(cell, str))
        both = f"the name {short(name)} and {reprlib.repr(other)}, which is no name"
        raise DataError(source, None, f"has {both}; give non-negative integers (ids) only, or names only")
    ids = vocabulary.ids_of(cells)
    if vocabulary.names is None and (ids < 0).any():
        name = short(cells[int((ids < 0).argmax())])
        remedy = "give ids, or train it again from a folder with items.csv, as dataset/convert.py writes it"
        raise DataError(source, None, f"has the name {name}, but the checkpoint knows its items by id only; {remedy}")
    return Sessions(ids[: len(flat)], offsets_of(lengths), None if labels is None else ids[len(flat) :])


def _loaded(checkpoint: Checkpoint | str | Path) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)


def _encode(checkpoint: Checkpoint, sessions, mask_seen: bool | None) -> tuple[Queries, dict[str, int]]:
    """The sessions as queries to the checkpoint's model, and how many of them it knows."""
    if not isinstance(sessions, Sessions):
        sessions = to_sessions(checkpoint.vocabulary, sessions)
    encoded = checkpoint.vocabulary.encode_sessions(sessions)
    unknown = int((encoded.lengths == 0).sum())
    known = int((encoded.lengths == sessions.lengths).sum() - (sessions.lengths == 0).sum())
    mask_seen = checkpoint.header["mask_seen"] if mask_seen is None else mask_seen
    queries = Queries.of(encoded, checkpoint.popularity, mask_seen)
    return queries, {"known": known, "partly_known": len(sessions) - known - unknown, "unknown": unknown}


@checked
def write_recommendations(
    path: str | Path,
    sessions: Sessions | Sequence[Sequence[str]],
    recommendations: Recommendations,
    *,
    scores: bool = False,
    names: dict[int, str] | None = None,
    users: Sequence[str] | None = None,
) -> None:
    """Write `[user,]session,predict[,scores]`, one row a session in the given order, atomically. Lists may be short.

    Where the checkpoint has names, both lists are JSON lists of names; otherwise they are lists of ids.
    sessions: ids, or lists of names. names: item id -> name (`dataset.files.read_items`), used before the names of the
    checkpoint; an id without a name is written as text. users: the first column.
    """
    vocabulary = recommendations.vocabulary
    has_names = names is not None or vocabulary.names is not None
    if not isinstance(sessions, Sessions) and not has_names:
        sessions = to_sessions(vocabulary, sessions)

    def cells_of(ids: np.ndarray, bounds: np.ndarray) -> Iterator[str]:
        items = ids.tolist()
        if has_names:
            items = vocabulary.names_of(ids)
            if names is not None:
                items = [names.get(item, name) for item, name in zip(ids.tolist(), items, strict=True)]
        lists = (items[start:stop] for start, stop in pairwise(bounds.tolist()))
        return (json.dumps(names, ensure_ascii=False) for names in lists)

    if isinstance(sessions, Sessions):
        session_cells = cells_of(sessions.items, sessions.offsets)
    else:
        session_cells = (json.dumps([*session], ensure_ascii=False) for session in sessions)
    n = len(recommendations.items)
    if len(sessions) != n:
        raise ValueError(f"recommendations for {n} sessions do not fit {len(sessions)} sessions")
    kept = recommendations.items >= 0
    columns = {"session": session_cells, "predict": cells_of(recommendations.items[kept], offsets_of(kept.sum(1)))}
    if users is not None:
        columns = {"user": users, **columns}
    if scores:
        rows = zip(recommendations.scores, recommendations.lengths, strict=True)
        columns["scores"] = (str([float(f"{score:.6g}") for score in row[:n].tolist()]) for row, n in rows)
    # Half a character, which UTF-8 cannot have, is written as JSON does.
    with replacing(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(",".join(columns) + "\n")
        file.writelines(",".join(map(quote_cell, cells)) + "\n" for cells in zip(*columns.values(), strict=True))
