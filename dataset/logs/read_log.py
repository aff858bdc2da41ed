"""Read logs: stream their rows through polars, check them, and encode users and items as integers.

Memory: the text of a log is read in batches. Only the distinct ids and about 20 bytes for each interaction
are kept (several times that while the interactions are sorted).

Shapes:  N interactions, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from dataset.logs.formats import COLUMNS, ConvertError, detect_format, find_columns, reading

_LINE, _EXCESS = "#line", "#excess"  # names that no column of a log has
_INTEGER = r"^(0|[1-9][0-9]{0,17})$"  # below 10^18, the limit of `read_sessions`


class Interactions(NamedTuple):
    """N interactions in the order of the logs."""

    user: np.ndarray  # (N,) int32, index into `users`; the users of a second log start at U
    item: np.ndarray  # (N,) int32, index into `items`
    time: np.ndarray  # (N,) seconds
    users: pl.Series  # (U,) sorted ids
    items: pl.Series  # (I,) sorted ids


def read_log(path: str | Path, columns: str | None = None) -> pl.LazyFrame:
    """Scan a log lazily, in the order of the file.

    The log is a CSV or TSV file, which may be compressed (`.gz`), or a Parquet file. Its columns are found by their
    names in the header (see `formats.COLUMNS`) or, without a header, by their number and content. `columns`, such as
    "user,item,rating,timestamp", names them instead.

    The frame has the columns line (from 1), user and item (text), time (seconds, float) and excess. Numbers that
    would be times after the year 5138 are read as milliseconds, microseconds or nanoseconds. Missing values and
    times that are not numbers are null. `excess` is the first cell of a row beyond the width of the first line.
    `read_interactions` reports all of these as errors. Empty lines are skipped. Raises ConvertError.
    """
    path = Path(path)
    frame, names, time_type = (_scan_parquet if path.suffix == ".parquet" else _scan_text)(path, columns)
    user, item, time = (pl.col(name) for name in names)
    return frame.filter(~pl.all_horizontal(user.is_null(), item.is_null(), time.is_null())).select(
        pl.col(_LINE).alias("line"),
        user.cast(pl.String).alias("user"),
        item.cast(pl.String).alias("item"),
        _to_seconds(time, time_type).alias("time"),
        pl.col(_EXCESS).alias("excess"),
    )


def _scan_parquet(path: Path, columns: str | None) -> tuple[pl.LazyFrame, list[str], pl.DataType]:
    """The file as a frame, the names of its user, item and time columns, and the type of the time column."""
    with reading(path):
        frame = pl.scan_parquet(path, glob=False)
        schema = frame.collect_schema()
    indices = find_columns(path, list(schema), columns)
    names = [list(schema)[indices[column]] for column in COLUMNS]
    frame = frame.with_row_index(_LINE, offset=1).with_columns(pl.lit(None, pl.String).alias(_EXCESS))
    return frame, names, schema[names[-1]]


def _scan_text(path: Path, columns: str | None) -> tuple[pl.LazyFrame, list[str], pl.DataType]:
    """The same for a text file. Lines may be shorter or longer than the first one."""
    form = detect_format(path, columns)
    names = [f"column_{index}" for index in range(form.width)]
    frame = pl.scan_csv(
        path,
        glob=False,
        has_header=False,
        skip_rows=int(form.has_header),
        schema=dict.fromkeys([*names, _EXCESS], pl.String()),
        missing_columns="insert",
        truncate_ragged_lines=True,
        separator=form.separator,
        quote_char=form.quote,
        row_index_name=_LINE,
        row_index_offset=1 + form.has_header,
    )
    return frame, [names[form.columns[column]] for column in COLUMNS], pl.String()


def _to_seconds(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype.is_temporal():
        return time.dt.epoch("us") / 1e6
    time = time.cast(pl.Float64, strict=False)
    size = time.abs()
    unit = pl.when(size < 1e11).then(1.0).when(size < 1e14).then(1e3).when(size < 1e17).then(1e6)
    return time / unit.otherwise(1e9)


def read_interactions(paths: list[Path], columns: str | None) -> Interactions:
    """Read all logs, one after another. A user id in two logs means two different users. Raises ConvertError."""
    dtypes = {name: pl.Categorical(pl.Categories.random()) for name in ("user", "item")}
    batches, rows = [], []
    with tqdm(desc="Reading", unit=" rows", unit_scale=True) as bar:
        for path in paths:
            rows_before = sum(rows)
            batches += _read_batches(path, columns, dtypes, bar)
            rows.append(sum(map(len, batches)) - rows_before)
    frame = pl.concat(batches)
    del batches
    user, users = _encode(frame["user"])
    item, items = _encode(frame["item"])
    user += np.repeat(np.arange(len(paths), dtype=np.int32) * len(users), rows)
    return Interactions(user, item, frame["time"].to_numpy(), users, items)


def _read_batches(path: Path, columns: str | None, dtypes: dict, bar: tqdm) -> Iterator[pl.DataFrame]:
    """Checked batches of a log: user and item (categorical, stored as integers) and time."""
    log = read_log(path, columns).cast(dtypes)
    empty = True
    with reading(path):
        for batch in log.collect_batches(engine="streaming"):
            _check_batch(path, batch)
            empty &= batch.is_empty()
            bar.update(len(batch))
            yield batch.select("user", "item", "time")
    if empty:
        raise ConvertError(f"{path}: the log contains no interactions")


def _check_batch(path: Path, batch: pl.DataFrame) -> None:
    has_time = batch["time"].is_finite().fill_null(False)
    problems = {
        "there are more cells than in line 1": batch["excess"].is_not_null(),
        "the user is missing": batch["user"].is_null(),
        "the item is missing": batch["item"].is_null(),
        "the timestamp is missing or not a number (seconds since 1970)": ~has_time,
    }
    for reason, rows in problems.items():
        if rows.any():
            unit = "row" if path.suffix == ".parquet" else "line"
            raise ConvertError(f"{path}, {unit} {batch['line'][rows.arg_max()]}: {reason}")


def _encode(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Categorical ids (N,) -> their indices (N,) into the sorted distinct ids, and those ids."""
    distinct = ids.unique()
    names = distinct.cast(pl.String)
    order = (names.cast(pl.Int64) if are_integers(names) else names).arg_sort()
    codes = distinct.to_physical().gather(order).to_numpy()
    index_of_code = np.empty(codes.max() + 1, np.int32)
    index_of_code[codes] = np.arange(len(codes))
    return index_of_code[ids.to_physical().to_numpy()], names.gather(order)


def are_integers(names: pl.Series) -> bool:
    """Whether all ids are integers below 10^18, written without a sign or leading zeros."""
    return names.str.contains(_INTEGER).all()
