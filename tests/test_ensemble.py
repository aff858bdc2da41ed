"""Averaging models: by hand, chosen on validation, trained, saved and resumed like any other."""

import inspect
from importlib import import_module

import numpy as np
import pytest
import torch
from test_scoring import N_ITEMS, POPULARITY, small_model

import train
from checkpoint import load_checkpoint
from ensemble import choose_weights, combine
from models import build_model
from process_data import Sessions
from recommend import recommend
from scoring import score_sessions
from train import main, train_model, train_on_all_rows

ROWS = Sessions.from_lists([[1, 2], [2, 3], [3, 1, 2], [4]], [3, 1, 5, 2], users=[0, 1, 2, 3])
MEMBERS = {"ensemble": {"members": ["GRU4REC", "GRU4REC", "CoOccurrence"]}}


def counted(name="CoOccurrence", **arguments):
    return build_model(name, n_items=N_ITEMS, **arguments).count(ROWS, POPULARITY)


@torch.inference_mode()
def scores_of(model, x):
    return model.eval().scorer()(x, torch.empty(len(x), N_ITEMS + 1))


def test_scores_are_the_weighted_average_of_probabilities():
    neural, counts = small_model("GRU4REC"), counted()
    x = torch.tensor([[1, 2], [4, 0]])
    softmax = scores_of(neural, x)[:, 1:].softmax(1)
    positive = scores_of(counts, x)[:, 1:].clamp(min=0)
    # [4] was followed by 2 alone, so counting is certain of it.
    assert (positive[1] > 0).tolist() == [item == 2 for item in range(1, N_ITEMS + 1)]
    want = 0.25 * softmax + 0.75 * positive / positive.sum(1, keepdim=True)
    got = scores_of(combine([neural, counts], [0.25, 0.75]), x)
    assert torch.allclose(got[:, 1:], want, atol=1e-6)


def test_a_counting_model_alone_keeps_its_order():
    x = torch.tensor([[1, 2], [4, 0], [7, 0]])
    alone = scores_of(combine([counted()], [1]), x)[:, 1:]
    assert alone.argsort(1).equal(scores_of(counted(), x)[:, 1:].argsort(1))
    assert alone.sum(1).tolist() == pytest.approx([1, 1, 0], abs=1e-6)  # nobody saw item 7
    assert all(len(row.unique()) == N_ITEMS for row in alone)


def test_members_without_weight_are_left_out():
    ensemble = combine([small_model("GRU4REC"), small_model("NARM"), counted()], [0.5, 0, 0.5])
    assert [member.name for member in ensemble.members] == ["GRU4REC", "CoOccurrence"]
    for weights in ([1, 1], [-1, 2], [0.5]):
        with pytest.raises(ValueError, match="weight"):
            build_model(
                "Ensemble", n_items=9, members=[{"model": "Popularity", "arguments": {}}] * 2, weights=weights
            )


class Fixed(torch.nn.Module):
    """Probabilities that are given: (queries by their first item) -> (n + 1,)."""

    name, n_items, device = "Popularity", N_ITEMS, torch.device("cpu")
    arguments = {"n_items": N_ITEMS}

    def __init__(self, likes):
        super().__init__()
        self.table = torch.full((N_ITEMS + 1, N_ITEMS + 1), 0.01)
        for first, item, share in likes:
            self.table[first, item] = share

    def probabilities(self):
        return lambda x, out: out.copy_(self.table[x[:, 0]])


def weights_on(valid, *likes, names=(), **options):
    models = [Fixed(of_model) for of_model in likes]
    for model, name in zip(models, names, strict=False):
        model.name = name
    return choose_weights(models, valid, POPULARITY, mask_seen=True, rounds=6, **options)


def test_weights_are_chosen_for_ndcg_on_validation():
    valid = Sessions.from_lists([[1], [2]], [5, 6])
    right, wrong = [(1, 5, 0.9), (2, 6, 0.9)], [(1, 7, 0.9), (2, 8, 0.9)]
    weights, table = weights_on(valid, wrong, right)
    assert weights == [0, 1]
    assert table["NDCG@20"].iloc[0] == 1
    # Each knows one answer, and is surer of a third item than of the other's.
    weights, table = weights_on(valid, [(1, 5, 0.9), (2, 7, 0.5)], [(2, 6, 0.9), (1, 8, 0.5)])
    assert weights == [0.5, 0.5]
    assert table["NDCG@20"].iloc[1] == 1 > table["NDCG@20"].iloc[0]
    assert "test" not in " ".join(inspect.signature(choose_weights).parameters)


def test_neural_models_may_be_taken_before_the_choice():
    valid = Sessions.from_lists([[1], [2]], [5, 6])
    right, wrong = [(1, 5, 0.9), (2, 6, 0.9)], [(1, 7, 0.2), (2, 8, 0.2)]
    names = ["GRU4REC", "NARM", "SKNN"]
    weights, table = weights_on(valid, right, wrong, right, names=names, start=2)
    assert weights == [0.5, 0.5, 0]  # the four of the first round rank both targets first
    assert table["joined"].iloc[0] == "GRU4REC, NARM, GRU4REC, NARM"
    # What the start gets wrong is outweighed by what joins.
    weights, table = weights_on(valid, wrong, wrong, right, names=names, start=1)
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert table["NDCG@20"].iloc[0] < 1 == table["NDCG@20"].iloc[1]


def test_many_queries_are_sampled(monkeypatch):
    monkeypatch.setattr("ensemble._MOST_ENTRIES", 2 * 2 * (N_ITEMS + 1))
    asked = []
    monkeypatch.setattr(
        "ensemble.ranks_of_targets", lambda s, t: asked.append(len(t)) or torch.ones(len(t), dtype=int)
    )
    weights_on(Sessions.from_lists([[1], [2], [3]], [5, 6, 7]), [], [])
    assert set(asked) == {2}


def test_an_ensemble_trains_saves_and_recommends_like_any_model(tmp_path):
    run = train_model("Demo", "Ensemble", epochs=1, changes=MEMBERS, progress=False)
    found = run.header["recipe_values"]["ensemble"]
    assert sum(found["weights"]) == pytest.approx(1)
    assert [m["seed"] for m in run.header["members"]] == [0, 1, 0]
    assert run.metrics["valid"]["NDCG@20"] == pytest.approx(run.table["NDCG@20"].max(), abs=1e-6)
    assert run.header["epochs"] == run.table["NDCG@20"].idxmax() + 1
    best = max(m["metrics"]["valid"]["NDCG@20"] for m in run.header["members"])
    assert run.metrics["valid"]["NDCG@20"] >= best
    run.save(tmp_path / "half.safetensors", half=True)
    run.save(tmp_path / "e.safetensors", compact=True)
    assert (tmp_path / "e.safetensors").stat().st_size < 0.8 * (tmp_path / "half.safetensors").stat().st_size
    loaded = load_checkpoint(tmp_path / "e.safetensors")
    (_, want), (_, got) = (
        next(score_sessions(model, run.data.test, run.data.popularity, mask_seen=True))
        for model in (run.model, loaded.model)
    )
    assert torch.allclose(want[:, 1:], got[:, 1:], atol=2e-4, rtol=0.05)
    assert recommend(loaded, [run.data.vocabulary.decode(np.array([1, 2])).tolist()]).items.shape == (1, 20)


def test_on_all_rows_it_keeps_its_twins_weights_and_epochs():
    run = train_on_all_rows("Demo", "Ensemble", epochs=2, changes=MEMBERS, progress=False)
    assert set(run.header["metrics"]) == {"twin_valid", "twin_test"}
    found, chosen = run.header["recipe_values"]["ensemble"], run.header["members"]
    assert found["weights"] == run.model.weights == [m["weight"] for m in chosen if m["weight"]]
    assert sum(run.data.popularity) > sum(train_model("Demo", "Popularity").data.popularity)


def test_an_interrupted_ensemble_goes_on_with_the_member_it_was_at(tmp_path, monkeypatch, capsys):
    arguments = ["--dataset", "Demo", "--model", "Ensemble", "--recipe", "report", "--epochs", "2"]
    output = tmp_path / "e.safetensors"
    whole = tmp_path / "whole.safetensors"
    assert main([*arguments, "--output", str(whole)]) == 0
    fit, started = train.fit, []

    def interrupted_in_the_second(model, *rest, **options):
        started.append(model.name)
        if len(started) == 2:
            options["on_epoch"] = lambda row: (_ for _ in ()).throw(KeyboardInterrupt)
        return fit(model, *rest, **options)

    monkeypatch.setattr(train, "fit", interrupted_in_the_second)
    assert main([*arguments, "--output", str(output)]) == 130
    assert not output.exists()
    monkeypatch.setattr(train, "fit", fit)
    assert main([*arguments, "--output", str(output), "--resume"]) == 0
    a, b = load_checkpoint(whole).model.state_dict(), load_checkpoint(output).model.state_dict()
    assert a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.safetensors", "whole.safetensors"]
    assert "GRUwATT" in capsys.readouterr().out


def test_an_ensemble_needs_members():
    with pytest.raises(ValueError, match="needs a recipe with its members"):
        train_model("Demo", "Ensemble", changes={"ensemble": {"members": []}})


def test_without_validation_all_weigh_the_same():
    run = train_model("Demo", "Ensemble", changes=MEMBERS, epochs=1, split="none", progress=False)
    assert run.model.weights == pytest.approx([1 / 3] * 3)


def test_a_member_that_cannot_take_the_catalogue_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(import_module("models.SLIST"), "LARGEST_CATALOGUE", 100)
    changes = {"ensemble": {"members": ["GRU4REC", "SLIST", "CoOccurrence"]}}
    run = train_model("Demo", "Ensemble", changes=changes, epochs=1, progress=False)
    assert [m["model"] for m in run.header["members"]] == ["GRU4REC", "CoOccurrence"]
    assert "goes without SLIST" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no member of the ensemble takes so many items"):
        train_model("Demo", "Ensemble", changes={"ensemble": {"members": ["SLIST"]}}, progress=False)


def test_what_a_member_weighed_falls_to_the_others_where_all_rows_have_too_many_items(monkeypatch, capsys):
    changes = {"ensemble": {"members": ["SLIST", "Popularity", "CoOccurrence"]}}
    twin = train_model("Demo", "Ensemble", changes=changes, progress=False)
    twin.header["recipe_values"]["ensemble"] |= {
        "members": ["SLIST", "Popularity", "CoOccurrence"],
        "weights": [0.5, 0.1, 0.4],
        "seeds": [0, 0, 0],
        "epochs": [1, 1, 1],
    }
    monkeypatch.setattr(import_module("models.SLIST"), "LARGEST_CATALOGUE", twin.data.n_items)
    run = train_on_all_rows("Demo", "Ensemble", twin=twin, changes=changes, progress=False)
    assert run.data.n_items > twin.data.n_items
    assert [member["model"] for member in run.model.arguments["members"]] == ["Popularity", "CoOccurrence"]
    assert run.model.weights == pytest.approx([0.2, 0.8])
    assert "goes without SLIST" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["twice", -1, 0.5])
def test_a_start_that_is_no_count_is_refused(start):
    changes = {"ensemble": MEMBERS["ensemble"] | {"start": start}}
    with pytest.raises(ValueError, match="say how often each neural model is in"):
        train_model("Demo", "Ensemble", changes=changes, epochs=1, progress=False)


@pytest.mark.parametrize(
    "changes", [{"model": {"width": 8}}, {"fit": {"lr": 1.0}}, {"data": {"fold": False}}]
)
def test_changes_that_no_member_would_get_are_refused(changes):
    with pytest.raises(ValueError, match="members have their own recipes"):
        train_model("Demo", "Ensemble", changes=MEMBERS | changes, epochs=1, progress=False)
