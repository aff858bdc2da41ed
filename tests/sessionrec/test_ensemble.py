"""Ensembles: scores by hand, choice of weights on validation, training, saving and resuming."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import N_ITEMS, POPULARITY, as_queries, small_model

from models import Ensemble, build_model
from process_data import Sessions, load_dataset
from sessionrec import ensemble
from sessionrec import run as run_module
from sessionrec.checkpoint import load_checkpoint
from sessionrec.ensemble import MemberProgress, _probabilities, choose_weights, describe_seconds
from sessionrec.recipes import load_recipe
from sessionrec.recommend import recommend
from sessionrec.run import Split, run_recipe, train_on_all_rows
from sessionrec.scoring import score_sessions
from train import main

ROWS = Sessions.from_lists([[1, 2], [2, 3], [3, 1, 2], [4]], [3, 1, 5, 2], users=[0, 1, 2, 3], n_items=N_ITEMS)
MEMBERS = ["GRU4REC", "GRU4REC", "CoOccurrence"]
DEMO = load_dataset("Demo")


def ensemble_recipe(members=MEMBERS, *, epochs=1, **options):
    """The recipe `best` of the Ensemble with other members."""
    changes = {"ensemble": {"members": members} | options, "fit": {"epochs": epochs}}
    return load_recipe("best", "Ensemble", "demo").with_changes(changes)


def baseline(name="CoOccurrence", **arguments):
    return build_model(name, n_items=N_ITEMS, **arguments).fit(ROWS, POPULARITY)


@torch.inference_mode()
def scores_of(model, x):
    return model.eval().scorer()(x, torch.empty(len(x), N_ITEMS + 1))


def test_scores_are_the_weighted_average_of_probabilities():
    neural, counts = small_model("GRU4REC"), baseline()
    x = torch.tensor([[1, 2], [4, 0]])
    softmax = scores_of(neural, x)[:, 1:].softmax(1)
    positive = scores_of(counts, x)[:, 1:].clamp(min=0)
    # Only item 2 followed item 4, so its probability by co-occurrence is 1.
    assert (positive[1] > 0).tolist() == [item == 2 for item in range(1, N_ITEMS + 1)]
    want = 0.25 * softmax + 0.75 * positive / positive.sum(1, keepdim=True)
    got = scores_of(Ensemble([neural, counts], [0.25, 0.75]), x)
    assert torch.allclose(got[:, 1:], want, atol=1e-6)


def test_a_baseline_alone_keeps_its_order():
    x = torch.tensor([[1, 2], [4, 0], [7, 0]])
    alone = scores_of(Ensemble([baseline()], [1]), x)[:, 1:]
    assert alone.argsort(1).equal(scores_of(baseline(), x)[:, 1:].argsort(1))
    assert alone.sum(1).tolist() == pytest.approx([1, 1, 0], abs=1e-6)  # item 7 does not occur
    assert all(len(row.unique()) == N_ITEMS for row in alone)


def test_weights_are_positive_and_add_up_to_one():
    models = [build_model("Popularity", n_items=9) for _ in range(2)]
    for weights in ([1, 1], [-1, 2], [0.5], [1, 0], []):
        with pytest.raises(ValueError, match="weights"):
            Ensemble(models, weights)
    with pytest.raises(ValueError, match="0 members with 0 weights"):
        Ensemble([], [])
    with pytest.raises(ValueError, match=r"catalogues of \[9, 12\] items; train them on the same data"):
        Ensemble([models[0], baseline()], [0.5, 0.5])


def test_an_ensemble_is_rebuilt_from_its_arguments():
    ensemble = Ensemble([small_model("GRU4REC", hidden=4), baseline()], [0.25, 0.75])
    assert ensemble.arguments["n_items"] == N_ITEMS and ensemble.arguments["weights"] == [0.25, 0.75]
    again = build_model("Ensemble", **ensemble.arguments)
    assert again.arguments == ensemble.arguments
    again.load_state_dict(ensemble.state_dict())
    x = torch.tensor([[1, 2], [4, 0]])
    assert torch.equal(scores_of(again, x), scores_of(ensemble, x))


class Fixed(torch.nn.Module):
    """Returns fixed probabilities (n + 1,) for each first item of a query."""

    name, n_items, device = "Popularity", N_ITEMS, torch.device("cpu")
    arguments = {"n_items": N_ITEMS}

    def __init__(self, likes):
        super().__init__()
        self.table = torch.full((N_ITEMS + 1, N_ITEMS + 1), 0.01)
        for first, item, share in likes:
            self.table[first, item] = share

    def probabilities(self):
        return lambda x, out: out.copy_(self.table[x[:, 0]])


def weights_on(lists, labels, *likes, names=(), **options):
    models = [Fixed(of_model) for of_model in likes]
    for model, name in zip(models, names, strict=False):
        model.name = name
    return choose_weights(models, as_queries(lists, labels), rounds=6, **options)


def test_weights_are_chosen_for_ndcg_on_validation():
    valid = [[1], [2]], [5, 6]
    right, wrong = [(1, 5, 0.9), (2, 6, 0.9)], [(1, 7, 0.9), (2, 8, 0.9)]
    weights, table = weights_on(*valid, wrong, right)
    assert weights == [0, 1]
    assert table["NDCG@20"].iloc[0] == 1
    # Each model ranks one target first, and a third item before the other target.
    weights, table = weights_on(*valid, [(1, 5, 0.9), (2, 7, 0.5)], [(2, 6, 0.9), (1, 8, 0.5)])
    assert weights == [0.5, 0.5]
    assert table["NDCG@20"].iloc[1] == 1 > table["NDCG@20"].iloc[0]
    assert "test" not in " ".join(inspect.signature(choose_weights).parameters)


def test_neural_models_can_be_added_before_the_selection():
    valid = [[1], [2]], [5, 6]
    right, wrong = [(1, 5, 0.9), (2, 6, 0.9)], [(1, 7, 0.2), (2, 8, 0.2)]
    names = ["GRU4REC", "NARM", "SKNN"]
    weights, table = weights_on(*valid, right, wrong, right, names=names, start=2)
    assert weights == [0.5, 0.5, 0]  # after the first round, both targets are ranked first
    assert table["joined"].iloc[0] == "GRU4REC, NARM, GRU4REC, NARM"
    # Models that are added later outweigh the first ones.
    weights, table = weights_on(*valid, wrong, wrong, right, names=names, start=1)
    assert weights == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert table["NDCG@20"].iloc[0] < 1 == table["NDCG@20"].iloc[1]


def test_many_queries_are_sampled(monkeypatch):
    monkeypatch.setattr("sessionrec.ensemble._MOST_ENTRIES", 2 * 2 * (N_ITEMS + 1))
    sizes = []
    monkeypatch.setattr(
        "sessionrec.ensemble.ranks_of_targets", lambda s, t: sizes.append(len(t)) or torch.ones(len(t), dtype=int)
    )
    weights_on([[1], [2], [3]], [5, 6, 7], [], [])
    assert set(sizes) == {2}


def test_an_ensemble_trains_saves_and_recommends_like_any_model(tmp_path):
    run = run_recipe(ensemble_recipe(), DEMO)
    found, table = run.header["recipe_values"]["ensemble"], run.history.table
    assert sum(found["weights"]) == pytest.approx(1)
    assert [m["seed"] for m in run.header["members"]] == [0, 1, 0]
    assert run.metrics["valid"]["NDCG@20"] == pytest.approx(table["NDCG@20"].max(), abs=1e-6)
    assert run.header["epochs"] == table["NDCG@20"].idxmax() + 1
    best = max(m["metrics"]["valid"]["NDCG@20"] for m in run.header["members"])
    assert run.metrics["valid"]["NDCG@20"] >= best
    run.save(tmp_path / "whole.safetensors")
    run.save(tmp_path / "e.safetensors", compact=True)
    assert (tmp_path / "e.safetensors").stat().st_size < 0.5 * (tmp_path / "whole.safetensors").stat().st_size
    loaded = load_checkpoint(tmp_path / "e.safetensors")
    (_, want), (_, got) = (next(score_sessions(model, run.data.test)) for model in (run.model, loaded.model))
    assert torch.allclose(want[:, 1:], got[:, 1:], atol=2e-4, rtol=0.05)
    assert recommend(loaded, [run.data.vocabulary.decode(np.array([1, 2])).tolist()]).items.shape == (1, 20)


def test_an_ensemble_that_does_not_beat_its_best_member_is_not_made(monkeypatch, capsys):
    rows = [{"epoch": 1, "NDCG@20": 0.5, "MRR@20": 0.01, "seconds": 0.0}]
    chosen = [0.5, 0.5], run_module.History(rows).table
    monkeypatch.setattr("sessionrec.ensemble.choose_weights", lambda *_, **__: chosen)
    run = run_recipe(ensemble_recipe(["Popularity", "CoOccurrence"]), DEMO)
    assert run.model.name == "CoOccurrence"
    assert [m["weight"] for m in run.header["members"]] == [0.0, 1.0]
    assert run.metrics["valid"] == run.header["members"][1]["metrics"]["valid"]
    assert "CoOccurrence alone is as good as the ensemble" in capsys.readouterr().out


def test_members_without_weight_are_omitted(monkeypatch):
    rows = [{"epoch": 1, "NDCG@20": 0.5, "MRR@20": 1.0, "seconds": 0.0}]
    chosen = [0.75, 0.25, 0.0], run_module.History(rows).table
    monkeypatch.setattr("sessionrec.ensemble.choose_weights", lambda *_, **__: chosen)
    run = run_recipe(ensemble_recipe(["CoOccurrence", "Popularity", "SKNN"]), DEMO)
    assert [member.name for member in run.model.members] == ["CoOccurrence", "Popularity"]
    assert run.model.weights == [0.75, 0.25]
    assert [m["weight"] for m in run.header["members"]] == [0.75, 0.25, 0.0]
    assert run.header["recipe_values"]["ensemble"]["members"] == ["CoOccurrence", "Popularity"]


def test_trained_members_can_be_passed():
    recipe = ensemble_recipe(["CoOccurrence", "Popularity"])
    members = [run_recipe(load_recipe("best", name, "demo"), DEMO) for name in ("CoOccurrence", "Popularity")]
    given, trained = run_recipe(recipe, DEMO, members=members), run_recipe(recipe, DEMO)
    assert given.metrics == trained.metrics
    assert given.model is members[0].model  # Popularity adds nothing, so the better one is used alone
    with pytest.raises(ValueError, match="must be the recipe's: CoOccurrence, Popularity"):
        run_recipe(recipe, DEMO, members=members[::-1])


def test_on_all_rows_it_keeps_the_weights_and_epochs_of_its_held_out_run():
    run = train_on_all_rows(ensemble_recipe(epochs=2), DEMO)
    assert set(run.header["metrics"]) == {"heldout_valid", "heldout_test"}
    found, chosen = run.header["recipe_values"]["ensemble"], run.header["members"]
    assert found["weights"] == getattr(run.model, "weights", [1.0]) == [m["weight"] for m in chosen if m["weight"]]
    popularity = run_recipe(load_recipe("best", "Popularity", "demo"), DEMO)
    assert sum(run.data.popularity) > sum(popularity.data.popularity)


def test_an_interrupted_ensemble_continues_with_the_interrupted_member(tmp_path, monkeypatch, capsys):
    arguments = ["--dataset", "Demo", "--model", "Ensemble", "--recipe", "report", "--epochs", "2"]
    output = tmp_path / "e.safetensors"
    whole = tmp_path / "whole.safetensors"
    assert main([*arguments, "--output", str(whole)]) == 0
    fit, started = run_module.fit, []

    def press(history):
        raise KeyboardInterrupt

    def interrupted_in_the_second(model, *rest, **options):
        started.append(model.name)
        if len(started) == 2:
            options["callbacks"] = [press]
        return fit(model, *rest, **options)

    monkeypatch.setattr(run_module, "fit", interrupted_in_the_second)
    assert main([*arguments, "--output", str(output)]) == 130
    assert not output.exists()
    monkeypatch.setattr(run_module, "fit", fit)
    assert main([*arguments, "--output", str(output), "--resume"]) == 0
    a, b = load_checkpoint(whole).model.state_dict(), load_checkpoint(output).model.state_dict()
    assert a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.safetensors", "whole.safetensors"]
    assert "GRUwATT" in capsys.readouterr().out


def test_an_ensemble_needs_members():
    with pytest.raises(ValueError, match="needs a recipe with its members"):
        run_recipe(ensemble_recipe([]), DEMO)


def test_without_validation_all_members_have_the_same_weight():
    run = run_recipe(ensemble_recipe(), DEMO, split=Split("none"))
    assert run.model.weights == pytest.approx([1 / 3] * 3)


def test_a_member_that_cannot_handle_the_catalogue_is_omitted(monkeypatch, capsys):
    monkeypatch.setattr("models.baselines.SLIST.LARGEST_CATALOGUE", 100)
    run = run_recipe(ensemble_recipe(["GRU4REC", "SLIST", "CoOccurrence"]), DEMO)
    assert [m["model"] for m in run.header["members"]] == ["GRU4REC", "CoOccurrence"]
    assert "goes without SLIST" in capsys.readouterr().out
    run = run_recipe(ensemble_recipe(["CoOccurrence", "SLIST"]), DEMO)  # the last one, too
    assert run.model.name == "CoOccurrence"
    with pytest.raises(ValueError, match="no member of the ensemble takes so many items"):
        run_recipe(ensemble_recipe(["SLIST"]), DEMO)


def test_the_weight_of_an_omitted_member_is_shared_by_the_others(monkeypatch, capsys):
    recipe = ensemble_recipe(["SLIST", "Popularity", "CoOccurrence"])
    heldout = run_recipe(recipe, DEMO)
    chosen = {
        "members": ["SLIST", "Popularity", "CoOccurrence"],
        "weights": [0.5, 0.1, 0.4],
        "seeds": [0, 0, 0],
        "epochs": [1, 1, 1],
    }
    values = recipe.with_changes({"ensemble": chosen}).values
    heldout = replace(heldout, info=heldout.info | {"recipe_values": values})
    monkeypatch.setattr("models.baselines.SLIST.LARGEST_CATALOGUE", heldout.data.n_items)
    run = train_on_all_rows(recipe, DEMO, heldout_run=heldout)
    assert run.data.n_items > heldout.data.n_items
    assert [member["model"] for member in run.model.arguments["members"]] == ["Popularity", "CoOccurrence"]
    assert run.model.weights == pytest.approx([0.2, 0.8])
    assert "goes without SLIST" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["twice", -1, 0.5])
def test_a_start_that_is_no_count_is_refused(start):
    with pytest.raises(ValueError, match="ensemble.start=.*: must be a whole number from 0 to 100"):
        run_recipe(ensemble_recipe(start=start), DEMO)


@pytest.mark.parametrize("changes", [{"model": {"width": 8}}, {"fit": {"lr": 1.0}}, {"data": {"fold": False}}])
def test_changes_that_would_reach_no_member_are_refused(changes):
    with pytest.raises(ValueError, match="members have their own recipes"):
        run_recipe(ensemble_recipe().with_changes(changes), DEMO)


def test_the_members_are_counted_and_the_rest_is_estimated(monkeypatch, capsys):
    """GRU4REC takes 30 s and NARM 90 s; the baseline between them counts as nothing."""
    clock = iter([0.0, 0.0, 30.0, 40.0, 130.0])
    monkeypatch.setattr("sessionrec.ensemble.time.perf_counter", lambda: next(clock))
    progress = MemberProgress(["GRU4REC", "SLIST", "NARM", "SASRec"])
    for i in range(4):
        progress.start(i)
    assert capsys.readouterr().out.splitlines() == [
        "Member 1 of 4: GRU4REC",
        "Member 3 of 4: NARM; the rest takes about 60 s",
        "Member 4 of 4: SASRec; the rest takes about 60 s",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89.4, "89 s"), (100, "2 minutes"), (5399, "90 minutes"), (5400, "1.5 hours")]
)
def test_durations_in_words(seconds, words):
    assert describe_seconds(seconds) == words


def test_the_weights_are_chosen_on_as_many_queries_as_the_recipe_says(monkeypatch):
    seen = []

    def recorded(model, queries):
        seen.append(len(queries))
        return _probabilities(model, queries)

    monkeypatch.setattr("sessionrec.ensemble._probabilities", recorded)
    compared, alone = [], ensemble._or_the_best_alone

    def recorded_mrr(weights, mrr, runs):
        compared.append(mrr)
        return weights if alone(weights, mrr, runs) else None

    monkeypatch.setattr("sessionrec.ensemble._or_the_best_alone", recorded_mrr)
    recipe = ensemble_recipe(["SKNN", "CoOccurrence"], start=0)
    run = run_recipe(recipe.with_changes({"ensemble": {"queries": 7}}), DEMO)
    assert seen == [7, 7]
    # The comparison with the members, which were measured on all queries, is on all queries.
    assert compared == [pytest.approx(run.metrics["valid"]["MRR@20"], abs=1e-9)]
