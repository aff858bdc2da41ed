"""The sessions that recommend.py is given: lists of ids, lists of names, or a raw log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from dataset.files import read_items, short
from dataset.folders import hash_dataset
from dataset.logs.log_sessions import read_log_sessions
from dataset.session_lists import is_list_file, read_lists
from process_data import DataError, Sessions, Vocabulary
from sessionrec.checkpoint import Checkpoint
from sessionrec.recommend import to_sessions


@dataclass(frozen=True, eq=False)
class SessionInput:
    """The sessions of a file in the checkpoint's raw ids; -1 is a name that it does not know.

    names: of each session, if the file has names. users: of each session, if the file is a log. notes: how a log was
    read, one line each. item_names: id -> name from the `items.csv` beside lists of ids. warning: for lists of ids.
    """

    sessions: Sessions
    names: list[list[str]] | None = None
    users: list[str] | None = None
    notes: tuple[str, ...] = ()
    item_names: dict[int, str] | None = None
    warning: str | None = None


def read_labelled(path: Path, checkpoint: Checkpoint) -> SessionInput:
    """Read a CSV file with the columns `session,label`, of ids or of names; see `read_input`."""
    return _read_lists(path, checkpoint, labels=True)


def read_input(
    path: Path,
    checkpoint: Checkpoint,
    *,
    columns: str | None = None,
    time_unit: str | None = None,
    gap: float | None = None,
) -> SessionInput:
    """Read the sessions of a file: lists of ids, lists of names, or a log; its content shows which of them it is.

    columns, time_unit, gap: for a log, as in `dataset.logs.convert`. A repeated item is left out of a log's session
    if no training session repeats one.
    Raises DataError, ConvertError, and ValueError for ids that mean other items than the checkpoint's.
    """
    if columns is None and is_list_file(path):
        given = _read_lists(path, checkpoint)
        if time_unit is not None or gap is not None:
            raise DataError(path, None, "has lists of items; --gap and --time-unit are for a log, so omit them")
        return given
    keep_repeats = not checkpoint.header["mask_seen"]
    log = read_log_sessions(path, columns=columns, time_unit=time_unit, gap=gap, keep_repeats=keep_repeats)
    sessions = to_sessions(checkpoint.vocabulary, log.sessions, source=path)
    return SessionInput(sessions, log.sessions, log.users, log.notes)


def _read_lists(path: Path, checkpoint: Checkpoint, *, labels: bool = False) -> SessionInput:
    given = read_lists(path, labels=labels)
    if not isinstance(given, Sessions):
        sessions = to_sessions(checkpoint.vocabulary, given.sessions, given.labels, source=path)
        return SessionInput(sessions, given.sessions)
    file, item_names = path.parent / "items.csv", None
    if checkpoint.vocabulary.names is not None and file.exists():
        item_names = read_items(file)
        remedy = "convert the new log with --items OLD/items.csv, or give sessions by name"
        if check_numbering(checkpoint.vocabulary, item_names, file, remedy):
            return SessionInput(given, item_names=item_names)
    return SessionInput(given, item_names=item_names, warning=_warn_of_other_data(path.parent, checkpoint))


def _warn_of_other_data(folder: Path, checkpoint: Checkpoint) -> str | None:
    """A warning if the folder holds another dataset, whose ids may mean other items."""
    trained_on = checkpoint.header.get("sha256")
    files = [folder / "train_sessions.csv", folder / "test_sessions.csv"]
    if trained_on and all(file.is_file() for file in files) and hash_dataset(folder) != trained_on:
        name = checkpoint.header.get("dataset")
        return (
            f"warning: the checkpoint was trained on another dataset ({name}) than the one in {folder}; unless its "
            "ids mean the same items, train one on this folder"
        )
    return None


# --------------------------------------------------------------------------------------------------
# Numberings


def check_numbering(vocabulary: Vocabulary, names: dict[int, str], file: Path, remedy: str) -> bool:
    """Whether an `items.csv` has items of a vocabulary with names.

    Raises ValueError, with an example and the remedy, if an id has another name or a name another id.
    """
    numbers = {name: item for item, name in names.items()}
    shared = False
    for item, name in zip(vocabulary.item_ids.tolist(), vocabulary.names, strict=True):
        if (other := names.get(item, name)) != name:
            raise ValueError(f"{item} is {short(other)} in {file} and {short(name)} in the checkpoint; {remedy}")
        if (number := numbers.get(name, item)) != item:
            raise ValueError(f"{short(name)} is {number} in {file} and {item} in the checkpoint; {remedy}")
        shared = shared or item in names
    return shared


def name_items(checkpoint: Checkpoint, file: Path) -> tuple[Checkpoint, dict[int, str]]:
    """The checkpoint with the names of an `items.csv`, and all names of that file.

    Raises DataError for a file that does not name all items, ValueError if the checkpoint has other names.
    """
    names, vocabulary = read_items(file), checkpoint.vocabulary
    remedy = "name the items.csv of the dataset that the checkpoint was trained on"
    if vocabulary.names is not None:
        if not check_numbering(vocabulary, names, file, remedy):
            raise DataError(file, None, f"has none of the checkpoint's items; {remedy}")
        return checkpoint, names
    item_ids = vocabulary.item_ids.tolist()
    for item in item_ids:
        if item not in names:
            raise DataError(file, None, f"does not name the checkpoint's item {item}; {remedy}")
    vocabulary = Vocabulary(vocabulary.item_ids, [names[item] for item in item_ids])
    return replace(checkpoint, vocabulary=vocabulary), names
