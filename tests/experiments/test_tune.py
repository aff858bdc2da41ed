"""Tuning: search spaces, pruning, resuming, the table of trials, finals, and writing recipes."""

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest

from dataset.files import ROOT
from dataset.find import load_dataset
from experiments import tune
from experiments.search_spaces import NEURAL_SPACE, SPACES, Float
from experiments.trial_table import COLUMNS
from models import BASELINES, MODELS, NEURAL_MODELS, build_model
from sessionrec.device import TrainingError
from sessionrec.fit import History, StopTraining
from sessionrec.recipes import load_recipe


@pytest.fixture(scope="module")
def demo():
    return load_dataset(ROOT / "dataset" / "Demo")


@pytest.fixture
def recipes_file(tmp_path):
    return Path(shutil.copy(ROOT / "recipes.toml", tmp_path))


def trials_of(table, state="complete|pruned"):
    return table[(table["kind"] == "trial") & table["state"].str.fullmatch(state)]


# ------------------------------------------------------------------------------------------------------------
# Search spaces


def test_every_model_with_hyperparameters_has_a_space():
    assert set(SPACES) == set(MODELS) - {"Popularity", "Ensemble"}
    for model in NEURAL_MODELS:  # the same ranges for all of them
        assert SPACES[model].items() >= NEURAL_SPACE.items()
    assert not any(key.startswith("fit") for m in BASELINES if m != "Popularity" for key in SPACES[m])


@pytest.mark.parametrize("model", SPACES)
def test_a_model_can_be_built_from_every_point_of_its_space(model):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    recipe = load_recipe("best", model, "beauty")
    for _ in range(20):
        candidate = recipe.with_changes(tune.unflatten(study.ask(SPACES[model]).params))
        build_model(model, n_items=9, **candidate.model)
        assert candidate.data == recipe.data
        changed = {key for key in candidate.fit if candidate.fit[key] != recipe.fit.get(key)}
        assert changed <= {"lr", "weight_decay"}


# ------------------------------------------------------------------------------------------------------------
# Trials


def test_a_study_starts_from_the_recipe_prunes_and_resumes(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "compare_finals", lambda *_: (None, None))  # finals have another test
    table = tune.tune(demo, "GRU4REC", trials=3, epochs=4, folder=tmp_path)
    assert table["number"].tolist() == [1, 2, 3]
    recipe, first = load_recipe("best", "GRU4REC", "demo"), table["params"][0]
    assert first["fit.lr"] == recipe.fit["lr"] and first["model.scale"] == recipe.model["scale"]
    assert table["recipe"].tolist() == [True, False, False]
    more = tune.tune(demo, "GRU4REC", trials=6, epochs=4, folder=tmp_path)
    pd.testing.assert_frame_equal(more[:3], table)
    assert len(more) == 6
    again = tune.tune(demo, "GRU4REC", trials=6, epochs=4, folder=tmp_path)
    pd.testing.assert_frame_equal(again, more)
    assert set(more["state"]) == {"complete", "pruned"}
    assert set(trials_of(more, "pruned")["curve"].map(len)) == {tune.RUNGS[0]}  # stopped at the first rung
    assert set(trials_of(more, "complete")["curve"].map(len)) == {4}
    assert (more["MRR@20"] == more["curve"].map(max)).all() and (more["HR@20"] > more["MRR@20"]).all()
    assert tune.best_trial(more)["MRR@20"] == trials_of(more, "complete")["MRR@20"].max()


def test_an_interrupted_study_draws_the_same_points(demo, tmp_path):
    tune.tune(demo, "STAN", trials=4, folder=tmp_path / "stopped")
    resumed = tune.tune(demo, "STAN", trials=10, folder=tmp_path / "stopped")
    uninterrupted = tune.tune(demo, "STAN", trials=10, folder=tmp_path / "other")
    assert resumed["params"].tolist() == uninterrupted["params"].tolist()
    assert len({str(params) for params in resumed["params"]}) > 5
    values = [value for params in resumed["params"] for value in params.values() if isinstance(value, float)]
    assert all(value == float(f"{value:.3g}") for value in values)


def test_test_users_are_never_scored(demo, tmp_path, monkeypatch):
    scored, run_recipe = [], tune.run_recipe

    def watch(recipe, dataset, **options):
        scored.append(options["evaluate_on"])
        return run_recipe(recipe, dataset, **options)

    monkeypatch.setattr(tune, "run_recipe", watch)
    table = tune.tune(demo, "STAN", trials=2, folder=tmp_path)
    assert scored == [("valid",)] * 2
    best = tune.best_trial(table)
    assert best["HR@20"] > best["MRR@20"]


def test_a_trial_continues_only_in_the_best_third():
    def prune(*curve, epochs=10, earlier=((0.1, 0.2, 0.3), (0.1, 0.2, 0.4), (0.1, 0.2, 0.5))):
        pruner = tune.Pruner(list(earlier), epochs)
        try:
            pruner(History(rows=[{"epoch": e, "MRR@20": v} for e, v in enumerate(curve, 1)]))
        except StopTraining:
            assert pruner.pruned
        return pruner.pruned

    assert not prune(0.0, 0.0)  # not a rung
    assert prune(0.0, 0.0, 0.4) and not prune(0.0, 0.0, 0.5)  # one of four continues
    assert not prune(0.0, 0.0, 0.1, epochs=3)  # after the last epoch, pruning saves no time
    assert not prune(0.0, 0.0, 0.1, earlier=()) and prune(0.0, 0.0, 0.1, earlier=[[0.0, 0.0, 0.2]])
    diverged = [[], [], []]
    assert not prune(0.0, 0.0, 0.1, earlier=diverged)


def test_importance_uses_the_first_rung_of_pruned_trials(monkeypatch):
    monkeypatch.setitem(SPACES, "STAN", {"model.a": Float(0, 1), "model.b": Float(0, 1)})
    study, rows = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), []
    for i in range(40):
        point = study.ask(SPACES["STAN"]).params
        row = {"kind": "trial", "params": point, "curve": [0.0, 0.0, point["model.a"]]}
        rows.append(row | {"state": "pruned" if i % 3 else "complete", "MRR@20": point["model.b"]})
    shares = tune.importances(pd.DataFrame(rows), "STAN")
    assert shares["model.a"] > 0.8 and sum(shares.values()) == pytest.approx(1)


def test_an_interrupted_trial_is_not_saved_and_a_diverged_one_has_the_value_0(demo, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    def interrupted(*_, **__):
        return SimpleNamespace(interrupted=True)

    def diverge(*_, **__):
        raise TrainingError("the loss is nan")

    for stopped in (stop, interrupted):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tune, "run_recipe", stopped)
            tune.tune(demo, "SKNN", trials=1, folder=tmp_path)
    table = tune.tune(demo, "SKNN", trials=1, folder=tmp_path)
    assert table["params"][0]["model.k"] == load_recipe("best", "SKNN", "demo").model["k"]
    monkeypatch.setattr(tune, "run_recipe", diverge)
    table = tune.tune(demo, "SKNN", trials=2, folder=tmp_path)
    assert table["MRR@20"][1] == 0 and table["state"][1] == "complete" and table["curve"][1] == []
    assert tune.best_trial(table)["number"] == 1 and tune.best_trial(table[1:]) is None


# ------------------------------------------------------------------------------------------------------------
# The table


def test_the_table_is_read_as_it_was_written(demo, tmp_path):
    table = tune.tune(demo, "VSKNN", trials=2, folder=tmp_path)
    tune.tune(demo, "SKNN", trials=1, folder=tmp_path)
    assert list(pd.read_csv(tmp_path / "demo.csv")) == COLUMNS
    everything = tune.read_trials("demo", folder=tmp_path)
    assert everything["model"].tolist() == ["VSKNN", "VSKNN", "SKNN"]
    pd.testing.assert_frame_equal(everything[:2], table)
    assert set(table["params"][1]) == set(SPACES["VSKNN"])
    assert table["seconds"].between(0, 60).all() and set(table["epochs"]) == {1}
    assert tune.read_trials("nowhere", folder=tmp_path).empty
    assert [file.name for file in tmp_path.iterdir()] == ["demo.csv"]  # no temporary file


def test_a_study_belongs_to_one_dataset_and_one_number_of_epochs(demo, tmp_path):
    table = tune.tune(demo, "SKNN", trials=1, folder=tmp_path)
    with pytest.raises(ValueError, match="SKNN: its trials come from other data"):
        tune.tune(replace(demo, sha256="other"), "SKNN", trials=1, folder=tmp_path)
    tune.check_trials(table, demo.sha256, epochs=1)
    with pytest.raises(ValueError, match="SKNN: its trials have 1 epochs"):
        tune.check_trials(table, demo.sha256, epochs=2)


# ------------------------------------------------------------------------------------------------------------
# Finals and recipes


def test_winners_become_recipes_and_nothing_else_changes(demo, tmp_path, recipes_file):
    file = recipes_file
    before = file.read_text(encoding="utf-8")
    table = tune.tune(demo, "STAN", trials=3, folder=tmp_path)
    tune.tune(demo, "SKNN", trials=1, folder=tmp_path)
    options = {"folder": tmp_path, "file": file, "trials": 3}
    assert tune.write_recipes("demo", SPACES, **options) == ["STAN"]  # SKNN is not complete
    found = load_recipe("best", "STAN", "demo", file=file).model
    assert found == tune.unflatten(tune.best_trial(table)["params"])["model"]
    text = file.read_text(encoding="utf-8")
    old, new = tomllib.loads(before), tomllib.loads(text)
    assert set(new["best"].pop("demo")) == {"STAN"}
    assert new == old
    by_hand, _, _ = before.partition(tune.WRITTEN)
    assert text.startswith(by_hand + tune.WRITTEN)
    assert tune.write_recipes("demo", SPACES, **options) == []  # the file has them already
    assert file.read_text(encoding="utf-8") == text
    file.write_text(by_hand, encoding="utf-8")
    with pytest.raises(ValueError, match="is missing; add it at the end"):
        tune.write_recipes("demo", SPACES, **options)
    assert file.read_text(encoding="utf-8") == by_hand


@pytest.fixture
def study_of_three(demo, tmp_path, monkeypatch):
    """A study of GRU4REC in which the third trial is the best; the finals train one epoch.

    From seed 0 the recipe is worse, from seed 1 it is better.
    """
    finals, trials, run_recipe = [], [], tune.run_recipe

    def watch(recipe, dataset, **options):
        run = run_recipe(recipe.with_changes({"fit": {"epochs": 1}}), dataset, **options)
        if "negatives" in recipe.fit:
            trials.append(recipe)
            value = 0.1 * len(trials)
        else:
            finals.append((recipe, options["seed"]))
            assert options["evaluate_on"] == ("valid",) and not options["callbacks"]
            is_recipe = recipe == load_recipe("best", "GRU4REC", "demo")
            value = ((0.5, 0.8) if is_recipe else (0.6, 0.6))[options["seed"]]
        metrics = {"valid": run.metrics["valid"] | {"MRR@20": value}}
        return SimpleNamespace(interrupted=False, history=run.history, metrics=metrics)

    monkeypatch.setattr(tune, "run_recipe", watch)
    table = tune.tune(demo, "GRU4REC", trials=3, epochs=1, folder=tmp_path)
    return table, finals


def test_the_best_trial_trains_as_recipes_do_against_the_recipe(demo, tmp_path, study_of_three):
    table, finals = study_of_three
    recipe, params = load_recipe("best", "GRU4REC", "demo"), table["params"][2]
    best = recipe.with_changes(tune.unflatten(params))
    assert finals == [(recipe, 0), (best, 0), (recipe, 1), (best, 1)]
    tune.tune(demo, "GRU4REC", trials=3, epochs=1, folder=tmp_path)
    assert len(finals) == 4  # each is trained once
    assert tune.compare_finals(table, recipe) == (None, {})
    rows = table[table["kind"] == "final"]
    assert rows[["seed", "MRR@20", "recipe"]].values.tolist() == [
        [0, 0.5, True], [0, 0.6, False], [1, 0.8, True], [1, 0.6, False],
    ]  # fmt: skip
    assert rows["number"].fillna(0).tolist() == [0, 3, 0, 3]
    assert [params["fit.lr"] for params in rows["params"][:2]] == [recipe.fit["lr"], best.fit["lr"]]
    assert rows["params"].iloc[0] == tune.flatten(recipe.values)


def test_the_best_trial_wins_if_it_is_better_from_both_seeds(tmp_path, recipes_file, study_of_three):
    table, _ = study_of_three
    recipe, params = load_recipe("best", "GRU4REC", "demo"), table["params"][2]
    best, trials = recipe.with_changes(tune.unflatten(params)), table[table["kind"] == "trial"]

    def compare(of_recipe, of_best):
        rows = [
            {"kind": "final", "seed": seed, "MRR@20": value, "params": tune.flatten(candidate.values)}
            for candidate, values in ((recipe, of_recipe), (best, of_best))
            for seed, value in values.items()
        ]
        return tune.compare_finals(pd.DataFrame([*trials.to_dict("records"), *rows]), recipe)

    assert compare({}, {}) == ((recipe, None, 0), None)
    assert compare({0: 0.5}, {}) == ((best, 3, 0), None)
    assert compare({0: 0.5}, {0: 0.6, 1: 0.6}) == ((recipe, None, 1), None)
    assert compare({0: 0.7}, {0: 0.6}) == (None, {})  # worse from the first seed: the second is not needed
    assert compare({0: 0.7, 1: 0.1}, {0: 0.6, 1: 0.6}) == (None, {})  # and is ignored
    assert compare({0: 0.1}, {0: 0.0}) == (None, {})  # diverged
    assert compare({0: 0.5, 1: 0.8}, {0: 0.6, 1: 0.6}) == (None, {})
    assert compare({0: 0.6}, {0: 0.6}) == (None, {})  # a tie: the recipe is not changed
    assert compare({0: 0.1, 1: 0.2}, {0: 0.6, 1: 0.6}) == (None, params)


def test_a_winner_is_written_below_the_line(tmp_path, recipes_file, study_of_three, monkeypatch):
    table, _ = study_of_three
    by_hand, _, _ = recipes_file.read_text(encoding="utf-8").partition(tune.WRITTEN)
    text = by_hand + tune.WRITTEN + "\n[best.demo.SKNN]\nmodel = { k = 1 }\n"
    recipes_file.write_text(text, encoding="utf-8")
    options = {"folder": tmp_path, "file": recipes_file, "trials": 3}
    assert tune.write_recipes("demo", ["STAN"], **options) == []
    assert tune.write_recipes("demo", SPACES, **options) == []  # the recipe was better
    assert recipes_file.read_text(encoding="utf-8") == text
    params = table["params"][2]
    monkeypatch.setattr(tune, "compare_finals", lambda *_: (None, params))
    assert tune.write_recipes("demo", SPACES, **options) == ["GRU4REC"]
    written = tomllib.loads(recipes_file.read_text(encoding="utf-8"))["best"]["demo"]
    assert written["GRU4REC"] == tune.unflatten(params) and written["SKNN"] == {"model": {"k": 1}}


def test_recipes_of_a_folder_with_any_name_can_be_read(tmp_path, recipes_file):
    shutil.copytree(ROOT / "dataset" / "Demo", tmp_path / "My Shop v1.5")
    shop = load_dataset(tmp_path / "My Shop v1.5")
    table = tune.tune(shop, "CoOccurrence", trials=4, folder=tmp_path)
    options = {"folder": tmp_path, "file": recipes_file, "trials": 4}
    default = load_recipe("best", "CoOccurrence", "x", file=recipes_file).model
    best = tune.unflatten(tune.best_trial(table)["params"])["model"]
    changed = tune.write_recipes(shop.short_name, SPACES, **options)
    assert changed == ([] if best.items() <= default.items() else ["CoOccurrence"])
    assert tune.write_recipes(shop.short_name, SPACES, **options) == []
    assert load_recipe("best", "CoOccurrence", shop.short_name, file=recipes_file).model == default | best


def test_command_line(tmp_path, capsys):
    command = ["--dataset", "Demo", "--folder", str(tmp_path), "--model", "SKNN", "--trials", "1"]
    assert tune.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        printed.startswith("demo SKNN, trial 1: MRR@20 0.")
        and "demo SKNN: the best trial is number 1, MRR@20" in printed
    )
    for wrong in (["--epochs", "0"], ["--trials", "-3"]):
        with pytest.raises(SystemExit):
            tune.main([*command, *wrong])
        assert wrong[0] in capsys.readouterr().err
    assert tune.main(["--dataset", "Nowhere", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("experiments.tune: ")
    file = tmp_path / "demo.csv"
    file.write_text(file.read_text().replace(load_dataset("Demo").sha256[:12], "other"))
    assert tune.main([*command, "--write"]) == 1
    assert "its trials come from other data" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------
# The committed tables


@pytest.mark.parametrize("dataset", ["beauty", "cell"])
def test_the_committed_recipes_are_the_winners_of_the_committed_trials(dataset, recipes_file):
    text = recipes_file.read_text(encoding="utf-8")
    assert tune.write_recipes(dataset, SPACES, file=recipes_file) == []
    assert recipes_file.read_text(encoding="utf-8") == text
    for model in SPACES:
        table = tune.read_trials(dataset, model)
        assert len(trials_of(table)) >= tune.TRIALS and table["recipe"][0]
        following, winner = tune.compare_finals(table, load_recipe("best", model, dataset))
        assert following is None and winner is not None, f"{dataset} {model}: a final is missing"
        assert tune.best_trial(table)["MRR@20"] > 0.03
        assert all(set(params) == set(SPACES[model]) for params in trials_of(table)["params"])
        assert len(tune.restore_study(table, model).trials) == len(trials_of(table))
