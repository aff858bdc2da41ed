"""The runs of the comparison: plans, training, repetition after changes of a recipe, and reading."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dataset.fetch import AMAZON
from dataset.files import ROOT
from dataset.find import load_dataset
from experiments import compare, report_numbers, saved_runs
from experiments.compare import ablation_plans, honest_plans, report_plans, run_plan, trial_plans
from experiments.saved_runs import Plan, headline, load_results, read_result
from metrics import summarize
from models import BASELINES, MODELS
from process_data import prepare
from sessionrec import fit


@pytest.fixture(scope="module")
def demo():
    return load_dataset(ROOT / "dataset" / "Demo")


@pytest.fixture
def folders(tmp_path):
    return {"folder": tmp_path / "runs", "checkpoints": tmp_path / "checkpoints"}


def test_plans_name_every_run_once():
    plans = [*honest_plans("beauty"), *report_plans("beauty")]
    assert len({plan.name for plan in plans}) == len(plans)
    neural = len(MODELS) - len(BASELINES)
    assert len(list(honest_plans("cell"))) == 2 * (3 * neural + len(BASELINES))
    # Five models, two training datasets and two splits; two models also in their causal form.
    assert len(list(report_plans("beauty"))) == 5 * 2 * 2 + 2 * 2
    assert next(report_plans("beauty")).name == "GRU4REC_beauty_row_report-TrainDataset_0_0"
    assert list(honest_plans("beauty"))[len(MODELS) - 1].model == "Ensemble"  # after its members


def test_a_run_is_trained_once_and_repeated_when_its_recipe_changes(demo, folders, monkeypatch):
    plan = Plan("STAN", "demo")
    assert read_result(plan, folders["folder"]) is None
    run = run_plan(plan, demo, **folders)
    result = read_result(plan, folders["folder"])
    assert result["ranks"]["test"] == run.ranks["test"].tolist()
    assert result["metrics"]["test"] == summarize(np.array(result["ranks"]["test"]))
    load_recipe = saved_runs.load_recipe
    changes = {"model": {"k": 7}}
    monkeypatch.setattr(saved_runs, "load_recipe", lambda *names: load_recipe(*names).with_changes(changes))
    assert read_result(plan, folders["folder"]) is None


def test_a_run_on_other_data_is_ignored(demo, folders):
    run_plan(Plan("Popularity", "demo"), demo, **folders)
    found = [read_result(plan, folders["folder"]) for plan in honest_plans("demo", sha256=demo.sha256)]
    assert [result["model"] for result in found if result] == ["Popularity"]
    assert not any(read_result(plan, folders["folder"]) for plan in honest_plans("demo", sha256="other"))


def test_an_interrupted_run_starts_anew_when_its_recipe_has_changed(demo, folders, monkeypatch):
    plan = Plan("GRU4REC", "demo", changes={"fit": {"epochs": 3}})
    with monkeypatch.context() as patch:
        ranks, calls = fit.rank_labels, []

        def interrupt(*args, **options):
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return ranks(*args, **options)

        patch.setattr(fit, "rank_labels", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, demo, **folders)
    assert list(folders["checkpoints"].glob("*.state.safetensors"))
    other = Plan("GRU4REC", "demo", changes={"fit": {"epochs": 2, "lr": 0.01}})
    run = run_plan(other, demo, **folders)
    assert len(run.history.rows) == 2 and read_result(other, folders["folder"]) is not None
    assert not list(folders["checkpoints"].glob("*.state.safetensors"))


def test_an_ensemble_uses_saved_members(demo, folders, monkeypatch):
    load_recipe = saved_runs.load_recipe

    def with_two_members(recipe_name, model, dataset):
        recipe = load_recipe(recipe_name, model, dataset)
        return replace(recipe, ensemble={"members": ["GRU4REC", "STAN"]}) if model == "Ensemble" else recipe

    monkeypatch.setattr(saved_runs, "load_recipe", with_two_members)
    changes = {"fit": {"epochs": 1}}
    neural = Plan("GRU4REC", "demo", seed=1, changes=changes)
    member = run_plan(neural, demo, **folders)
    trained = []
    run_recipe = compare.run_recipe

    def record(recipe, dataset, **options):
        trained.append(recipe.model_name)
        return run_recipe(recipe, dataset, **options)

    monkeypatch.setattr(compare, "run_recipe", record)
    plan = Plan("Ensemble", "demo", seed=1, changes=changes)
    run = run_plan(plan, demo, **folders)
    assert trained == ["STAN", "Ensemble"]  # GRU4REC is loaded; STAN has no saved run
    kept = {m["model"]: m for m in run.header["members"]}
    assert kept["GRU4REC"]["metrics"] == member.metrics and kept["STAN"]["seed"] == 0
    assert read_result(plan, folders["folder"]) is not None
    table = load_results([neural, Plan("STAN", "demo"), plan, Plan("NARM", "demo")], folders["folder"])
    assert table["model"].tolist() == ["GRU4REC", "STAN", "Ensemble"]
    # If a member has been trained again since, the ensemble is out of date.
    file = folders["folder"] / f"{neural.name}.json"
    result = json.loads(file.read_text())
    result["metrics"]["test"]["MRR@20"] += 0.01
    file.write_text(json.dumps(result))
    assert read_result(plan, folders["folder"]) is None
    assert not len(load_results([plan], folders["folder"]))


def test_beyond_accuracy_of_the_test_split(demo, folders):
    run = run_plan(Plan("Popularity", "demo"), demo, **folders)
    result = json.loads((folders["folder"] / "Popularity_demo_user_best_0_0.json").read_text())
    # Popularity ignores the session: shuffling has no effect, and only a few popular items are recommended.
    assert result["shuffled"] == result["metrics"]["test"]
    assert 20 / run.data.n_items <= result["catalogue_share"] < 40 / run.data.n_items
    assert result["popularity"] > 2
    sessions = prepare(demo).test
    assert len(result["ranks"]["test"]) == result["queries"]["test"] == len(sessions)


def test_the_table_has_one_row_per_model_with_its_spread(demo, folders):
    changes = {"fit": {"epochs": 1}}
    plans = [Plan("Popularity", "demo", split_seed=split_seed) for split_seed in (0, 1)]
    plans += [Plan("GRU4REC", "demo", split_seed=s, seed=t, changes=changes) for s in (0, 1) for t in (0, 1)]
    for plan in plans:
        run_plan(plan, demo, **folders)
    runs = load_results(plans, folders["folder"])
    head, _, neural, popularity = compare.results_table(runs).splitlines()
    assert head == "| model | HR@20, split 0 | MRR@20, split 0 | HR@20, split 1 | MRR@20, split 1 |"
    of = runs.set_index(["model", "split_seed", "seed"])["MRR@20"]
    assert popularity.split(" | ")[2] == f"{of['Popularity', 0, 0]:.4f}"
    a, b = of["GRU4REC", 1, 0], of["GRU4REC", 1, 1]
    assert neural.split(" | ")[-1] == f"{(a + b) / 2:.4f} ± {abs(a - b) / 2**0.5:.4f} |"


def test_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_runs, "RUNS", tmp_path)
    assert compare.main(["--dataset", "Demo", "--list", "--only", "NARM_demo_row"]) == 1
    assert "no run has 'NARM_demo_row' in its name" in capsys.readouterr().err  # those of the report are for Beauty
    assert compare.main(["--dataset", "Demo", "--table"]) == 0
    assert capsys.readouterr().out.startswith("Demo: no run is done yet; `python -m experiments.compare --dataset ")
    assert compare.main(["--dataset", "Demo", "--list", "--only", "NARM_demo_user_best_1"]) == 0
    assert capsys.readouterr().out.split() == [f"NARM_demo_user_best_1_{seed}" for seed in range(3)]
    assert compare.main(["--dataset", "Nowhere"]) == 1
    assert capsys.readouterr().err.startswith("compare: ")


# HR@20 and MRR@20 on Beauty and on Cell: RecBole's implementation of the same model, and the best public system of
# each column. They were tuned by others on validation, on another user split of the same kind.
RECBOLE = {
    "GRU4REC": (0.1920, 0.0843, 0.1530, 0.0603),
    "NARM": (0.2051, 0.0910, 0.1600, 0.0602),
    "SRGNN": (0.1906, 0.0889, 0.1297, 0.0550),
    "SASRec": (0.2166, 0.0995, 0.1890, 0.0725),
}
BEST_PUBLIC = (0.218, 0.106, 0.189, 0.0725)


@pytest.mark.parametrize("split_seed", saved_runs.SPLIT_SEEDS)
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
    """Beauty, split seed 0: compared with the benchmark's measurements of RecBole's implementations."""
    contests = json.loads((ROOT / "benchmarks" / "speed.json").read_text(encoding="utf-8"))
    for model, contest in contests.items():
        peer = contest["contestants"]["RecBole"]["test"]
        runs = load_results([Plan(model, "beauty", seed=seed) for seed in saved_runs.SEEDS])
        assert (runs[["HR@20", "MRR@20"]].mean() >= [peer["HR@20"], peer["MRR@20"]]).all(), model


def test_runs_on_other_data_and_damaged_files_are_not_replaced(demo, tmp_path):
    plan = Plan("Popularity", "demo", sha256=demo.sha256)
    file = tmp_path / f"{plan.name}.json"
    saved = saved_runs.read_json(saved_runs.RUNS / "CoOccurrence_beauty_user_best_0_0.json")
    for text, reason in ((json.dumps(saved), "other data; move .* away, or rename"), ('{"sha', "is damaged")):
        file.write_text(text)
        with pytest.raises(ValueError, match=reason) as raised:
            run_plan(plan, demo, folder=tmp_path, checkpoints=tmp_path)
        assert str(file) in str(raised.value) and file.read_text() == text


def test_the_reports_trials_and_the_ablation_name_each_run_once():
    trials = list(trial_plans("GRU4REC", "beauty"))
    changed = [plan.load_recipe() for plan in trials[: len(report_numbers.GRU4REC_TRIALS)]]
    settings = [(r.fit["lr"], r.fit["batch_size"], r.model["dropout"]) for r in changed]
    assert settings == list(report_numbers.GRU4REC_TRIALS)
    assert trials[-1].load_recipe().model["layers"] == 2
    (narm,) = trial_plans("NARM", "beauty")
    assert narm.name == "NARM_beauty_row_report-all-epochs_0_0"
    assert narm.load_recipe().fit["epochs"] == 100 and narm.load_recipe().fit["patience"] is None
    assert not list(trial_plans("GRU4REC", "cell"))
    ablation = [plan.name for plan in ablation_plans("beauty")]
    assert len(set(ablation)) == len(ablation) == 13
    assert "GRU4REC_beauty_user_best_0_2" in ablation  # the recipe itself
    assert "GRU4REC_beauty_user_best-2-layers_0_0" in ablation


def test_trials_are_read_or_trained_again(demo, folders, monkeypatch, capsys):
    assert compare.trial_results("NARM", demo).empty
    assert capsys.readouterr().out == "The report has no numbers for Demo.\n"
    plans = [Plan("STAN", "demo", variant="k-9", changes={"model": {"k": 9}}), Plan("STAN", "demo")]
    monkeypatch.setattr(compare, "trial_plans", lambda *names, **data: plans)
    monkeypatch.setattr(compare, "CHECKPOINTS", folders["checkpoints"])
    assert compare.trial_results("STAN", demo).empty
    assert "2 of 2 runs are not saved" in capsys.readouterr().out
    trials = compare.trial_results("STAN", demo, rerun=True)
    assert list(trials.index) == ["k 9", "recipe best"]
    assert trials["recipe_values"].map(lambda values: values["model"]["k"])["k 9"] == 9
    assert not list(saved_runs.RUNS.glob("*_demo_*"))  # the committed results are unchanged


@pytest.mark.parametrize("dataset", AMAZON)
def test_the_headline_of_the_committed_runs(dataset):
    table = headline(dataset)
    assert set(table.index) == set(MODELS) and table["validation MRR@20"].is_monotonic_decreasing
    runs = load_results([Plan("NARM", dataset, seed=seed) for seed in saved_runs.SEEDS])
    assert table.loc["NARM", "test HR@20"] == pytest.approx(runs["HR@20"].mean())
    short = headline(dataset, model="NARM")
    assert set(short.index) == {"Ensemble", "NARM", "RandomWalk", "CoOccurrence", "Popularity"}
    assert headline(dataset, sha256="other").empty and headline("elsewhere", model="NARM").empty
