"""`make results`: find the data, and execute get_final_result.ipynb, which trains what is missing."""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from dataset.commands import report
from dataset.fetch import AMAZON, DownloadError
from dataset.files import ROOT
from dataset.find import load_datasets
from dataset.logs.convert import FILES, convert
from dataset.parts import alone_in
from dataset.sessions import DataError
from models import MODELS
from sessionrec.checkpoint import CheckpointError
from sessionrec.pretrained import results_name
from sessionrec.progress import TERMINAL

NOTEBOOK = "get_final_result"


def main(argv: list[str] | None = None) -> int:
    args = _parse_arguments(argv)
    results = ROOT / "results"
    try:
        with alone_in(results, "Another `make results` is running; this one waits for its end."):
            if args.dataset and Path(args.dataset).is_file():
                args.dataset = _convert_log(Path(args.dataset))
            datasets = load_datasets([args.dataset] if args.dataset else list(AMAZON.values()))
            names = [results_name(dataset) for dataset in datasets]
            # Two datasets whose folders have the same name keep apart their notebooks, too.
            suffix = names[0].removeprefix(datasets[0].short_name) if len(names) == 1 else ""
            executed = results / f"{NOTEBOOK}{suffix}.ipynb"
            _execute(executed, args, [str(dataset.folder.resolve()) for dataset in datasets])
    except (DataError, DownloadError, CheckpointError, ValueError, OSError) as error:
        return report("results", error)
    except PapermillExecutionError as error:
        where = f"cell {error.exec_count} of {executed.relative_to(ROOT)}"
        print(f"results: {where} failed: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except DeadKernelError:
        print("results: the notebook's process ended, perhaps because memory ran out", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("results: interrupted; the same command goes on with the models that are done", file=sys.stderr)
        return 130
    for name in names:
        print(f"results/test_result_{name}.csv")
    print(executed.relative_to(ROOT))
    return 0


def _execute(executed: Path, args: argparse.Namespace, folders: list[str]) -> None:
    """Execute the notebook. What it prints goes to this command's stderr, and so do its progress bars."""
    if sys.stderr.isatty() and os.access(terminal := os.ttyname(sys.stderr.fileno()), os.W_OK):
        os.environ[TERMINAL] = terminal
    parameters = {"DATASETS": folders, "MODELS": args.models, "K": args.k, "EPOCHS": args.epochs}
    try:
        papermill.execute_notebook(
            ROOT / f"{NOTEBOOK}.ipynb",
            executed,
            parameters=parameters | {"THOROUGH": args.thorough, "BUDGET_MINUTES": args.budget_minutes},
            cwd=ROOT,
            progress_bar=False,
            stdout_file=sys.stderr,
            extra_arguments=["--log-level=ERROR"],
        )
    except OSError as error:  # papermill does not name the file that it writes
        error.filename = error.filename or str(executed)
        raise


def _convert_log(log: Path) -> str:
    """Convert a log into a dataset folder `dataset/<its name>`, and print how it was read.

    A folder that is there already must be of the same log. Raises ValueError.
    """
    if log.name in FILES:
        raise ValueError(f"{log} is a file of a dataset; name its folder: DATASET={log.parent}")
    name = log.name.split(".")[0]
    folder = ROOT / "dataset" / name
    how = f"convert it yourself: dataset/convert.py {log} --output FOLDER, then DATASET=FOLDER"
    if not name:
        raise ValueError(f"{log}: this name gives no name for a dataset; {how}")
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) if folder.exists() else folder
        print(convert(log, target))
        if target != folder and not all(_is_same(target / file, folder / file) for file in FILES):
            raise ValueError(f"{folder.relative_to(ROOT)} exists and is of another log or other options; {how}")
    print(f"The sessions are in {folder.relative_to(ROOT)}; for other options, {how}.")
    return str(folder)


def _is_same(a: Path, b: Path) -> bool:
    return b.is_file() and a.read_bytes() == b.read_bytes()


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="results", description=__doc__)
    parser.add_argument("--dataset", help="name or folder of one dataset, or a log (default: both Amazon datasets)")
    parser.add_argument(
        "--models",
        help="separated by commas (default: GRU4REC,GRUwATT,Ensemble for the Amazon datasets, otherwise a choice)",
    )
    parser.add_argument("--k", type=int, default=20, help="recommendations per session (default: 20)")
    parser.add_argument("--epochs", type=int, help="epochs of missing models (default: as in the recipe)")
    parser.add_argument("--thorough", action="store_true", help="choose among all models and their ensemble")
    parser.add_argument("--budget-minutes", type=float, help="choose among as many models as this time allows")
    args = parser.parse_args(argv)
    args.models = [name.strip() for name in args.models.split(",")] if args.models else []
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    if args.models and (args.thorough or args.budget_minutes is not None):
        parser.error("--models names the models; --thorough and --budget-minutes choose them: leave one of them out")
    if args.k < 1:
        parser.error(f"--k {args.k}: must be at least 1")
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    if args.budget_minutes is not None and not 0 < args.budget_minutes < math.inf:
        parser.error(f"--budget-minutes {args.budget_minutes}: must be above 0")
    return args


if __name__ == "__main__":
    sys.exit(main())
