"""The sessions of a raw log, by name: what a model is asked about, without a dataset folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataset.logs.convert import check_times, check_times_exist
from dataset.logs.read_log import read_interactions, read_log
from dataset.logs.sessionize import ConvertOptions, drop_repeats, sort_into_sessions
from dataset.session_lists import NamedSessions
from dataset.sessions import Sessions


def read_log_sessions(
    path: str | Path,
    *,
    columns: str | None = None,
    time_unit: str | None = None,
    gap: float | None = None,
    keep_repeats: bool = False,
) -> NamedSessions:
    """The sessions of a log in any format of `read_log`, in the order in which they first appear in the file.

    As in `convert`, a session is a user's (or session's) interactions in the order of their times, split by `gap`
    hours of inactivity. keep_repeats: keep an item that occurs again in its session. Nothing else is removed.
    Raises ConvertError, naming the file and the line.
    """
    options = ConvertOptions(gap=gap)
    interactions = read_interactions([read_log(path, columns, time_unit)])
    check_times_exist(Path(path), interactions, options)
    rows = np.arange(len(interactions.item))
    log = sort_into_sessions(interactions._replace(item=rows), gap)
    first_row = np.minimum.reduceat(log.item, log.starts)
    log = log._replace(item=interactions.item[log.item])
    notes = [*interactions.notes, *check_times(interactions, log, options)]
    if not keep_repeats:
        log = drop_repeats(log)
    if dropped := len(rows) - len(log.item):
        notes.append(f"{dropped} repeats of an item within a session were left out, as in the training data")
    order = first_row.argsort()
    sessions = Sessions(log.item, np.r_[log.starts, len(log.item)]).take(order)
    names = np.array(interactions.items.to_list(), object)[sessions.items].tolist()
    bounds = zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist(), strict=True)
    users = np.array(interactions.users.to_list(), object)[log.user[log.starts][order]].tolist()
    return NamedSessions([names[start:stop] for start, stop in bounds], None, users, tuple(notes))
