"""Raw interaction logs -> the session files of a dataset folder, and back.

    python dataset/convert.py ratings_Beauty.csv --output dataset/Ratings
    python dataset/convert.py dataset/Ratings --to recbole --output saved/Ratings

A log is a CSV, TSV or Parquet file with a user (or session), an item and a time a row; `read_log` says
how its columns are found. A user's interactions in the order of time are one session, or several where
`gap` splits them. Interactions of the same time stay in the order of the file: Amazon's times (2014 and
2018) are whole days, so what somebody did within a day is in no order but the file's.

Memory: the text of the log streams through polars in batches; what stays is each distinct id once,
and some 20 bytes an interaction, several times that while they are sorted.

Shapes:  N interactions, S sessions, U users, I items.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from checkpoint import replacing  # noqa: E402
from process_data import LONGEST_SESSION, find_users, maximal_sessions, read_sessions  # noqa: E402

FILES = ("train_sessions.csv", "test_sessions.csv", "items.csv")
# What a header may call each column, in small letters and without `_` and `:type`; the first one counts.
COLUMNS = {
    "user": ("sessionid", "session", "userid", "user"),
    "item": ("parentasin", "asin", "itemid", "item"),
    "timestamp": ("timestamp", "time"),
}
# The way back: folder -> header, and the file names that the tools themselves look for.
TOOLS = {
    "recbole": ("session_id:token\titem_id:token\ttimestamp:float", "{}.train.inter", "{}.test.inter"),
    "session-rec": ("SessionId\tItemId\tTime", "{}_train_full.txt", "{}_test.txt"),
}
_LINE = "#line"  # no column of a log is called so
SAMPLE = 1000  # rows that show which column holds Amazon's items
# An item of Amazon: B and nine more, or the ISBN of a book.
_ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]", re.ASCII)
_INTEGER = r"^(0|[1-9][0-9]{0,17})$"  # as `process_data` reads ids, and back to the same text


class ConvertError(ValueError):
    """A log that cannot be converted, or not like this; the message names the file and what to do."""


# --------------------------------------------------------------------------------------------------
# Reading


def read_log(path: str | Path, columns: str | None = None) -> pl.LazyFrame:
    """The interactions of a log, lazily and in its order.

    Columns: line (from 1), user and item (text), time (seconds, float), excess.

    They are found by the names in the header (Amazon 2023, session-rec, RecBole, plain CSV, Parquet), see
    COLUMNS: a session goes before a user. Without a header, four columns are Amazon's ratings, where the
    ids show whether the user (2014) or the item (2018) comes first, and three are user, item, timestamp.
    columns, such as "user,item,rating,timestamp", says it instead. A file that ends in .gz is unpacked.

    Times that as seconds would lie after the year 5138 are milli-, micro- or nanoseconds. A value that is
    missing, or a time that is no number, is null here, and `excess` is what a line holds beyond the cells
    of the first: `convert` reports them. Empty lines are left out.
    Raises ConvertError.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        with _reading(path):
            frame = pl.scan_parquet(path, glob=False, row_index_name=_LINE, row_index_offset=1)
            schema = frame.collect_schema()
        names = [name for name in schema if name != _LINE]
        excess = pl.lit(None, pl.String)
        places = _find_columns(path, names, columns)
    else:
        sample, separator = _read_sample(path)
        header = _has_names(sample[0])
        names = sample[0] if header or columns else _guess_columns(path, sample)
        places = _find_columns(path, names, columns)
        names = [f"column_{place}" for place in range(len(sample[0]))]
        schema = dict.fromkeys([*names, "excess"], pl.String())
        excess = pl.col("excess")
        frame = pl.scan_csv(
            path,
            glob=False,
            has_header=False,
            skip_rows=int(header),
            schema=schema,
            missing_columns="insert",
            truncate_ragged_lines=True,
            separator=separator,
            quote_char=_quote(separator),
            row_index_name=_LINE,
            row_index_offset=1 + header,
        )
    user, item, time = (names[places[column]] for column in COLUMNS)
    return frame.filter(~pl.all_horizontal(pl.col(user, item, time).is_null())).select(
        pl.col(_LINE).alias("line"),
        pl.col(user).cast(pl.String).alias("user"),
        pl.col(item).cast(pl.String).alias("item"),
        _seconds(pl.col(time), schema[time]).alias("time"),
        excess.alias("excess"),
    )


def _read_sample(path: Path) -> tuple[list[list[str]], str]:
    """The first rows of a text file, header included, and what separates their cells."""
    with _reading(path), _open_text(path) as file:
        first = file.readline(1 << 16)
        if not first.strip():
            raise ConvertError(f"{path}: is empty" if not first else f"{path}, line 1: is empty")
        separator = "\t" if "\t" in first else ","
        if separator not in first and ";" in first:
            raise ConvertError(f"{path}: its cells are separated by `;`; save it with commas or tabs")
        file.seek(0)
        return list(islice(_csv_rows(file, separator), SAMPLE)), separator


def _open_text(path: Path) -> IO[str]:
    return (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="")


def _quote(separator: str) -> str | None:
    """Quotes are text in the TSV files of RecBole and session-rec."""
    return '"' if separator == "," else None


def _csv_rows(file: IO[str], separator: str) -> Iterator[list[str]]:
    quoting = csv.QUOTE_MINIMAL if _quote(separator) else csv.QUOTE_NONE
    return csv.reader(file, delimiter=separator, quoting=quoting)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever reading `path` raises becomes a ConvertError of one sentence."""
    try:
        yield
    except UnicodeDecodeError:
        raise ConvertError(f"{path}: is not UTF-8 text; save the log as UTF-8") from None
    except FileNotFoundError:
        raise ConvertError(f"{path}: does not exist") from None
    except (OSError, EOFError, zlib.error, csv.Error, pl.exceptions.PolarsError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
        raise ConvertError(f"{path}: cannot be read ({reason})") from None


def _plain(name: str) -> str:
    return name.split(":")[0].strip().lower().replace("_", "")


def _has_names(cells: list[str]) -> bool:
    """Whether the first line names the columns: a line of a log ends in numbers."""
    return not any(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _find_columns(path: Path, names: list[str], columns: str | None = None) -> dict[str, int]:
    """{"user", "item", "timestamp": place}, by the names of a header or of `columns`."""
    if columns is not None:
        width, names = len(names), columns.split(",")
        if len(names) != width:
            raise ConvertError(f"{path}: has {width} columns, and --columns {columns} names {len(names)}")
    plain = [_plain(name) for name in names]
    places = {}
    for column, aliases in COLUMNS.items():
        found = [plain.index(alias) for alias in aliases if alias in plain]
        if not found:
            where = f"its columns are {','.join(names)[:80]}" if not columns else f"--columns {columns}"
            raise ConvertError(
                f"{path}: has no column `{column}` ({where}); "
                "say what they are, for example --columns user,item,rating,timestamp"
            )
        places[column] = found[0]
    return places


def _guess_columns(path: Path, sample: list[list[str]]) -> list[str]:
    """The names of the columns of a log without a header."""
    width = len(sample[0])
    if width == 3:
        return ["user", "item", "timestamp"]
    if width == 4:
        asins = [
            sum(bool(_ASIN.fullmatch(row[place])) for row in sample if len(row) == 4) for place in (0, 1)
        ]
        if asins[0] != asins[1]:
            first = ["item", "user"] if asins[0] > asins[1] else ["user", "item"]
            return [*first, "rating", "timestamp"]
    raise ConvertError(
        f"{path}: has no header, and its {width} columns do not tell which holds the items; "
        "say it with --columns user,item,rating,timestamp or --columns item,user,rating,timestamp"
    )


def _seconds(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_temporal():
        return time.dt.epoch("us") / 1e6
    time = time.cast(pl.Float64, strict=False)
    return (
        pl.when(time.abs() < 1e11)
        .then(time)
        .when(time.abs() < 1e14)
        .then(time / 1e3)
        .when(time.abs() < 1e17)
        .then(time / 1e6)
        .otherwise(time / 1e9)
    )


def _read_numbers(paths: list[Path], columns: str | None, progress: bool) -> tuple[Log, list[pl.Series]]:
    """The interactions of all logs, in order, as numbers; their user and item ids, sorted.

    A user of the first log and one of the second are two: the second's numbers go on after the first's.
    The sessions are not known yet, and empty.
    """
    dtypes = {name: pl.Categorical(pl.Categories.random()) for name in ("user", "item")}
    batches, rows = [], []
    with tqdm(desc="Reading", unit=" rows", unit_scale=True, disable=not progress) as bar:
        for path in paths:
            collected = list(_collect(path, columns, dtypes, bar))
            rows.append(sum(map(len, collected)))
            batches += collected
    frame = pl.concat(batches)
    del batches, collected
    user, users = _encode(frame["user"])
    item, items = _encode(frame["item"])
    user += np.repeat(np.arange(len(paths), dtype=np.int32) * len(users), rows)
    return Log(user, item, frame["time"].to_numpy(), np.zeros(0, np.int64)), [users, items]


def _collect(path: Path, columns: str | None, dtypes: dict, bar: tqdm) -> Iterator[pl.DataFrame]:
    """Batches of a log: user, item (categorical, so numbers inside), time. Raises ConvertError."""
    log = read_log(path, columns).cast(dtypes)
    empty = True
    with _reading(path):
        for batch in log.collect_batches(engine="streaming"):
            _check(path, batch)
            empty &= batch.is_empty()
            bar.update(len(batch))
            yield batch.select("user", "item", "time")
    if empty:
        raise ConvertError(f"{path}: has no interactions")


def _check(path: Path, batch: pl.DataFrame) -> None:
    wrong = {
        "has more cells than line 1": batch["excess"].is_not_null(),
        "the user is missing": batch["user"].is_null(),
        "the item is missing": batch["item"].is_null(),
        "the timestamp is missing, or no number (seconds since 1970)": ~batch["time"]
        .is_finite()
        .fill_null(False),
    }
    for reason, rows in wrong.items():
        if rows.any():
            place = "row" if path.suffix == ".parquet" else "line"
            raise ConvertError(f"{path}, {place} {batch['line'][rows.arg_max()]}: {reason}")


def _encode(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Numbers (N,) of categorical ids, from 0 in the order of the sorted ids, and these."""
    distinct = ids.unique()
    names = distinct.cast(pl.String)
    order = (names.cast(pl.Int64) if _are_integers(names) else names).arg_sort()
    codes = distinct.to_physical().gather(order).to_numpy()
    number = np.empty(codes.max() + 1, np.int32)
    number[codes] = np.arange(len(codes))
    return number[ids.to_physical().to_numpy()], names.gather(order)


def _are_integers(names: pl.Series) -> bool:
    return names.str.contains(_INTEGER).all()


# --------------------------------------------------------------------------------------------------
# Converting


class Log(NamedTuple):
    """Interactions as numbers: user, item, time, session, (N,) each."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    session: np.ndarray

    def take(self, rows: np.ndarray) -> Log:
        return Log(*(column[rows] for column in self))


@dataclass(frozen=True)
class Summary:
    """What was read, left out and written; `dropped` counts interactions by reason.

    known_labels: share of the test rows whose label is an item of the training file.
    """

    interactions: int
    users: int
    items: int
    dropped: dict[str, int]
    sessions: int
    items_kept: int
    train_rows: int
    test_rows: int
    known_labels: float

    def __str__(self) -> str:
        lines = [f"{self.interactions} interactions of {self.users} users with {self.items} items"]
        for reason, count in self.dropped.items():
            if count:
                lines.append(f"dropped {count} ({count / self.interactions:.1%}): {reason}")
        lines.append(
            f"{self.sessions} sessions with {self.items_kept} items: {self.train_rows} training rows, "
            f"{self.test_rows} test rows ({self.known_labels:.1%} of their labels occur in training)"
        )
        return "\n".join(lines)


def convert(
    log: str | Path,
    output: str | Path,
    *,
    columns: str | None = None,
    split: str = "user",
    test_share: float = 0.1,
    test_log: str | Path | None = None,
    gap: float | None = None,
    keep_repeats: bool = False,
    min_item_count: int = 1,
    min_session_length: int = 2,
    longest: int = LONGEST_SESSION,
    seed: int = 0,
    progress: bool = False,
) -> Summary:
    """Write the files of dataset/README.md into the folder `output`; all are replaced, or none.

    `train_sessions.csv` has every prefix of a session, `test_sessions.csv` a row a session: all items but
    the last, which is the label. `items.csv` (`id,item`) gives the log's id of every number: integers
    below 10^18 stay what they are where all are such, else items are 1, 2, ... in the order of their text.
    The order of the sessions comes from the users' ids in the same way, never from the order of the rows.

    In this order:
    gap: hours of inactivity after which a user's next session begins; None: all of a user is one.
    keep_repeats: by default only an item's first occurrence in a session stays, as in the Amazon datasets:
        a recommender that leaves out a session's own items could never hit a repeated one.
    min_item_count: rarer items go. min_session_length: then shorter sessions go; neither is repeated.
    longest: a session counts by its last interactions, since its prefix rows grow with the square.
    split: "user": a seeded random share of the users, with all their sessions, is for testing. "time": the
        sessions that end last are, at least that share of them (all that end at the same time); so no
        training session goes on after the first test session's end.
    test_log: a second log, whose sessions are the test file instead; they are its own, whoever the user.

    Raises ConvertError for a log or a choice that cannot be used, OSError where the output cannot be written.
    """
    _check_choices(split, test_share, gap, min_item_count, min_session_length, longest, seed)
    paths = [Path(path) for path in (log, test_log) if path is not None]
    targets = [Path(output) / name for name in FILES]
    for path in paths:
        if path.resolve() in [target.resolve() for target in targets]:
            raise ConvertError(f"{path}: would be replaced by the output; name another folder")

    every, (users, items) = _read_numbers(paths, columns, progress)
    interactions, known_users = len(every.user), len(users)
    log = _sort_into_sessions(every, gap)
    del every, users
    dropped = {}

    def keep(rows: np.ndarray, reason: str) -> Log:
        dropped[reason] = len(rows) - int(rows.sum())
        return log.take(rows)

    if not keep_repeats:
        log = keep(_first_occurrences(log), "repeats of an item within a session")
    log = keep(_counts(log.item) >= min_item_count, f"items with fewer than {min_item_count} interactions")
    log = keep(_counts(log.session) >= min_session_length, f"sessions of fewer than {min_session_length}")
    log = keep(_places_from_end(log.session) <= longest, f"what a session holds before its last {longest}")
    if not len(log.user):
        raise ConvertError(f"{paths[0]}: no session of at least {min_session_length} interactions is left")

    starts = np.flatnonzero(_changes(log.session))
    ends = np.r_[starts[1:], len(log.user)]
    if test_log is not None:
        held_out = log.user[starts] >= known_users
    elif split == "user":
        held_out = _hold_out_users(log.user[starts], test_share, seed)
    else:
        held_out = _hold_out_last(log.time[ends - 1], test_share)
    if held_out.all() or not held_out.any():
        part = "train on" if held_out.all() else "test on"
        raise ConvertError(
            f"{paths[0]}: {len(starts)} sessions leave nothing to {part}; choose another split"
        )

    present = np.unique(log.item)
    texts = items.gather(present)
    ids = texts if _are_integers(items) else pl.Series(range(1, len(present) + 1)).cast(pl.String)
    item = np.searchsorted(present, log.item)
    trained = np.zeros(len(present), bool)
    trained[item[np.repeat(~held_out, ends - starts)]] = True
    with ExitStack() as stack:
        parts = [stack.enter_context(replacing(target)) for target in targets]
        with open(parts[2], "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("id", "item"))
            writer.writerows(zip(ids, texts, strict=True))
        _write_sessions(parts, item, ends, held_out, ids.to_list(), progress)
    return Summary(
        interactions=interactions,
        users=known_users,
        items=len(items),
        dropped=dropped,
        sessions=len(starts),
        items_kept=len(present),
        train_rows=int((ends - starts - 1)[~held_out].sum()),
        test_rows=int(held_out.sum()),
        known_labels=float(trained[item[ends - 1][held_out]].mean()),
    )


def _check_choices(split, test_share, gap, min_item_count, min_session_length, longest, seed) -> None:
    if split not in ("user", "time"):
        raise ConvertError(f"split={split!r}: choose 'user' or 'time'")
    if not 0 < test_share < 1:
        raise ConvertError(f"test_share={test_share}: must lie between 0 and 1")
    if gap is not None and not gap > 0:
        raise ConvertError(f"gap={gap}: must be a number of hours above 0")
    if min_item_count < 1 or min_session_length < 2:
        raise ConvertError("min_item_count must be at least 1 and min_session_length at least 2")
    if longest < min_session_length:
        raise ConvertError(f"longest={longest}: must be at least min_session_length={min_session_length}")
    if seed < 0:
        raise ConvertError(f"seed={seed}: must be at least 0")


def _sort_into_sessions(log: Log, gap: float | None) -> Log:
    """The log by user and time, with the number of each interaction's session, from 0."""
    order = np.lexsort((log.time, log.user))  # stable: ties stay in the order of the file
    user, item, time, _ = log
    user, item, time = user[order], item[order], time[order]
    starts = _changes(user)
    if gap is not None:
        starts[1:] |= np.diff(time) > gap * 3600
    return Log(user, item, time, np.cumsum(starts, dtype=np.int32) - np.int32(1))


def _changes(numbers: np.ndarray) -> np.ndarray:
    """(N,) bool: where a number is not the one before."""
    return np.r_[True, numbers[1:] != numbers[:-1]][: len(numbers)]


def _counts(numbers: np.ndarray) -> np.ndarray:
    """(N,) how often each number occurs."""
    return np.bincount(numbers)[numbers]


def _first_occurrences(log: Log) -> np.ndarray:
    """(N,) bool: an item's first interaction within its session."""
    pairs = log.session * np.int64(log.item.max() + 1) + log.item
    order = pairs.argsort(kind="stable")
    first = np.empty(len(pairs), bool)
    first[order] = _changes(pairs[order])
    return first


def _places_from_end(session: np.ndarray) -> np.ndarray:
    """(N,) place of each interaction in its session, the last is 1; a session's are consecutive."""
    return np.cumsum(np.bincount(session))[session] - np.arange(len(session))


def _hold_out_users(users: np.ndarray, share: float, seed: int) -> np.ndarray:
    """(S,) bool: the sessions of a random share of the users; the same users whatever the order of rows."""
    distinct, user = np.unique(users, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(distinct))
    return place[user] < round(len(distinct) * share)


def _hold_out_last(ends: np.ndarray, share: float) -> np.ndarray:
    """(S,) bool: at least that share of the sessions, those that end last (times (S,))."""
    count = round(len(ends) * share)
    return ends >= np.sort(ends)[-count] if count else np.zeros(len(ends), bool)


def _write_sessions(
    parts: list[Path],
    item: np.ndarray,
    ends: np.ndarray,
    held_out: np.ndarray,
    ids: list[str],
    progress: bool,
) -> None:
    """Write the S sessions that end before `ends` (S,): prefix rows to parts[0], tests to parts[1]."""
    sessions = zip(ends.tolist(), held_out.tolist(), strict=True)
    bar = tqdm(sessions, "Writing", len(ends), unit=" sessions", unit_scale=True, disable=not progress)
    with open(parts[0], "w", newline="\n") as train, open(parts[1], "w", newline="\n") as test:
        train.write("session,label\n")
        test.write("session,label\n")
        start = 0
        for end, is_test in bar:
            session = [ids[number] for number in item[start:end].tolist()]
            if is_test:
                test.write(_line(session[:-1], session[-1]))
            else:
                train.writelines(_line(session[:step], session[step]) for step in range(1, len(session)))
            start = end


def _line(session: list[str], label: str) -> str:
    """As the csv module writes it: quoted where there is a comma."""
    text = f"[{', '.join(session)}]"
    return f'"{text}",{label}\n' if len(session) > 1 else f"{text},{label}\n"


# --------------------------------------------------------------------------------------------------
# And back


def export(folder: str | Path, output: str | Path, to: str) -> list[Path]:
    """Write a dataset folder's sessions for another tool into the folder `output`; both files, or none.

    to: "recbole" (`NAME.train.inter` and `NAME.test.inter`) or "session-rec" (`NAME_train_full.txt` and
    `NAME_test.txt`), NAME being the output's name. A training user is one session, a test row another,
    its label the last item. Session files hold no times: the time is the row's number, training first.
    Converting the first file with the second as `test_log` gives the session files again, if they are
    this module's, with `keep_repeats` and `longest` as needed.
    Raises ConvertError, `process_data.DataError`, OSError.
    """
    if to not in TOOLS:
        raise ConvertError(f"to={to!r}: choose one of {', '.join(TOOLS)}")
    header, *names = TOOLS[to]
    folder, output = Path(folder), Path(output)
    train = read_sessions(folder / FILES[0], labels=True)
    train, _ = maximal_sessions(replace(train, users=find_users(train)))
    test = read_sessions(folder / FILES[1])
    if test.labels is not None:
        test = test.with_labels_appended()
    targets = [output / name.format(output.resolve().name) for name in names]
    sessions, rows = 0, 0
    with ExitStack() as stack:
        for target, part in zip(targets, (train, test), strict=True):
            file = stack.enter_context(replacing(target))
            session = sessions + 1 + part.row_of_item
            time = rows + 1 + np.arange(len(part.items))
            with open(file, "w", newline="\n") as lines:
                lines.write(f"{header}\n")
                rows_of_part = zip(session.tolist(), part.items.tolist(), time.tolist(), strict=True)
                lines.writelines("\t".join(map(str, row)) + "\n" for row in rows_of_part)
            sessions, rows = sessions + len(part), rows + len(part.items)
    return targets


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "log", type=Path, help="CSV, CSV.GZ, TSV, .inter or Parquet; with --to a dataset folder"
    )
    parser.add_argument("--output", required=True, type=Path, help="the folder to write")
    parser.add_argument("--to", choices=TOOLS, help="the way back: sessions -> a log for this tool")
    parser.add_argument(
        "--columns", help="what the columns are, such as user,item,rating,timestamp (default: found)"
    )
    parser.add_argument(
        "--split", choices=("user", "time"), default="user", help="test some users, or the last sessions"
    )
    parser.add_argument(
        "--test-share", type=float, default=0.1, help="of the users or sessions (default: 0.1)"
    )
    parser.add_argument(
        "--test-log", type=Path, help="a second log, whose sessions are the test file instead"
    )
    parser.add_argument("--gap", type=float, help="hours of inactivity that end a session (default: never)")
    parser.add_argument("--keep-repeats", action="store_true", help="an item may be twice in a session")
    parser.add_argument("--min-item-count", type=int, default=1, help="rarer items go (default: 1)")
    parser.add_argument("--min-session-length", type=int, default=2, help="shorter ones go (default: 2)")
    parser.add_argument(
        "--longest",
        type=int,
        default=LONGEST_SESSION,
        help=f"a session counts by its last ones (default: {LONGEST_SESSION})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split by user")
    args = parser.parse_args(argv)
    # What is left has the names of convert's own arguments.
    choices = {name: value for name, value in vars(args).items() if name not in ("log", "output", "to")}
    if args.test_log and (args.split, args.test_share) != ("user", 0.1):
        parser.error("--test-log is the test file: leave out --split and --test-share")
    if args.to and any(value != parser.get_default(name) for name, value in choices.items()):
        parser.error("--to goes with --output alone")
    try:
        if args.to:
            written = export(args.log, args.output, args.to)
            print("\n".join(map(str, written)))
        else:
            print(convert(args.log, args.output, **choices, progress=True))
    except (ValueError, OSError) as error:
        print(f"convert.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
