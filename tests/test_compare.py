"""The comparison's runs: planned, done once, done again when a recipe changes, read back."""

import json

import numpy as np
import pytest

import compare
from compare import Plan, honest_plans, load_results, read_result, report_plans, run_plan
from metrics import summarize
from models import COUNT_MODELS, MODELS
from process_data import ROOT, load_dataset, prepare


@pytest.fixture(scope="module")
def demo():
    return load_dataset(ROOT / "dataset" / "Demo")


@pytest.fixture
def folders(tmp_path):
    return {"folder": tmp_path / "runs", "checkpoints": tmp_path / "checkpoints"}


def test_plans_name_every_run_once():
    plans = [*honest_plans("beauty"), *report_plans("beauty")]
    assert len({plan.name for plan in plans}) == len(plans)
    neural = len(MODELS) - len(COUNT_MODELS)
    assert len(list(honest_plans("cell"))) == 2 * (3 * neural + len(COUNT_MODELS))
    # Five models, two kinds of rows, two splits; two of them with and without sight of the future.
    assert len(list(report_plans("beauty"))) == 5 * 2 * 2 + 2 * 2
    assert next(report_plans("beauty")).name == "GRU4REC_beauty_row_report-TrainDataset_0_0"
    assert list(honest_plans("beauty"))[len(MODELS) - 1].model == "Ensemble"  # after its members


def test_a_run_is_done_once_and_again_when_its_recipe_changes(demo, folders, monkeypatch):
    plan = Plan("STAN", "demo")
    assert read_result(plan, folders["folder"]) is None
    run = run_plan(plan, demo, **folders)
    result = read_result(plan, folders["folder"])
    assert result["ranks"]["test"] == run.ranks["test"].tolist()
    assert result["metrics"]["test"] == summarize(np.array(result["ranks"]["test"]))
    recipe = compare.load_recipe
    monkeypatch.setattr(
        compare, "load_recipe", lambda *names: recipe(*names) | {"model": {"k": 7}, "fit": {}, "data": {}}
    )
    assert read_result(plan, folders["folder"]) is None


def test_an_ensemble_takes_the_members_that_were_run(demo, folders, monkeypatch):
    members = ["GRU4REC", "STAN"]
    recipe = compare.load_recipe

    def small(recipe_name, model, dataset, **options):
        values = recipe(recipe_name, model, dataset, **options)
        return values | {"ensemble": {"members": members}} if model == "Ensemble" else values

    monkeypatch.setattr(compare, "load_recipe", small)
    monkeypatch.setattr("train.load_recipe", small)
    changes = {"fit": {"epochs": 1}}
    neural = Plan("GRU4REC", "demo", seed=1, changes=changes)
    member = run_plan(neural, demo, **folders)
    trained = []
    train = compare.train_model
    monkeypatch.setattr(compare, "train_model", lambda d, m, **o: trained.append(m) or train(d, m, **o))
    plan = Plan("Ensemble", "demo", seed=1, changes=changes)
    run = run_plan(plan, demo, **folders)
    assert trained == ["STAN", "Ensemble"]  # GRU4REC comes from its file, and STAN was still to do
    kept = {m["model"]: m for m in run.header["members"]}
    assert kept["GRU4REC"]["metrics"] == member.metrics and kept["STAN"]["seed"] == 0
    assert read_result(plan, folders["folder"]) is not None
    table = load_results(folders["folder"]).set_index("model")
    assert set(table.index) == {"GRU4REC", "STAN", "Ensemble"}
    assert table.loc["STAN", "seed"] == 0 and table.loc["Ensemble", "seed"] == 1


def test_a_closer_look_at_the_test_part(demo, folders):
    run = run_plan(Plan("Popularity", "demo"), demo, **folders)
    result = json.loads((folders["folder"] / "Popularity_demo_user_best_0_0.json").read_text())
    # Popularity knows no session: shuffled it does the same, and it recommends few items, all popular.
    assert result["shuffled"] == result["metrics"]["test"]
    assert 20 / run.data.n_items <= result["catalogue_share"] < 40 / run.data.n_items
    assert result["popularity"] > 2
    sessions = prepare(demo).test
    assert len(result["ranks"]["test"]) == result["queries"]["test"] == len(sessions)


def test_the_table_has_a_row_a_model_with_its_spread(demo, folders):
    for split_seed in (0, 1):
        run_plan(Plan("Popularity", "demo", split_seed=split_seed), demo, **folders)
        for seed in (0, 1):
            run_plan(
                Plan("GRU4REC", "demo", split_seed=split_seed, seed=seed, changes={"fit": {"epochs": 1}}),
                demo,
                **folders,
            )
    runs = load_results(folders["folder"])
    head, _, neural, popularity = compare.readme_table(runs, "demo").splitlines()
    assert head == "| model | HR@20, split 0 | MRR@20, split 0 | HR@20, split 1 | MRR@20, split 1 |"
    of = runs.set_index(["model", "split_seed", "seed"])["MRR@20"]
    assert popularity.split(" | ")[2] == f"{of['Popularity', 0, 0]:.4f}"
    mean, half = (
        (of["GRU4REC", 1, 0] + of["GRU4REC", 1, 1]) / 2,
        abs(of["GRU4REC", 1, 0] - of["GRU4REC", 1, 1]) / 2,
    )
    assert neural.split(" | ")[-1] == f"{mean:.4f} ± {half:.4f} |"


def test_command_line(capsys):
    assert compare.main(["--dataset", "Demo", "--list", "--only", "NARM_demo_row"]) == 0
    assert capsys.readouterr().out.split() == [
        "NARM_demo_row_report-TrainDataset_0_0",
        "NARM_demo_row_report-MyDataset_0_0",
    ]
    assert compare.main(["--dataset", "Nowhere"]) == 1
    assert capsys.readouterr().err.startswith("compare.py: ")
