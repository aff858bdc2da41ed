"""Read logs: text, Parquet files and frames become checked batches, and users and items become integers.

Memory: the text of a log is read in blocks. Only the distinct ids and about 20 bytes for each interaction are kept
(several times that while the interactions are sorted).

Shapes:  N interactions, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from tqdm import tqdm

from dataset.logs.formats import SAMPLE_ROWS, describe_columns, detect_format, find_columns
from dataset.logs.opening import ConvertError, check_parquet_size, is_parquet, reading
from dataset.logs.parse import parse_log
from dataset.logs.sequences import expand_lists, fold_prefixes
from dataset.logs.times import UNITS, describe, find_unit, to_seconds

LONGEST_NAME = 4096  # bytes of a user or an item
_INTEGER = r"^(0|[1-9][0-9]{0,17})$"  # below 10^18, the limit of `read_sessions`


class Log(NamedTuple):
    """A log that is being read.

    batches: frames with line (from 1), user and item (text) and time (seconds). note: what was assumed, one line.
    has_time: False if the time is only the number of the line.
    kind: "events" if a row is an interaction, "lists" if
    it is a user with its items, "prefixes" if it is a session's beginning and its next item.
    """

    path: Path
    batches: Iterator[pl.DataFrame]
    note: str
    has_time: bool = True
    kind: str = "events"


class Interactions(NamedTuple):
    """N interactions in the order of the logs."""

    user: np.ndarray  # (N,) int32, index into `users`; the users of a second log start at U
    item: np.ndarray  # (N,) int32, index into `items`
    time: np.ndarray  # (N,) seconds
    users: pl.Series  # (U,) sorted ids
    items: pl.Series  # (I,) sorted ids
    session: np.ndarray | None = None  # (N,) int64, if the logs say which interactions are a session
    has_time: bool = True
    notes: tuple[str, ...] = ()  # what was assumed


def read_log(path: str | Path, columns: str | None = None, unit: str | None = None) -> Log:
    """Read a log lazily, in the order of the file.

    The log is a text file, which may be compressed (gzip, zip), or a Parquet file. Its columns are found by their
    names in the header (see `formats.COLUMNS`) or, without a header, by their content. `columns`, such as
    "user,item,rating,timestamp", names them instead. `unit` is the unit of the times, a key of `times.UNITS`.

    Empty lines are skipped. Raises ConvertError, also while the batches are read: a row without a user, an item or a
    time, or with more cells than the first one, is an error that names the line.
    """
    path = Path(path)
    if unit is not None and unit not in UNITS:
        raise ConvertError(f"time_unit={unit!r}: choose one of {', '.join(UNITS)}")
    return (_open_parquet if is_parquet(path) else _open_text)(path, columns, unit)


def _open_text(path: Path, columns: str | None, unit: str | None) -> Log:
    form = detect_format(path, columns, unit)
    return make_log(path, parse_log(path, form), form.columns, form.unit, form.note)


def _open_parquet(path: Path, columns: str | None, unit: str | None) -> Log:
    check_parquet_size(path)
    with reading(path):
        frame = pl.scan_parquet(path, glob=False)
        names = list(frame.collect_schema())
        found = find_columns(path, names, columns)
        if unit is None and "timestamp" in found:
            unit = find_unit(frame.select(pl.nth(found["timestamp"])).head(SAMPLE_ROWS).collect().to_series())
    frame = frame.select(pl.nth(index).alias(str(index)) for index in found.values()).with_row_index("line", offset=1)
    note = f"{path.name}: Parquet; {describe_columns(found, names, unit or 's')}"
    return make_log(path, frame.collect_batches(engine="streaming"), found, unit or "s", note, row="row")


def make_log(
    path: Path, frames: Iterable[pl.DataFrame], found: dict[str, int], unit: str, note: str, row: str = "line"
) -> Log:
    """A log from frames with the columns `line` and `0`, `1`, ... `found` holds the numbers of the columns.

    row: what an error calls a line.
    """

    def read() -> Iterator[pl.DataFrame]:
        with reading(path):
            for frame in frames:
                batch = _name_columns(path, frame, found, unit)
                _check_batch(path, batch, unit, row)
                yield batch.select("line", "user", "item", "time")

    kind = "lists" if "items" in found else "prefixes" if "history" in found else "events"
    return Log(path, read(), note, "timestamp" in found, kind)


def _name_columns(path: Path, frame: pl.DataFrame, found: dict[str, int], unit: str) -> pl.DataFrame:
    """The columns line, user, item, time, cell (text of the time) and excess. A list becomes a row for each item."""
    cells = {key: frame[str(index)] for key, index in found.items()}
    named = frame.select("line", pl.col("excess") if "excess" in frame.columns else pl.lit(None).alias("excess"))
    for key in ("user", "item"):
        if key in cells and (cells[key].dtype.is_nested() or cells[key].dtype == pl.Binary):
            reason = f"the column of the {key} is of the type {cells[key].dtype}; save it as text or integers"
            raise ConvertError(f"{path}: the file cannot be read: {reason}")
        if key in cells:
            named = named.with_columns(cells[key].cast(pl.String).alias(key))
    time, cell = named["line"].cast(pl.Float64), pl.lit(None, pl.String)
    if "timestamp" in cells:
        time, cell = to_seconds(cells["timestamp"], unit), cells["timestamp"].cast(pl.String, strict=False)
    if "timeframe" in cells:
        time = time + to_seconds(cells["timeframe"], "ms")
    named = named.with_columns(time.alias("time"), cell.alias("cell"))
    lists = cells.get("history", cells.get("items"))
    if lists is not None:
        named = expand_lists(named, lists)
    return named.filter(~pl.all_horizontal(pl.col("user", "item", "cell", "excess").is_null()))


def read_interactions(logs: list[Log]) -> Interactions:
    """Read all logs, one after another. A user id in two logs means two different users. Raises ConvertError."""
    dtypes = {name: pl.Categorical(pl.Categories.random()) for name in ("user", "item")}
    batches, rows = [], []
    with tqdm(desc="Reading", unit=" rows", unit_scale=True) as bar:
        for log in logs:
            columns = ["user", "item", "time"] + ["line"] * (log.kind != "events")
            count = 0
            for batch in log.batches:
                batches.append(batch.select(columns).cast(dtypes))
                count += len(batch)
                bar.update(len(batch))
            if not count:
                raise ConvertError(f"{log.path}: the log contains no interactions; save it with its rows")
            rows.append(count)
    frame = pl.concat(batches, how="diagonal")
    del batches
    user, users = _encode(frame["user"])
    item, items = _encode(frame["item"])
    source = np.repeat(np.arange(len(logs), dtype=np.int32), rows)
    user += source * np.int32(len(users))
    session = frame["line"].fill_null(0).to_numpy().astype(np.int64) if "line" in frame.columns else None
    interactions = Interactions(
        user, item, frame["time"].to_numpy(), users, items, session,
        all(log.has_time for log in logs), tuple(log.note for log in logs),
    )  # fmt: skip
    prefixes = np.array([log.kind == "prefixes" for log in logs])
    return _fold(interactions, np.where(prefixes[source], source, -1)) if prefixes.any() else interactions


def _fold(interactions: Interactions, log: np.ndarray) -> Interactions:
    """Remove the rows that a longer row of the same log continues. Interactions whose log is -1 stay."""
    user, item, time, _, _, session = interactions[:6]
    keep, count = fold_prefixes(user, item, session, log)
    note = f"{count} rows that a longer row continues were dropped" if count else ""
    return interactions._replace(
        user=user[keep], item=item[keep], time=time[keep], session=session[keep],
        notes=(*interactions.notes, *filter(None, [note])),
    )  # fmt: skip


def _check_batch(path: Path, batch: pl.DataFrame, unit: str, row: str) -> None:
    time = batch["time"].is_finite().fill_null(False)
    names = batch.select(pl.max_horizontal(pl.col("user", "item").str.len_bytes()).alias("size"))["size"]
    problems = {
        "there are more cells than in line 1; put a name with the separator in quotes": batch["excess"].is_not_null(),
        "the user is missing; remove the {row}": batch["user"].is_null(),
        "the item is missing; remove the {row}": batch["item"].is_null(),
        f"a name has more than {LONGEST_NAME} bytes; check the quotes and the columns": names > LONGEST_NAME,
        "the timestamp is missing{cell}": ~time,
    }
    for reason, rows in problems.items():
        if rows.any():
            first = batch.row(rows.arg_max(), named=True)
            cell = "" if first["cell"] in (None, "") else f" or not {describe(unit)}: {first['cell'][:40]!r}"
            reason = reason.format(row=row, cell=cell)
            raise ConvertError(f"{path}, {row} {first['line']}: {reason}")


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
