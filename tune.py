"""Choose hyperparameters on validation: an Optuna study per model and dataset, resumed where it stopped.

python tune.py --dataset Amazon_Beauty --model NARM --trials 30
python tune.py --dataset Amazon_Beauty --write        # what every study chose into recipes.toml

The objective is MRR@20 on the validation part of the user split (split seed 0, seed 0); the test part is
never scored. A neural trial is cheaper than a recipe (fewer epochs, a sampled softmax, one seed), so in the
end the best one runs against the recipe as it stands, both as a recipe is run, from up to two seeds.
A study is a journal in results/tuning/, one line an event, written by one process at a time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from checkpoint import replacing
from dataset.fetch_amazon import DownloadError
from models import NEURAL_MODELS
from models.VSKNN import POSITION, SHARED
from process_data import ROOT, DataError, SessionDataset, load_dataset
from train import TrainingError, load_recipe, train_model

STUDIES = ROOT / "results" / "tuning"
WRITTEN = "# Below this line `python tune.py --write` writes.\n"  # in recipes.toml
TRIALS = 30
# One-cycle over so many epochs, for every model alike; after the third and the ninth a trial goes on if it
# is among the best third of those that came so far before it.
EPOCHS = 10
FIRST_RUNG, REDUCTION = 3, 3
# A trial estimates its loss from sampled items, as `fast` does: a third of the time, and on Beauty as good as
# the full softmax within the seeds' spread (benchmarks/README.md). The recipe trains with the full one.
NEGATIVES = 2048
# What runs once more as a recipe is run, from these seeds: the best trial, against the recipe as it stands.
FINALISTS, FINAL_SEEDS = 1, (0, 1)
NO_CHANGES = {"model": {}, "fit": {}, "data": {}}
# A recipe's value, "kind.name" -> how it is drawn: (low, high), (low, high, "log"), or the choices of a list.
Space = dict[str, tuple | list]
NEURAL_SPACE: Space = {
    "model.dropout": (0.1, 0.6),
    "model.hidden_dropout": (0.1, 0.6),
    "model.scale": (8.0, 18.0),
    "fit.lr": (2e-3, 1.2e-2, "log"),
    "fit.weight_decay": (1e-8, 1e-5, "log"),
}
_NEIGHBOURS: Space = {"model.k": (50, 2000, "log")}
SPACES: dict[str, Space] = {
    **dict.fromkeys(NEURAL_MODELS, NEURAL_SPACE),
    "SRGNN": NEURAL_SPACE | {"model.graph_steps": [1, 2]},
    "GGNNwATT": NEURAL_SPACE | {"model.graph_steps": [1, 2]},
    "GRU4REC": NEURAL_SPACE | {"model.layers": [1, 2]},
    "SASRec": NEURAL_SPACE | {"model.layers": [1, 2], "model.heads": [1, 2, 4]},
    "CoOccurrence": {
        "model.distance": ["same", "div"],
        "model.backward": (0.0, 1.0),
        "model.memory": (0.1, 1.0),
        "model.norm": (0.0, 1.0),
    },
    "RandomWalk": {
        "model.walk": (0.05, 5.0, "log"),
        "model.distance": ["div", "same"],
        "model.backward": (0.0, 1.0),
        "model.memory": (0.1, 1.0),
        "model.norm": (0.0, 1.0),
    },
    "SKNN": _NEIGHBOURS,
    "VSKNN": _NEIGHBOURS
    | {
        "model.weighting": list(POSITION),
        "model.weighting_score": list(SHARED),
        "model.idf": (0.0, 10.0),
    },
    "STAN": _NEIGHBOURS | {"model.lambda_spw": (0.2, 8.0, "log"), "model.lambda_inh": (0.2, 8.0, "log")},
    "SLIST": {
        "model.alpha": (0.0, 1.0),
        "model.direction": ["sr", "part"],
        "model.reg": (1.0, 100.0, "log"),
        "model.train_weight": (0.25, 8.0, "log"),
        "model.predict_weight": (0.25, 8.0, "log"),
    },
}


def draw(trial: optuna.Trial, space: Space) -> dict[str, dict]:
    """One point of a space, as changes to a recipe."""
    for key, choice in space.items():
        if isinstance(choice, list):
            trial.suggest_categorical(key, choice)
        else:
            low, high = choice[:2]
            suggest = trial.suggest_int if isinstance(low, int) else trial.suggest_float
            suggest(key, low, high, log=choice[2:] == ("log",))
    return as_changes(trial.params)


def as_changes(params: dict) -> dict[str, dict]:
    """A point as `train_model` takes it: {"model": {...}, "fit": {...}, "data": {...}}, to three digits."""
    changes = deepcopy(NO_CHANGES)
    for key, value in params.items():
        kind, name = key.split(".")
        changes[kind][name] = float(f"{value:.3g}") if isinstance(value, float) else value
    return changes


def open_study(dataset: str, model: str, folder: Path = STUDIES) -> optuna.Study:
    """The study of a model on a dataset (its short name), new or as the journal has it."""
    path = folder / f"{dataset}_{model}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = JournalStorage(JournalFileBackend(str(path)))
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION)
        given = {"storage": storage, "study_name": path.stem, "pruner": pruner}
        if known:
            try:
                return optuna.load_study(**given)  # which writes nothing
            except KeyError:
                raise ValueError(f"{path} holds no study; delete it to start anew") from None
        return optuna.create_study(direction="maximize", **given)


def check_study(study: optuna.Study, **asked) -> None:
    """Raise ValueError where the study says that its trials were of other data, or of other epochs."""
    for name, value in asked.items():
        known = study.user_attrs.get(name, value)
        if known != value:
            raise ValueError(
                f"{study.study_name}: its trials had other {name} ({known}, not {value}); "
                "ask for the same, or name another --folder"
            )


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The trials that count: completed, or pruned for being worse."""
    return study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])


def tune(
    dataset: SessionDataset,
    model: str,
    *,
    trials: int = TRIALS,
    epochs: int = EPOCHS,
    folder: Path = STUDIES,
    progress: bool = True,
) -> optuna.Study:
    """Run trials until `trials` of them have finished, those of earlier runs counted.

    The first trial of a study is the recipe `best` as it stands, as far as the space can say it. The sampler
    is seeded by how many trials have finished, so a study that is never stopped draws the same points again.
    A neural model's best trial then runs against the recipe (`run_finals`).
    Raises ValueError for a study of other data, or of trials of other epochs.
    """
    space = SPACES[model]
    study = open_study(dataset.short_name, model, folder)
    asked = {"sha256": dataset.sha256, "epochs": epochs if model in NEURAL_MODELS else None}
    check_study(study, **asked)
    for name in asked.keys() - study.user_attrs.keys():
        study.set_user_attr(name, asked[name])
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)  # whoever ran it was stopped
    if not finished(study) and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        recipe = load_recipe("best", model, dataset.short_name)
        study.enqueue_trial(known_point(recipe, space))

    def objective(trial: optuna.Trial) -> float:
        def report(row: dict) -> None:
            trial.report(row["MRR@20"], row["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        changes, options = draw(trial, space), {}
        if model in NEURAL_MODELS:
            changes["fit"]["negatives"] = NEGATIVES
            options = {"epochs": epochs, "on_epoch": report}
        try:
            run = train_model(dataset, model, changes=changes, parts=["valid"], progress=progress, **options)
        except TrainingError:  # diverged: the worst there is
            return 0.0
        if run.interrupted:
            raise KeyboardInterrupt
        trial.set_user_attr("epochs", run.header["epochs"])
        trial.set_user_attr("seconds", round(float(run.table["seconds"].sum()), 2))
        trial.set_user_attr("HR@20", run.metrics["valid"]["HR@20"])
        return run.metrics["valid"]["MRR@20"]

    while (done := len(finished(study))) < trials:
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=8, multivariate=True, seed=done)
        study.optimize(objective, n_trials=1)
        if progress:
            print(f"{study.study_name}: {done + 1} of {trials}, best {best_value(study):.4f}", flush=True)
    if model in NEURAL_MODELS:
        run_finals(dataset, model, study, progress=progress)
    return study


def finalists(study: optuna.Study, dataset: str, model: str) -> list[dict[str, dict]]:
    """The recipe `best` as it stands (no changes), and the best completed trials as changes to it.

    Only trials that beat the one of the recipe, where there is one.
    """
    complete = [trial for trial in finished(study) if trial.state == TrialState.COMPLETE]
    point = known_point(load_recipe("best", model, dataset), SPACES[model])
    own = [t.value for t in complete if all(t.params.get(key) == value for key, value in point.items())]
    better = [trial for trial in complete if not own or trial.value > own[0]]
    better.sort(key=lambda trial: -trial.value)
    return [NO_CHANGES, *(as_changes(trial.params) for trial in better[:FINALISTS])]


def final_values(study: optuna.Study, dataset: str, model: str, changes: dict[str, dict]) -> dict[int, float]:
    """Validation MRR@20 of a finalist by seed, as far as it has run."""
    known = study.user_attrs.get(final_key(dataset, model, changes), {})
    return {int(seed): value for seed, value in known.items()}


def standing(study: optuna.Study, dataset: str, model: str) -> tuple[tuple | None, list[dict[str, dict]]]:
    """The final that is to run next, as (changes, seed), None where all is known; and who is still in.

    Nothing runs where nobody challenges the recipe. From the first seed all run; who is no better than the
    recipe there is out, and only the others and the recipe run from the next.
    """
    left = finalists(study, dataset, model)
    for seed in FINAL_SEEDS:
        if len(left) == 1:
            break
        values = [final_values(study, dataset, model, changes) for changes in left]
        for changes, known in zip(left, values, strict=True):
            if seed not in known:
                return (changes, seed), left
        left = left[:1] + [c for c, known in zip(left, values, strict=True) if known[seed] > values[0][seed]]
    return None, left


def run_finals(dataset: SessionDataset, model: str, study: optuna.Study, *, progress: bool = True) -> None:
    """Run the finalists as recipes are run; each result stays in the study."""
    while final := standing(study, dataset.short_name, model)[0]:
        changes, seed = final
        known = final_values(study, dataset.short_name, model, changes)
        try:
            run = train_model(dataset, model, changes=changes, seed=seed, parts=["valid"], progress=progress)
        except TrainingError:  # diverged, as a trial may
            known[seed] = 0.0
        else:
            if run.interrupted:
                raise KeyboardInterrupt
            known[seed] = run.metrics["valid"]["MRR@20"]
        study.set_user_attr(final_key(dataset.short_name, model, changes), known)
        if progress:
            print(f"{study.study_name}: final from seed {seed}, {known[seed]:.4f}: {changes}", flush=True)


def final_key(dataset: str, model: str, changes: dict[str, dict]) -> str:
    """The recipe that a finalist is, as text."""
    recipe = load_recipe("best", model, dataset)
    return "final " + json.dumps({kind: recipe[kind] | changes[kind] for kind in NO_CHANGES}, sort_keys=True)


def chosen(study: optuna.Study, dataset: str, model: str) -> dict[str, dict] | None:
    """What the study changes in the recipe; None where it is not over. No changes where the recipe was best.

    A counting model has no seed and no cheaper trial: its best trial is chosen. Of a neural model's finalists
    that are still in, the one with the best mean over the seeds is.
    """
    if not best_value(study):
        return None
    if model not in NEURAL_MODELS:
        return as_changes(study.best_params)
    left_to_run, left = standing(study, dataset, model)
    if left_to_run:
        return None
    if len(left) == 1:
        return left[0]
    return max(left, key=lambda changes: sum(final_values(study, dataset, model, changes).values()))


def known_point(recipe: dict, space: Space) -> dict:
    """What a recipe says about a space's values, else the first of a list; Optuna draws the other numbers."""
    point = {}
    for key, choice in space.items():
        kind, name = key.split(".")
        if isinstance(choice, list):
            value = recipe[kind].get(name, choice[0])
            point[key] = value if value in choice else choice[0]
        elif (value := recipe[kind].get(name)) is not None and choice[0] <= value <= choice[1]:
            point[key] = value
    return point


def best_value(study: optuna.Study) -> float:
    """The best completed trial's validation MRR@20; 0 where none is complete."""
    return max((t.value for t in finished(study) if t.state == TrialState.COMPLETE), default=0.0)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each hyperparameter tells the best third of the trials from all (PED-ANOVA, Watanabe 2023).

    A neural trial counts by its MRR@20 after the first rung, which all of them reached. Shares add up to 1.
    """
    same = optuna.create_study(direction="maximize")
    for trial in finished(study):
        values = {"params": trial.params, "distributions": trial.distributions}
        values["value"] = trial.intermediate_values.get(FIRST_RUNG, trial.value)
        same.add_trial(optuna.trial.create_trial(**values))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / 3)
    return optuna.importance.get_param_importances(same, evaluator=evaluator)


def table_of_studies(folder: Path = STUDIES) -> pd.DataFrame:
    """One row a study: trials completed and pruned, and the best one, from 1 as they finished."""
    rows = []
    for path in sorted(folder.glob("*.journal")):
        dataset, model = path.stem.rsplit("_", 1)
        study = open_study(dataset, model, folder)
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        done = [trial.number for trial in finished(study)]
        rows.append(
            {
                "dataset": dataset,
                "model": model,
                "completed": states.count(TrialState.COMPLETE),
                "pruned": states.count(TrialState.PRUNED),
                "best MRR@20": best_value(study),
                "of trial": 1 + done.index(study.best_trial.number) if study.best_trials else None,
            }
        )
    return pd.DataFrame(rows)


def table_of_finals(folder: Path = STUDIES) -> pd.DataFrame:
    """One row a final: its values, validation MRR@20 by seed, whether it is the recipe `best` now.

    Finals of recipes that have since been replaced are among them.
    """
    rows = []
    for path in sorted(folder.glob("*.journal")):
        dataset, model = path.stem.rsplit("_", 1)
        now = final_key(dataset, model, NO_CHANGES)
        for key, values in open_study(dataset, model, folder).user_attrs.items():
            if key.startswith("final "):
                recipe = json.loads(key.removeprefix("final "))
                drawn = {key: recipe[kind].get(key) for kind, key in (k.split(".") for k in SPACES[model])}
                by_seed = {f"seed {seed}": value for seed, value in values.items()}
                rows.append({"dataset": dataset, "model": model} | drawn | by_seed | {"recipe": key == now})
    table = pd.DataFrame(rows)
    seeds = sorted(name for name in table if name.startswith("seed "))
    first = [name for name in table if name not in (*seeds, "recipe")]
    return table.reindex(columns=[*first, *seeds, "recipe"])


def write_recipes(
    dataset: str,
    *,
    sha256: str | None = None,
    models: Sequence[str] = tuple(SPACES),
    folder: Path = STUDIES,
    file: Path = ROOT / "recipes.toml",
    trials: int = TRIALS,
) -> list[str]:
    """What every complete study chose into [best.<dataset>.<MODEL>], at the file's end; the models changed.

    Everything above WRITTEN stays as it is, and so does below it what no study says. Raises ValueError where
    that line is missing, and for a study of other data than those of this hash.
    """
    text = file.read_text(encoding="utf-8")
    if WRITTEN not in text:
        raise ValueError(f"{file}: its line {WRITTEN!r} is missing; add it at the end")
    by_hand, _, written = text.partition(WRITTEN)
    tables = tomllib.loads(written).get("best", {})
    changed = []
    for model in models:
        if not (folder / f"{dataset}_{model}.journal").exists():
            continue
        study = open_study(dataset, model, folder)
        if sha256:
            check_study(study, sha256=sha256)
        changes = chosen(study, dataset, model)
        if changes is None or len(finished(study)) < trials:
            continue
        now = load_recipe("best", model, dataset, file=file)
        if all(now[kind] | values == now[kind] for kind, values in changes.items()):
            continue
        table = tables.setdefault(dataset, {}).setdefault(model, {})
        for kind, values in changes.items():
            if values:
                table[kind] = table.get(kind, {}) | values
        changed.append(model)
    if not changed:
        return []
    lines = [by_hand + WRITTEN.rstrip("\n")]
    for name, of_models in sorted(tables.items()):
        for model, kinds in sorted(of_models.items()):
            key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
            lines += ["", f"[best.{key}.{model}]"]
            for kind, values in kinds.items():
                inside = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
                lines.append(f"{kind} = {{ {inside} }}")
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)  # rather no new recipes than a file that nobody can read
    with replacing(file) as part:
        part.write_text(text, encoding="utf-8")
    return changed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, help="folder, or a name such as Amazon_Beauty or Demo")
    parser.add_argument("--model", nargs="+", choices=list(SPACES), default=list(SPACES), metavar="MODEL")
    parser.add_argument("--trials", type=int, default=TRIALS, help="finished trials a study shall have")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a trial of a neural model")
    parser.add_argument("--folder", type=Path, default=STUDIES, help="where the journals are")
    parser.add_argument(
        "--write", action="store_true", help="write what was chosen to recipes.toml, run nothing"
    )
    args = parser.parse_args(argv)
    if args.trials < 1 or args.epochs < 1:
        parser.error("--trials and --epochs must be at least 1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        dataset = load_dataset(args.dataset)
        if args.write:
            asked = {"models": args.model, "folder": args.folder, "trials": args.trials}
            models = write_recipes(dataset.short_name, sha256=dataset.sha256, **asked)
            print(f"recipes.toml: best.{dataset.short_name} now has {', '.join(models) or 'nothing new'}")
            return 0
        for model in args.model:
            tune(dataset, model, trials=args.trials, epochs=args.epochs, folder=args.folder)
    except (DataError, DownloadError, ValueError, OSError) as error:
        print(f"tune.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("tune.py: interrupted; the same command goes on with the next trial", file=sys.stderr)
        return 130
    print(table_of_studies(args.folder).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
