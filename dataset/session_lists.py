"""CSV files whose column `session` holds lists: of ids such as [1, 2], or of names such as ["sku-14", "sku-16"]."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

from dataset.files import Table, read_table, sessions_of, short
from dataset.logs.formats import SEPARATORS, names_items
from dataset.sessions import Sessions

_SAMPLE = 1 << 20  # bytes that are read to tell a list file from a log
_BINARY = (b"\x1f\x8b", b"PK\x03\x04", b"PAR1")  # gzip, zip, Parquet: only logs are read from these
_NAMES = re.compile(r'\s*\[\s*"')


class NamedSessions(NamedTuple):
    """R sessions whose items are names, with the names of their labels if they were asked for.

    users: of a log, the user or session of each row. notes: of a log, how it was read, one line each.
    """

    sessions: list[list[str]]
    labels: list[str] | None = None
    users: list[str] | None = None
    notes: tuple[str, ...] = ()


def is_list_file(path: str | Path) -> bool:
    """Whether a file is to be read by `read_lists`, and not as a log.

    It has a column `session`, and a cell of it that begins with `[`, or no column for items. A file that has no
    columns at all, is no regular file or cannot be read counts, too: `read_lists` says what is wrong with it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            return True
        with open(path, "rb") as file:
            start = file.read(_SAMPLE)
    except OSError:
        return True
    if start.startswith(_BINARY):
        return False
    text = start.decode("utf-8-sig", errors="replace")
    header, *rows = _sample_rows(text) or [[]]
    header = [name.strip() for name in header]
    if "session" not in header:
        first_line = text.lstrip("\r\n").split("\n")[0].strip()
        return not any(separator in first_line for separator in SEPARATORS)
    cells = (row[header.index("session")] for row in rows if len(row) > header.index("session"))
    return not names_items(header) or any(cell.lstrip().startswith("[") for cell in cells)


def _sample_rows(text: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:  # found again, with its line, when the file is read
        pass
    return rows


def read_lists(path: str | Path, *, labels: bool = False) -> Sessions | NamedSessions:
    """Read a CSV file with lists of ids or of names, strictly. The first list shows which of the two it has.

    labels: read the column `label`, too: an id, or a name as it is. Raises DataError (file, line, reason).
    """
    table = read_table(path, labels=labels)
    cells = table.column("session")
    first = next((cell for cell in cells if cell.strip(" []")), "")
    if not _NAMES.match(first):
        return sessions_of(table, labels=labels)
    sessions = [_read_names(cell, row, table) for row, cell in enumerate(cells, 1)]
    if not labels:
        return NamedSessions(sessions)
    label_cells = table.column("label")
    if "" in label_cells:
        table.fail(label_cells.index("") + 1, "the label is missing")
    return NamedSessions(sessions, label_cells)


def _read_names(cell: str, row: int, table: Table) -> list[str]:
    """The names in a cell, a JSON list of text."""
    try:
        names = json.loads(cell)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list):
        table.fail(row, f'the session {short(cell)} is not a list of names such as ["a", "b"]')
    if not names:
        table.fail(row, "the session is an empty list")
    for name in names:
        if not isinstance(name, str):
            table.fail(row, f"the session contains {short(json.dumps(name))}, which is not a name in quotes")
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        table.fail(row, f"the session {short(cell)} contains half a character (\\ud800 to \\udfff); correct the name")
    return names
