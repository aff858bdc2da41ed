"""Find a dataset by its name or folder. The public ones are downloaded if necessary."""

from __future__ import annotations

import os
from pathlib import Path

from dataset.fetch import AMAZON, ServerUnreachable, fetch
from dataset.files import ROOT
from dataset.folders import SessionDataset, read_dataset
from dataset.literature import LITERATURE, make_literature_dataset
from dataset.options import checked
from dataset.sessions import DataError


@checked
def find_dataset(name: str | Path) -> Path:
    """The folder of a dataset, given as a path or as the name of a folder in DATASET_ROOT or `dataset/`.

    The Amazon datasets and those of the literature are downloaded if necessary. Raises DataError if there is no such
    dataset, and the errors of `dataset.fetch.fetch` and `make_literature_dataset`.
    """
    path = Path(name)
    roots = [Path(os.environ["DATASET_ROOT"])] if os.environ.get("DATASET_ROOT") else []
    roots.append(ROOT / "dataset")
    if (path / "train_sessions.csv").is_file():
        return path
    if str(name) in AMAZON.values():
        return fetch(str(name))
    if str(name) in LITERATURE:
        return make_literature_dataset(str(name))
    for root in roots:
        if (root / path / "train_sessions.csv").is_file():
            return root / path
    if (short := str(name).lower()) in AMAZON:  # last: a folder named `Beauty` takes precedence
        return fetch(AMAZON[short])
    if path.is_dir():
        raise DataError(path / "train_sessions.csv", None, "does not exist; a dataset folder needs it")
    known = {file.parent.name for root in roots for file in root.glob("*/train_sessions.csv")}
    known |= {*AMAZON.values(), *LITERATURE}
    raise DataError(name, None, f"is not a dataset folder; name a folder, or one of {', '.join(sorted(known))}")


@checked
def load_dataset(name: str | Path) -> SessionDataset:
    """Read a dataset by name or folder, and find the users of its training rows; see `read_dataset`.

    Raises DataError (file, line, reason), and the errors of `find_dataset`.
    """
    return read_dataset(find_dataset(name))


@checked
def load_datasets(names: list[str | Path]) -> list[SessionDataset]:
    """Load each dataset. If the download server is unreachable, print a message and return only Demo.

    Raises DataError, and `dataset.fetch.DownloadError` if the server sends a wrong answer.
    """
    try:
        return [load_dataset(name) for name in names]
    except ServerUnreachable as error:
        print(f"{error} Using the included dataset Demo instead.")
        return [load_dataset(ROOT / "dataset" / "Demo")]
