"""Export a dataset folder as logs for RecBole or session-rec."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.files import read_sessions, replacing
from dataset.logs.opening import ConvertError
from dataset.sessions import maximal_sessions
from dataset.users import find_users

# Tool -> header, and the names that the tool expects for the training and the test file of a dataset.
TOOLS = {
    "recbole": ("session_id:token\titem_id:token\ttimestamp:float", "{}.train.inter", "{}.test.inter"),
    "session-rec": ("SessionId\tItemId\tTime", "{}_train_full.txt", "{}_test.txt"),
}


def export(folder: str | Path, output: str | Path, to: str) -> list[Path]:
    """Write a dataset's sessions for another tool into the folder `output`: both files, or none.

    to: a key of TOOLS. The file names begin with the name of the output folder.

    Each chain of prefix rows (see `dataset.users`) becomes one session, and each test row becomes one session that ends
    with its label.
    Session files contain no times, so the time is the number of the row, counted over both files. Converting
    the first file with the second as `test_log` restores the session files. `keep_repeats` is necessary if sessions
    repeat items, and `longest` if they have more than 50.

    Raises ConvertError for an unknown tool, DataError for invalid session files, and OSError.
    """
    if to not in TOOLS:
        raise ConvertError(f"to={to!r}: choose one of {', '.join(TOOLS)}")
    header, *names = TOOLS[to]
    folder, output = Path(folder), Path(output)
    train = read_sessions(folder / "train_sessions.csv", labels=True)
    train, _ = maximal_sessions(replace(train, users=find_users(train)))
    test = read_sessions(folder / "test_sessions.csv")
    if test.labels is not None:
        test = test.with_labels_appended()
    targets = [output / name.format(output.resolve().name) for name in names]
    n_sessions, n_rows = 0, 0
    with ExitStack() as stack:
        for target, sessions in zip(targets, (train, test), strict=True):
            file = stack.enter_context(replacing(target))
            session = n_sessions + 1 + sessions.row_of_item
            time = n_rows + 1 + np.arange(len(sessions.items))
            with open(file, "w", newline="\n") as lines:
                lines.write(f"{header}\n")
                rows = zip(session.tolist(), sessions.items.tolist(), time.tolist(), strict=True)
                lines.writelines("\t".join(map(str, row)) + "\n" for row in rows)
            n_sessions, n_rows = n_sessions + len(sessions), n_rows + len(sessions.items)
    return targets
