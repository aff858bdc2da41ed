"""Formats of text logs: the separator, the header, and the columns of the user, the item and the time.

To support another header, add its names to COLUMNS; another log without a header, a function to HEADERLESS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from dataset.logs.opening import ConvertError, read_sample, split_quoted
from dataset.logs.times import NAMES, find_unit, is_date, is_number

# The names that a header may give to each column: in small letters, without blanks, `_` and `:type`. The first match
# counts, so a session column takes precedence over a user column.
COLUMNS = {
    "user": (
        "sessionid", "session", "usersession", "userid", "user", "visitorid", "customerid", "reviewerid", "uid",
    ),
    "item": ("parentasin", "asin", "itemid", "item", "movieid", "productid", "articleid", "iid"),
    "timestamp": (
        "timestamp", "time", "eventtime", "datetime", "unixreviewtime", "ts", "eventdate", "date", "tdat",
    ),
    "timeframe": ("timeframe",),  # Diginetica: milliseconds within the session, added to `eventdate`
    "history": ("itemidlist",),  # RecBole: the items before `item`, separated by blanks
    "items": ("items",),  # the rest of the line, only in --columns and in logs without a header
}  # fmt: skip
# Other columns that a log may have beside a user and an item if it has no time. Any other name could be a time.
NO_TIMES = {"", "rating", "score", "stars", "event", "count", "index"}
SEPARATORS = ("\t", "::", ",", ";", " ")
SAMPLE_ROWS = 1000  # rows that are read to detect the format
# An Amazon item: B and nine more characters, or the ISBN of a book.
_ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]", re.ASCII)


class TextFormat(NamedTuple):
    """How the rows of a text log are written.

    width: number of cells in the first line. columns: the index of each key of COLUMNS that the log has.
    unit: of the times, see `times.UNITS`. note: what was assumed, one line.
    """

    separator: str
    has_header: bool
    width: int
    columns: dict[str, int]
    unit: str
    note: str


def detect_format(path: Path, columns: str | None = None, unit: str | None = None) -> TextFormat:
    """Detect the format of a text log from its first rows. `columns` and `unit` are used instead of what is found."""
    lines = read_sample(path, SAMPLE_ROWS)
    separator, rows = _split_lines(lines)
    if not rows or any("\n" in cell for cell in rows[0]):
        raise ConvertError(f"{path}, line 1: a quote opens a cell and is not closed at its end; close it")
    numbered, has_header = _has_numbers_as_header(rows[0], separator), _has_header(rows)
    body = [row for row in rows[1 if numbered or has_header else 0 :] if row]
    kind, names, guessed = "", rows[0], not has_header and columns is None
    if guessed:
        skipped = int(numbered and rows[0][0] == "")  # the index of a pandas frame
        kind, names = _guess_columns(path, [row[skipped:] for row in body], separator)
        names = [*[""] * skipped, *names]
    found = find_columns(path, names, columns)
    names = columns.split(",") if columns else names
    times = [row[found["timestamp"]] for row in body if "timestamp" in found and len(row) > found["timestamp"]]
    unit = unit or find_unit(pl.Series(times, dtype=pl.String))
    what = [kind] if kind else []
    written = "a blank" if separator == " " else "a tab" if separator == "\t" else f"`{separator}`"
    what.append(f"cells separated by {written}")
    header = "line 1 is the header" if has_header else "no header"
    what.append(f"line 1 ({separator.join(rows[0])}) is a header without names" if numbered else header)
    labels = [f"column {index + 1}" for index in range(len(names))] if columns or guessed else names
    width = len(names) if "items" in found else len(rows[0])
    note = f"{path.name}: {', '.join(what)}; {describe_columns(found, labels, unit)}"
    return TextFormat(separator, has_header or numbered, width, found, unit, note)


def describe_columns(found: dict[str, int], labels: list[str], unit: str) -> str:
    """Which column is what, for the line that tells what was assumed."""
    said = [f"{key} = {labels[index]}" for key, index in found.items() if key not in ("timestamp", "timeframe")]
    if "timestamp" not in found:
        return ", ".join([*said, "no time: the order of the file"])
    time = f"time = {labels[found['timestamp']]} ({NAMES[unit]})"
    if "timeframe" in found:
        time += f" + {labels[found['timeframe']]} (milliseconds)"
    return ", ".join([*said, time])


# --------------------------------------------------------------------------------------------------
# Separator and header


def _split_lines(lines: list[str]) -> tuple[str, list[list[str]]]:
    """The separator, and the cells of the lines: a tab, `::`, a comma, a semicolon or blanks.

    It cuts nearly all lines into as many cells as the first one. If several do, tabs come first, then the separator
    with the most cells, blanks last.
    """
    best: tuple = ()
    for place, separator in enumerate(SEPARATORS):
        rows = _cells(lines, separator)
        if not rows or len(rows[0]) < 2:
            continue
        regular = sum(len(row) in (0, len(rows[0])) for row in rows) >= 0.9 * len(rows)
        rank = (regular, separator == "\t", separator != " ", len(rows[0]), -place)
        if not best or rank > best[0]:
            best = (rank, separator, rows)
    return best[1:] if best else (",", _cells(lines, ","))


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    if separator in (",", ";"):
        return split_quoted(lines, separator)
    if separator == " ":
        return [line.split() for line in lines]
    return [[cell.strip(" ") for cell in line.rstrip("\r").split(separator)] if line.strip() else [] for line in lines]


def _has_numbers_as_header(first: list[str], separator: str) -> bool:
    """Whether the first line is 0,1,2: the header of a pandas frame without names, perhaps behind a blank one."""
    names = first[1:] if first[0] == "" else first
    return separator != " " and len(names) > 1 and names == [str(index) for index in range(len(names))]


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names two columns of COLUMNS, or has text where the rows below have a number or a date."""
    first, below = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    names = {_normalize(cell) for cell in first}
    if sum(any(alias in names for alias in aliases) for aliases in COLUMNS.values()) >= 2:
        return True
    if any(map(_is_time, first)):
        return False
    return any(2 * sum(map(_is_time, column)) > len(column) for column in zip(*below, strict=True))


# --------------------------------------------------------------------------------------------------
# Columns


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]", "", name.split(":")[0].lower())


def find_columns(path: str | Path, names: list[str], columns: str | None = None) -> dict[str, int]:
    """The index of each key of COLUMNS, found among the names of the header or of `columns`."""
    if columns is not None:
        width, names = len(names), columns.split(",")
        if len(names) != width and _normalize(names[-1]) != "items":
            raise ConvertError(f"{path}: there are {width} columns, but --columns {columns} names {len(names)}")
    normalized = [_normalize(name) for name in names]
    found = {}
    for column, aliases in COLUMNS.items():
        if matches := [normalized.index(alias) for alias in aliases if alias in normalized]:
            found[column] = matches[0]
    if found.get("items", len(names) - 1) != len(names) - 1:
        raise ConvertError(f"{path}: --columns {columns}: `items` is the rest of the line; name it last")
    if "items" in found:
        found.pop("item", None)
    if "timestamp" not in found or normalized[found["timestamp"]] != "eventdate":
        found.pop("timeframe", None)
    others = {name for index, name in enumerate(normalized) if index not in found.values()}
    timeless = "items" in found or "history" in found or others <= NO_TIMES
    for column in ("user", "item", "timestamp"):
        if column in found or (column == "item" and "items" in found) or (column == "timestamp" and timeless):
            continue
        where = f"--columns {columns}" if columns else f"the columns are {','.join(names)[:80]}"
        raise ConvertError(
            f"{path}: there is no column `{column}` ({where}); "
            "name the columns, for example with --columns user,item,rating,timestamp: a word for each column, in the "
            "order of the file, and - for one that is not read"
        )
    return found


def names_items(names: list[str]) -> bool:
    """Whether a header has a column for the items of a log."""
    return not {*map(_normalize, names)}.isdisjoint(COLUMNS["item"] + COLUMNS["history"])


# --------------------------------------------------------------------------------------------------
# Logs without a header: each function returns the names of the columns if the rows look like its format


def _share(rows: list[list[str]], index: int, test: Callable[[str], bool]) -> float:
    return sum(test(row[index]) for row in rows) / len(rows) if rows else 0.0


def _is_asin(cell: str) -> bool:
    return _ASIN.fullmatch(cell) is not None


def _is_rating(cell: str) -> bool:
    return is_number(cell) and 0 <= float(cell) <= 10


def _is_recent(cell: str) -> bool:
    """Whether a time in seconds lies after 1980."""
    return is_number(cell) and float(cell) > 315_532_800


def _is_time(cell: str) -> bool:
    return is_number(cell) or is_date(cell)


def _triples(rows: list[list[str]], separator: str) -> list[str] | None:
    return ["user", "item", "timestamp"] if len(rows[0]) == 3 else None


def _amazon(rows: list[list[str]], separator: str) -> list[str] | None:
    """The user comes first in the files of 2014, the item in those of 2018."""
    if len(rows[0]) != 4:
        return None
    first, second = (_share(rows, index, _is_asin) for index in (0, 1))
    names = ("item", "user") if first > second else ("user", "item")
    return [*names, "rating", "timestamp"] if first != second else None


def _movielens(rows: list[list[str]], separator: str) -> list[str] | None:
    """`u.data` has tabs, `ratings.dat` has `::`."""
    fits = separator in ("\t", "::") and len(rows[0]) == 4
    if fits and _share(rows, 2, _is_rating) > 0.9 and _share(rows, 3, _is_recent) > 0.9:
        return ["user", "item", "rating", "timestamp"]
    return None


def _yoochoose(rows: list[list[str]], separator: str) -> list[str] | None:
    """Clicks: session, time, item, category. Buys: session, time, item, price, quantity."""
    if len(rows[0]) in (4, 5) and _share(rows, 1, is_date) > 0.9:
        return ["session", "timestamp", "item", *["-"] * (len(rows[0]) - 3)]
    return None


def _pairs(rows: list[list[str]], separator: str) -> list[str] | None:
    return ["user", "item"] if len(rows[0]) == 2 else None


def _lines(rows: list[list[str]], separator: str) -> list[str] | None:
    """A user and its items on each line, so that lines have different lengths."""
    lengths = Counter(map(len, rows)).most_common(1)[0][1]
    return ["user", "items"] if separator == " " and lengths < 0.9 * len(rows) else None


HEADERLESS = {
    "S3-Rec lines": _lines,
    "Yoochoose": _yoochoose,
    "MovieLens ratings": _movielens,
    "Amazon ratings": _amazon,
    "user-item-time triples": _triples,
    "SASRec pairs": _pairs,
}


def _guess_columns(path: Path, rows: list[list[str]], separator: str) -> tuple[str, list[str]]:
    """The name of the format and the columns of a log without a header, from its first rows."""
    if not rows:
        raise ConvertError(f"{path}: the log contains no interactions; save it with its rows")
    rows = [row for row in rows if len(row) == len(rows[0])] if not _lines(rows, separator) else rows
    for kind, guess in HEADERLESS.items():
        if names := guess(rows, separator):
            return kind, names
    raise ConvertError(
        f"{path}: there is no header, and the {len(rows[0])} columns do not show which one contains the items; "
        "add --columns user,item,rating,timestamp or --columns item,user,rating,timestamp"
        + (", or --columns user,items if each line is a user and its items" if separator == " " else "")
    )
