"""`make results`: load the data, train missing checkpoints, and execute get_final_result.ipynb."""

from __future__ import annotations

import argparse
import sys

import papermill
from papermill.exceptions import PapermillExecutionError

from dataset.fetch import AMAZON, DownloadError
from dataset.files import ROOT
from models import MODELS
from process_data import DataError, load_datasets
from sessionrec.checkpoint import CheckpointError
from sessionrec.device import TrainingError
from sessionrec.pretrained import get_pretrained

DEFAULT_MODELS = "GRU4REC,GRUwATT,Ensemble"  # the report's two final models, and the ensemble


def main(argv: list[str] | None = None) -> int:
    args = _parse_arguments(argv)
    executed = ROOT / "results" / "get_final_result.ipynb"
    try:
        datasets = load_datasets([args.dataset] if args.dataset else list(AMAZON.values()))
        for dataset in datasets:
            for model in args.models:
                get_pretrained(dataset, model, epochs=args.epochs)
        executed.parent.mkdir(exist_ok=True)
        papermill.execute_notebook(
            ROOT / "get_final_result.ipynb",
            executed,
            parameters={
                "DATASETS": [str(dataset.folder.resolve()) for dataset in datasets],
                "MODELS": args.models,
                "K": args.k,
                "EPOCHS": args.epochs,
            },
            cwd=ROOT,
            extra_arguments=["--log-level=ERROR"],
        )
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 1
    except PapermillExecutionError as error:
        where = f"cell {error.exec_count} of {executed.relative_to(ROOT)}"
        print(f"results: {where} failed: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("results: interrupted; the same command starts again", file=sys.stderr)
        return 130
    for dataset in datasets:
        print(f"results/test_result_{dataset.short_name}.csv")
    print(executed.relative_to(ROOT))
    return 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="results", description=__doc__)
    parser.add_argument("--dataset", help="name or folder of one dataset (default: both Amazon datasets)")
    parser.add_argument("--models", default=DEFAULT_MODELS, help="separated by commas (default: %(default)s)")
    parser.add_argument("--k", type=int, default=20, help="recommendations per session (default: 20)")
    parser.add_argument("--epochs", type=int, help="epochs of missing models (default: as in the recipe)")
    args = parser.parse_args(argv)
    args.models = [name.strip() for name in args.models.split(",")]
    if unknown := [name for name in args.models if name not in MODELS]:
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    if args.k < 1:
        parser.error(f"--k {args.k}: must be at least 1")
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    return args


if __name__ == "__main__":
    sys.exit(main())
