"""Command line: recommend from a checkpoint, or evaluate one. The functions are in sessionrec/recommend.py.

python recommend.py --checkpoint FILE --sessions test_sessions.csv --output results/x.csv --k 20
python recommend.py --checkpoint FILE --sessions log.csv.gz --gap 24 --output results/x.csv
python recommend.py --checkpoint FILE --evaluate rows_with_labels.csv --json

The content of the file shows what the sessions are: lists of ids ([1, 2]), lists of names (["sku-14", "sku-16"]), or
the interactions of a raw log. The output has names wherever the checkpoint has them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dataset.commands import report
from dataset.files import check_outputs
from dataset.logs.times import UNITS
from process_data import DataError, Sessions
from sessionrec import distributed
from sessionrec.checkpoint import Checkpoint, CheckpointError, ClassNeededError, load_checkpoint
from sessionrec.device import TrainingError, pick_device
from sessionrec.recommend import Recommendations, evaluate, recommend, write_recommendations
from sessionrec.session_input import SessionInput, name_items, read_input, read_labelled


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, type=Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sessions", type=Path, help="CSV with a column `session` (lists of ids or names), or a log")
    what.add_argument("--evaluate", type=Path, help="CSV with the columns `session,label`, of ids or names")
    parser.add_argument("--output", type=Path, help="the CSV to write, with --sessions")
    parser.add_argument("--k", type=int, default=20, help="how many items, with --sessions (default: 20)")
    parser.add_argument("--scores", action="store_true", help="add a column `scores`")
    parser.add_argument("--items", type=Path, help="items.csv with the names of the items, if the checkpoint has none")
    parser.add_argument("--columns", help="of a log: names of its columns, as for dataset/convert.py")
    parser.add_argument("--time-unit", choices=UNITS, help="of a log: unit of its times (default: detect it)")
    parser.add_argument("--gap", type=float, help="of a log: hours of inactivity that end a session")
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
    log_options = {name: getattr(args, name) for name in ("columns", "time_unit", "gap")}
    has_log_options = any(value is not None for value in log_options.values())
    if args.sessions and args.json or args.evaluate and (args.output or args.scores or args.items or has_log_options):
        options = "--output, --scores, --items, --columns, --time-unit and --gap"
        parser.error(f"--json goes with --evaluate; {options} go with --sessions")

    try:
        if args.sessions:
            folder = args.sessions.parent  # the dataset in it is read, too
            inputs = [args.sessions, args.items, args.checkpoint]
            inputs += [folder / name for name in ("train_sessions.csv", "test_sessions.csv", "items.csv")]
            check_outputs([args.output], [path for path in inputs if path])
        device = distributed.start(args.device)
        if args.sessions and distributed.world_size() > 1:
            raise ValueError("only --evaluate is shared by processes; start this without torchrun")
        checkpoint = load_checkpoint(args.checkpoint, pick_device(device))
        if args.evaluate:
            given = read_labelled(args.evaluate, checkpoint)
            _print_warning(given)
            _print_evaluation(checkpoint, given.sessions, args)
            sys.stdout.flush()
            return 0
        found = _write_recommendations(checkpoint, args, log_options)
        print(f"{args.output}: {found}", flush=True)
    except ClassNeededError as error:
        call = "recommend" if args.sessions else "evaluate"
        remedy = f"the command line cannot pass a class, so call {call} from Python"
        print(f"recommend.py: {error}; {remedy} (docs/adding_a_model.md)", file=sys.stderr)
        return 1
    except (DataError, CheckpointError, TrainingError, ValueError, OSError) as error:
        return report("recommend.py", error)
    except KeyboardInterrupt:
        print("recommend.py: interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        distributed.stop()
    return 0


def _write_recommendations(checkpoint: Checkpoint, args: argparse.Namespace, log_options: dict) -> Recommendations:
    names = {}
    if args.items:
        checkpoint, names = name_items(checkpoint, args.items)
    given = read_input(args.sessions, checkpoint, **log_options)
    _print_warning(given)
    for note in given.notes:
        print(note)
    found = recommend(checkpoint, given.sessions, args.k, mask_seen=args.mask_seen)
    names |= given.item_names or {}
    shown = given.sessions if given.names is None else given.names
    write_recommendations(args.output, shown, found, scores=args.scores, names=names or None, users=given.users)
    return found


def _print_warning(given: SessionInput) -> None:
    if given.warning and distributed.rank() == 0:
        print(f"recommend.py: {given.warning}", file=sys.stderr)


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
