"""Train the runs that notebooks/5_comparison.ipynb and the model notebooks show, if results/runs does not have them.

python -m experiments.compare [--dataset Amazon_Beauty] [--only NARM]

Every dataset has runs of all models with recipe `best`, split by user, for two split seeds and three seeds. Beauty
also has runs with the report's protocol, the trials that it describes, and an ablation of GRU4REC. A run is repeated
if its recipe or a member of its ensemble has changed. Several processes can work in parallel, one per dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dataset.commands import report
from dataset.fetch import AMAZON, DownloadError
from dataset.files import ROOT, DataError, replacing
from dataset.find import load_dataset
from dataset.folders import SessionDataset
from experiments.report_numbers import GRU4REC_TRIALS, PRINTED_EPOCHS, TABLE
from experiments.saved_runs import RUNS, SEEDS, SPLIT_SEEDS, Plan, load_results, mean_and_spread, read_json, read_result
from models import BASELINES, MODELS
from process_data import prepare
from sessionrec.checkpoint import CheckpointError, load_checkpoint
from sessionrec.device import TrainingError
from sessionrec.fit import History
from sessionrec.results import summarize_run
from sessionrec.resume import discard_resume_files
from sessionrec.run import Run, Split, run_recipe

CHECKPOINTS = ROOT / "checkpoints" / "runs"

# GRU4REC with one change to recipe `best`: variant -> changes
ABLATION = {
    "no-smoothing": {"fit": {"graph_smoothing": 0.0}},
    "dot-product": {"model": {"score": "dot"}},
    "single-labels": {"data": {"dataset": "MyDataset", "fold": True}},
    "2-layers": {"model": {"layers": 2}},
}


def honest_plans(
    dataset: str,
    *,
    sha256: str = "",
    split_seeds: Sequence[int] = SPLIT_SEEDS,
    seeds: Sequence[int] = SEEDS,
    epochs: int | None = None,
) -> Iterator[Plan]:
    """Every model with recipe `best`, split by user. The Ensemble comes after its members."""
    changes = {"fit": {"epochs": epochs}} if epochs else {}
    for split_seed in split_seeds:
        for seed in seeds:
            for model in MODELS:  # the Ensemble is the last
                plan = Plan(model, dataset, split_seed=split_seed, seed=seed, sha256=sha256)
                if model not in BASELINES:
                    yield replace(plan, changes=changes)
                elif seed == seeds[0]:  # a baseline has no seed
                    yield plan


def report_plans(dataset: str, *, sha256: str = "", epochs: int | None = None) -> Iterator[Plan]:
    """The report's protocol, and variants with another split, training dataset or attention."""
    fit = {"fit": {"epochs": epochs}} if epochs else {}
    for split in ("row", "user"):
        for model in TABLE:
            plan = Plan(model, dataset, split, "report", sha256=sha256)
            for rows in ("TrainDataset", "MyDataset"):
                yield replace(plan, variant=rows, changes={"data": {"dataset": rows}} | fit)
            if model in ("GRUwATT", "GGNNwATT"):
                changes = {"data": {"dataset": "TrainDataset"}, "model": {"causal": True}}
                yield replace(plan, variant="causal", changes=changes | fit)


def trial_plans(model: str, dataset: str, *, sha256: str = "") -> Iterator[Plan]:
    """A model's trials that the report describes, split by row. It describes them for Beauty only.

    GRU4REC: the settings of `GRU4REC_TRIALS`, in that order, and two layers. The others: one run of all
    epochs, without early stopping.
    """
    if dataset != "beauty":
        return
    if model == "GRU4REC":
        variants = {"TrainDataset": {"data": {"dataset": "TrainDataset"}}}  # the first setting is the recipe's
        for lr, batch_size, dropout in list(GRU4REC_TRIALS)[1:]:
            changes = {"fit": {"lr": lr, "batch_size": batch_size}, "model": {"dropout": dropout}}
            variants[f"lr{lr:g}-batch{batch_size}-dropout{dropout:g}"] = changes
        variants["2-layers"] = {"model": {"layers": 2}}
    else:
        variants = {"all-epochs": {"fit": {"epochs": max(PRINTED_EPOCHS[model]), "patience": None}}}
    for variant, changes in variants.items():
        yield Plan(model, dataset, "row", "report", variant=variant, changes=changes, sha256=sha256)


def ablation_plans(dataset: str, *, sha256: str = "") -> Iterator[Plan]:
    """GRU4REC with recipe `best`, and with one change at a time. The variant with two layers has one seed only."""
    for variant, changes in {"": {}, **ABLATION}.items():
        for seed in SEEDS[:1] if variant == "2-layers" else SEEDS:
            yield Plan("GRU4REC", dataset, seed=seed, variant=variant, changes=changes, sha256=sha256)


def run_plan(plan: Plan, dataset: SessionDataset, *, folder: Path = RUNS, checkpoints: Path = CHECKPOINTS) -> Run:
    """Train and evaluate; write the result, and the checkpoint if the run can be a member of an ensemble.

    Continues an interrupted run, unless its recipe has changed since. Ctrl-C raises KeyboardInterrupt.
    """
    path = folder / f"{plan.name}.json"
    if path.exists() and read_json(path)["sha256"] != dataset.sha256:
        pattern = f"{folder}/*_{plan.dataset}_*"
        raise ValueError(f"{path} is a run on other data; move {pattern} away, or rename {dataset.folder}")
    recipe, resume_file = plan.load_recipe(), checkpoints / f"{plan.name}.state.safetensors"
    options = {"split": Split(plan.split, plan.split_seed), "seed": plan.seed, "resume_file": resume_file}
    if plan.model == "Ensemble":
        members = plan.member_plans(recipe.ensemble["members"])
        options["members"] = [member_run(member, dataset, folder, checkpoints) for member in members]
    try:
        run = run_recipe(recipe, dataset, **options)
    except CheckpointError:  # the resume file was written with another recipe
        discard_resume_files(resume_file)
        run = run_recipe(recipe, dataset, **options)
    if run.interrupted:
        raise KeyboardInterrupt
    if plan.recipe == "best" and plan.model != "Ensemble" and not plan.variant:
        run.save(checkpoints / f"{plan.name}.safetensors")
    with replacing(path) as part:
        part.write_text(json.dumps(summarize_run(run)) + "\n", encoding="utf-8")
    discard_resume_files(resume_file)
    return run


def member_run(plan: Plan, dataset: SessionDataset, folder: Path, checkpoints: Path) -> Run:
    """Load the run of an ensemble member, or train it if its saved result and checkpoint do not match."""
    result, path = read_result(plan, folder), checkpoints / f"{plan.name}.safetensors"
    saved = load_checkpoint(path) if result is not None and path.exists() else None
    if saved is None or saved.header["metrics"] != result["metrics"]:
        return run_plan(plan, dataset, folder=folder, checkpoints=checkpoints)
    data = prepare(dataset, split=plan.split, split_seed=plan.split_seed)
    ranks = {split: np.array(values) for split, values in result["ranks"].items()}
    history = History(pd.DataFrame(result["table"]).to_dict("records"))
    return Run(saved.model, history, data, ranks, saved.header)


def run_missing(dataset: SessionDataset, plans: Sequence[Plan]) -> None:
    """Run the plans whose results are not in results/runs."""
    missing = [plan for plan in plans if read_result(plan) is None]
    print(f"{dataset.name}: {len(missing)} of {len(plans)} runs are missing", flush=True)
    for plan in missing:
        if read_result(plan) is None:  # an ensemble may have run its members in the meantime
            print(plan.name, flush=True)
            run_plan(plan, dataset)


def trial_results(model: str, dataset: SessionDataset, *, rerun: bool = False) -> pd.DataFrame:
    """The report's trials of a model, as `load_results` returns them, indexed by their settings.

    Reads the saved runs; rerun=True trains them again. Empty for datasets other than Beauty.
    """
    plans = list(trial_plans(model, dataset.short_name, sha256=dataset.sha256))
    if not plans:
        print(f"The report has no numbers for {dataset.name}.")
    return _saved_or_rerun(plans, dataset, rerun)


def ablation_results(dataset: SessionDataset, *, rerun: bool = False) -> pd.DataFrame:
    """The runs of GRU4REC's ablation, as `load_results` returns them, indexed by the change."""
    plans = list(ablation_plans(dataset.short_name, sha256=dataset.sha256))
    return _saved_or_rerun(plans, dataset, rerun)


def _saved_or_rerun(plans: Sequence[Plan], dataset: SessionDataset, rerun: bool) -> pd.DataFrame:
    """Load saved runs, or train them again. New results go to checkpoints/runs; the committed ones are unchanged."""
    for plan in plans if rerun else ():
        run_plan(plan, dataset, folder=CHECKPOINTS)
    runs = load_results(plans, CHECKPOINTS if rerun else None)
    if len(runs) < len(plans):
        print(f"{len(plans) - len(runs)} of {len(plans)} runs are not saved; rerun=True trains them.")
    unchanged = {"": "recipe best", "TrainDataset": "lr0.01-batch256-dropout0"}
    names = [unchanged.get(variant, variant).replace("-", " ") for variant in runs.get("variant", ())]
    return runs.set_axis(names)


def results_table(runs: pd.DataFrame) -> str:
    """Mean ± standard deviation over the seeds for each model and split, in Markdown."""
    columns = [
        mean_and_spread(split_runs, ["HR@20", "MRR@20"])[0].add_suffix(f", split {split_seed}")
        for split_seed, split_runs in runs.groupby("split_seed")
    ]
    table = pd.concat(columns, axis=1).fillna("").rename_axis("model").reset_index()
    rows = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def plans_for(dataset: SessionDataset) -> list[Plan]:
    """All runs of a dataset, without duplicates. Those that concern the report are for Beauty only."""
    options = {"dataset": dataset.short_name, "sha256": dataset.sha256}
    plans = list(honest_plans(**options))
    if dataset.short_name == "beauty":
        plans += [*report_plans(**options), *ablation_plans(**options)]
        plans += [plan for model in TABLE for plan in trial_plans(model, **options)]
    return list({plan.name: plan for plan in plans}.values())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="experiments.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=list(AMAZON.values()), help="names or folders")
    parser.add_argument("--only", default="", help="text in the names of the runs, e.g. NARM or user_best_0")
    parser.add_argument("--table", action="store_true", help="print the results in Markdown; train nothing")
    parser.add_argument("--list", action="store_true", help="list the missing runs; train nothing")
    args = parser.parse_args(argv)
    try:
        datasets = [load_dataset(name) for name in args.dataset]
        plans = {dataset: [p for p in plans_for(dataset) if args.only in p.name] for dataset in datasets}
        if not any(plans.values()):
            example = Plan("NARM", "beauty").name
            raise ValueError(f"no run has {args.only!r} in its name; an example of a name is {example}")
        for dataset, selected in plans.items():
            if args.table:
                runs = load_results([plan for plan in selected if plan.recipe == "best" and not plan.variant])
                hint = f"no run is done yet; `python -m experiments.compare --dataset {dataset.folder}`"
                print(f"**{dataset.name}**\n\n{results_table(runs)}\n" if len(runs) else f"{dataset.name}: {hint}")
            elif args.list:
                print("".join(f"{plan.name}\n" for plan in selected if read_result(plan) is None), end="")
            else:
                run_missing(dataset, selected)
        sys.stdout.flush()
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        return report("compare", error)
    except KeyboardInterrupt:
        print("compare: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
