"""Times of a log: numbers in some unit, dates in text, or the dates of a Parquet file -> seconds since 1970."""

from __future__ import annotations

import re
from datetime import datetime
from statistics import median

import numpy as np
import polars as pl

# Unit -> seconds. "date" is text such as 2014-04-07 or 20140407.
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0, "date": None}
NAMES = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "min": "minutes", "h": "hours",
    "d": "days", "date": "dates",
}  # fmt: skip
# Times without a zone are taken as UTC.
FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f %#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M%#z",
    "%Y/%m/%d",
    "%Y/%m/%d %H:%M:%S%.f",
    "%Y/%m/%d %H:%M",
    "%Y.%m.%d",
    "%Y%m%d",
    "%Y%m%d%H%M",
    "%Y%m%d%H%M%S",
    "%Y%m%dT%H%M%S",
    "%Y%m%dT%H%M%S%#z",
)
_ODD_END = r"(UTC|GMT|\.0)$"
_CLOCK = r"([0-9]{2}):?([0-9]{2})(?::?([0-9]{2})(?:\.[0-9]+)?)? ?(?:Z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?"
_DATES = (
    re.compile(rf"([0-9]{{4}})[-/.]([0-9]{{1,2}})[-/.]([0-9]{{1,2}})(?:[T ]{_CLOCK})?"),
    re.compile(rf"([0-9]{{4}})([0-9]{{2}})([0-9]{{2}})T{_CLOCK}"),
)
# 20140407, 201404071051, 20140407105109
_COMPACT = re.compile(r"((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2})(?:([0-9]{2})([0-9]{2})([0-9]{2})?)?(?:\.0+)?")
_TEN_YEARS = 10 * 365.25 * 86400


def find_unit(sample: pl.Series) -> str:
    """The unit of the times in the first rows of a log, a key of UNITS.

    Numbers of 8, 12 or 14 digits are dates if nearly all are dates from 1900 to 2099. Other numbers are seconds,
    unless they would be times after the year 5138; then they are milliseconds, microseconds or nanoseconds.
    """
    if sample.dtype.is_temporal():
        return "date"
    cells = [cell for cell in _to_text(sample).to_list() if cell]
    if not cells:
        return "s"
    if sum(_is_compact_date(cell) for cell in cells) >= 0.9 * len(cells):
        return "date"
    numbers = [abs(float(cell)) for cell in cells if is_number(cell)]
    if 2 * len(numbers) < len(cells):
        return "date" if sum(map(is_date, cells)) > len(numbers) else "s"
    size = median(numbers)
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def to_seconds(times: pl.Series, unit: str) -> pl.Series:
    """Seconds since 1970, float64, null where a time cannot be read."""
    if times.dtype in (pl.Date, pl.Datetime):
        return times.dt.epoch("us").cast(pl.Float64) / 1e6
    if times.dtype == pl.Duration:
        return times.dt.total_microseconds().cast(pl.Float64) / 1e6
    if times.dtype == pl.Time or times.dtype.is_nested():
        return pl.Series(times.name, [None] * len(times), pl.Float64)
    if unit == "date":
        return _parse_dates(_to_text(times))
    return times.cast(pl.Float64, strict=False) * UNITS[unit]


# The first rows of a log are looked at without polars, whose start costs more than such a small task.


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_date(cell: str) -> bool:
    """Whether a cell is a date that is not just digits, as in 2014-04-07 or 2014-04-07T10:51:09.277Z."""
    matches = (pattern.fullmatch(cell) for pattern in _DATES)
    return any(match is not None and _exists(match.groups()) for match in matches)


def _is_compact_date(cell: str) -> bool:
    match = _COMPACT.fullmatch(cell)
    return match is not None and _exists(match.groups())


def _exists(parts: tuple[str | None, ...]) -> bool:
    try:
        datetime(*(int(part or 0) for part in parts))
    except ValueError:
        return False
    return True


def describe(unit: str) -> str:
    """What a time of this unit must be, for an error message."""
    if unit == "date":
        return "a date such as 2014-04-07, 2014-04-07 10:51:09 or 2014-04-07T10:51:09Z"
    return f"a number ({NAMES[unit]} since 1970)"


def find_absurd_times(time: np.ndarray, gaps: np.ndarray, gap: float | None) -> str | None:
    """A warning if the times cannot be what they were taken for.

    time: (N,) seconds. gaps: seconds between one interaction of a user and the next. gap: hours that end a session.
    """
    remedy = "if they have another unit, name it with --time-unit (s, ms, us, ns, min, h, d or date)"
    if not len(gaps):
        return None
    if len(time) >= 1000 and len(np.unique(time)) <= 10:
        return (
            f"warning: {len(time)} interactions have only {len(np.unique(time))} different times; if these are "
            "ratings, name the columns, for example --columns user,item,rating"
        )
    if not gaps.any():
        return f"warning: all interactions of a user have the same time, so the file decides their order; {remedy}"
    if gaps.min() > _TEN_YEARS:
        return f"warning: more than 10 years lie between any two interactions of a user; check the times; {remedy}"
    if gap is not None and gaps.max() <= gap * 3600:
        longest = f"{gaps.max() / 3600:.3g} hours"
        return f"warning: no session was split, since no user pauses longer than {longest}; check the times; {remedy}"
    return None


def _to_text(times: pl.Series) -> pl.Series:
    if times.dtype.is_float() and (times.is_null() | times.is_nan() | (times == times.floor())).all():
        times = times.cast(pl.Int64, strict=False)  # 20140407.0, as pandas writes integers with gaps
    return times.cast(pl.String)


def _parse_dates(text: pl.Series) -> pl.Series:
    """Seconds since 1970, null for what is no date."""
    if len(text) and re.search(_ODD_END, text[0] or ""):
        text = _normalize(text)
    seconds = _try_formats(text)
    left = (seconds.is_null() & text.is_not_null()).arg_true()
    if left.is_empty():
        return seconds
    return seconds.scatter(left, _try_formats(_normalize(text.gather(left))))


def _normalize(text: pl.Series) -> pl.Series:
    return text.str.replace(r" ?(UTC|GMT)$", "Z").str.replace(r"^([0-9]{8,14})\.0+$", "$1")


def _try_formats(text: pl.Series) -> pl.Series:
    """Each format is tried on what the formats before it left."""
    seconds = pl.Series(text.name, [None] * len(text), pl.Float64)
    left = text.is_not_null().arg_true()
    for form in FORMATS:
        if left.is_empty():
            break
        parsed = text.gather(left).str.to_datetime(form, strict=False, time_unit="us").dt.epoch("us")
        seconds = seconds.scatter(left, parsed.cast(pl.Float64) / 1e6)
        left = left.filter(parsed.is_null())
    return seconds
