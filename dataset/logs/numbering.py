"""Numbers of items: the integers of the log itself, new ones, or those of an earlier `items.csv` continued."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from dataset.files import quote_cell, read_items
from dataset.logs.opening import ConvertError
from dataset.logs.read_log import are_integers
from dataset.logs.sessionize import SessionLog

_LARGEST = 10**18 - 1  # see `dataset.files.read_items`


def number_items(
    log: SessionLog, items: pl.Series, old: str | Path | None
) -> tuple[SessionLog, list[str], list[tuple]]:
    """Replace the indices into `items` by indices into the items in use.

    Returns the log, the ids of the items in use, and the rows (id, name) of the new `items.csv`.

    old: an `items.csv`, whose items keep their ids. It is also part of the new one, so that it can be continued again.
    """
    used = np.unique(log.item)
    names = items.gather(used).to_list()
    log = log._replace(item=np.searchsorted(used, log.item))
    if old is None:
        ids = names if are_integers(items) else [str(number) for number in range(1, len(used) + 1)]
        return log, ids, [*zip(ids, names, strict=True)]
    known = read_numbering(old)
    if not known.keys() & set(names):
        raise ConvertError(f"{old}: has none of the {len(names)} items of the log; is it the items.csv of another log?")
    new = [name for name in names if name not in known]
    known.update(zip(new, _new_ids(known, new, old), strict=True))
    return log, [str(known[name]) for name in names], sorted((number, name) for name, number in known.items())


def read_numbering(path: str | Path) -> dict[str, int]:
    """Item name -> id, from an `items.csv`. Raises DataError or ConvertError."""
    names = {name: number for number, name in read_items(path).items()}
    if not names:
        raise ConvertError(f"{path}: has no items; name the items.csv of an earlier conversion")
    return names


def _new_ids(known: dict[str, int], new: list[str], path: str | Path) -> list[int]:
    """Ids of new items: the names themselves if all names are integers and were the ids before, or the next numbers."""
    if all(name == str(number) for name, number in known.items()) and are_integers(pl.Series(new, dtype=pl.String)):
        return [int(name) for name in new]
    first = max(known.values()) + 1
    if first + len(new) - 1 > _LARGEST:
        raise ConvertError(f"{path}: the ids are too large to be continued; convert the log without --items")
    return [*range(first, first + len(new))]


def write_items(path: str | Path, rows: list[tuple]) -> None:
    """Write `items.csv`."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write("id,item\n")
        file.writelines(f"{number},{quote_cell(name)}\n" for number, name in rows)
