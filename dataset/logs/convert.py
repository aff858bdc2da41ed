"""Convert a log into a dataset folder: `train_sessions.csv`, `test_sessions.csv` and `items.csv`."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from dataset.files import replacing
from dataset.logs.formats import ConvertError
from dataset.logs.read_log import are_integers, read_interactions
from dataset.logs.sessionize import ConvertOptions, SessionLog, filter_sessions, hold_out, sort_into_sessions

FILES = ("train_sessions.csv", "test_sessions.csv", "items.csv")


@dataclass(frozen=True)
class Summary:
    """Counts of a conversion.

    dropped: reason -> number of interactions that were removed.
    known_labels: share of the test labels that occur in the training file.
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

    def __str__(self) -> str:
        lines = [f"{self.interactions} interactions of {self.users} users with {self.items} items"]
        for reason, count in self.dropped.items():
            if count:
                lines.append(f"dropped {count} ({count / self.interactions:.1%}): {reason}")
        lines.append(
            f"{self.sessions} sessions with {self.items_kept} items: {self.train_rows} training rows, "
            f"{self.test_rows} test rows ({self.known_labels:.1%} of their labels occur in training)"
        )
        return "\n".join(lines)


def convert(
    log: str | Path,
    output: str | Path,
    options: ConvertOptions | None = None,
    *,
    columns: str | None = None,
    test_log: str | Path | None = None,
) -> Summary:
    """Convert a log and write all files of a dataset (see dataset/README.md) into the folder `output`, or none.

    `train_sessions.csv` has one row for each prefix of a session. `test_sessions.csv` has one row for each
    session: all items but the last, which is the label. `items.csv` (`id,item`) maps each id to the name that
    the item has in the log. If all names are integers below 10^18, they are the ids; otherwise the ids are
    1, 2, ... in the order of the sorted names. Sessions are sorted by user in the same way, so the order of
    the rows in the log matters only for equal times.

    columns: names of the log's columns, if they cannot be detected (see `read_log`).
    test_log: a second log with the test sessions, instead of `options.split`. Equal user ids in the two logs
        mean different users.

    Raises ConvertError if the log cannot be used, OSError if the output cannot be written.
    """
    options = options or ConvertOptions()
    paths = [Path(path) for path in (log, test_log) if path is not None]
    targets = [Path(output) / name for name in FILES]
    if replaced := [path for path in paths if path.resolve() in [target.resolve() for target in targets]]:
        raise ConvertError(f"{replaced[0]}: the output would replace this log; choose another output folder")
    interactions = read_interactions(paths, columns)
    n_interactions, n_users, items = len(interactions.user), len(interactions.users), interactions.items
    sessions = sort_into_sessions(interactions, options.gap)
    del interactions
    sessions, dropped = filter_sessions(sessions, options)
    if not len(sessions.item):
        least = options.min_session_length
        raise ConvertError(f"{paths[0]}: no session with at least {least} interactions is left")

    is_test = hold_out(sessions, options) if test_log is None else sessions.user[sessions.starts] >= n_users
    if is_test.all() or not is_test.any():
        split = "training" if is_test.all() else "test"
        reason = f"splitting {len(is_test)} sessions leaves no {split} session; choose another split"
        raise ConvertError(f"{paths[0]}: {reason}")

    sessions, ids, names = _number_items(sessions, items)
    with ExitStack() as stack:
        train_file, test_file, items_file = [stack.enter_context(replacing(target)) for target in targets]
        _write_sessions(train_file, test_file, sessions, is_test, ids)
        with open(items_file, "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("id", "item"), *zip(ids, names, strict=True)])
    lengths, labels = sessions.ends - sessions.starts, sessions.item[sessions.ends - 1]
    trained = sessions.item[np.repeat(~is_test, lengths)]
    return Summary(
        interactions=n_interactions,
        users=n_users,
        items=len(items),
        dropped=dropped,
        sessions=len(lengths),
        items_kept=len(ids),
        train_rows=int((lengths - 1)[~is_test].sum()),
        test_rows=int(is_test.sum()),
        known_labels=float(np.isin(labels[is_test], trained).mean()),
    )


def _number_items(log: SessionLog, items: pl.Series) -> tuple[SessionLog, list[str], list[str]]:
    """Replace the indices into `items` by indices into the items in use. Also returns their ids and names."""
    used = np.unique(log.item)
    names = items.gather(used).to_list()
    ids = names if are_integers(items) else [str(number) for number in range(1, len(used) + 1)]
    return log._replace(item=np.searchsorted(used, log.item)), ids, names


def _write_sessions(train_file: Path, test_file: Path, log: SessionLog, is_test: np.ndarray, ids: list[str]) -> None:
    bounds = zip(log.starts.tolist(), log.ends.tolist(), is_test.tolist(), strict=True)
    with open(train_file, "w", newline="\n") as train, open(test_file, "w", newline="\n") as test:
        train.write("session,label\n")
        test.write("session,label\n")
        for start, end, in_test in tqdm(bounds, "Writing", len(is_test), unit=" sessions", unit_scale=True):
            session = [ids[number] for number in log.item[start:end].tolist()]
            if in_test:
                test.write(_format_row(session[:-1], session[-1]))
            else:
                train.writelines(_format_row(session[:n], session[n]) for n in range(1, len(session)))


def _format_row(session: list[str], label: str) -> str:
    """The row as the csv module writes it: the list is quoted if it contains a comma."""
    text = f"[{', '.join(session)}]"
    return f'"{text}",{label}\n' if len(session) > 1 else f"{text},{label}\n"
