"""The public datasets of the literature as dataset folders, each with the protocol of its papers.

    load_dataset("S3_Beauty")   # S3_Beauty, S3_Sports, S3_Toys, Diginetica, Tmall

- S3-Rec (Zhou et al. 2020): Amazon Beauty, Sports and Toys, leave one out: `prepare(dataset, split="leave-one-out")`.
- SR-GNN (Wu et al. 2019), as GCE-GNN (Wang et al. 2020) published it: Diginetica and Tmall, with given test rows:
  `prepare(dataset, split="last")`. Tmall's items of one day have no known order.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from dataset.fetch import HERE, fetch_literature
from dataset.folders import hash_dataset
from dataset.logs.convert import FILES, convert
from dataset.logs.frames import log_from_frame
from dataset.logs.read_log import Log
from dataset.logs.sessionize import ConvertOptions
from dataset.pickled_lists import read_pickled_lists
from dataset.sessions import DataError


class Source(NamedTuple):
    """files: keys of `fetch.LITERATURE`. split: the protocol, for `prepare`. sha256: `hash_dataset` of the folder."""

    files: tuple[str, ...]
    split: str
    sha256: str


LITERATURE = {
    "S3_Beauty": Source(
        ("S3_Beauty.txt",), "leave-one-out", "68cf3e021e3084da2f00df3d1ade423df1b575c4c0de788a8373ade058a4bd8e"
    ),
    "S3_Sports": Source(
        ("S3_Sports_and_Outdoors.txt",),
        "leave-one-out",
        "ffefae91dceeee39598aa24272f0796ddbf3c8d13894a2c7a9acfe7b89fe2500",
    ),
    "S3_Toys": Source(
        ("S3_Toys_and_Games.txt",), "leave-one-out", "b88b93d9e7e30b53cb5003e17eda0111e448d234576020e94ffb27c9ddf1bb2a"
    ),
    "Diginetica": Source(
        ("diginetica_all_train_seq.pkl", "diginetica_test.pkl"),
        "last",
        "347fc2426189067c1e1b6c5de89a80e08dc1039f2866ab433a597a23fc2fe287",
    ),
    "Tmall": Source(
        ("Tmall_all_train_seq.pkl", "Tmall_test.pkl"),
        "last",
        "6e885d77d8b86eff8d559b4a7fdd4808eae25c0f6eb7b8d35590915468b14284",
    ),
}
# Nothing is cut or left out: these datasets are compared with published numbers.
_AS_THEY_ARE = {"keep_repeats": True, "longest": 10**6}


def make_literature_dataset(name: str, folder: str | Path | None = None) -> Path:
    """The folder of a dataset of LITERATURE, by default `dataset/<name>`. It is downloaded and converted once.

    Raises DataError if the folder holds other sessions, or a downloaded file is damaged; the errors of
    `fetch_literature`; and OSError if the folder cannot be written.
    """
    folder = HERE / name if folder is None else Path(folder)
    source = LITERATURE[name]
    if all((folder / file).is_file() for file in FILES):
        if hash_dataset(folder) != source.sha256:
            raise DataError(folder, None, f"has other sessions than the published {name}; rename or remove this folder")
        return folder
    paths = fetch_literature(source.files)
    print(f"{name}: converting {', '.join(path.name for path in paths)} into a dataset, once.")
    if source.split == "leave-one-out":
        convert(paths[0], folder, ConvertOptions(split="leave-one-out", **_AS_THEY_ARE))
    else:
        train, (prefixes, labels) = map(read_pickled_lists, paths)
        pairs = [[*prefix, label] for prefix, label in zip(prefixes, labels, strict=True)]
        logs = (_log(rows, path.name) for rows, path in zip((train, pairs), paths, strict=True))
        convert(next(logs), folder, ConvertOptions(**_AS_THEY_ARE), test_log=next(logs))
    return folder


def _log(sessions: list[list[int]], name: str) -> Log:
    """Lists of items as a log, in their order: session 0, 1, ..."""
    lengths = np.fromiter(map(len, sessions), np.int64, len(sessions))
    items = np.fromiter((item for session in sessions for item in session), np.int64, lengths.sum())
    frame = pl.DataFrame({"session": np.repeat(np.arange(len(sessions)), lengths), "item": items})
    return log_from_frame(frame, user="session", item="item", name=name)
