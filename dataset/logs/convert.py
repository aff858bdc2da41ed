"""Convert a log into a dataset folder: `train_sessions.csv`, `test_sessions.csv` and `items.csv`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataset.files import replacing
from dataset.logs.numbering import number_items, write_items
from dataset.logs.opening import ConvertError
from dataset.logs.read_log import Interactions, Log, read_interactions, read_log
from dataset.logs.sessionize import ConvertOptions, SessionLog, filter_sessions, hold_out, sort_into_sessions
from dataset.logs.times import find_absurd_times

FILES = ("train_sessions.csv", "test_sessions.csv", "items.csv")


@dataclass(frozen=True)
class Summary:
    """Counts of a conversion.

    dropped: reason -> number of interactions that were removed.
    known_labels: share of the test labels that occur in the training file.
    notes: how each log was read, one line each, and warnings about its times.
    """

    interactions: int
    users: int
    items: int
    dropped: dict[str, int]
    sessions: int
    items_kept: int
    train_rows: int
    test_rows: int
    known_labels: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [*self.notes, f"{self.interactions} interactions of {self.users} users with {self.items} items"]
        for reason, count in self.dropped.items():
            if count:
                lines.append(f"dropped {count} ({count / self.interactions:.1%}): {reason}")
        lines.append(
            f"{self.sessions} sessions with {self.items_kept} items: {self.train_rows} training rows, "
            f"{self.test_rows} test rows ({self.known_labels:.1%} of their labels occur in training)"
        )
        return "\n".join(lines)


def convert(
    log: str | Path | Log,
    output: str | Path,
    options: ConvertOptions | None = None,
    *,
    columns: str | None = None,
    time_unit: str | None = None,
    test_log: str | Path | Log | None = None,
    items: str | Path | None = None,
) -> Summary:
    """Convert a log and write all files of a dataset (see dataset/README.md) into the folder `output`, or none.

    `train_sessions.csv` has one row for each prefix of a session, with the number of the session's user: 1, 2, ... in
    the order of the sorted user ids. `test_sessions.csv` has one row for each session: all items but the last, which
    is the label. With `split="leave-one-out"`, the items before the label are in the training file, too. `items.csv`
    (`id,item`) maps each id to the name that the item has in the log. If all names are integers below 10^18, they are
    the ids; otherwise the ids are 1, 2, ... in the order of the sorted names. Sessions are sorted by user in the same
    way, so the order of the rows in the log matters only for equal times.

    log: a file, or a log of `read_log` or `log_from_frame`.
    columns: names of the log's columns, if they cannot be detected (see `read_log`).
    time_unit: unit of the times, if it cannot be detected (see `times.UNITS`).
    test_log: a second log with the test sessions, instead of `options.split`. Equal user ids in the two logs
        mean different users.
    items: the `items.csv` of an earlier conversion. Its items keep their ids, and new items get the next ones.

    Raises ConvertError if the log cannot be used, DataError for a wrong `items`, OSError if the output cannot be
    written.
    """
    options = options or ConvertOptions()
    targets = [Path(output) / name for name in FILES]
    sources = [source for source in (log, test_log) if source is not None]
    logs = [source if isinstance(source, Log) else read_log(source, columns, time_unit) for source in sources]
    name = logs[0].path
    _check_targets(logs, targets)
    interactions = read_interactions(logs)
    check_times_exist(name, interactions, options)
    n_interactions, n_users, names = len(interactions.user), len(interactions.users), interactions.items
    sessions = sort_into_sessions(interactions, options.gap)
    notes = (*interactions.notes, *check_times(interactions, sessions, options))
    del interactions
    sessions, dropped = filter_sessions(sessions, options)
    if not len(sessions.item):
        reason = f"no session with at least {options.min_session_length} interactions is left"
        raise ConvertError(f"{name}: {reason}; check the columns and the filters")
    is_test, trained = _split(sessions, options, None if test_log is None else n_users, name)
    sessions, ids, numbering = number_items(sessions, names, items)
    with ExitStack() as stack:
        train_file, test_file, items_file = [stack.enter_context(replacing(target)) for target in targets]
        _write_sessions(train_file, test_file, sessions, is_test, trained, ids)
        write_items(items_file, numbering)
    return Summary(
        interactions=n_interactions,
        users=n_users,
        items=len(names),
        dropped=dropped,
        items_kept=len(ids),
        **_count_rows(sessions, is_test, trained),
        notes=notes,
    )


def _split(log: SessionLog, options: ConvertOptions, n_users: int | None, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(S,) bool: which sessions are tested, and (S,) the number of items, from the first, that are for training.

    n_users: the users from this number on are those of a test log, whose sessions are tested instead.
    """
    lengths = log.ends - log.starts
    is_test = hold_out(log, options) if n_users is None else log.user[log.starts] >= n_users
    leaves_one_out = n_users is None and options.split == "leave-one-out"
    trained = np.where(is_test, lengths - 1 if leaves_one_out else 0, lengths)
    trained = np.where(trained > 1, trained, 0)  # one item gives no row
    if not trained.any() or not is_test.any():
        split = "training" if is_test.any() else "test"
        reason = f"splitting {len(is_test)} sessions leaves no {split} session; choose another split"
        raise ConvertError(f"{path}: {reason}")
    return is_test, trained


def _count_rows(log: SessionLog, is_test: np.ndarray, trained: np.ndarray) -> dict[str, int | float]:
    """The counts of a Summary that concern the written rows."""
    lengths, labels = log.ends - log.starts, log.item[log.ends - 1]
    step = np.arange(len(log.item)) - np.repeat(log.starts, lengths)
    trained_items = log.item[step < np.repeat(trained, lengths)]
    return {
        "sessions": len(lengths),
        "train_rows": int((trained - 1).clip(0).sum()),
        "test_rows": int(is_test.sum()),
        "known_labels": float(np.isin(labels[is_test], trained_items).mean()),
    }


def _check_targets(logs: list[Log], targets: list[Path]) -> None:
    """Raise ConvertError if the output would replace a log."""
    resolved = [target.resolve() for target in targets]
    if replaced := [log.path for log in logs if log.path.resolve() in resolved]:
        raise ConvertError(f"{replaced[0]}: the output would replace this log; choose another output folder")


def check_times_exist(path: Path, interactions: Interactions, options: ConvertOptions) -> None:
    """Raise ConvertError for an option that needs times if the log has none."""
    wanted = [f"--split {options.split}"] * (options.split == "time") + ["--gap"] * (options.gap is not None)
    if wanted and not interactions.has_time:
        raise ConvertError(f"{path}: the log has no times, which {wanted[0]} needs; omit it, or name their column")


def check_times(interactions: Interactions, log: SessionLog, options: ConvertOptions) -> list[str]:
    """A warning if the times of the log cannot be right. Interactions in one row have the same time by nature."""
    if interactions.session is not None or not interactions.has_time:
        return []
    gaps = np.diff(log.time)[log.user[1:] == log.user[:-1]]
    warning = find_absurd_times(log.time, gaps, options.gap)
    return [warning] if warning else []


def _write_sessions(
    train_file: Path, test_file: Path, log: SessionLog, is_test: np.ndarray, trained: np.ndarray, ids: list[str]
) -> None:
    """Write all items of the test sessions, and the first `trained` (S,) items of every session for training."""
    user = log.user[log.starts]
    number = np.searchsorted(np.unique(user[trained > 1]), user) + 1
    columns = (column.tolist() for column in (log.starts, log.ends, is_test, trained, number))
    with open(train_file, "w", newline="\n") as train, open(test_file, "w", newline="\n") as test:
        train.write("session,label,user\n")
        test.write("session,label\n")
        rows = tqdm(zip(*columns, strict=True), "Writing", len(is_test), unit=" sessions", unit_scale=True)
        for start, end, in_test, n_trained, user in rows:
            session = [ids[number] for number in log.item[start:end].tolist()]
            if in_test:
                test.write(_format_row(session[:-1], session[-1]))
            train.writelines(_format_row(session[:n], f"{session[n]},{user}") for n in range(1, n_trained))


def _format_row(session: list[str], label: str) -> str:
    """The row as the csv module writes it: the list is quoted if it contains a comma."""
    text = f"[{', '.join(session)}]"
    return f'"{text}",{label}\n' if len(session) > 1 else f"{text},{label}\n"
