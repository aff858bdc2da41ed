"""Convert an interaction log into a dataset folder, or export such a folder as a log.

    python dataset/convert.py ratings_Beauty.csv --output dataset/Ratings
    python dataset/convert.py dataset/Ratings --to recbole --output saved/Ratings

A log is a text or Parquet file with a user (or session), an item and a time in each row, or with a user and its
items; `.gz` and `.zip` are read as they are. The first line printed says how it was read. Each user's
interactions, sorted by time, are one session, or several sessions if --gap splits them. Interactions of the
same time keep the order of the file. Amazon's times of 2014 and 2018 are whole days, so within a day the
order of the file is the only one known.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataset.commands import report  # noqa: E402
from dataset.logs.convert import ConvertOptions, convert  # noqa: E402
from dataset.logs.export import TOOLS, export  # noqa: E402
from dataset.logs.sessionize import SPLITS  # noqa: E402
from dataset.logs.times import UNITS  # noqa: E402


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("log", type=Path, help="text or Parquet file, also .gz or .zip; with --to, a dataset folder")
    add("--output", required=True, type=Path, help="folder to write")
    add("--to", choices=TOOLS, help="export the sessions of a dataset folder as a log for this tool")
    add("--columns", help="what each column of the log is, in its order, such as user,item,rating,timestamp")
    add("--time-unit", choices=UNITS, help="unit of the times (default: detect it)")
    add("--items", type=Path, help="items.csv of an earlier conversion: its items keep their ids, new ones follow")
    add("--split", choices=SPLITS, help="test some users, the sessions that end last, or each user's last item")
    add("--test-share", type=float, help="share of the users or sessions to test (default: %(default)s)")
    add("--test-log", type=Path, help="second log, whose sessions are the test sessions (no split)")
    add("--gap", type=float, help="hours of inactivity that end a session (default: a session never ends)")
    add("--keep-repeats", action="store_true", help="keep an item that occurs again in its session")
    add("--min-item-count", type=int, help="remove rarer items (default: %(default)s)")
    add("--min-session-length", type=int, help="remove shorter sessions (default: %(default)s)")
    add("--longest", type=int, help="keep only the last items of a session (default: %(default)s)")
    add("--seed", type=int, help="seed of the split by user (default: %(default)s)")
    parser.set_defaults(**{field.name: field.default for field in fields(ConvertOptions)})
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    values = {field.name: getattr(args, field.name) for field in fields(ConvertOptions)}
    changed = {name for name, value in values.items() if value != parser.get_default(name)}
    if args.test_log and changed & {"split", "test_share"}:
        parser.error("--test-log replaces the split: omit --split and --test-share")
    if args.split == "leave-one-out" and changed & {"test_share", "seed"}:
        parser.error("--split leave-one-out tests one item of each user: omit --test-share and --seed")
    if args.to and (changed or args.columns or args.test_log or args.time_unit or args.items):
        parser.error("--to accepts no other option than --output")
    try:
        if args.to:
            print(*export(args.log, args.output, args.to), sep="\n")
        else:
            options = ConvertOptions(**values)
            names = ("columns", "time_unit", "test_log", "items")
            print(convert(args.log, args.output, options, **{name: getattr(args, name) for name in names}))
        sys.stdout.flush()
    except ValueError as error:
        return report("convert.py", error)
    except OSError as error:
        if error.strerror and error.filename is None:  # the standard output
            return report("convert.py", error)
        reason = f"{error.filename} cannot be written ({error.strerror})" if error.strerror else error
        return report("convert.py", OSError(f"{reason}; choose another --output"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
