"""Command line: recommend from a checkpoint, or evaluate one. The functions are in sessionrec/recommend.py.

python recommend.py --checkpoint FILE --sessions test_sessions.csv --output results/x.csv --k 20
python recommend.py --checkpoint FILE --evaluate rows_with_labels.csv --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dataset.files import check_outputs, hash_dataset, read_items
from process_data import DataError, Sessions, read_sessions
from sessionrec import distributed
from sessionrec.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from sessionrec.device import TrainingError, pick_device
from sessionrec.recommend import evaluate, recommend, write_recommendations


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sessions", type=Path, help="CSV with a column `session`")
    what.add_argument("--evaluate", type=Path, help="CSV with the columns `session,label`")
    parser.add_argument("--output", type=Path, help="the CSV to write, with --sessions")
    parser.add_argument("--k", type=int, default=20, help="how many items, with --sessions (default: 20)")
    parser.add_argument("--scores", action="store_true", help="add a column `scores`")
    parser.add_argument("--items", type=Path, help="items.csv of dataset/convert.py: write item names instead of ids")
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
    if args.sessions and args.json or args.evaluate and (args.output or args.scores or args.items):
        parser.error("--json goes with --evaluate; --output, --scores and --items go with --sessions")

    try:
        if args.sessions:
            folder = args.sessions.parent  # the dataset in it is read, too
            inputs = [args.sessions, args.items, args.checkpoint]
            inputs += [folder / "train_sessions.csv", folder / "test_sessions.csv"]
            check_outputs([args.output], [path for path in inputs if path])
        device = distributed.start(args.device)
        if args.sessions and distributed.world_size() > 1:
            raise ValueError("only --evaluate is shared by processes; start this without torchrun")
        checkpoint = load_checkpoint(args.checkpoint, pick_device(device))
        _warn_of_other_data(checkpoint, args)
        if args.evaluate:
            _print_evaluation(checkpoint, read_sessions(args.evaluate, labels=True), args)
            return 0
        names = read_items(args.items) if args.items else None
        sessions = read_sessions(args.sessions, labels=False)
        found = recommend(checkpoint, sessions, args.k, mask_seen=args.mask_seen)
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
    """Warn if the sessions lie in the folder of another dataset, whose ids may mean other items."""
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
    counts |= {"known": result.known, "partly_known": result.partly_known, "unknown": result.unknown}
    if args.json:
        print(json.dumps({"model": checkpoint.header["model"], **result.metrics, **counts}))
        return
    for name, value in {**result.metrics, **counts}.items():
        print(f"{name:14}{value:.4f}" if isinstance(value, float) else f"{name:14}{value}")


if __name__ == "__main__":
    distributed.exit(main())
