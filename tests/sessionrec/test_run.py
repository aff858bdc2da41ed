"""Runs by a recipe: training, metrics, checkpoints and summaries."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import BATCH_SIZE, N_ITEMS, assert_same_bits, planted_walks, weights_of, without_seconds, write_planted

from dataset.find import load_dataset
from metrics import summarize
from process_data import prepare
from sessionrec.checkpoint import load_checkpoint
from sessionrec.losses import SampledSoftmax, full_softmax
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.results import beyond_accuracy, summarize_run
from sessionrec.run import Split, make_loss, run_recipe, train_on_all_rows
from sessionrec.scoring import rank_labels, top_items

FIT = {"epochs": 2, "batch_size": BATCH_SIZE, "lr": 0.02, "schedule": "onecycle"}
SMALL = Recipe("mine", "GRU4REC", model={"width": 8, "hidden": 8, "dropout": 0.1}, fit=FIT, data={"weights": "once"})


def changed(**fit):
    return SMALL.with_changes({"fit": fit})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_dataset(write_planted(tmp_path_factory.mktemp("data") / "Planted"))


@pytest.fixture(scope="module")
def whole(dataset):
    return run_recipe(SMALL, dataset)


def test_a_run_has_the_model_of_its_best_epoch_and_the_ranks_of_each_split(whole):
    assert not whole.interrupted
    assert list(whole.ranks) == list(whole.metrics) == ["valid", "test"]
    assert whole.metrics["valid"]["MRR@20"] == whole.history.table["MRR@20"].max()
    for split in ("valid", "test"):
        assert whole.ranks[split].tolist() == rank_labels(whole.model, getattr(whole.data, split)).tolist()
        assert whole.metrics[split] == summarize(whole.ranks[split])


def test_the_header_describes_the_run(whole, dataset):
    assert whole.header == {
        "model": "GRU4REC",
        "arguments": whole.model.arguments,
        "dataset": "Planted",
        "sha256": dataset.sha256,
        "split": "user",
        "split_seed": 0,
        "shares": [None, None],
        "mask_seen": True,
        "metrics": whole.metrics,
        "recipe": "mine",
        "seed": 0,
        "epochs": whole.history.best_epoch,
        "recipe_values": SMALL.values,
    }


def test_a_saved_run_can_be_loaded(whole, tmp_path):
    path = tmp_path / "x.safetensors"
    whole.save(path)
    loaded = load_checkpoint(path)
    assert {key: value for key, value in loaded.header.items() if key != "format"} == whole.header
    assert_same_bits(loaded.model.state_dict(), weights_of(whole.model))
    assert loaded.popularity.tolist() == whole.data.popularity.tolist()
    assert whole.checkpoint().model is whole.model
    whole.save(path, compact=True)
    compact = load_checkpoint(path)
    assert compact.model.embedding.weight.dtype == torch.float32
    metrics = summarize(rank_labels(compact.model, whole.data.test))
    assert metrics == pytest.approx(whole.metrics["test"], abs=0.05)


def test_a_run_is_reproducible_with_its_seed(whole, dataset):
    again, other = run_recipe(SMALL, dataset), run_recipe(SMALL, dataset, seed=1)
    assert_same_bits(weights_of(again.model), weights_of(whole.model))
    assert without_seconds(again.history.table) == without_seconds(whole.history.table)
    assert without_seconds(other.history.table) != without_seconds(whole.history.table)
    assert other.header["seed"] == 1


def test_changes_of_a_recipe_reach_the_model_and_the_header(dataset):
    changes = {"model": {"width": 8, "hidden": 8}, "fit": {"lr": 0.5, "epochs": 1}}
    run = run_recipe(load_recipe("best", "GRU4REC", "planted").with_changes(changes), dataset)
    assert run.model.arguments["width"] == run.model.arguments["hidden"] == 8
    assert run.header["recipe"] == "best"
    assert run.header["recipe_values"]["fit"]["lr"] == 0.5
    assert run.header["recipe_values"]["fit"]["epochs"] == 1
    with pytest.raises(ValueError, match="GRU4REC takes no heads"):
        run_recipe(SMALL.with_changes({"model": {"heads": 2}}), dataset)


def test_the_split_can_be_chosen(dataset):
    split = Split("user", seed=4, valid_share=0.3, test_share=0)
    run = run_recipe(changed(epochs=1), dataset, split=split)
    want = prepare(dataset, split_seed=4, valid_share=0.3, test_share=0)
    assert run.data.valid.items.tolist() == want.valid.items.tolist()
    assert len(np.unique(run.data.valid.users)) == 45
    assert list(run.ranks) == ["valid"]
    assert (run.header["split_seed"], run.header["shares"]) == (4, [0.3, 0])


def test_only_the_splits_in_evaluate_on_are_ranked(dataset):
    assert list(run_recipe(changed(epochs=1), dataset, evaluate_on=["test"]).ranks) == ["test"]
    assert run_recipe(changed(epochs=1), dataset, evaluate_on=[]).metrics == {}


def test_stop_after_ends_early_and_keeps_the_schedule(dataset):
    four = run_recipe(changed(epochs=4), dataset)
    stopped = run_recipe(changed(epochs=4), dataset, stop_after=2)
    assert without_seconds(stopped.history.table) == without_seconds(four.history.table.iloc[:2])
    longer = run_recipe(changed(epochs=4), dataset, stop_after=9)
    assert len(longer.history.rows) == 4


def test_patience_stops_a_run(dataset):
    history = run_recipe(changed(epochs=50, patience=1, lr=0.3, schedule="constant"), dataset).history
    assert history.best_epoch < 50
    assert len(history.rows) == history.best_epoch + 1


def test_callbacks_see_every_epoch_and_ctrl_c_leaves_a_run_without_metrics(dataset):
    seen = []

    def press(history):
        seen.append(len(history.rows))
        if len(seen) == 2:
            raise KeyboardInterrupt

    run = run_recipe(changed(epochs=5), dataset, callbacks=[press])
    assert seen == [1, 2]
    assert run.interrupted and len(run.history.rows) == 2
    assert run.ranks == run.metrics == {}


def test_negatives_and_precision_choose_the_loss(whole):
    assert make_loss(whole.data, 0, "auto") is full_softmax
    assert make_loss(whole.data, 0, "bf16").keywords == {"precision": "bf16"}
    sampled = make_loss(whole.data, 7, "fp32")
    assert isinstance(sampled, SampledSoftmax) and (sampled.negatives, sampled.precision) == (7, "fp32")


def test_every_key_of_fit_is_used(dataset):
    fit = {"negatives": 10, "lazy": True, "precision": "fp32", "weight_decay": 1e-6, "graph_smoothing": 0.0}
    run = run_recipe(changed(**fit), dataset)
    assert run.model.embedding.sparse is False  # the option is reset afterwards
    smoothed = run_recipe(changed(graph_smoothing=0.5), dataset)
    assert smoothed.model.state_dict().keys() == run.model.state_dict().keys()
    assert smoothed.history.rows[0]["loss"] != run.history.rows[0]["loss"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lazy": True}, "lazy=true needs negatives"),
        ({"lazy": True, "negatives": 2, "graph_smoothing": 0.5}, "leave it out, or `lazy`"),
        ({"negatives": -1}, "negatives=-1: must be a whole number of at least 0"),
        ({"precision": "fp16"}, "choose 'auto', 'fp32' or 'bf16'"),
        ({"schedule": "triangle"}, "choose 'constant', 'onecycle' or 'cosine'"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number"),
    ],
)
def test_an_invalid_value_is_refused(changes, sentence, dataset):
    with pytest.raises(ValueError, match=sentence):
        run_recipe(changed(**changes), dataset)


def test_a_baseline_refuses_training_options(dataset):
    for changes, key in (({"fit": {"lr": 0.1}}, "lr"), ({"data": {"fold": True}}, "fold")):
        with pytest.raises(ValueError, match=f"Popularity is a baseline; it takes no {key}"):
            run_recipe(Recipe("mine", "Popularity").with_changes(changes), dataset)
    run = run_recipe(Recipe("mine", "Popularity", data={"min_session_length": 2}), dataset)
    assert run.header["epochs"] == 1 and list(run.metrics) == ["valid", "test"]


# --------------------------------------------------------------------------------------------------
# All rows


def test_training_on_all_rows_takes_the_epochs_of_the_held_out_run(dataset):
    recipe = changed(epochs=3)
    heldout = run_recipe(load_recipe("best", "GRU4REC", "planted").with_changes(recipe.values), dataset)
    run = train_on_all_rows(
        load_recipe("best", "GRU4REC", "planted").with_changes(recipe.values), dataset, heldout_run=heldout
    )
    assert run.header["split"] == "none"
    assert len(run.history.rows) == run.header["epochs"] == heldout.header["epochs"]
    assert run.header["metrics"] == {"heldout_valid": heldout.metrics["valid"], "heldout_test": heldout.metrics["test"]}
    assert run.header["recipes"] == {"GRU4REC": load_recipe("best", "GRU4REC", "planted").values}
    # All rows are used: the items of each user count once.
    counts = np.bincount([i for walk in planted_walks(0, 150) for i in walk], minlength=N_ITEMS + 1)
    assert run.data.popularity.tolist() == counts.tolist()
    assert run.ranks == {}


def test_a_recipe_that_is_not_in_the_file_trains_on_all_rows(dataset):
    run = train_on_all_rows(SMALL, dataset)
    assert run.header["recipes"] == {"GRU4REC": SMALL.values}


@pytest.mark.parametrize("users", [1, 2])
@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("GRU4REC", "trains for the recipe's 2 epochs"),
        ("STAN", "is fitted"),
        ("Ensemble", "averages its members with equal weights, each trained for its recipe's epochs,"),
    ],
)
def test_too_few_users_train_on_all_rows_without_a_held_out_run(users, model, how, tmp_path, capsys):
    rows = ["[1],2", '"[1, 2]",3', "[3],1"][: users + 1]
    (tmp_path / "train_sessions.csv").write_text("\n".join(["session,label", *rows, ""]))
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    recipe = load_recipe("best", model, "tiny")
    recipe = recipe.with_changes({"fit": {"epochs": 2}} if model == "GRU4REC" else {})
    if model == "Ensemble":
        recipe = recipe.with_changes({"ensemble": {"members": ["Popularity", "CoOccurrence"]}})
    run = train_on_all_rows(recipe, load_dataset(tmp_path))
    few = "1 user is" if users == 1 else "2 users are"
    reason = f"No held-out run ({few} too few for a validation share of 0.1)"
    assert capsys.readouterr().out == f"{reason}: {model} {how} on all rows, and nothing is measured.\n"
    assert (run.header["split"], run.header["metrics"], len(run.data.train)) == ("none", {}, users + 1)
    assert run.header["epochs"] == (2 if model == "GRU4REC" else 1)


def test_an_interrupted_held_out_run_is_returned(dataset, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sessionrec.fit.batch_loss", press)
    run = train_on_all_rows(load_recipe("best", "GRU4REC", "planted"), dataset)
    assert run.interrupted and run.data.split == "user"


# --------------------------------------------------------------------------------------------------
# Results


def test_the_summary_of_a_run_is_json(whole):
    found = json.loads(json.dumps(summarize_run(whole)))
    assert found["model"] == "GRU4REC" and found["metrics"] == whole.metrics
    assert found["ranks"] == {split: ranks.tolist() for split, ranks in whole.ranks.items()}
    assert found["queries"] == {split: len(ranks) for split, ranks in whole.ranks.items()}
    assert found["coverage"] == {"valid": 1.0, "test": 1.0}
    assert found["table"]["epoch"] == [1, 2]
    assert found["parameters"] == sum(p.numel() for p in whole.model.parameters())
    assert found["train_seconds"] == pytest.approx(whole.history.table["seconds"].sum())
    assert found["hardware"].startswith("cpu, ")


def test_beyond_accuracy_by_plain_loops(whole):
    found, test = beyond_accuracy(whole, k=3), whole.data.test
    items, _ = top_items(whole.model, test, k=3)
    assert found["catalogue_share"] == len({i for row in items.tolist() for i in row}) / N_ITEMS
    of_targets = np.mean([whole.data.popularity[label] for label in test.labels])
    of_items = np.mean([whole.data.popularity[i] for row in items.tolist() for i in row])
    assert found["popularity"] == pytest.approx(of_items / of_targets)
    assert found["queries_per_second"] > 0


def test_shuffled_metrics_are_those_of_the_same_items_in_another_order(whole):
    def shuffled(rows, **options):
        run = replace(whole, data=replace(whole.data, test=whole.data.test.take(rows)))
        return beyond_accuracy(run, **options)["shuffled"]

    test = whole.data.test
    assert shuffled(range(len(test)), seed=1) == shuffled(range(len(test)), seed=1) != whole.metrics["test"]
    single = np.flatnonzero(test.lengths == 1)
    assert shuffled(single) == summarize(whole.ranks["test"][single])
    # Two items have only one other order.
    row = int(np.flatnonzero((test.lengths == 2) & (whole.ranks["test"] < N_ITEMS + 1))[0])
    turned = replace(test.take([row]), items=test.take([row]).items[::-1].copy())
    want = [summarize(rank_labels(whole.model, queries)) for queries in (test.take([row]), turned)]
    found = [shuffled([row], seed=seed) for seed in range(8)]
    assert all(any(metrics == w for w in want) for metrics in found) and all(w in found for w in want)


def test_padding_is_not_recommended_if_the_catalogue_is_smaller_than_k(tmp_path):
    (tmp_path / "train_sessions.csv").write_text(
        "session,label\n" + "".join(f"[{i % 6 + 1}],{(i + 1) % 6 + 1}\n" for i in range(60))
    )
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    run = run_recipe(load_recipe("best", "Popularity", "tiny"), load_dataset(tmp_path))
    assert summarize_run(run)["catalogue_share"] == 1.0
