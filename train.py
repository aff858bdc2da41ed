"""Command line: train one model by a recipe, report its held-out metrics, save a checkpoint.

python train.py --dataset Amazon_Beauty --model NARM --output narm.safetensors
torchrun --nproc-per-node 2 train.py --dataset Amazon_Beauty --model NARM --output narm.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from dataset.commands import report
from dataset.fetch import DownloadError
from dataset.files import ROOT, check_outputs, replacing
from dataset.options import Seed, Size, check
from dataset.split import SPLITS
from models import BASELINES, MODELS
from models.base import constructor_parameters
from process_data import DataError, load_dataset
from sessionrec import distributed
from sessionrec.checkpoint import CheckpointError
from sessionrec.device import TrainingError
from sessionrec.recipes import OPTIONS, load_recipe, parse_changes
from sessionrec.results import summarize_run
from sessionrec.resume import discard_resume_files, resume_files
from sessionrec.run import Run, Split, run_recipe, train_on_all_rows


def main(argv: list[str] | None = None) -> int:
    args = _parse_arguments(argv)
    resume_file = args.output.with_suffix(".state.safetensors")
    try:
        run, result = _train(args, resume_file)
        if distributed.rank() > 0:
            return 0
        if run.interrupted:
            again = "fits it again" if args.model in BASELINES else f"with --resume continues from {resume_file}"
            print(f"Nothing was saved yet; the same command {again}.")
            return 130
        run.save(args.output, compact=args.compact)
        if result:
            with replacing(args.json) as part:
                part.write_text(json.dumps(result) + "\n", encoding="utf-8")
        discard_resume_files(resume_file)
        _print_summary(args, run)
        sys.stdout.flush()
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        return report("train.py", error)
    except KeyboardInterrupt:  # outside of the training loop: while reading data, or ranking
        if distributed.rank() == 0:
            left = f"; --resume continues from {resume_file}" if resume_files(resume_file) else ""
            print(f"train.py: interrupted{left}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if distributed.world_size() == 1:
            raise
        print(f"train.py: another process failed; --resume continues from {resume_file} ({error})", file=sys.stderr)
        return 1
    finally:
        distributed.stop()
    return 0


def _train(args: argparse.Namespace, resume_file: Path) -> tuple[Run, dict | None]:
    """The run, and what `--json` writes."""
    device = distributed.start(args.device)
    if (n := distributed.world_size()) > 1 and distributed.rank() == 0:
        print(f"{n} processes train together. If one fails, all stop: --resume continues from {resume_file}.")
    dataset = load_dataset(args.dataset)
    outputs = [args.output, resume_file, *([args.json] if args.json else [])]
    names = ("train_sessions.csv", "test_sessions.csv", "items.csv")
    check_outputs(outputs, inputs=[*(dataset.folder / name for name in names), ROOT / "recipes.toml"])
    recipe = load_recipe(args.recipe, args.model, dataset.short_name).with_changes(args.set)
    if args.epochs is not None:
        if args.model not in BASELINES:
            recipe = recipe.with_changes({"fit": {"epochs": args.epochs}})
        elif args.epochs != 1:
            raise ValueError(f"{args.model} is a baseline, fitted in one pass; it takes no epochs")
    if args.resume and not resume_file.exists() and not resume_files(resume_file) and distributed.rank() == 0:
        print(f"There is no {resume_file} to resume from; the run starts anew.")
    if not args.resume and distributed.rank() == 0:
        discard_resume_files(resume_file)
    distributed.barrier()
    options = {"seed": args.seed, "device": device, "resume_file": resume_file}
    shares = {"valid_share": args.valid_share, "test_share": args.test_share}
    by = "user" if args.split == "none" else args.split
    train = train_on_all_rows if args.split == "none" else run_recipe
    train = partial(train, recipe, dataset, split=Split(by, args.split_seed, **shares), **options)
    try:
        run = train()
    except CheckpointError:  # another run with the same --output has meanwhile written its resume file
        if args.resume:
            raise
        discard_resume_files(resume_file)
        run = train()
    # All processes together, since it ranks queries; the first one writes.
    return run, summarize_run(run) if args.json and not run.interrupted else None


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="folder, or a name such as Amazon_Beauty or Demo")
    parser.add_argument("--model", required=True, choices=list(MODELS))
    parser.add_argument("--output", required=True, type=Path, help="the checkpoint, a .safetensors file")
    parser.add_argument("--recipe", default="best", help="of recipes.toml: best, fast, report")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="any other value of the recipe, such as fit.lr=0.01 or model.width=64; may be repeated",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout, batches")
    parser.add_argument("--split", default="user", choices=SPLITS)
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--valid-share", type=float, help="default: .1 by user, .2 by row")
    parser.add_argument("--test-share", type=float, help="default: .1 by user, 0 by row")
    parser.add_argument("--device", help="cuda, mps or cpu; default: the first that is there")
    parser.add_argument(
        "--compact", action="store_true", help="item embeddings as int8, other weights as float16 (4x smaller)"
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run from its last epoch")
    parser.add_argument("--json", type=Path, help="write settings, metrics, ranks and table to this file")
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}; {_describe_set(unknown[0], args.model)}")
    if args.output.suffix != ".safetensors":
        parser.error(f"--output {args.output}: name a .safetensors file")
    try:
        for option, hint in {"--epochs": Size | None, "--seed": Seed, "--split-seed": Seed}.items():
            check(option, getattr(args, option[2:].replace("-", "_")), hint)
        args.set = parse_changes(args.set)
    except ValueError as error:
        parser.error(str(error))
    if args.epochs is not None and "epochs" in args.set.get("fit", {}):
        parser.error("--epochs and --set fit.epochs=... say the same; omit one")
    return args


def _describe_set(option: str, model: str) -> str:
    """How to set a value of the recipe, with the section to which an unknown option belongs."""
    name = option.lstrip("-").split("=")[0].replace("-", "_")
    sections = {**OPTIONS, "model": constructor_parameters(MODELS[model])}
    section, name = next(((s, name) for s, options in sections.items() if name in options), ("fit", "lr"))
    return f"values of the recipe are set by --set, for example --set {section}.{name}=VALUE"


def _print_summary(args: argparse.Namespace, run: Run) -> None:
    header = run.header
    how = "a baseline" if args.model in BASELINES else f"{header['epochs']} epochs"
    if "members" in header:
        how = ", ".join(f"{m['weight']:.2f} {m['model']}" for m in header["members"] if m["weight"])
    print(f"{args.output}: {args.model} on {header['dataset']}, {how}")
    for split, values in header["metrics"].items():
        names = ("HR@20", "MRR@20", "HR@5", "MRR@5", "accuracy")
        print(f"  {split}: " + ", ".join(f"{name} {values[name]:.4f}" for name in names))


if __name__ == "__main__":
    distributed.exit(main())
