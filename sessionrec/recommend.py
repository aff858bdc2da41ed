"""Recommend from a checkpoint, or evaluate one.

found = recommend("pretrained_model/Beauty/GRU4REC.safetensors", [[7406, 2331], [1178]], k=20)
found.items
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset.files import replacing
from dataset.options import checked
from metrics import summarize
from process_data import Queries, Sessions
from sessionrec.checkpoint import Checkpoint, load_checkpoint
from sessionrec.scoring import rank_labels, top_items


@dataclass(frozen=True, eq=False)
class Recommendations:
    """items (Q, k) raw ids, best first, and their scores (Q, k); how many sessions were known."""

    items: np.ndarray
    scores: np.ndarray
    known: int
    partly_known: int
    unknown: int

    def __str__(self) -> str:
        return (
            f"{len(self.items)} sessions: {self.known} known, {self.partly_known} partly known, "
            f"{self.unknown} not known at all (popular items instead)"
        )


@checked
def recommend(
    checkpoint: Checkpoint | str | Path,
    sessions: Sessions | Sequence[Sequence[int]],
    k: int = 20,
    *,
    mask_seen: bool | None = None,
) -> Recommendations:
    """The k best items for each session (raw ids, oldest item first).

    The model reads the items of a session that it knows; if it knows none, the most popular items are
    recommended. mask_seen: leave out the session's own items; None decides as for the training data (they are
    left out if no training session repeats an item).
    Raises CheckpointError, DataError (something else than item ids), ValueError for a k that the catalogue
    cannot fill.
    """
    checkpoint = _loaded(checkpoint)
    queries, known = _encode(checkpoint, sessions, mask_seen)
    n, seen = len(checkpoint.vocabulary), _most_items(queries) if queries.mask_seen else 0
    if not 1 <= k <= n - seen:
        left_out = f" less the {seen} that one session holds" if seen else ""
        raise ValueError(f"k={k}: this checkpoint can recommend 1 to {n - seen} items ({n} known{left_out})")
    items, scores = top_items(checkpoint.model, queries, k=k)
    return Recommendations(checkpoint.vocabulary.decode(items), scores, **known)


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


def evaluate(checkpoint: Checkpoint | str | Path, sessions: Sessions, *, mask_seen: bool | None = None) -> Evaluation:
    """Rank each session's label among the whole catalogue; `mask_seen` as in `recommend`.

    Raises CheckpointError, ValueError for sessions without labels.
    """
    if sessions.labels is None:
        raise ValueError("these sessions have no labels to evaluate against")
    checkpoint = _loaded(checkpoint)
    queries, known = _encode(checkpoint, sessions, mask_seen)
    ranks = rank_labels(checkpoint.model, queries)
    return Evaluation(summarize(ranks), ranks, float(np.mean(queries.labels > 0)), **known)


def _loaded(checkpoint: Checkpoint | str | Path) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)


def _encode(checkpoint: Checkpoint, sessions, mask_seen: bool | None) -> tuple[Queries, dict[str, int]]:
    """The sessions as queries to the checkpoint's model, and how many of them it knows."""
    if not isinstance(sessions, Sessions):
        sessions = Sessions.from_lists(sessions)
    encoded = checkpoint.vocabulary.encode_sessions(sessions)
    unknown = int((encoded.lengths == 0).sum())
    known = int((encoded.lengths == sessions.lengths).sum() - (sessions.lengths == 0).sum())
    mask_seen = checkpoint.header["mask_seen"] if mask_seen is None else mask_seen
    queries = Queries.of(encoded, checkpoint.popularity, mask_seen)
    return queries, {"known": known, "partly_known": len(sessions) - known - unknown, "unknown": unknown}


def _most_items(sessions: Sessions) -> int:
    """The largest number of distinct items in a session."""
    rows, _ = np.unique(np.stack([sessions.row_of_item, sessions.items]), axis=1)
    return int(np.bincount(rows).max(initial=0))


def write_recommendations(
    path: str | Path,
    sessions: Sessions,
    recommendations: Recommendations,
    *,
    scores: bool = False,
    names: dict[int, str] | None = None,
) -> None:
    """Write `session,predict[,scores]`, one row a session in the given order, atomically.

    names: item id -> name in the log (`dataset.files.read_items`); both columns are then JSON lists of names,
    with the id itself if it has no name.
    """

    def cell(ids: np.ndarray) -> list[int] | str:
        if names is None:
            return ids.tolist()
        return json.dumps([names.get(i, i) for i in ids.tolist()], ensure_ascii=False)

    with replacing(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["session", "predict"] + ["scores"] * scores)
        bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
        for row, (start, stop) in enumerate(bounds):
            cells = [cell(sessions.items[start:stop]), cell(recommendations.items[row])]
            if scores:
                cells.append([float(f"{score:.6g}") for score in recommendations.scores[row].tolist()])
            writer.writerow(cells)
