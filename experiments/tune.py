"""Tune hyperparameters on validation: an Optuna study per model and dataset.

python -m experiments.tune --dataset Amazon_Beauty --model NARM --trials 30
python -m experiments.tune --dataset Amazon_Beauty --write        # copy the winners into recipes.toml

The objective is MRR@20 on the validation users of split 0. Test users are never scored. A neural trial is cheaper
than training by a recipe: it has fewer epochs, a sampled softmax and one seed. The best trial is therefore compared
with the recipe `best` at the end: both are trained with all epochs and the full softmax, from up to two seeds.

Every finished trial is one row of experiments/trials/<dataset>.csv, and a study continues from that file. One process
at a time works on a file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import TrialState, create_trial

from dataset.commands import report
from dataset.fetch import DownloadError
from dataset.files import ROOT, replacing
from dataset.find import load_dataset
from dataset.folders import SessionDataset
from dataset.parts import lock_file
from experiments.search_spaces import SPACES, Choice
from experiments.trial_table import TRIALS_FOLDER, append_row, read_trials
from models import NEURAL_MODELS
from sessionrec.device import TrainingError
from sessionrec.fit import History, StopTraining
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.run import run_recipe

RECIPES = ROOT / "recipes.toml"
WRITTEN = "# Below this line `python -m experiments.tune --write` writes.\n"  # in recipes.toml
TRIALS, EPOCHS = 30, 10  # finished trials per study; epochs of a neural trial
RUNGS, REDUCTION = (3, 9, 27, 81), 3  # after these epochs a trial continues if it is in the best third so far
# A trial uses a sampled softmax with this many negatives. It takes a third of the time, and on Beauty the difference
# to the full softmax is within the spread of the seeds (benchmarks/README.md).
NEGATIVES = 2048
FINAL_SEEDS = (0, 1)
optuna.logging.set_verbosity(optuna.logging.WARNING)  # do not print the study that is restored for every trial


def flatten(values: dict[str, dict]) -> dict:
    """{"fit": {"lr": 0.01}} -> {"fit.lr": 0.01}"""
    return {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}


def unflatten(params: dict) -> dict[str, dict]:
    """{"fit.lr": 0.01} -> {"fit": {"lr": 0.01}}, the form of `Recipe.with_changes`."""
    changes: dict[str, dict] = {}
    for name, value in params.items():
        section, key = name.split(".")
        changes.setdefault(section, {})[key] = value
    return changes


def check_trials(trials: pd.DataFrame, sha256: str, epochs: int | None = None) -> None:
    """Raise ValueError if trials come from other data or have another number of epochs."""
    for row in trials[trials["kind"] == "trial"].itertuples():
        if not sha256.startswith(row.data):
            raise ValueError(f"{row.model}: its trials come from other data; name another --folder")
        if epochs and row.epochs != epochs:
            raise ValueError(f"{row.model}: its trials have {row.epochs} epochs; name another --folder")


def best_trial(trials: pd.DataFrame) -> pd.Series | None:
    """The complete trial with the highest validation MRR@20, or None if no trial is complete or all diverged."""
    complete = trials[(trials["kind"] == "trial") & (trials["state"] == "complete") & (trials["MRR@20"] > 0)]
    return complete.loc[complete["MRR@20"].idxmax()] if len(complete) else None


def restore_study(trials: pd.DataFrame, model: str) -> optuna.Study:
    """An Optuna study in memory that holds a model's finished trials.

    The sampler's seed is their number, so a resumed study draws the same points as an uninterrupted one.
    """
    rows = trials[trials["kind"] == "trial"].to_dict("records")
    sampler = optuna.samplers.TPESampler(n_startup_trials=8, multivariate=True, seed=len(rows))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for row in rows:
        state, curve = TrialState[row["state"].upper()], dict(enumerate(row["curve"], start=1))
        point = {"params": row["params"], "distributions": {key: SPACES[model][key] for key in row["params"]}}
        study.add_trial(create_trial(state=state, value=row["MRR@20"], intermediate_values=curve, **point))
    return study


def importances(trials: pd.DataFrame, model: str) -> dict[str, float]:
    """How well each hyperparameter separates the best third of a model's trials (PED-ANOVA, Watanabe 2023).

    The value of a neural trial is its MRR@20 at the first rung, which every trial reached. The sum is 1.
    """
    pairs = zip(trials["curve"], trials["MRR@20"], strict=True)
    values = [(curve[RUNGS[0] - 1 :] or [value])[0] for curve, value in pairs]
    study = restore_study(trials.assign(**{"state": "complete", "MRR@20": values}), model)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / 3)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def known_point(recipe: Recipe) -> dict:
    """The searched values that a recipe contains. For a missing choice, the first option is used."""
    values, point = flatten(recipe.values), {}
    for key, space in SPACES[recipe.model_name].items():
        value = values.get(key)
        if isinstance(space, Choice):
            point[key] = value if value in space.choices else space.choices[0]
        elif value is not None and space.low <= value <= space.high:
            point[key] = value
    return point


def next_point(trials: pd.DataFrame, recipe: Recipe) -> dict:
    """The next values to try, to three digits. A study starts with those of the recipe."""
    study = restore_study(trials, recipe.model_name)
    if not study.trials:
        study.enqueue_trial(known_point(recipe))
    point = study.ask(SPACES[recipe.model_name]).params
    return {key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in point.items()}


class Pruner:
    """A callback of `fit` that stops weak trials: asynchronous successive halving (Li et al. 2020)."""

    def __init__(self, curves: Sequence[list[float]], epochs: int):
        self.curves, self.epochs, self.pruned = curves, epochs, False

    def __call__(self, history: History) -> None:
        epoch, value = len(history.rows), round(history.rows[-1]["MRR@20"], 6)
        if epoch in RUNGS and epoch < self.epochs:
            reached = sorted([value, *(curve[epoch - 1] for curve in self.curves if len(curve) >= epoch)])
            self.pruned = value < reached[-max(len(reached) // REDUCTION, 1)]
        if self.pruned:
            raise StopTraining


def train(recipe: Recipe, dataset: SessionDataset, *, seed: int = 0, callbacks: Sequence = ()) -> dict:
    """Train a recipe; return its validation metrics as a row of the table. They are 0 if training diverges."""
    started, metrics, curve = time.perf_counter(), {"MRR@20": 0.0, "HR@20": 0.0}, []
    try:
        run = run_recipe(recipe, dataset, seed=seed, callbacks=callbacks, evaluate_on=("valid",))
        if run.interrupted:
            raise KeyboardInterrupt
        metrics, curve = run.metrics["valid"], [row.get("MRR@20", 0.0) for row in run.history.rows]
    except TrainingError:
        pass
    row = {"model": recipe.model_name, "state": "complete", "seed": seed, "data": dataset.sha256[:12]}
    row |= {name: round(metrics[name], 6) for name in ("MRR@20", "HR@20")}
    row["curve"], row["epochs"] = [round(value, 6) for value in curve], recipe.fit.get("epochs", 1)
    return row | {"seconds": round(time.perf_counter() - started, 1)}


def compare_finals(trials: pd.DataFrame, recipe: Recipe) -> tuple[tuple | None, dict | None]:
    """Decide between the recipe and the best trial: (the final to train next, the values to change).

    The next final is (recipe, number of the trial or None, seed). The values are None while a final is missing, and
    empty if the recipe is not changed. A neural trial wins if it is better from both seeds. A baseline has no seed
    and its trials are complete trainings, so its best trial wins without a final.
    """
    best = best_trial(trials)
    if best is None or recipe.model_name not in NEURAL_MODELS:
        return None, None if best is None else best["params"]
    if known_point(recipe).items() <= best["params"].items():
        return None, {}
    finals = trials[trials["kind"] == "final"].to_dict("records")
    challenger = recipe.with_changes(unflatten(best["params"]))
    for seed in FINAL_SEEDS:
        values = []
        for number, candidate in ((None, recipe), (best["number"], challenger)):
            key = (seed, flatten(candidate.values))
            results = [row["MRR@20"] for row in finals if (row["seed"], row["params"]) == key]
            if not results:
                return (candidate, number, seed), None
            values.append(results[-1])
        if values[1] <= values[0]:
            return None, {}
    return None, best["params"]


def tune(
    dataset: SessionDataset, model: str, *, trials: int = TRIALS, epochs: int = EPOCHS, folder: Path = TRIALS_FOLDER
) -> pd.DataFrame:
    """Run trials until `trials` have finished, including earlier ones; then the finals of a neural model.

    Returns the model's rows of the table. Raises OSError if another process works on the file, and ValueError for a
    damaged one; both name it.
    """
    with lock_file(folder / f"{dataset.short_name}.csv"):
        return _continue_study(dataset, model, trials, epochs, folder)


def _continue_study(dataset: SessionDataset, model: str, trials: int, epochs: int, folder: Path) -> pd.DataFrame:
    name, is_neural = dataset.short_name, model in NEURAL_MODELS
    recipe, table = load_recipe("best", model, name), read_trials(name, model, folder=folder)
    check_trials(table, dataset.sha256, epochs if is_neural else None)
    while (done := sum(table["kind"] == "trial")) < trials:
        params = next_point(table, recipe)
        candidate = recipe.with_changes(unflatten(params))
        if is_neural:
            candidate = candidate.with_changes({"fit": {"epochs": epochs, "negatives": NEGATIVES}})
        pruner = Pruner(table.loc[table["kind"] == "trial", "curve"], epochs)
        row = train(candidate, dataset, callbacks=[pruner] if is_neural else [])
        row |= {"kind": "trial", "number": done + 1, "recipe": done == 0, "params": params}
        table = append_row(name, row | ({"state": "pruned"} if pruner.pruned else {}), folder=folder)
    while final := compare_finals(table, recipe)[0]:
        candidate, number, seed = final
        row = train(candidate, dataset, seed=seed) | {"params": flatten(candidate.values)}
        row |= {"kind": "final", "number": number, "recipe": number is None}
        table = append_row(name, row, folder=folder)
    return table


def write_recipes(
    dataset: str, models: Sequence[str], *, trials: int = TRIALS, folder: Path = TRIALS_FOLDER, file: Path = RECIPES
) -> list[str]:
    """Write the winners of complete studies into [best.<dataset>.<MODEL>]; return the models that changed.

    The text above the line WRITTEN is not changed. Below it, only the entries of these models change.
    """
    with lock_file(file):
        return _write_winners(dataset, models, trials, folder, file)


def _write_winners(dataset: str, models: Sequence[str], trials: int, folder: Path, file: Path) -> list[str]:
    above, line, written = file.read_text(encoding="utf-8").partition(WRITTEN)
    if not line:
        raise ValueError(f"{file}: its line {WRITTEN!r} is missing; add it at the end")
    entries, changed = tomllib.loads(written).get("best", {}), []
    for model in models:
        table = read_trials(dataset, model, folder=folder)
        recipe = load_recipe("best", model, dataset, file=file)
        values = compare_finals(table, recipe)[1] or {}
        if sum(table["kind"] == "trial") >= trials and not values.items() <= flatten(recipe.values).items():
            entry = entries.setdefault(dataset, {}).setdefault(model, {})
            for section, keys in unflatten(values).items():
                entry[section] = entry.get(section, {}) | keys
            changed.append(model)
    if changed:
        text = above + WRITTEN + format_entries(entries)
        tomllib.loads(text)  # raises an error if the text is not valid
        with replacing(file) as part:
            part.write_text(text, encoding="utf-8")
    return changed


def format_entries(entries: dict[str, dict]) -> str:
    """{dataset: {model: sections}} as TOML, sorted by name."""
    lines = []
    for dataset, models in sorted(entries.items()):
        key = dataset if re.fullmatch(r"[A-Za-z0-9_-]+", dataset) else json.dumps(dataset, ensure_ascii=False)
        for model, sections in sorted(models.items()):
            lines += ["", f"[best.{key}.{model}]"]
            for section, values in sections.items():
                pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
                lines.append(f"{section} = {{ {pairs} }}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="experiments.tune", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="folder, or a name such as Amazon_Beauty or Demo")
    parser.add_argument("--model", nargs="+", choices=[*SPACES], default=[*SPACES], metavar="MODEL")
    parser.add_argument("--trials", type=int, default=TRIALS, help="number of finished trials per study")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of a neural trial")
    parser.add_argument("--folder", type=Path, default=TRIALS_FOLDER, help="folder of the CSV files of trials")
    parser.add_argument("--write", action="store_true", help="write the winners to recipes.toml; train nothing")
    args = parser.parse_args(argv)
    if args.trials < 1 or args.epochs < 1:
        parser.error("--trials and --epochs must be at least 1")
    options = {"trials": args.trials, "folder": args.folder}
    try:
        dataset = load_dataset(args.dataset)
        if args.write:
            check_trials(read_trials(dataset.short_name, folder=args.folder), dataset.sha256)
            changed = write_recipes(dataset.short_name, args.model, **options)
            print(f"recipes.toml: best.{dataset.short_name} now has {', '.join(changed) or 'nothing new'}", flush=True)
            return 0
        for model in args.model:
            best = best_trial(tune(dataset, model, epochs=args.epochs, **options))
            result = "every trial diverged"
            if best is not None:
                result = f"the best trial is number {best['number']}, MRR@20 {best['MRR@20']:.4f}"
            print(f"{dataset.short_name} {model}: {result}", flush=True)
    except (DownloadError, ValueError, OSError) as error:
        return report("experiments.tune", error)
    except KeyboardInterrupt:
        print("experiments.tune: interrupted; the same command continues the study", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
