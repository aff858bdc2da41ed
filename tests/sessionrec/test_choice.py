"""The choice among candidates for a dataset without saved hyperparameters, and what is kept of it."""

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
from planted import write_planted

from models import BASELINES
from process_data import load_dataset, prepare
from sessionrec import choice, pretrained
from sessionrec.checkpoint import load_checkpoint, read_header
from sessionrec.choice import QUICK, candidate_recipes, choose_model, get_models, scale_recipe
from sessionrec.fit import History
from sessionrec.pretrained import claim_name, find_pretrained, get_pretrained, heldout_run, results_name
from sessionrec.recipes import load_recipe
from sessionrec.recommend import recommend
from sessionrec.run import Run, run_recipe


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """The planted sessions; what is trained on them is kept below tmp_path."""
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    return load_dataset(write_planted(tmp_path / "planted"))


def forbid_training(monkeypatch):
    def train(*_, **__):
        raise AssertionError("this is trained already")

    for module in (pretrained, choice):
        monkeypatch.setattr(module, "train_on_all_rows", train)
    monkeypatch.setattr(pretrained, "run_recipe", train)


# --------------------------------------------------------------------------------------------------
# The choice


def test_the_best_candidate_on_validation_is_trained_on_all_rows(dataset, tmp_path, monkeypatch, capsys):
    files, candidates = get_models(dataset, epochs=2)
    assert list(candidates)[:4] == list(QUICK)
    for name in ("CoOccurrence", "GRU4REC"):
        recipe = load_recipe("best", name, "planted")
        recipe = recipe if name in BASELINES else recipe.with_changes({"fit": {"epochs": 2}})
        assert candidates[name] == run_recipe(recipe, dataset).metrics
    ((name, path),) = files.items()
    best = max(candidates, key=lambda model: candidates[model]["valid"]["MRR@20"])
    header = read_header(path)
    assert (name, path) == (best, tmp_path / "checkpoints" / "planted" / "chosen.safetensors")
    assert (header["model"], header["split"], header["sha256"]) == (best, "none", dataset.sha256)
    assert header["metrics"] == {f"heldout_{split}": values for split, values in candidates[best].items()}
    assert len(recommend(path, [[10, 20]], 5).lists[0]) == 5

    shown = capsys.readouterr().out
    assert shown.startswith("planted: 412 training rows, 40 items. No checkpoint is of exactly these files, so CoOcc")
    assert "Candidate 4 of 4: GRU4REC, 2 epochs, about 1 s, and as long on all rows if it is chosen\n" in shown
    assert f"Validation chooses {best}, which is now trained on all rows.\n" in shown

    forbid_training(monkeypatch)
    assert get_models(dataset, epochs=2) == (files, candidates)
    assert capsys.readouterr().out == ""


def test_another_choice_takes_over_the_held_out_runs(dataset, monkeypatch):
    """Other files or options choose again, but a held-out run of the same recipe is not repeated."""
    first = choose_model(dataset, epochs=1)
    trained, run = [], pretrained.run_recipe

    def recorded(recipe, *rest, **options):
        trained.append(recipe.model_name)
        return run(recipe, *rest, **options)

    monkeypatch.setattr(pretrained, "run_recipe", recorded)
    second = choose_model(dataset, epochs=2)
    assert trained == ["GRU4REC", "Ensemble"]
    assert {name: first.candidates[name] == second.candidates[name] for name in QUICK} == {
        "CoOccurrence": True, "RandomWalk": True, "SLIST": True, "GRU4REC": False,
    }  # fmt: skip
    trained.clear()
    choose_model(replace(dataset, sha256="0" * 64), epochs=2)
    assert trained == [*QUICK, "Ensemble"]


def test_an_ensemble_on_all_rows_has_the_members_and_weights_of_its_held_out_run(dataset, monkeypatch):
    """The ensemble is taken as the best candidate, with the members CoOccurrence and GRU4REC."""
    weights = [0.75, 0.0, 0.0, 0.25]
    table = History([{"epoch": 1, "NDCG@20": 0.5, "MRR@20": 1.0, "seconds": 0.0}]).table
    monkeypatch.setattr("sessionrec.ensemble.choose_weights", lambda *_, **__: (weights, table))
    whole = choice.ensemble_of
    best = {"valid": {"MRR@20": 2.0}, "test": {"MRR@20": 0.5}}
    monkeypatch.setattr(choice, "ensemble_of", lambda *args: BestRun(**vars(whole(*args)), best=best))
    found = choose_model(dataset, epochs=2)
    saved = load_checkpoint(found.path)
    assert found.model == saved.header["model"] == "Ensemble"
    assert [m["weight"] for m in saved.header["members"]] == weights
    assert (saved.model.weights, [member.name for member in saved.model.members]) == (
        [0.75, 0.25], ["CoOccurrence", "GRU4REC"],
    )  # fmt: skip
    assert saved.header["metrics"] == {"heldout_valid": best["valid"], "heldout_test": best["test"]}
    rows = len(np.unique(np.r_[dataset.train.items, dataset.train.labels]))
    assert (saved.header["split"], saved.model.n_items) == ("none", rows)


@dataclass(frozen=True, eq=False)
class BestRun(Run):
    """A run with these metrics."""

    best: dict

    @property
    def metrics(self):
        return self.best


def test_an_ensemble_that_is_not_better_than_its_best_member_is_no_candidate(dataset, monkeypatch):
    single = heldout_run(load_recipe("best", "CoOccurrence", "planted"), dataset)
    monkeypatch.setattr(choice, "ensemble_of", lambda *_: single)
    assert list(choose_model(dataset, epochs=1).candidates) == list(QUICK)


@pytest.mark.parametrize("users", [1, 2])
def test_too_few_users_get_a_baseline_and_nothing_is_measured(users, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    rows = ["[1],2", '"[1, 2]",3', "[3],1"][: users + 1]
    (tmp_path / "train_sessions.csv").write_text("\n".join(["session,label", *rows, ""]))
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    files, candidates = get_models(load_dataset(tmp_path))
    assert (list(files), candidates) == (["CoOccurrence"], {})
    assert "CoOccurrence is fitted on all rows, and nothing is measured." in capsys.readouterr().out
    assert recommend(files["CoOccurrence"], [[1]], 20).lists == [[2, 3]]


def test_a_budget_that_is_spent_leaves_out_the_networks(dataset, capsys):
    candidates = choose_model(dataset, budget_minutes=1e-6).candidates
    assert set(QUICK) - {"GRU4REC"} == set(candidates) - {"Ensemble"}
    shown = capsys.readouterr().out
    names = ("GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT", "SASRec")
    for i, name in enumerate(names, 4):
        assert f"Candidate {i} of 9: {name} would take about " in shown


def test_a_budget_shortens_the_first_network(dataset, monkeypatch, capsys):
    """An epoch takes 1 s, and all rows 1.25 times as long: 20 s suffice for 8 epochs, and then for nothing more."""
    monkeypatch.setattr(choice, "estimate_epoch", lambda *_: 1.0)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: 0.0)
    recipe = load_recipe("best", "GRU4REC", "planted")
    assert choice._fit_into_budget(recipe, dataset, 20.0, 0.0).fit["epochs"] == 8
    assert choice._fit_into_budget(recipe, dataset, 36.0, 0.0) == recipe
    assert choice._fit_into_budget(recipe, dataset, 2.0, 0.0) is None
    assert choice._fit_into_budget(recipe, dataset, 36.0 + 12.5, 10.0) == recipe
    assert choice._fit_into_budget(recipe, dataset, 36.0 + 12.4, 10.0) is None
    assert "NARM" not in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"thorough": True}, {"budget_minutes": 3}])
def test_options_that_do_not_go_together_are_one_sentence(options, dataset):
    with pytest.raises(ValueError, match="^THOROUGH and BUDGET_MINUTES choose among models, but MODELS names the mod"):
        get_models(dataset, ["GRU4REC"], **options)
    with pytest.raises(ValueError, match="but beauty has saved hyperparameters; leave them out$"):
        get_models(replace(dataset, name="beauty"), **options)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"budget_minutes": 0.0}, {"budget_minutes": "3"}, {"thorough": 1}])
def test_an_option_of_the_wrong_type_or_range_is_refused(options, dataset):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}="):
        choose_model(dataset, **options)


# --------------------------------------------------------------------------------------------------
# Candidates


def test_the_candidates(dataset):
    def names(**options):
        return [recipe.model_name for recipe in candidate_recipes(dataset, **options)]

    networks = ["GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT", "SASRec"]
    assert names() == list(QUICK)
    assert names(more=True) == [*QUICK, *networks[1:]]
    assert names(thorough=True) == ["SLIST", "CoOccurrence", "RandomWalk", *networks]
    epochs = {recipe.model_name: recipe.fit.get("epochs") for recipe in candidate_recipes(dataset, epochs=3)}
    assert epochs == {"CoOccurrence": None, "RandomWalk": None, "SLIST": None, "GRU4REC": 3}


@pytest.mark.parametrize(
    ("rows", "n_items", "changes"),
    [
        (60_000, 5_000, {}),
        (240_000, 5_000, {"epochs": 8}),
        (155_171, 12_101, {"epochs": 10, "negatives": 1024}),  # S3-Rec's Beauty
        (10**8, 100, {"epochs": 3}),
        (1_000, 50_001, {"negatives": 1024, "lazy": True, "graph_smoothing": 0.0}),
    ],
)
def test_settings_follow_the_size_of_the_data(rows, n_items, changes):
    recipe = load_recipe("best", "GRU4REC", "planted")
    scaled = scale_recipe(recipe, rows=rows, n_items=n_items)
    assert scaled.fit == recipe.fit | changes and scaled.model == recipe.model
    walk = load_recipe("best", "RandomWalk", "planted")
    assert scale_recipe(walk, rows=rows, n_items=n_items) == walk


def test_slist_is_a_candidate_of_small_catalogues_only(dataset, monkeypatch):
    monkeypatch.setattr(choice, "MOST_FOR_SLIST", 39)
    assert [recipe.model_name for recipe in candidate_recipes(dataset)] == ["CoOccurrence", "RandomWalk", "GRU4REC"]
    assert "SLIST" in {recipe.model_name for recipe in candidate_recipes(dataset, thorough=True)}


def test_lazy_updates_can_be_estimated_and_trained(dataset, monkeypatch):
    monkeypatch.setattr(choice, "DENSE_UPDATES", 39)
    monkeypatch.setattr(choice, "FULL_SOFTMAX", 39)
    (network,) = [recipe for recipe in candidate_recipes(dataset, epochs=1) if recipe.model_name == "GRU4REC"]
    assert network.fit["lazy"] and choice.estimate_epoch(network, prepare(dataset)) > 0
    assert "GRU4REC" in choose_model(dataset, epochs=1).candidates


# --------------------------------------------------------------------------------------------------
# What is kept


def test_the_members_of_an_ensemble_are_not_trained_again(dataset, tmp_path, monkeypatch):
    recipe = load_recipe("best", "Ensemble", "planted")
    recipe = recipe.with_changes({"ensemble": {"members": ["CoOccurrence", "Popularity"]}})
    single = heldout_run(load_recipe("best", "CoOccurrence", "planted"), dataset)
    trained, run = [], pretrained.run_recipe
    monkeypatch.setattr(
        pretrained,
        "run_recipe",
        lambda recipe, *rest, **o: trained.append(recipe.model_name) or run(recipe, *rest, **o),
    )
    ensemble = heldout_run(recipe, dataset)
    assert trained == ["Popularity", "Ensemble"]
    assert ensemble.info["members"][0]["metrics"] == single.metrics
    folder = tmp_path / "checkpoints" / "planted" / "heldout"
    assert {path.name for path in folder.iterdir()} == {"CoOccurrence.safetensors", "Popularity.safetensors"}


def test_a_kept_run_is_the_run(dataset):
    recipe = load_recipe("best", "GRU4REC", "planted").with_changes({"fit": {"epochs": 2}})
    first, again = heldout_run(recipe, dataset), heldout_run(recipe, dataset)
    assert all(np.array_equal(first.ranks[split], again.ranks[split]) for split in ("valid", "test"))
    assert first.info == again.info and first.header == again.header
    assert again.history.rows == [{"epoch": 1, "seconds": first.info["train_seconds"]}]
    other = heldout_run(recipe, dataset, seed=1)
    assert other.info["seed"] == 1 and not np.array_equal(other.ranks["test"], first.ranks["test"])


def test_a_broken_file_is_trained_again(dataset, tmp_path):
    path = get_pretrained(dataset, "CoOccurrence")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert find_pretrained(dataset, "CoOccurrence") is None
    assert get_pretrained(dataset, "CoOccurrence").read_bytes() == whole


# --------------------------------------------------------------------------------------------------
# Names


def test_datasets_of_one_name_are_kept_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    folders = [tmp_path / name for name in ("a/shop", "b/shop", "c/shop")]
    for folder in folders:
        folder.parent.mkdir()
        write_planted(folder)
    with open(folders[1] / "train_sessions.csv", "a") as file:
        file.write("[10],30\n")
    first, second, copy = map(load_dataset, folders)
    hashed = f"shop-{second.sha256[:6]}"
    assert results_name(first) == results_name(second) == "shop"  # nobody has the name yet
    assert [claim_name(d) for d in (first, second, first, copy)] == ["shop", hashed, "shop", "shop"]
    sentence = f"shop: another dataset of this name was here before, so this one's files are called {hashed}\n"
    assert capsys.readouterr().out == sentence

    with open(folders[1] / "train_sessions.csv", "a") as file:
        file.write("[10],40\n")
    later = load_dataset(folders[1])
    assert later.sha256 != second.sha256 and claim_name(later) == hashed  # the same folder with other files
    owner = json.loads((tmp_path / "checkpoints" / hashed / "dataset.json").read_text())
    assert owner == {"folder": str(folders[1]), "sha256": later.sha256}


def test_a_name_that_nobody_wrote_down_is_free(dataset, tmp_path):
    for name, text in (("planted", "{"), ("planted-1", "[]"), ("planted-2", '"x"')):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "dataset.json").write_text(text)
    assert claim_name(dataset) == "planted"


def test_the_committed_checkpoints_own_their_names(tmp_path, monkeypatch):
    committed = pretrained.ROOT / "pretrained_model" / "Beauty" / "GRUwATT.safetensors"
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    (tmp_path / "pretrained_model" / "Beauty").mkdir(parents=True)
    shutil.copy(committed, tmp_path / "pretrained_model" / "Beauty")
    theirs = load_dataset(write_planted(tmp_path / "Amazon_Beauty"))
    assert claim_name(theirs) == f"beauty-{theirs.sha256[:6]}"
    ours = replace(theirs, sha256=read_header(committed)["sha256"])
    assert claim_name(ours) == "beauty" and not (tmp_path / "checkpoints" / "beauty").exists()
