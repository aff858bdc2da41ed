"""Read the files of a dataset strictly, and write files atomically.

A dataset is a folder with `train_sessions.csv` (`session,label`, and optionally `user`), `test_sessions.csv`
(`session`, and optionally `label`), and optionally `items.csv` (`id,item`). Cells are matched against a pattern and
never evaluated.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset.options import checked
from dataset.parts import part_file
from dataset.sessions import DataError, Sessions, offsets_of

ROOT = Path(__file__).resolve().parent.parent

LONGEST_LINE = 1 << 24  # bytes: a session of a million items
# 18 digits always fit into int64.
_ID = re.compile(r"\s*[0-9]{1,18}\s*", re.ASCII)
_LIST = re.compile(r"\s*\[\s*[0-9]{1,18}\s*(?:,\s*[0-9]{1,18}\s*)*\]\s*", re.ASCII)


# --------------------------------------------------------------------------------------------------
# Reading


class Table(NamedTuple):
    """A session file as text. fail(row, reason) raises a DataError for a row; the first one below the header is 1."""

    header: list[str]
    rows: list[list[str]]
    fail: Callable[[int, str], None]

    def column(self, name: str) -> list[str]:
        index = self.header.index(name)
        return [cells[index] for cells in self.rows]


def read_table(path: str | Path, *, labels: bool) -> Table:
    """Read a CSV file with a column `session` strictly. labels: require a column `label`, too. Raises DataError."""
    path = Path(path)
    text = _read_text(path)

    def fail(row: int, reason: str):
        raise DataError(path, _line_of_row(text, row), reason)

    header, rows = _header_and_rows(path, _read_csv(path, text), fail, labels=labels)
    if not text.endswith(("\n", "\r")):
        warnings.warn(f"{path}: no line end after the last row; is the file complete?", stacklevel=3)
    return Table(header, rows, fail)


@checked
def read_sessions(path: str | Path, *, labels: bool | None = None) -> Sessions:
    """Read one session file strictly.

    labels: True requires the `label` column and reads the `user` column if it exists, as for a training file; None
    reads the labels if they exist; False ignores them. Users may have any names: they are numbered in sorted order.
    Raises DataError (file, line, reason) if a session is not a list of non-negative integers, a label that is read
    is not such an integer or a user has no name, if a column is missing, or if the file is empty, incomplete or not
    UTF-8.
    """
    return sessions_of(read_table(path, labels=bool(labels)), labels=labels)


def sessions_of(table: Table, *, labels: bool | None = None) -> Sessions:
    """The sessions of a file, see `read_sessions`."""
    lists, fail = table.column("session"), table.fail
    for row, cell in enumerate(lists, 1):
        if not _LIST.fullmatch(cell):
            fail(row, _describe_bad_session(cell))
    flat = ",".join(lists).replace("[", "").replace("]", "")
    lengths = np.fromiter((cell.count(",") + 1 for cell in lists), np.int64, len(lists))
    sessions = Sessions(np.fromstring(flat, np.int64, sep=","), offsets_of(lengths))
    if labels is False or "label" not in table.header:
        return sessions
    label_cells = table.column("label")
    for row, cell in enumerate(label_cells, 1):
        if not _ID.fullmatch(cell):
            fail(row, f"the label {short(cell)} is not an item id" if cell.strip() else "the label is missing")
    sessions = replace(sessions, labels=np.fromstring(",".join(label_cells), np.int64, sep=","))
    if not labels or "user" not in table.header:
        return sessions
    return replace(sessions, users=_number_names([cell.strip() for cell in table.column("user")], fail))


def _number_names(names: list[str], fail: Callable) -> np.ndarray:
    """(R,) the index of each user among the sorted names. Integers are sorted by value."""
    if "" in names:
        fail(names.index("") + 1, "the user is missing")
    distinct = set(names)
    by_value = all(_ID.fullmatch(name) for name in distinct)
    ordered = sorted(distinct, key=(lambda name: (int(name), name)) if by_value else None)
    number = {name: n for n, name in enumerate(ordered)}
    return np.fromiter((number[name] for name in names), np.int64, len(names))


def _header_and_rows(
    path: Path, rows: list[list[str]], fail: Callable, *, labels: bool
) -> tuple[list[str], list[list[str]]]:
    """The column names, and the rows below the header. Checks that there are rows, each as wide as the header."""
    header, body = [name.strip() for name in rows[0]], rows[1:]
    for name in ("session", "label", "user"):
        if header.count(name) > 1:
            raise DataError(path, 1, f"has the column `{name}` more than once")
        if name not in header and (name == "session" or labels and name == "label"):
            raise DataError(path, 1, f"has no column `{name}` (its header is {short(','.join(header))})")
    while body and not body[-1]:  # blank lines at the end are allowed
        body.pop()
    if not body:
        raise DataError(path, None, "has a header but no rows")
    for row, cells in enumerate(body, 1):
        if len(cells) != len(header):
            if "label" in header and 0 < len(cells) == header.index("label"):
                fail(row, "the label is missing")
            fail(row, f"has {len(cells)} cells where the header has {len(header)}")
    return header, body


@checked
def read_items(path: str | Path) -> dict[int, str]:
    """Item id -> item name, from the `items.csv` (`id,item`) that `dataset/convert.py` writes.

    Raises DataError (file, line, reason) for other columns, an id or a name that occurs twice, and what is no id.
    """
    path = Path(path)
    text = _read_text(path)
    header, *body = _read_csv(path, text)
    if header != ["id", "item"]:
        found = short(",".join(header))
        raise DataError(path, 1, f"must have the columns id,item, as dataset/convert.py writes it, not {found}")
    names: dict[int, str] = {}
    ids: dict[str, int] = {}
    for row, cells in enumerate(body, 1):
        reason = ""
        if len(cells) != 2 or not _ID.fullmatch(cells[0]) or int(cells[0]) in names:
            reason = "must have an id that no other row has, and a name; correct it, or convert the log again"
        elif cells[1] in ids:
            both = f"{ids[cells[1]]} and {int(cells[0])}"
            reason = f"the item {short(cells[1])} has two ids, {both}; remove one, or convert the log again"
        if reason:
            raise DataError(path, _line_of_row(text, row), reason)
        names[int(cells[0])] = cells[1]
        ids[cells[1]] = int(cells[0])
    return names


def _read_text(path: Path) -> str:
    """The text of a file. Raises DataError before a file of another kind can fill the memory."""
    blocks = []
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
            raise DataError(path, None, "is a pipe or a device; save it as a file")
        with open(path, "rb") as file:
            while block := file.read(LONGEST_LINE):
                if len(block) == LONGEST_LINE and b"\n" not in block:
                    line = sum(block.count(b"\n") for block in blocks) + 1
                    raise DataError(path, line, f"is longer than {LONGEST_LINE:,} bytes; is this a file of sessions?")
                blocks.append(block)
    except OSError as error:
        raise DataError(path, None, f"cannot be read ({error.strerror})") from None
    raw = b"".join(blocks)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(path, line, "is not UTF-8 text; save the file as UTF-8") from None


def _read_csv(path: Path, text: str) -> list[list[str]]:
    if not text.strip():
        raise DataError(path, None, "is empty")
    csv.field_size_limit(2**31 - 1)  # sessions may be long
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return list(reader)
    except csv.Error as error:
        line, reason = _find_csv_error(text), str(error)
        if "unexpected end" in reason:
            reason = "a quote opens a cell and is never closed"
        raise DataError(path, line, f"is not valid CSV, or is incomplete ({reason})") from None


def _find_csv_error(text: str) -> int:
    """The first line of the record that is not valid CSV. Computed only to report an error."""
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for _ in reader:
            line = reader.line_num + 1
    except csv.Error:
        pass
    return line


def _line_of_row(text: str, row: int) -> int:
    """The first line of a record (0 is the header). Computed only to report an error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for _ in range(row):
        next(reader)
    return reader.line_num + 1


def _describe_bad_session(cell: str) -> str:
    """The reason why a cell is not a list of item ids."""
    text = cell.strip()
    if text.startswith("[") and text.endswith("]"):
        if not text[1:-1].strip():
            return "the session is an empty list"
        for item in text[1:-1].split(","):
            if not _ID.fullmatch(item):
                if item.strip().isdecimal() and item.isascii():
                    return f"the id {short(item.strip())} has more than 18 digits"
                return f"the session contains {short(item.strip())}, which is not an item id (0, 1, 2, ...)"
    return f"the session {short(cell)} is not a list such as [1, 2]"


def short(text: str, limit: int = 40) -> str:
    """The text in quotes for a message, cut off if it is long."""
    return repr(text if len(text) <= limit else text[:limit] + "...")


# --------------------------------------------------------------------------------------------------
# Writing


def quote_cell(text: str) -> str:
    """A cell as the csv module writes it, and with a carriage return in quotes, as it does from Python 3.13 on."""
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


def check_outputs(outputs: Sequence[str | Path], inputs: Sequence[str | Path] = ()) -> None:
    """Refuse to write over an input, over another output, or over anything that is no regular file.

    Raises ValueError or OSError; the message names the file. Commands call it before they start to work.
    """
    for i, output in enumerate(outputs):
        _regular_target(Path(output))
        if any(_is_same_file(output, file) for file in inputs):
            raise ValueError(f"{output} would replace an input file; name another file")
        if any(_is_same_file(output, other) for other in outputs[:i]):
            raise ValueError(f"{output} is named for two outputs; name another file")


def _is_same_file(a: str | Path, b: str | Path) -> bool:
    try:
        return os.path.samefile(a, b)  # also over links and on file systems that ignore case
    except OSError:  # one of them does not exist yet
        return os.path.realpath(a) == os.path.realpath(b)


def _regular_target(path: Path) -> Path:
    """The file that writing to `path` replaces: itself, or the regular file that a link leads to. Raises OSError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(f"{path} is a link to a file that does not exist; name another file") from None
        return path
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror})") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise OSError(f"{path} is {what}; name a file")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which replaces `path` if the block ends without an error.

    Whatever goes wrong, the old file stays as it was. The temporary files that killed runs left for `path` are
    removed first. Raises OSError, which names the file: for a full disk, a read-only folder, and for a `path` that is
    a device, a pipe or a link to one. A link to a file is followed.
    """
    path = _regular_target(Path(path))
    part = None
    try:
        with part_file(path) as part:
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            part.chmod(0o666 & ~umask)  # part_file makes the file readable by its owner only
            part.replace(_regular_target(path))
    except OSError as error:
        if error.strerror and (part is None or error.filename in (None, str(part), str(path))):
            raise OSError(f"{path} cannot be written ({error.strerror})") from error
        raise
