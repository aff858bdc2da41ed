"""Logs whose rows hold lists of items: one row for each item, and prefix rows folded into the longest one.

Shapes:  N interactions, R rows of the log.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl


def expand_lists(frame: pl.DataFrame, lists: pl.Series) -> pl.DataFrame:
    """A row for each item of a row's list, then one for the row's own `item`, if the frame has that column.

    A list is text with blanks between the items, or a column of lists. Integers may be written as [1, 2].
    """
    if lists.dtype.is_nested():
        lists = lists.cast(pl.List(pl.String)).list.eval(pl.element().filter(pl.element() != ""))
    else:
        lists = lists.cast(pl.String)
        if lists.str.contains(r"^\[[0-9, ]*\]$").any():
            lists = lists.str.replace_all(r"[\[\], ]+", " ")
        lists = lists.str.split(" ").list.eval(pl.element().filter(pl.element() != ""))
    frame = frame.with_columns(lists.alias("list"))
    if "item" in frame.columns:
        # A missing item stays missing, so that it is found.
        frame = frame.with_columns(pl.concat_list(pl.col("list").fill_null([]), "item").alias("list"))
        frame = frame.drop("item")
    missing = pl.lit(pl.Series([[None]], dtype=pl.List(pl.String)))  # an empty list would vanish without an error
    items = pl.when(pl.col("list").list.len() > 0).then("list").otherwise(missing).alias("item")
    return frame.with_columns(items).drop("list").explode("item")


def fold_prefixes(user: np.ndarray, item: np.ndarray, row: np.ndarray, log: np.ndarray) -> tuple[np.ndarray, int]:
    """(N,) bool: the interactions to keep, and the number of rows that are dropped.

    A row is dropped if another row's history is this whole row: it is the same session, one step earlier. So the rows
    [1] -> 2 and [1, 2] -> 3 become the session 1, 2, 3. If users have several rows, only rows of the same user are
    compared; otherwise each row has a number of its own as user, and all rows of a log are compared.

    user, item, row (N,): the interactions, those of a row one after another.
    log (N,): the number of each interaction's log; rows of -1 stay.
    """
    starts = np.flatnonzero(np.r_[True, (row[1:] != row[:-1]) | (user[1:] != user[:-1])])
    ends = np.r_[starts[1:], len(row)]
    fits = log[starts] >= 0
    several = len(np.unique(user[starts[fits]])) < fits.sum()
    owners = (user if several else log)[starts].tolist()
    cells = np.ascontiguousarray(item, np.int32)
    bounds = [*zip(owners, starts.tolist(), ends.tolist(), fits.tolist(), strict=True)]
    continued = Counter((owner, cells[start : end - 1].tobytes()) for owner, start, end, fit in bounds if fit)
    keep = np.ones(len(starts), bool)
    for index, (owner, start, end, fit) in enumerate(bounds):
        key = (owner, cells[start:end].tobytes())
        if fit and continued[key] > 0:
            continued[key] -= 1
            keep[index] = False
    return np.repeat(keep, ends - starts), int((~keep).sum())
