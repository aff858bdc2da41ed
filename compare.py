"""Every run behind notebooks/5_comparison.ipynb: `make comparison`; what results/runs holds already stays.

python compare.py [--dataset Amazon_Beauty] [--only NARM]

Two kinds of runs. Honest: recipe `best`, user split, on every dataset, two split seeds, three seeds. The
report's: recipe `report`, on the first dataset, by row and by user, on shifted sequences and single labels.
A run is done again when its recipe has changed since. Several processes may share the work, one a dataset.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from checkpoint import CheckpointError, load_checkpoint, replacing
from dataset.fetch_amazon import DownloadError
from models import COUNT_MODELS, MODELS
from process_data import AMAZON, ROOT, DataError, SessionDataset, load_dataset, prepare
from train import Run, TrainingError, discard_state, load_recipe, result_of, train_model

RUNS = ROOT / "results" / "runs"
CHECKPOINTS = ROOT / "checkpoints" / "runs"
SPLIT_SEEDS, SEEDS = (0, 1), (0, 1, 2)
REPORTED = ("GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT")


@dataclass(frozen=True)
class Plan:
    """One run: a file `<model>_<dataset>_<split>_<protocol>_<split seed>_<seed>.json`."""

    model: str
    dataset: str
    split: str = "user"
    recipe: str = "best"
    split_seed: int = 0
    seed: int = 0
    variant: str = ""
    changes: dict = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        return f"{self.recipe}-{self.variant}" if self.variant else self.recipe

    @property
    def name(self) -> str:
        return "_".join(
            map(str, (self.model, self.dataset, self.split, self.protocol, self.split_seed, self.seed))
        )

    def expected(self) -> dict:
        """What the result file must hold for the run to count as done."""
        values = load_recipe(self.recipe, self.model, self.dataset)
        for kind, more in self.changes.items():
            values[kind] |= more
        return values


def honest_plans(
    dataset: str,
    *,
    split_seeds: Sequence[int] = SPLIT_SEEDS,
    seeds: Sequence[int] = SEEDS,
    epochs: int | None = None,
) -> Iterator[Plan]:
    """Recipe `best` by user; the Ensemble comes after its members. What counts has no seed to vary."""
    for split_seed in split_seeds:
        for seed in seeds:
            for model in MODELS:  # the Ensemble is the last
                if model not in COUNT_MODELS:
                    fewer = {"fit": {"epochs": epochs}} if epochs else {}
                    yield Plan(model, dataset, split_seed=split_seed, seed=seed, changes=fewer)
                elif seed == seeds[0]:
                    yield Plan(model, dataset, split_seed=split_seed)


def report_plans(dataset: str, *, epochs: int | None = None) -> Iterator[Plan]:
    """The report's protocol and what is changed in it, one thing at a time."""
    fewer = {"fit": {"epochs": epochs}} if epochs else {}
    for split in ("row", "user"):
        for model in REPORTED:
            variants = {rows: {"data": {"dataset": rows}} for rows in ("TrainDataset", "MyDataset")}
            if model in ("GRUwATT", "GGNNwATT"):
                variants["causal"] = {"data": {"dataset": "TrainDataset"}, "model": {"causal": True}}
            for variant, changes in variants.items():
                yield Plan(model, dataset, split, "report", variant=variant, changes=changes | fewer)


def read_result(plan: Plan, folder: Path = RUNS) -> dict | None:
    """The result of a run; None where there is none, or one of another recipe."""
    path = folder / f"{plan.name}.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    found = result.get("recipe_values")
    if found and plan.model == "Ensemble":  # what was found is written over what was asked
        found = found | {"ensemble": {"members": [member["model"] for member in result["members"]]}}
    return result if found == plan.expected() else None


def run_plan(
    plan: Plan, dataset: SessionDataset, *, folder: Path = RUNS, checkpoints: Path = CHECKPOINTS
) -> Run:
    """Train and evaluate; write the result, and what an ensemble will need. An interrupted run goes on."""
    state = checkpoints / f"{plan.name}.state.safetensors"
    options = {"recipe": plan.recipe, "changes": plan.changes, "split": plan.split, "seed": plan.seed}
    options["split_seed"] = plan.split_seed
    if plan.model == "Ensemble":
        names = load_recipe(plan.recipe, plan.model, plan.dataset)["ensemble"]["members"]
        options["members"] = [
            member_run(plan, name, names[:i].count(name), dataset, folder, checkpoints)
            for i, name in enumerate(names)
        ]
    run = train_model(dataset, plan.model, state=state, resume=True, **options)
    if run.interrupted:
        raise KeyboardInterrupt
    if plan.recipe == "best" and plan.model != "Ensemble":
        run.save(checkpoints / f"{plan.name}.safetensors")
    with replacing(folder / f"{plan.name}.json") as part:
        part.write_text(json.dumps(result_of(run)) + "\n", encoding="utf-8")
    discard_state(state)
    return run


def member_run(
    plan: Plan, name: str, copy: int, dataset: SessionDataset, folder: Path, checkpoints: Path
) -> Run:
    """The run of an ensemble's member: that of the same seed as a model of its own, from its files."""
    own = replace(plan, model=name, seed=plan.seed + copy)
    if name in COUNT_MODELS:
        own = replace(own, seed=0, changes={})
    result, path = read_result(own, folder), checkpoints / f"{own.name}.safetensors"
    if result is None or not path.exists():
        return run_plan(own, dataset, folder=folder, checkpoints=checkpoints)
    saved = load_checkpoint(path)
    data = prepare(dataset, split=own.split, split_seed=own.split_seed)
    table = pd.DataFrame(result["table"])
    table.attrs["interrupted"] = False
    ranks = {part: np.array(values) for part, values in result["ranks"].items()}
    return Run(saved.model, table, data, ranks, result["metrics"], saved.header)


def run_missing(dataset: SessionDataset, plans: Sequence[Plan]) -> None:
    """Run what results/runs does not hold yet."""
    left = [plan for plan in plans if read_result(plan) is None]
    print(f"{dataset.name}: {len(left)} of {len(plans)} runs are left", flush=True)
    for plan in left:
        if read_result(plan) is None:  # an ensemble may have run its members
            print(plan.name, flush=True)
            run_plan(plan, dataset)


def load_results(folder: Path = RUNS) -> pd.DataFrame:
    """One row a saved run: how it was run, test metrics (validation's where there is no test part), ranks."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        part = "test" if "test" in result["metrics"] else "valid"
        _, short, split, protocol, split_seed, seed = path.stem.split("_")
        rows.append(
            {
                "dataset": short,
                "model": result["model"],
                "split": split,
                "protocol": protocol,
                "split_seed": int(split_seed),
                "seed": int(seed),
                **result["metrics"][part],
                "valid MRR@20": result["metrics"]["valid"]["MRR@20"],
                **{key: result.get(key) for key in ("parameters", "train_seconds", "queries_per_second")},
                **{key: result.get(key) for key in ("catalogue_share", "popularity", "shuffled", "members")},
                "ranks": np.array(result["ranks"][part]),
                "table": pd.DataFrame(result["table"]),
            }
        )
    return pd.DataFrame(rows)


def readme_table(runs: pd.DataFrame, dataset: str, split_seeds: Sequence[int] = SPLIT_SEEDS) -> str:
    """The README's table of one dataset, in Markdown: mean ± standard deviation over the seeds, by split."""
    honest = runs[(runs["dataset"] == dataset) & (runs["split"] == "user") & (runs["protocol"] == "best")]
    columns = [(metric, split_seed) for split_seed in split_seeds for metric in ("HR@20", "MRR@20")]
    heads = ["model", *(f"{metric}, split {split_seed}" for metric, split_seed in columns)]
    lines = [heads, ["---"] * len(heads)]
    for model in (model for model in MODELS if model in set(honest["model"])):
        cells = [model]
        for metric, split_seed in columns:
            of_split = honest[(honest["model"] == model) & (honest["split_seed"] == split_seed)][metric]
            spread = f" ± {of_split.std(ddof=0):.4f}" if len(of_split) > 1 else ""
            cells.append(f"{of_split.mean():.4f}{spread}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=list(AMAZON.values()), help="names or folders")
    parser.add_argument("--report", action="store_true", help="the report's runs on every dataset named")
    parser.add_argument("--only", help="part of a run's name, e.g. NARM or user_best_0")
    parser.add_argument("--table", action="store_true", help="print the README's tables, and run nothing")
    parser.add_argument("--list", action="store_true", help="say what is left to run, and run nothing")
    args = parser.parse_args(argv)
    try:
        datasets = [load_dataset(name) for name in args.dataset]
        for dataset in datasets:
            plans = list(honest_plans(dataset.short_name))
            if dataset is datasets[0] or args.report:
                plans += report_plans(dataset.short_name)
            plans = [plan for plan in plans if not args.only or args.only in plan.name]
            if args.table:
                print(f"**{dataset.name}**\n\n{readme_table(load_results(), dataset.short_name)}\n")
            elif args.list:
                print(*(plan.name for plan in plans if read_result(plan) is None), sep="\n")
            else:
                run_missing(dataset, plans)
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
