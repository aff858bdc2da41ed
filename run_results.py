"""What `make results` runs: data, checkpoints (missing ones are trained), then get_final_result.ipynb."""

from __future__ import annotations

import argparse
import sys

import papermill
from papermill.exceptions import PapermillExecutionError

from checkpoint import CheckpointError
from dataset.fetch_amazon import DownloadError
from process_data import AMAZON, ROOT, DataError, load_datasets
from train import TrainingError, get_pretrained

MODELS = ["GRU4REC", "GRUwATT", "Ensemble"]  # the report's two final models, and what goes beyond


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", help="one dataset, by name or folder, instead of both Amazon ones")
    parser.add_argument("--epochs", type=int, help="for missing checkpoints, instead of the recipe's")
    args = parser.parse_args(argv)
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    executed = ROOT / "results" / "get_final_result.ipynb"
    try:
        datasets = load_datasets([args.dataset] if args.dataset else list(AMAZON.values()))
        for dataset in datasets:
            for model in MODELS:
                get_pretrained(dataset, model, epochs=args.epochs)
        executed.parent.mkdir(exist_ok=True)
        papermill.execute_notebook(
            ROOT / "get_final_result.ipynb",
            executed,
            parameters={
                "DATASETS": [str(dataset.folder.resolve()) for dataset in datasets],
                "MODELS": MODELS,
            },
            cwd=ROOT,
            extra_arguments=["--log-level=ERROR"],  # the kernel's warnings are not the reader's concern
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
        print(ROOT.joinpath("results", f"test_result_{dataset.short_name}.csv").relative_to(ROOT))
    print(executed.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
