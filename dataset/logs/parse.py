"""Parse blocks of text lines into frames of cells.

Frames have the columns `line` (from 1), `0`, `1`, ... with the cells as text (null if empty), and `excess`: the first
cell beyond the width of the first line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from dataset.logs.formats import TextFormat
from dataset.logs.opening import LONGEST_LINE, ConvertError, read_blocks

_UNIT = b"\x1f"  # stands for a separator of several bytes; no text has it
_QUOTED = (",", ";")  # elsewhere quotes are text, as in the files of RecBole and session-rec


def parse_log(path: Path, form: TextFormat) -> Iterator[pl.DataFrame]:
    """The rows of a log, without its header, in frames. Raises ConvertError, naming the line."""
    skip, rest, rest_line = int(form.has_header), b"", 0
    for line, block in read_blocks(path):
        if not block.endswith(b"\n"):
            _check_is_whole(path, line, block, form)
            block += b"\n"
        if rest:
            line, block = rest_line, rest + block
        if form.separator in _QUOTED and b'"' in block:
            frame, rest, rest_line = _parse_quoted(path, block, form, line)
        else:
            frame, rest = _parse_plain(path, block, form, line), b""
        frame = frame[skip:].with_columns(_clean(pl.col(pl.String)))
        skip = 0
        yield frame
    if rest:
        raise _quote_error(path, rest_line)


def _check_is_whole(path: Path, line: int, text: bytes, form: TextFormat) -> None:
    """Raise ConvertError if the last line of a file, which has no line end, has too few cells: the file is cut off."""
    cells = text.split() if form.separator == " " else text.split(form.separator.encode())
    if len(cells) < form.width and b'"' not in text and "items" not in form.columns:
        raise ConvertError(
            f"{path}, line {line}: the last line has {len(cells)} cells instead of {form.width} and no line end, so "
            "the file is cut off; get it again, or remove this line"
        )


def _clean(cell: pl.Expr) -> pl.Expr:
    cell = cell.str.strip_chars(" ")
    return pl.when(cell != "").then(cell)


def _parse_plain(path: Path, block: bytes, form: TextFormat, line: int) -> pl.DataFrame:
    """Parse lines that have no quotes, or in which quotes are text."""
    separator = form.separator
    if "items" in form.columns:
        return _parse_lists(block, form, line)
    if separator == " ":
        block, separator = _join_blanks(block), "\x1f"
    elif len(separator) > 1:
        block, separator = block.replace(separator.encode(), _UNIT), "\x1f"
    names = [*map(str, range(form.width)), "excess"]
    try:
        return pl.read_csv(
            io.BytesIO(block),
            has_header=False,
            schema=dict.fromkeys(names, pl.String()),
            missing_columns="insert",
            truncate_ragged_lines=True,
            separator=separator,
            quote_char=None,
            row_index_name="line",
            row_index_offset=line,
        )
    except pl.exceptions.PolarsError:
        last = line + block.count(b"\n") - 1
        raise ConvertError(
            f"{path}, lines {line} to {last}: these lines cannot be parsed; look for odd bytes"
        ) from None


def _join_blanks(block: bytes) -> bytes:
    """Make each run of blanks or tabs one separator."""
    return re.sub(rb"[ \t]+", _UNIT, re.sub(rb"[ \t\r]+$|^[ \t]+", b"", block, flags=re.MULTILINE))


def _parse_lists(block: bytes, form: TextFormat, line: int) -> pl.DataFrame:
    """Parse lines of which the last column, `items`, is all the rest."""
    block = _join_blanks(block) if form.separator == " " else block
    rows = pl.Series(block.decode().split("\n")[:-1], dtype=pl.String).str.strip_chars("\r")
    cells = rows.str.split("\x1f" if form.separator == " " else form.separator)
    return _frame_of_lists(pl.Series(range(line, line + len(rows)), dtype=pl.UInt32), cells, form)


def _frame_of_lists(numbers: pl.Series, cells: pl.Series, form: TextFormat) -> pl.DataFrame:
    last = form.width - 1
    named = {str(index): cells.list.get(index, null_on_oob=True) for index in range(last)}
    items = cells.list.slice(last).list.eval(pl.element().str.strip_chars(" "))
    named |= {str(last): items, "excess": pl.Series([None] * len(cells), dtype=pl.String)}
    return pl.DataFrame({"line": numbers, **named})


def _parse_quoted(path: Path, block: bytes, form: TextFormat, line: int) -> tuple[pl.DataFrame, bytes, int]:
    """Parse lines with quoted cells. Also returns an unfinished record at the end of the block, and its line."""
    lines = block.decode().split("\n")[:-1]
    reader = csv.reader((f"{text}\n" for text in lines), delimiter=form.separator, skipinitialspace=True, strict=True)
    rows, numbers, done = [], [], 0
    limit = csv.field_size_limit(LONGEST_LINE)
    try:
        for row in reader:
            if reader.line_num > done + 1 and len(row) != form.width and "items" not in form.columns:
                raise _quote_error(path, line + done)
            rows.append(row)
            numbers.append(line + done)
            done = reader.line_num
    except csv.Error as error:
        rest = "\n".join([*lines[done:], ""]).encode()
        if "unexpected end" not in str(error) or len(rest) > LONGEST_LINE:
            raise _quote_error(path, line + done) from None
        return _make_frame(rows, numbers, form), rest, line + done
    finally:
        csv.field_size_limit(limit)
    return _make_frame(rows, numbers, form), b"", 0


def _make_frame(rows: list[list[str]], numbers: list[int], form: TextFormat) -> pl.DataFrame:
    if "items" in form.columns:
        return _frame_of_lists(pl.Series(numbers, dtype=pl.UInt32), pl.Series(rows, dtype=pl.List(pl.String)), form)
    width = form.width + 1
    padded = [row[:width] if len(row) >= width else row + [None] * (width - len(row)) for row in rows]
    columns = zip(*padded, strict=True) if padded else [[]] * width
    names = [*map(str, range(form.width)), "excess"]
    frame = {name: pl.Series(column, dtype=pl.String) for name, column in zip(names, columns, strict=True)}
    return pl.DataFrame({"line": pl.Series(numbers, dtype=pl.UInt32), **frame})


def _quote_error(path: Path, line: int) -> ConvertError:
    return ConvertError(
        f"{path}, line {line}: a quote opens a cell and is not closed at its end; close it, and double quotes that "
        "belong to the name"
    )
