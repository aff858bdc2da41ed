"""Every run behind notebooks/5_comparison.ipynb: `make comparison`; what results/runs holds already stays.

python compare.py [--dataset Amazon_Beauty] [--only NARM]

Two kinds of runs. Honest: recipe `best`, user split, on every dataset, two split seeds, three seeds. The
report's: recipe `report`, on Beauty, by row and by user, on shifted sequences and single labels.
A run is done again when its recipe or an ensemble's member has changed since; one of other data is kept, and
that is said. Several processes may share the work, one a dataset.
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
    sha256: str = ""  # of the data that the run must be of; "": whatever it is of

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
    sha256: str = "",
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
                    yield Plan(model, dataset, split_seed=split_seed, seed=seed, changes=fewer, sha256=sha256)
                elif seed == seeds[0]:
                    yield Plan(model, dataset, split_seed=split_seed, sha256=sha256)


def report_plans(dataset: str, *, sha256: str = "", epochs: int | None = None) -> Iterator[Plan]:
    """The report's protocol and what is changed in it, one thing at a time."""
    fewer = {"fit": {"epochs": epochs}} if epochs else {}
    for split in ("row", "user"):
        for model in REPORTED:
            variants = {rows: {"data": {"dataset": rows}} for rows in ("TrainDataset", "MyDataset")}
            if model in ("GRUwATT", "GGNNwATT"):
                variants["causal"] = {"data": {"dataset": "TrainDataset"}, "model": {"causal": True}}
            for variant, changes in variants.items():
                yield Plan(
                    model, dataset, split, "report", variant=variant, changes=changes | fewer, sha256=sha256
                )


def read_result(plan: Plan, folder: Path | None = None) -> dict | None:
    """The result of a run; None where there is none, or one of another recipe, other data, other members."""
    path = (folder or RUNS) / f"{plan.name}.json"
    if not path.exists():
        return None
    result = read_json(path)
    if plan.sha256 and result.get("sha256") != plan.sha256:
        return None
    found = result.get("recipe_values")
    if found and plan.model == "Ensemble":  # what was found is written over what was asked
        names = [member["model"] for member in result["members"]]
        asked = {key: value for key, value in found["ensemble"].items() if key == "start"}
        found = found | {"ensemble": asked | {"members": names}}
        for i, member in enumerate(result["members"]):
            own = read_result(member_plan(plan, names, i), folder)
            if own is None or own["metrics"] != member["metrics"]:
                return None
    return result if found == plan.expected() else None


def read_json(path: Path) -> dict:
    """A result file. Raises ValueError for one that is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and the run is done again") from None


def member_plan(plan: Plan, names: Sequence[str], i: int) -> Plan:
    """The run of an ensemble's i-th member: that of its seed, of the next one where it was named before."""
    if names[i] in COUNT_MODELS:
        return replace(plan, model=names[i], seed=0, changes={})
    return replace(plan, model=names[i], seed=plan.seed + names[:i].count(names[i]))


def run_plan(
    plan: Plan, dataset: SessionDataset, *, folder: Path = RUNS, checkpoints: Path = CHECKPOINTS
) -> Run:
    """Train and evaluate; write the result, and what an ensemble will need.

    An interrupted run goes on, unless its recipe has changed since.
    """
    path = folder / f"{plan.name}.json"
    if path.exists() and (theirs := read_json(path).get("sha256")) and theirs != dataset.sha256:
        others = f"{folder}/*_{plan.dataset}_*"
        raise ValueError(f"{path} is a run on other data; move {others} away, or rename {dataset.folder}")
    state = checkpoints / f"{plan.name}.state.safetensors"
    options = {"recipe": plan.recipe, "changes": plan.changes, "split": plan.split, "seed": plan.seed}
    options["split_seed"] = plan.split_seed
    if plan.model == "Ensemble":
        names = load_recipe(plan.recipe, plan.model, plan.dataset)["ensemble"]["members"]
        options["members"] = [
            member_run(member_plan(plan, names, i), dataset, folder, checkpoints) for i in range(len(names))
        ]
    try:
        run = train_model(dataset, plan.model, state=state, resume=True, **options)
    except CheckpointError:  # the state of another recipe
        discard_state(state)
        run = train_model(dataset, plan.model, state=state, **options)
    if run.interrupted:
        raise KeyboardInterrupt
    if plan.recipe == "best" and plan.model != "Ensemble":
        run.save(checkpoints / f"{plan.name}.safetensors")
    with replacing(path) as part:
        part.write_text(json.dumps(result_of(run)) + "\n", encoding="utf-8")
    discard_state(state)
    return run


def member_run(plan: Plan, dataset: SessionDataset, folder: Path, checkpoints: Path) -> Run:
    """A member's run from its files, where both are of this plan; else it is done now."""
    result, path = read_result(plan, folder), checkpoints / f"{plan.name}.safetensors"
    saved = load_checkpoint(path) if result is not None and path.exists() else None
    if saved is None or saved.header["metrics"] != result["metrics"]:
        return run_plan(plan, dataset, folder=folder, checkpoints=checkpoints)
    data = prepare(dataset, split=plan.split, split_seed=plan.split_seed)
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


def load_results(plans: Sequence[Plan], folder: Path | None = None) -> pd.DataFrame:
    """One row a plan whose run is done: the plan, metrics and ranks of the test part, else of validation."""
    rows = []
    for plan in plans:
        if (result := read_result(plan, folder)) is None:
            continue
        part = "test" if "test" in result["metrics"] else "valid"
        names = ("dataset", "model", "split", "protocol", "split_seed", "seed")
        rows.append(
            {
                **{name: getattr(plan, name) for name in names},
                **result["metrics"][part],
                **{f"valid {metric}": result["metrics"]["valid"][metric] for metric in ("HR@20", "MRR@20")},
                **{key: result.get(key) for key in ("parameters", "train_seconds", "queries_per_second")},
                **{key: result.get(key) for key in ("catalogue_share", "popularity", "shuffled", "members")},
                "ranks": np.array(result["ranks"][part]),
                "table": pd.DataFrame(result["table"]),
            }
        )
    return pd.DataFrame(rows)


def readme_table(honest: pd.DataFrame) -> str:
    """The README's table of honest runs: mean ± standard deviation over the seeds, in Markdown."""
    columns = [
        (metric, split) for split in sorted(set(honest["split_seed"])) for metric in ("HR@20", "MRR@20")
    ]
    heads = ["model", *(f"{metric}, split {split_seed}" for metric, split_seed in columns)]
    lines = [heads, ["---"] * len(heads)]
    for model in (model for model in MODELS if model in set(honest["model"])):
        cells = [model]
        for metric, split_seed in columns:
            of_split = honest[(honest["model"] == model) & (honest["split_seed"] == split_seed)][metric]
            spread = f" ± {of_split.std():.4f}" if len(of_split) > 1 else ""
            cells.append(f"{of_split.mean():.4f}{spread}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", nargs="+", default=list(AMAZON.values()), help="names or folders")
    parser.add_argument("--report", action="store_true", help="the report's runs on any dataset")
    parser.add_argument("--only", help="part of a run's name, e.g. NARM or user_best_0")
    parser.add_argument("--table", action="store_true", help="print the README's tables, and run nothing")
    parser.add_argument("--list", action="store_true", help="say what is left to run, and run nothing")
    args = parser.parse_args(argv)
    try:
        datasets = [load_dataset(name) for name in args.dataset]
        found = 0
        for dataset in datasets:
            of = {"dataset": dataset.short_name, "sha256": dataset.sha256}
            plans = honest = list(honest_plans(**of))
            if dataset.name == next(iter(AMAZON.values())) or args.report:
                plans = honest + list(report_plans(**of))
            plans = [plan for plan in plans if not args.only or args.only in plan.name]
            found += len(plans)
            if args.table:
                results = load_results([plan for plan in honest if plan in plans])
                if len(results):
                    print(f"**{dataset.name}**\n\n{readme_table(results)}\n")
                elif plans and load_results(plans).empty:
                    print(
                        f"{dataset.name}: no run is done yet; `python compare.py --dataset {dataset.folder}`"
                    )
            elif args.list:
                print("".join(f"{plan.name}\n" for plan in plans if read_result(plan) is None), end="")
            else:
                run_missing(dataset, plans)
        if not found:
            example = Plan("NARM", "beauty").name
            raise ValueError(f"no run has {args.only!r} in its name; they are called such as {example}")
    except (DataError, DownloadError, CheckpointError, TrainingError, ValueError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
