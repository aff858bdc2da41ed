"""Runs of baselines: by recipe, by train.py, on all rows, and compared with the saved runs."""

import json
from dataclasses import replace

import pytest

import models.baselines.base as base
from dataset.fetch import AMAZON
from dataset.files import ROOT
from models import BASELINES, build_model
from process_data import load_dataset, prepare
from sessionrec import fit, pretrained
from sessionrec.checkpoint import load_checkpoint
from sessionrec.fit import fit_baseline
from sessionrec.pretrained import find_pretrained, get_pretrained
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.run import run_recipe
from sessionrec.scoring import rank_labels
from train import main


@pytest.mark.parametrize("recipe", ["best", "fast", "report"])
@pytest.mark.parametrize("name", ["Popularity", "SKNN"])
def test_commands(name, recipe, tmp_path, capsys):
    output, result = tmp_path / "x.safetensors", tmp_path / "x.json"
    command = ["--dataset", "Demo", "--model", name, "--output", str(output), "--json", str(result)]
    assert main([*command, "--recipe", recipe, "--epochs", "1", "--resume"]) == 0
    assert f"{name} on Demo, a baseline" in capsys.readouterr().out
    header, found = load_checkpoint(output).header, json.loads(result.read_text())
    assert header["epochs"] == 1
    assert header["metrics"] == found["metrics"]
    assert found["table"]["epoch"] == [1]
    assert "loss" not in found["table"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.safetensors"]


def test_all_rows_have_the_metrics_of_the_held_out_run(tmp_path):
    held_out, whole = tmp_path / "held_out.safetensors", tmp_path / "whole.safetensors"
    for path, split in ((held_out, "user"), (whole, "none")):
        command = ["--dataset", "Demo", "--model", "STAN", "--output", str(path), "--split", split, "--compact"]
        assert main(command) == 0
    metrics = load_checkpoint(held_out).header["metrics"]
    loaded = load_checkpoint(whole)
    assert loaded.header["metrics"] == {f"heldout_{split}": values for split, values in metrics.items()}
    assert loaded.popularity.sum() > load_checkpoint(held_out).popularity.sum()


def test_unsupported_options_of_a_baseline_are_reported(tmp_path, capsys):
    command = ["--dataset", "Demo", "--model", "SKNN", "--output", str(tmp_path / "x.safetensors")]
    assert main([*command, "--epochs", "3"]) == 1
    assert "SKNN is a baseline, fitted in one pass; it takes no epochs" in capsys.readouterr().err
    recipe = load_recipe("best", "SKNN", "demo")
    for changes, word in (({"fit": {"lr": 0.1}}, "lr"), ({"data": {"fold": True}}, "fold")):
        with pytest.raises(ValueError, match=f"SKNN is a baseline; it takes no {word}"):
            run_recipe(recipe.with_changes(changes), load_dataset("Demo"))


@pytest.mark.parametrize("function", ["maximal_sessions", "rank_labels"])
def test_an_interrupted_baseline_saves_nothing(function, tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(fit if function == "rank_labels" else base, function, interrupt)
    command = ["--dataset", "Demo", "--model", "SKNN", "--output", str(tmp_path / "x.safetensors")]
    assert main(command) == 130
    assert "Nothing was saved yet; the same command fits it again." in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_a_fitted_baselines_history_has_its_validation_metrics():
    data = prepare(load_dataset("Demo"))
    model = build_model("SKNN", n_items=data.n_items)
    history = fit_baseline(model, data)
    (row,) = history.rows
    assert (row["epoch"], history.best_epoch, history.interrupted) == (1, 1, False)
    assert row["HR@20"] == (rank_labels(model, data.valid) <= 20).mean() > 0
    everything = prepare(load_dataset("Demo"), split="none")
    whole = fit_baseline(build_model("SKNN", n_items=everything.n_items), everything)
    assert {*whole.rows[0]} == {"epoch", "seconds"}


def test_a_checkpoint_of_all_rows_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    arguments = {"k": 7}
    for module in ("sessionrec.pretrained", "sessionrec.run"):
        monkeypatch.setattr(f"{module}.load_recipe", lambda *_: Recipe("best", "SKNN", model=dict(arguments)))
    dataset = load_dataset(ROOT / "dataset" / "Demo")
    assert find_pretrained(dataset, "SKNN") is None
    get_pretrained(dataset, "SKNN")
    assert find_pretrained(dataset, "SKNN") == tmp_path / "checkpoints" / "demo" / "SKNN.safetensors"
    assert find_pretrained(dataset, "SKNN", 1) is not None
    arguments["k"] = 8  # as `experiments.tune --write` can do
    assert find_pretrained(dataset, "SKNN") is None


def test_a_checkpoint_of_the_same_files_with_other_names_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    named = replace(load_dataset(ROOT / "dataset" / "Demo"), names={item: f"sku-{item}" for item in range(5000)})
    get_pretrained(named, "Popularity")
    assert find_pretrained(named, "Popularity") is not None
    other = named.names | {1505: "sku-0"}
    for names in (None, other, dict.fromkeys(range(1000), "x")):
        assert find_pretrained(replace(named, names=names), "Popularity") is None
    # A numbering that was continued: the same items, and new ones.
    assert find_pretrained(replace(named, names=named.names | {9999: "new"}), "Popularity") is not None


# --------------------------------------------------------------------------------------------------
# Real data


# HR@20 and MRR@20 of public implementations on a split of the same kind, minus the standard error
# of popularity, because other users are held out there.
PEERS = {
    "Popularity": (0.0305 - 0.0025, 0.0063, 0.0467 - 0.003, 0.0110 - 0.0015),
    "CoOccurrence": (0.1983, 0.0970, 0.1343, 0.0584),
    "SKNN": (0.1969, 0.0853, 0.1361, 0.0551),
    "VSKNN": (0.1975, 0.0872, 0.1329, 0.0566),
    "STAN": (0.1968, 0.0889, 0.1369, 0.0580),
    "SLIST": (0.2136, 0.1062, 0.1555, 0.0696),
    "RandomWalk": (0.2136, 0.1062, 0.1555, 0.0696),  # has no public implementation: compared with the best baseline
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name == "SLIST")) for name in BASELINES]
)
def test_the_recipes_reproduce_the_saved_runs(name, real_data):
    found, saved = [], []
    for short, dataset in AMAZON.items():
        recipe = load_recipe("best", name, short)
        metrics = run_recipe(recipe, load_dataset(real_data / dataset)).metrics["test"]
        result = json.loads((ROOT / "results" / "runs" / f"{name}_{short}_user_best_0_0.json").read_text())
        assert result["recipe_values"] == recipe.values, "no run of this recipe in results/runs: make comparison"
        found += [metrics["HR@20"], metrics["MRR@20"]]
        saved += [result["metrics"]["test"]["HR@20"], result["metrics"]["test"]["MRR@20"]]
    # On other machines, rounding may decide near ties differently.
    assert found == pytest.approx(saved, abs=0.0006)
    assert all(value >= peer for value, peer in zip(found, PEERS[name], strict=True))
