"""Sessions from a pandas or polars frame of interactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from dataset.files import read_items
from dataset.folders import SessionDataset, read_dataset
from dataset.logs.convert import ConvertOptions, Summary, convert
from dataset.logs.formats import SAMPLE_ROWS, describe_columns
from dataset.logs.opening import ConvertError
from dataset.logs.read_log import Log, make_log
from dataset.logs.times import UNITS, find_unit

ROWS = 1 << 19  # rows that are checked at once


class FrameSessions(NamedTuple):
    """dataset: for `prepare`. items: id -> the item in the frame, as text. summary: what was assumed and removed."""

    dataset: SessionDataset
    items: dict[int, str]
    summary: Summary


def sessions_from_frame(
    frame: Any,
    *,
    user: str,
    item: str,
    time: str | None = None,
    time_unit: str | None = None,
    options: ConvertOptions | None = None,
    items: str | Path | None = None,
    name: str = "frame",
) -> FrameSessions:
    """Turn a pandas or polars frame of interactions into the dataset that `convert` writes for such a log.

        dataset, items, summary = sessions_from_frame(df, user="customer", item="sku", time="bought_at")
        data = prepare(dataset)

    user, item, time: names of the columns. Without a time, the interactions of a user are in the order of the frame.
    time_unit, options, items: as for `convert`. name: the name of the dataset.

    Raises ConvertError for a missing column, a missing value and everything that `convert` refuses.
    """
    log = log_from_frame(frame, user=user, item=item, time=time, time_unit=time_unit, name=name)
    with TemporaryDirectory() as folder:
        summary = convert(log, folder, options, items=items)
        dataset = replace(read_dataset(folder), name=name, folder=Path(name))
        return FrameSessions(dataset, read_items(Path(folder) / "items.csv"), summary)


def log_from_frame(
    frame: Any, *, user: str, item: str, time: str | None = None, time_unit: str | None = None, name: str = "frame"
) -> Log:
    """A frame as a log, for `convert`. Errors call it `name`, and count its rows from 1."""
    if time_unit is not None and time_unit not in UNITS:
        raise ConvertError(f"time_unit={time_unit!r}: choose one of {', '.join(UNITS)}")
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
        raise ConvertError(f"{name}: a {type(frame).__name__} is not a frame; pass a pandas or polars DataFrame")
    wanted = {"user": user, "item": item} | ({} if time is None else {"timestamp": time})
    labels = list(frame.columns)
    if absent := [column for column in wanted.values() if column not in labels]:
        known = ", ".join(map(str, labels))[:200]
        raise ConvertError(f"{name}: there is no column {absent[0]!r}; the columns are {known}")
    columns = [_to_series(frame[column]).alias(str(index)) for index, column in enumerate(wanted.values())]
    table = pl.DataFrame(columns).with_row_index("line", offset=1)
    found = {key: index for index, key in enumerate(wanted)}
    unit = time_unit or (find_unit(columns[-1].head(SAMPLE_ROWS)) if time is not None else "s")
    note = f"{name}: {describe_columns(found, list(map(str, wanted.values())), unit)}"
    return make_log(Path(name), _slices(table), found, unit, note, row="row")


def _slices(table: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for start in range(0, max(len(table), 1), ROWS):
        yield table[start : start + ROWS]


def _to_series(column: Any) -> pl.Series:
    """A column of either library as a polars column. Floats that are all integers become integers, as ids are."""
    if not isinstance(column, pl.Series):
        if getattr(column, "ndim", 1) != 1:
            raise ConvertError(f"frame: there are several columns {column.columns[0]!r}; rename them")
        column = _from_pandas(column)
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if (column.is_null() | (column == column.floor()) & (column.abs() < 2**53)).all():
            return column.cast(pl.Int64)
    return column


def _from_pandas(column: Any) -> pl.Series:
    kind = getattr(column.dtype, "kind", "O")
    if kind == "M":
        if getattr(column.dtype, "tz", None) is not None:
            column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return pl.Series(column.to_numpy("datetime64[us]"))
    missing = column.isna().to_numpy()
    if kind in "iuf" and not missing.any():
        return pl.Series(np.ascontiguousarray(column.to_numpy(column.dtype.name.lower())))
    cells = [None if absent else str(cell) for absent, cell in zip(missing, column.tolist(), strict=True)]
    return pl.Series(cells, dtype=pl.String)
