"""Recommend from a checkpoint, or evaluate one: functions, and the command line.

python recommend.py --checkpoint FILE --sessions test_sessions.csv --output results/x.csv --k 20
python recommend.py --checkpoint FILE --evaluate rows_with_labels.csv --json
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import distributed
from checkpoint import Checkpoint, CheckpointError, load_checkpoint, replacing
from metrics import summarize
from process_data import DataError, Sessions, hash_dataset, read_items, read_sessions
from scoring import rank_labels, top_items


@dataclass(frozen=True, eq=False)
class Recommendations:
    """items (Q, k) raw ids, best first, and their scores (Q, k); how much of the sessions was known."""

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


def recommend(
    checkpoint: Checkpoint | str | Path,
    sessions: Sessions | Sequence[Sequence[int]],
    k: int = 20,
    *,
    mask_seen: bool | None = None,
    progress: bool = False,
) -> Recommendations:
    """The k best items for each session (raw ids, oldest item first).

    A session counts by the items that the checkpoint knows; where it knows none, the most popular ones
    are recommended. mask_seen: leave out the session's own items; None does what the training data did
    (they are left out if no training session repeats an item).
    Raises CheckpointError, DataError (ids that are no ids), ValueError for a k that the catalogue cannot
    fill.
    """
    checkpoint = _loaded(checkpoint)
    encoded, known = _encode(checkpoint, sessions)
    mask_seen = checkpoint.header["mask_seen"] if mask_seen is None else mask_seen
    n, seen = len(checkpoint.vocabulary), _most_items(encoded) if mask_seen else 0
    if not 1 <= k <= n - seen:
        left_out = f" less the {seen} that one session holds" if seen else ""
        raise ValueError(f"k={k}: this checkpoint can recommend 1 to {n - seen} items ({n} known{left_out})")
    items, scores = top_items(
        checkpoint.model,
        encoded,
        checkpoint.popularity,
        k=k,
        mask_seen=mask_seen,
        progress=progress,
    )
    return Recommendations(checkpoint.vocabulary.decode(items), scores, **known)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """metrics by name, one rank a query (Q,) in file order, and how much was known.

    coverage: share of the labels that the checkpoint knows at all; the others count as misses.
    """

    metrics: dict[str, float]
    ranks: np.ndarray
    coverage: float
    known: int
    partly_known: int
    unknown: int


def evaluate(
    checkpoint: Checkpoint | str | Path, sessions: Sessions, *, mask_seen: bool | None = None
) -> Evaluation:
    """Rank each session's label among the whole catalogue; see `recommend` for what is masked.

    Raises CheckpointError, ValueError for sessions without labels.
    """
    if sessions.labels is None:
        raise ValueError("these sessions have no labels to evaluate against")
    checkpoint = _loaded(checkpoint)
    encoded, known = _encode(checkpoint, sessions)
    mask_seen = checkpoint.header["mask_seen"] if mask_seen is None else mask_seen
    ranks = rank_labels(checkpoint.model, encoded, checkpoint.popularity, mask_seen=mask_seen)
    return Evaluation(summarize(ranks), ranks, float(np.mean(encoded.labels > 0)), **known)


def _loaded(checkpoint: Checkpoint | str | Path) -> Checkpoint:
    return checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)


def _encode(checkpoint: Checkpoint, sessions) -> tuple[Sessions, dict[str, int]]:
    if not isinstance(sessions, Sessions):
        sessions = Sessions.from_lists(sessions)
    encoded = checkpoint.vocabulary.encode_sessions(sessions)
    unknown = int((encoded.lengths == 0).sum())
    known = int((encoded.lengths == sessions.lengths).sum() - (sessions.lengths == 0).sum())
    return encoded, {
        "known": known,
        "partly_known": len(sessions) - known - unknown,
        "unknown": unknown,
    }


def _most_items(sessions: Sessions) -> int:
    """Distinct items of the session that has the most."""
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

    names: the log's own name of every id (`process_data.read_items`); both columns then hold JSON lists of
    names, with the id itself where it has none.
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sessions", type=Path, help="CSV with a column `session`")
    what.add_argument("--evaluate", type=Path, help="CSV with the columns `session,label`")
    parser.add_argument("--output", type=Path, help="the CSV to write, with --sessions")
    parser.add_argument("--k", type=int, default=20, help="how many items, with --sessions (default: 20)")
    parser.add_argument("--scores", action="store_true", help="add a column `scores`")
    parser.add_argument(
        "--items", type=Path, help="items.csv of dataset/convert.py: write the log's own item names, not ids"
    )
    parser.add_argument("--json", action="store_true", help="with --evaluate: print JSON")
    parser.add_argument(
        "--mask-seen",
        action=argparse.BooleanOptionalAction,
        help="leave out the session's own items (default: if no training session repeats one)",
    )
    parser.add_argument("--device", help="cuda, mps or cpu; default: the first that is there")
    args = parser.parse_args(argv)
    if args.sessions and not args.output:
        parser.error("--sessions needs --output, the CSV to write")
    inputs = [path.resolve() for path in (args.sessions, args.items, args.checkpoint) if path]
    if args.output and args.output.resolve() in inputs:
        parser.error("--output would replace what is read; name another file")
    if args.sessions and args.json or args.evaluate and (args.output or args.scores or args.items):
        parser.error("--json goes with --evaluate; --output, --scores and --items go with --sessions")

    from train import TrainingError, pick_device  # what a user of the functions does not need

    try:
        device = distributed.start(args.device)
        if args.sessions and distributed.processes() > 1:
            raise ValueError("only --evaluate is shared by processes; start this without torchrun")
        checkpoint = load_checkpoint(args.checkpoint, pick_device(device))
        _warn_of_other_data(checkpoint, args)
        if args.evaluate:
            _print_evaluation(checkpoint, read_sessions(args.evaluate, labels=True), args)
            return 0
        names = read_items(args.items) if args.items else None
        sessions = read_sessions(args.sessions, labels=False)
        found = recommend(checkpoint, sessions, args.k, mask_seen=args.mask_seen, progress=True)
        write_recommendations(args.output, sessions, found, scores=args.scores, names=names)
    except (DataError, CheckpointError, TrainingError, ValueError, OSError) as error:
        print(f"recommend.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("recommend.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        distributed.stop()
    print(f"{args.output}: {found}")
    return 0


def _warn_of_other_data(checkpoint: Checkpoint, args: argparse.Namespace) -> None:
    """Ids alone do not tell whose items they are; the dataset folder around the sessions does."""
    folder, trained_on = (args.sessions or args.evaluate).parent, checkpoint.header.get("sha256")
    files = [folder / "train_sessions.csv", folder / "test_sessions.csv"]
    if trained_on and all(file.is_file() for file in files) and hash_dataset(folder) != trained_on:
        print(
            f"recommend.py: warning: {args.checkpoint} was trained on another dataset "
            f"({checkpoint.header.get('dataset')}) than the one in {folder}; unless its ids mean the same "
            "items, train one on this folder",
            file=sys.stderr,
        )


def _print_evaluation(checkpoint: Checkpoint, sessions: Sessions, args: argparse.Namespace) -> None:
    result = evaluate(checkpoint, sessions, mask_seen=args.mask_seen)
    if distributed.rank() > 0:
        return
    counts = {"queries": len(sessions), "coverage": result.coverage}
    counts |= {
        "known": result.known,
        "partly_known": result.partly_known,
        "unknown": result.unknown,
    }
    if args.json:
        print(json.dumps({"model": checkpoint.header["model"], **result.metrics, **counts}))
        return
    for name, value in {**result.metrics, **counts}.items():
        print(f"{name:14}{value:.4f}" if isinstance(value, float) else f"{name:14}{value}")


if __name__ == "__main__":
    distributed.leave(main())
