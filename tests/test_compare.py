"""The comparison's runs: planned, done once, done again when a recipe changes, read back."""

import json

import numpy as np
import pytest

import compare
import train
from compare import Plan, honest_plans, load_results, read_result, report_plans, run_plan
from metrics import summarize
from models import COUNT_MODELS, MODELS
from process_data import AMAZON, ROOT, load_dataset, prepare


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


def test_a_run_of_other_data_does_not_count(demo, folders):
    run_plan(Plan("Popularity", "demo"), demo, **folders)
    found = [read_result(plan, folders["folder"]) for plan in honest_plans("demo", sha256=demo.sha256)]
    assert [result["model"] for result in found if result] == ["Popularity"]
    assert not any(read_result(plan, folders["folder"]) for plan in honest_plans("demo", sha256="other"))


def test_what_was_interrupted_before_its_recipe_changed_starts_anew(demo, folders, monkeypatch):
    plan = Plan("GRU4REC", "demo", changes={"fit": {"epochs": 3}})
    with monkeypatch.context() as patch:
        ranks, calls = train.rank_labels, []

        def interrupt(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return ranks(*args, **options)

        patch.setattr(train, "rank_labels", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, demo, **folders)
    assert list(folders["checkpoints"].glob("*.state.safetensors"))
    other = Plan("GRU4REC", "demo", changes={"fit": {"epochs": 2, "lr": 0.01}})
    run = run_plan(other, demo, **folders)
    assert len(run.table) == 2 and read_result(other, folders["folder"]) is not None
    assert not list(folders["checkpoints"].glob("*.state.safetensors"))


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
    table = load_results([neural, Plan("STAN", "demo"), plan, Plan("NARM", "demo")], folders["folder"])
    assert table["model"].tolist() == ["GRU4REC", "STAN", "Ensemble"]
    # A member that was run anew since makes the ensemble one of the past.
    file = folders["folder"] / f"{neural.name}.json"
    result = json.loads(file.read_text())
    result["metrics"]["test"]["MRR@20"] += 0.01
    file.write_text(json.dumps(result))
    assert read_result(plan, folders["folder"]) is None
    assert not len(load_results([plan], folders["folder"]))


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
    changes = {"fit": {"epochs": 1}}
    plans = [Plan("Popularity", "demo", split_seed=split_seed) for split_seed in (0, 1)]
    plans += [Plan("GRU4REC", "demo", split_seed=s, seed=t, changes=changes) for s in (0, 1) for t in (0, 1)]
    for plan in plans:
        run_plan(plan, demo, **folders)
    runs = load_results(plans, folders["folder"])
    head, _, neural, popularity = compare.readme_table(runs).splitlines()
    assert head == "| model | HR@20, split 0 | MRR@20, split 0 | HR@20, split 1 | MRR@20, split 1 |"
    of = runs.set_index(["model", "split_seed", "seed"])["MRR@20"]
    assert popularity.split(" | ")[2] == f"{of['Popularity', 0, 0]:.4f}"
    a, b = of["GRU4REC", 1, 0], of["GRU4REC", 1, 1]
    assert neural.split(" | ")[-1] == f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f} |"


def test_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RUNS", tmp_path)
    assert compare.main(["--dataset", "Demo", "--list", "--only", "NARM_demo_row"]) == 1
    assert "no run has 'NARM_demo_row' in its name" in capsys.readouterr().err  # the report's are Beauty's
    assert compare.main(["--dataset", "Demo", "--table"]) == 0
    assert capsys.readouterr().out.startswith("Demo: no run is done yet; `python compare.py --dataset ")
    assert compare.main(["--dataset", "Demo", "--report", "--list", "--only", "NARM_demo_row"]) == 0
    assert capsys.readouterr().out.split() == [
        "NARM_demo_row_report-TrainDataset_0_0",
        "NARM_demo_row_report-MyDataset_0_0",
    ]
    assert compare.main(["--dataset", "Nowhere"]) == 1
    assert capsys.readouterr().err.startswith("compare.py: ")


# HR@20 and MRR@20, on Beauty and on Cell, of RecBole's implementation of the same model and of the best
# public system of each column: tuned on validation by others, on another user split of the same kind.
RECBOLE = {
    "GRU4REC": (0.1920, 0.0843, 0.1530, 0.0603),
    "NARM": (0.2051, 0.0910, 0.1600, 0.0602),
    "SRGNN": (0.1906, 0.0889, 0.1297, 0.0550),
    "SASRec": (0.2166, 0.0995, 0.1890, 0.0725),
}
BEST_PUBLIC = (0.218, 0.106, 0.189, 0.0725)


@pytest.mark.parametrize("split_seed", compare.SPLIT_SEEDS)
def test_the_committed_runs_beat_the_public_peers(split_seed):
    means = {}
    for i, dataset in enumerate(AMAZON):
        plans = [plan for plan in honest_plans(dataset) if plan.split_seed == split_seed]
        runs = load_results(plans)
        assert len(runs) == len(plans)
        for model, metrics in runs.groupby("model")[["HR@20", "MRR@20"]].mean().iterrows():
            means.setdefault(model, np.zeros(4))[2 * i : 2 * i + 2] = metrics
    for model, peer in RECBOLE.items():
        assert (means[model] >= peer).all(), (model, means[model])
    assert (means["Ensemble"] > BEST_PUBLIC).all()


def test_the_committed_runs_beat_recbole_on_the_same_users():
    """Beauty, split seed 0: what the benchmark measured RecBole's implementations at, side by side."""
    contests = json.loads((ROOT / "benchmarks" / "speed.json").read_text(encoding="utf-8"))
    for model, contest in contests.items():
        peer = contest["contestants"]["RecBole"]["test"]
        runs = load_results([Plan(model, "beauty", seed=seed) for seed in compare.SEEDS])
        assert (runs[["HR@20", "MRR@20"]].mean() >= [peer["HR@20"], peer["MRR@20"]]).all(), model


def test_runs_of_other_data_and_damaged_ones_are_not_replaced(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RUNS", tmp_path)
    plan = compare.Plan("Popularity", "demo", sha256=demo.sha256)
    file = compare.RUNS / f"{plan.name}.json"
    for text, reason in (
        ('{"sha256": "other"}', "other data; move .* away, or rename"),
        ('{"sha', "is damaged"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=reason) as raised:
            compare.run_plan(plan, demo, folder=tmp_path, checkpoints=tmp_path)
        assert str(file) in str(raised.value) and file.read_text() == text
