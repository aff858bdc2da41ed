"""Tuning: declared spaces, pruning, resuming, never the test part, and recipes written where they belong."""

import shutil
import tomllib
from dataclasses import replace

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

import tune
from models import COUNT_MODELS, MODELS, NEURAL_MODELS, build_model
from process_data import ROOT, load_dataset
from train import TrainingError, load_recipe

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def demo():
    return load_dataset(ROOT / "dataset" / "Demo")


def test_every_model_with_something_to_choose_has_a_space():
    assert set(tune.SPACES) == set(MODELS) - {"Popularity", "Ensemble"}
    # What all neural models share is searched in the same ranges for each of them.
    for model in NEURAL_MODELS:
        assert tune.SPACES[model].items() >= tune.NEURAL_SPACE.items()
    assert not any(key.startswith("fit") for m in COUNT_MODELS if m != "Popularity" for key in tune.SPACES[m])


@pytest.mark.parametrize("model", tune.SPACES)
def test_every_point_of_a_space_is_a_model(model):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        changes = tune.draw(study.ask(), tune.SPACES[model])
        build_model(model, n_items=9, **load_recipe("best", model, "beauty")["model"] | changes["model"])
        assert set(changes["fit"]) <= {"lr", "weight_decay"} and not changes["data"]


def test_a_study_starts_from_the_recipe_prunes_and_goes_on_where_it_stopped(demo, tmp_path):
    study = tune.tune(demo, "GRU4REC", trials=3, epochs=4, folder=tmp_path, progress=False)
    assert len(tune.finished(study)) == 3
    recipe = load_recipe("best", "GRU4REC", "demo")
    assert study.trials[0].params["fit.lr"] == recipe["fit"]["lr"]
    assert study.trials[0].params["model.scale"] == recipe["model"]["scale"]
    first = [trial.params for trial in study.trials]
    more = tune.tune(demo, "GRU4REC", trials=6, epochs=4, folder=tmp_path, progress=False)
    assert [trial.params for trial in more.trials[:3]] == first
    assert len(more.trials) == 6
    again = tune.tune(demo, "GRU4REC", trials=6, epochs=4, folder=tmp_path, progress=False)
    assert len(again.trials) == 6
    states = [trial.state for trial in more.trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    pruned = next(t for t in more.trials if t.state == TrialState.PRUNED)
    assert max(pruned.intermediate_values) == tune.FIRST_RUNG  # stopped after the first rung, not at the end
    table = tune.table_of_studies(tmp_path)
    assert table.loc[0, ["dataset", "model"]].tolist() == ["demo", "GRU4REC"]
    assert table.loc[0, "completed"] == states.count(TrialState.COMPLETE)
    assert table.loc[0, "pruned"] == states.count(TrialState.PRUNED)
    assert table.loc[0, "best MRR@20"] == max(t.value for t in more.trials if t.state == TrialState.COMPLETE)


def test_the_test_part_is_never_scored(demo, tmp_path, monkeypatch):
    asked = []

    def watch(dataset, model, **options):
        asked.append(options["parts"])
        return train_model(dataset, model, **options)

    train_model = tune.train_model
    monkeypatch.setattr(tune, "train_model", watch)
    study = tune.tune(demo, "STAN", trials=2, folder=tmp_path, progress=False)
    assert asked == [["valid"]] * 2
    assert study.best_trial.user_attrs["HR@20"] > study.best_value


def test_importance_finds_what_mattered_early_in_pruned_trials_too():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for i in range(40):
        trial = study.ask({"a": optuna.distributions.FloatDistribution(0, 1)})
        trial.suggest_float("b", 0, 1)
        trial.report(trial.params["a"], tune.FIRST_RUNG)
        pruned = {"state": TrialState.PRUNED} if i % 3 else {"values": trial.params["b"]}  # the end says b
        study.tell(trial, **pruned)
    shares = tune.importances(study)
    assert shares["a"] > 0.8 and sum(shares.values()) == pytest.approx(1)


def test_a_killed_trial_does_not_count_and_a_diverged_one_is_the_worst(demo, tmp_path, monkeypatch):
    study = tune.open_study("demo", "SKNN", tmp_path)
    study.ask()  # whoever asked is gone
    tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)
    study = tune.open_study("demo", "SKNN", tmp_path)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]

    def diverge(*_, **__):
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(tune, "train_model", diverge)
    study = tune.tune(demo, "SKNN", trials=2, folder=tmp_path, progress=False)
    assert study.trials[-1].value == 0


def test_what_a_study_chose_becomes_a_recipe_and_nothing_else_changes(demo, tmp_path):
    file = tmp_path / "recipes.toml"
    before = (ROOT / "recipes.toml").read_text(encoding="utf-8")
    file.write_text(before, encoding="utf-8")
    study = tune.tune(demo, "STAN", trials=3, folder=tmp_path, progress=False)
    tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)
    assert tune.write_recipes("demo", folder=tmp_path, file=file, trials=3) == ["STAN"]  # SKNN is unfinished
    found = load_recipe("best", "STAN", "demo", file=file)["model"]
    assert found == pytest.approx({k.split(".")[1]: v for k, v in study.best_params.items()}, rel=5e-3)
    text = file.read_text(encoding="utf-8")
    old, new = tomllib.loads(before), tomllib.loads(text)
    assert set(new["best"].pop("demo")) == {"STAN"}
    assert new == old
    by_hand, _, _ = before.partition(tune.WRITTEN)
    assert text.startswith(by_hand + tune.WRITTEN)
    assert tune.write_recipes("demo", folder=tmp_path, file=file, trials=3) == []  # it says so already
    assert file.read_text(encoding="utf-8") == text
    file.write_text(by_hand, encoding="utf-8")
    with pytest.raises(ValueError, match="is missing; add it at the end"):
        tune.write_recipes("demo", folder=tmp_path, file=file, trials=3)
    assert file.read_text(encoding="utf-8") == by_hand


def test_the_best_trial_runs_as_a_recipe_does_against_the_recipe_from_up_to_two_seeds(
    demo, tmp_path, monkeypatch
):
    asked, trials, real = [], [], tune.train_model

    def watched(dataset, model, **options):
        run = real(dataset, model, **options | {"epochs": 1})
        if "epochs" in options:  # a trial; the first is the recipe's, the third is made the best
            trials.append(options["changes"])
            run.metrics["valid"]["MRR@20"] = 0.1 * len(trials)
        else:  # the recipe is made worse from the first seed, but better in the mean
            asked.append((options["changes"], options["seed"]))
            assert options["parts"] == ["valid"] and "negatives" not in options["changes"]["fit"]
            values = (0.5, 0.8) if options["changes"] == tune.NO_CHANGES else (0.6, 0.6)
            run.metrics["valid"]["MRR@20"] = values[options["seed"]]
        return run

    monkeypatch.setattr(tune, "train_model", watched)
    study = tune.tune(demo, "GRU4REC", trials=3, epochs=1, folder=tmp_path, progress=False)
    best = tune.as_changes(study.trials[2].params)
    assert asked == [(tune.NO_CHANGES, 0), (best, 0), (tune.NO_CHANGES, 1), (best, 1)]
    tune.tune(demo, "GRU4REC", trials=3, epochs=1, folder=tmp_path, progress=False)
    assert len(asked) == 4  # each once
    assert tune.chosen(study, "demo", "GRU4REC") == tune.NO_CHANGES
    table = tune.table_of_finals(tmp_path)
    assert list(table)[-3:] == ["seed 0", "seed 1", "recipe"]
    assert table[["seed 0", "seed 1", "recipe"]].values.tolist() == [[0.5, 0.8, True], [0.6, 0.6, False]]
    assert table["lr"].tolist() == [load_recipe("best", "GRU4REC", "demo")["fit"]["lr"], best["fit"]["lr"]]

    def with_values(of_recipe, of_best):
        study.set_user_attr(tune.final_key("demo", "GRU4REC", tune.NO_CHANGES), of_recipe)
        study.set_user_attr(tune.final_key("demo", "GRU4REC", best), of_best)
        return tune.chosen(study, "demo", "GRU4REC")

    assert with_values({0: 0.5}, {0: 0.6, 1: 0.6}) is None  # not over
    assert with_values({0: 0.7}, {0: 0.6}) == tune.NO_CHANGES  # lost from the first seed: needs no other
    assert with_values({0: 0.7, 1: 0.1}, {0: 0.6, 1: 0.6}) == tune.NO_CHANGES  # and others do not count
    assert with_values({0: 0.1, 1: 0.2}, {0: 0.6, 1: 0.6}) == best
    file = tmp_path / "recipes.toml"
    kept = "[best.default.common]\n" + tune.WRITTEN + "\n[best.demo.SKNN]\nmodel = { k = 1 }\n"
    file.write_text(kept)
    assert tune.write_recipes("demo", models=["STAN"], folder=tmp_path, file=file, trials=3) == []
    assert file.read_text() == kept
    assert tune.write_recipes("demo", folder=tmp_path, file=file, trials=3) == ["GRU4REC"]
    written = tomllib.loads(file.read_text())["best"]["demo"]
    assert written["GRU4REC"]["fit"] == best["fit"] and written["SKNN"] == {"model": {"k": 1}}


def test_a_final_that_diverges_is_the_worst(demo, tmp_path, monkeypatch):
    wild = tune.as_changes({"fit.lr": 1.0})
    real = tune.train_model

    def diverge(dataset, model, **options):
        if options["changes"] == wild:
            raise TrainingError("the loss is nan")
        return real(dataset, model, **options, epochs=1)

    monkeypatch.setattr(tune, "train_model", diverge)
    monkeypatch.setattr(tune, "finalists", lambda *_: [tune.NO_CHANGES, wild])
    study = tune.open_study("demo", "GRU4REC", tmp_path)
    tune.run_finals(demo, "GRU4REC", study, progress=False)
    assert tune.final_values(study, "demo", "GRU4REC", wild) == {0: 0.0}
    assert tune.standing(study, "demo", "GRU4REC") == (None, [tune.NO_CHANGES])


def test_the_recipes_own_trial_comes_again_where_it_was_stopped(demo, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "train_model", stop)
        with pytest.raises(KeyboardInterrupt):
            tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)
    study = tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].params["model.k"] == load_recipe("best", "SKNN", "demo")["model"]["k"]


def test_the_committed_recipes_are_what_the_committed_studies_chose(tmp_path):
    file = tmp_path / "recipes.toml"
    text = (ROOT / "recipes.toml").read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    for dataset in ("beauty", "cell"):
        assert tune.write_recipes(dataset, file=file) == []
        for model in tune.SPACES:
            study = tune.open_study(dataset, model)
            assert len(tune.finished(study)) >= tune.TRIALS
            assert tune.chosen(study, dataset, model) is not None, f"{study.study_name} is not over"
    assert file.read_text(encoding="utf-8") == text


def test_a_study_is_of_one_dataset_and_one_number_of_epochs(demo, tmp_path):
    tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="demo_SKNN: its trials had other sha256"):
        tune.tune(replace(demo, sha256="other"), "SKNN", trials=1, folder=tmp_path, progress=False)


def test_a_folder_of_any_name_gets_recipes_that_can_be_read(demo, tmp_path):
    shutil.copytree(ROOT / "dataset" / "Demo", tmp_path / "My Shop v1.5")
    shop = load_dataset(tmp_path / "My Shop v1.5")
    file = tmp_path / "recipes.toml"
    file.write_text((ROOT / "recipes.toml").read_text(encoding="utf-8"), encoding="utf-8")
    study = tune.tune(shop, "CoOccurrence", trials=4, folder=tmp_path, progress=False)
    asked = {"folder": tmp_path, "file": file, "trials": 4, "sha256": shop.sha256}
    if tune.chosen(study, shop.short_name, "CoOccurrence"):
        assert tune.write_recipes(shop.short_name, **asked) == ["CoOccurrence"]
    assert tune.write_recipes(shop.short_name, **asked) == []
    found = load_recipe("best", "CoOccurrence", shop.short_name, file=file)["model"]
    assert found == load_recipe("best", "CoOccurrence", "x", file=file)["model"] | {
        key.split(".")[1]: pytest.approx(value, rel=5e-3) if isinstance(value, float) else value
        for key, value in study.best_params.items()
    }
    with pytest.raises(ValueError, match="its trials had other sha256"):
        tune.write_recipes(shop.short_name, **asked | {"sha256": "other"})


def test_a_journal_that_holds_no_study_is_told(demo, tmp_path):
    (tmp_path / "demo_SKNN.journal").write_text("")
    with pytest.raises(ValueError, match="demo_SKNN.journal holds no study; delete it"):
        tune.tune(demo, "SKNN", trials=1, folder=tmp_path, progress=False)


def test_command_line(tmp_path, capsys):
    command = ["--dataset", "Demo", "--folder", str(tmp_path), "--model", "SKNN", "--trials", "1"]
    assert tune.main(command) == 0
    assert "demo" in capsys.readouterr().out
    for wrong in (["--epochs", "0"], ["--trials", "-3"]):
        with pytest.raises(SystemExit):
            tune.main([*command, *wrong])
        assert wrong[0] in capsys.readouterr().err
    assert tune.main(["--dataset", "Nowhere", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("tune.py: ")


STUDIES = sorted((ROOT / "results" / "tuning").glob("*.journal"))


@pytest.mark.skipif(not STUDIES, reason="no study is committed")
def test_committed_studies_can_be_read():
    table = tune.table_of_studies()
    assert isinstance(table, pd.DataFrame) and len(table) == len(STUDIES)
    assert (table["best MRR@20"] > 0.03).all()
