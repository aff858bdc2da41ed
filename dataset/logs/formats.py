"""Formats of text logs: the separator, the header, and the columns of the user, the item and the time.

To support another header, add its names to COLUMNS; another log without a header, to `_guess_columns`.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import polars as pl

# The names that a header may give to each column, in lower case, without `_` and `:type`. The first match
# counts, so a session column takes precedence over a user column.
COLUMNS = {
    "user": ("sessionid", "session", "userid", "user"),
    "item": ("parentasin", "asin", "itemid", "item"),
    "timestamp": ("timestamp", "time"),
}
SAMPLE_ROWS = 1000  # rows that are read to detect the format
# An Amazon item: B and nine more characters, or the ISBN of a book.
_ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]", re.ASCII)


class ConvertError(ValueError):
    """A log or an option cannot be used. The message gives the file, the reason and often a remedy."""


class TextFormat(NamedTuple):
    """How the rows of a text log are written. `columns` holds the index of each key of COLUMNS."""

    separator: str
    quote: str | None
    has_header: bool
    width: int  # number of cells in the first line
    columns: dict[str, int]


def detect_format(path: Path, columns: str | None = None) -> TextFormat:
    """Detect the format of a text log from its first rows. `columns` overrides the names of the columns."""
    open_text = gzip.open if path.suffix == ".gz" else open
    with reading(path), open_text(path, "rt", encoding="utf-8-sig", newline="") as file:
        first_line = file.readline(1 << 16)
        if not first_line.strip():
            where = ", line 1: the line" if first_line else ": the file"
            raise ConvertError(f"{path}{where} is empty")
        separator = _find_separator(path, first_line)
        quote = None if separator == "\t" else '"'  # in RecBole and session-rec files, quotes are text
        file.seek(0)
        quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        rows = list(islice(csv.reader(file, delimiter=separator, quoting=quoting), SAMPLE_ROWS))
    # The first line is a header if it contains no number: every row of a log contains a time.
    has_header = not any(map(_is_number, rows[0]))
    names = rows[0] if has_header or columns else _guess_columns(path, rows)
    return TextFormat(separator, quote, has_header, len(rows[0]), find_columns(path, names, columns))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error raised while `path` is read into a ConvertError of one sentence."""
    try:
        yield
    except UnicodeDecodeError:
        raise ConvertError(f"{path}: the file is not UTF-8 text; save it as UTF-8") from None
    except FileNotFoundError:
        raise ConvertError(f"{path}: the file does not exist") from None
    except (OSError, EOFError, zlib.error, csv.Error, pl.exceptions.PolarsError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).split("\n")[0]
        raise ConvertError(f"{path}: the file cannot be read ({reason})") from None


def _find_separator(path: Path, line: str) -> str:
    if "\t" in line:
        return "\t"
    if "," not in line and ";" in line:
        raise ConvertError(f"{path}: the cells are separated by `;`; save the log with commas or tabs")
    return ","


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def find_columns(path: Path, names: list[str], columns: str | None = None) -> dict[str, int]:
    """The index of each key of COLUMNS, found among the names of the header or of `columns`."""
    if columns is not None:
        width, names = len(names), columns.split(",")
        if len(names) != width:
            raise ConvertError(f"{path}: there are {width} columns, but --columns {columns} names {len(names)}")
    normalized = [name.split(":")[0].strip().lower().replace("_", "") for name in names]
    indices = {}
    for column, aliases in COLUMNS.items():
        matches = [normalized.index(alias) for alias in aliases if alias in normalized]
        if not matches:
            where = f"--columns {columns}" if columns else f"the columns are {','.join(names)[:80]}"
            raise ConvertError(
                f"{path}: there is no column `{column}` ({where}); "
                "name the columns, for example with --columns user,item,rating,timestamp"
            )
        indices[column] = matches[0]
    return indices


def _guess_columns(path: Path, rows: list[list[str]]) -> list[str]:
    """The names of the columns of a log without a header, from its first rows."""
    if len(rows[0]) == 3:
        return ["user", "item", "timestamp"]
    # Amazon's ratings: the user comes first in the files of 2014, the item in those of 2018.
    first, second = (sum(bool(_ASIN.fullmatch(row[index])) for row in rows if len(row) == 4) for index in (0, 1))
    if len(rows[0]) == 4 and first != second:
        return [*(("item", "user") if first > second else ("user", "item")), "rating", "timestamp"]
    raise ConvertError(
        f"{path}: there is no header, and the {len(rows[0])} columns do not show which one contains the items; "
        "add --columns user,item,rating,timestamp or --columns item,user,rating,timestamp"
    )
