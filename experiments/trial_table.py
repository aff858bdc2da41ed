"""The table of trials of a dataset: one CSV file, which is all that a study is continued from."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dataset.files import ROOT, replacing
from dataset.options import check
from experiments.search_spaces import SPACES, Choice, Float, Int

TRIALS_FOLDER = ROOT / "experiments" / "trials"
# A row is a trial, or a final: a recipe trained from one seed, to compare it with others.
# number: number of the trial, from 1; of a final, the trial whose values it uses, or none.
# MRR@20, HR@20: validation metrics of the best epoch. epochs: length of the schedule.
# data: first digits of the data's SHA-256. curve: MRR@20 after each epoch.
# recipe: whether the values were those of the recipe `best` when the row was written.
# params: the searched values of a trial, to three digits, or all values of a final's recipe.
COLUMNS = "kind model number state seed MRR@20 HR@20 epochs seconds recipe data curve params".split()


def read_trials(dataset: str, model: str | None = None, *, folder: Path = TRIALS_FOLDER) -> pd.DataFrame:
    """The trials and finals of a dataset (its short name), or of one model on it. See COLUMNS."""
    file = folder / f"{dataset}.csv"
    table = pd.DataFrame(_read_rows(file) if file.exists() else [], columns=COLUMNS).astype({"number": "Int64"})
    return table if model is None else table[table["model"] == model].reset_index(drop=True)


def _read_rows(file: Path) -> list[dict]:
    """The rows of a table of trials. A last line that was cut off is left out, with a warning.

    Raises ValueError (file, line) for anything else that is no table of trials.
    """
    try:
        *lines, cut_off = file.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a table of trials (it is not UTF-8 text); delete it to start again") from None
    if not lines or lines[0].rstrip("\r") != ",".join(COLUMNS):
        raise ValueError(f"{file} is not a table of trials (it has another header); delete it to start again")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            rows.append(_parse_row(line.rstrip("\r")))
        except ValueError as error:
            reason = f"is not a row of a table of trials ({error})"
            raise ValueError(f"{file}, line {number}: {reason}; remove the line, and its trial is repeated") from None
    if cut_off:
        try:  # only the line end may be missing
            rows.append(_parse_row(cut_off))
        except ValueError:
            reason = "the last line is cut off and is left out; its trial is repeated"
            warnings.warn(f"{file}, line {len(lines) + 1}: {reason}", stacklevel=3)
    return rows


def _parse_row(line: str) -> dict:
    """One row of a table of trials. Raises ValueError."""
    try:
        cells = next(csv.reader([line], strict=True), [])
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{len(cells)} cells")
        row = {name: _PARSERS[name](cell) for name, cell in zip(COLUMNS, cells, strict=True)}
        check("curve", row["curve"], list[float])
        check("params", row["params"], dict)
    except (csv.Error, KeyError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if row["kind"] == "trial":
        for key, value in row["params"].items():
            if not _is_in_space(value, SPACES.get(row["model"], {}).get(key)):
                raise ValueError(f"{row['model']} does not search {key}={value!r}")
    return row


def _one_of(*choices: str) -> Callable[[str], str]:
    return {choice: choice for choice in choices}.__getitem__


def _finite(cell: str) -> float:
    if not math.isfinite(value := float(cell)):
        raise ValueError(f"{cell} is no finite number")
    return value


def _finite_or_missing(cell: str) -> float:  # the first finals were written without these
    return _finite(cell) if cell else math.nan


_PARSERS: dict[str, Callable[[str], object]] = {
    "kind": _one_of("trial", "final"),
    "model": str,
    "number": lambda cell: int(cell) if cell else None,
    "state": _one_of("complete", "pruned"),
    "seed": int,
    "MRR@20": _finite,
    "HR@20": _finite_or_missing,
    "epochs": int,
    "seconds": _finite_or_missing,
    "recipe": {"True": True, "False": False}.__getitem__,
    "data": str,
    "curve": json.loads,
    "params": json.loads,
}


def _is_in_space(value: object, space: Float | Int | Choice | None) -> bool:
    if isinstance(space, Choice):
        return value in space.choices
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return space is not None and is_number and space.low <= value <= space.high


def append_row(dataset: str, row: dict, *, folder: Path = TRIALS_FOLDER) -> pd.DataFrame:
    """Add a row to the dataset's CSV file; return the table of the row's model. The caller holds the file's lock."""
    rows = [*read_trials(dataset, folder=folder).to_dict("records"), row]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"number": "Int64"})
    table["curve"], table["params"] = table["curve"].map(json.dumps), table["params"].map(json.dumps)
    with replacing(folder / f"{dataset}.csv") as part:
        table.to_csv(part, index=False)
    source = f"{row['kind']} {row['number']}" if row["number"] else "final of the recipe"
    print(f"{dataset} {row['model']}, {source}: MRR@20 {row['MRR@20']:.4f}, {row['state']}", flush=True)
    return read_trials(dataset, row["model"], folder=folder)
