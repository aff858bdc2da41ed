"""Training: it learns, stops, resumes to the bit, and its command line says what it did."""

import csv
import inspect
import json
import math
import os
import re
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import train
from checkpoint import CheckpointError, load_checkpoint
from losses import pick_precision
from metrics import summarize
from models import COUNT_MODELS, MODELS, NEURAL_MODELS, build_model
from models.item_graph import item_graph
from process_data import (
    ROOT,
    MyDataset,
    Sessions,
    TrainDataset,
    load_dataset,
    maximal_sessions,
    prepare,
)
from scoring import rank_labels
from train import TrainingError, fit, load_recipe, main, make_train_dataset, train_model

N_ITEMS = 40


def planted_sessions(seed, users):
    """Walks over a ring of items: mostly to the next one, sometimes elsewhere, never back."""
    generator = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        walk = [int(generator.integers(1, N_ITEMS + 1))]
        for _ in range(generator.integers(1, 5)):
            step = walk[-1] % N_ITEMS + 1
            if step in walk or generator.random() < 0.1:
                step = int(generator.choice(np.setdiff1d(np.arange(1, N_ITEMS + 1), walk)))
            walk.append(step)
        walks.append(walk)
    return walks


def prefix_rows(walks):
    """(session, label, user) of every prefix of every walk."""
    return [(w[:t], w[t], user) for user, w in enumerate(walks) for t in range(1, len(w))]


def as_sessions(walks):
    sessions, labels, users = zip(*prefix_rows(walks), strict=True)
    return Sessions.from_lists(sessions, labels, users)


TRAIN, VALID = as_sessions(planted_sessions(0, 150)), as_sessions(planted_sessions(1, 40))
GRAPH = item_graph(maximal_sessions(TRAIN)[0], N_ITEMS)
POPULARITY = np.bincount(np.r_[TRAIN.items, TRAIN.labels], minlength=N_ITEMS + 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder of 150 users and 40 items; raw ids are 0, 10, ... 390."""
    folder = tmp_path_factory.mktemp("data") / "Planted"
    folder.mkdir()
    with open(folder / "train_sessions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "label"])
        for session, label, _ in prefix_rows(planted_sessions(0, 150)):
            writer.writerow([[10 * i - 10 for i in session], 10 * label - 10])
    with open(folder / "test_sessions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["session"], [[0]], [[10, 20]], [[390]]])
    return folder


def make_model(name="GRU4REC", *, seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"width": 16, "dropout": 0.1, "hidden_dropout": 0.1} | arguments
    return build_model(name, n_items=N_ITEMS, **arguments)


def run_fit(model, *, rows=None, valid=VALID, **options):
    defaults = {"popularity": POPULARITY, "mask_seen": True, "batch_size": 32, "lr": 0.02}
    options = defaults | {"epochs": 4, "progress": False} | options
    return fit(model, TrainDataset(TRAIN) if rows is None else rows, valid, **options)


def weights_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_bits(got, want):
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def without_seconds(table):
    return table.drop(columns="seconds").to_dict("list")


# --------------------------------------------------------------------------------------------------
# The loop


def popularity_mrr(sessions):
    """MRR@20 of the most popular items that the session does not hold, by plain loops."""
    reciprocal = []
    for row in range(len(sessions)):
        session, label = sessions[row], sessions.labels[row]
        allowed = [i for i in range(1, N_ITEMS + 1) if i not in session and i != label]
        rank = 1 + sum(POPULARITY[i] >= POPULARITY[label] for i in allowed)
        reciprocal.append(1 / rank if rank <= 20 and label not in session else 0)
    return np.mean(reciprocal)


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_model_learns_what_was_planted(name):
    table = run_fit(make_model(name), epochs=12)
    assert table["loss"].iloc[-1] < 0.7 * table["loss"].iloc[0]
    assert table["MRR@20"].max() > 3 * popularity_mrr(VALID)


FAST = [{"precision": "bf16"}, {"negatives": 10}, {"negatives": 10, "lazy": True}]


@pytest.mark.parametrize("options", FAST, ids=["bf16", "negatives", "lazy"])
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_model_learns_the_fast_ways_too(name, options):
    table = run_fit(make_model(name), epochs=12, **options)
    assert table["loss"].iloc[-1] < 0.8 * table["loss"].iloc[0]
    assert table["MRR@20"].max() > 3 * popularity_mrr(VALID)


def test_lazy_updates_leave_the_other_embeddings_alone():
    """Adam moves an embedding for as long as its momentum lasts; the lazy one only when a step uses it."""
    few = as_sessions([[1, 2, 3], [2, 3, 1]])
    moved = {}
    for lazy in (False, True):
        model = make_model()
        before = model.embedding.weight.detach().clone()
        run_fit(model, rows=TrainDataset(few), epochs=1, negatives=2, lazy=lazy, batch_size=1)
        moved[lazy] = int((model.embedding.weight.detach() != before).any(1).sum())
        assert model.embedding.weight[0].abs().sum() == 0
    assert moved[True] <= 3 + 2 * 2 < N_ITEMS


def test_lazy_updates_need_negatives():
    with pytest.raises(ValueError, match="lazy=True needs negatives"):
        run_fit(make_model(), lazy=True)


def test_neighbours_need_their_graph_and_every_embedding():
    with pytest.raises(ValueError, match="item_graph makes it"):
        run_fit(make_model(), neighbours=0.5)
    with pytest.raises(ValueError, match="leave out neighbours or lazy"):
        run_fit(make_model(), neighbours=0.5, graph=GRAPH, negatives=2, lazy=True)


def test_table_has_a_row_an_epoch():
    model = make_model()
    table = run_fit(model, epochs=2)
    metrics = ["HR@5", "HR@10", "HR@20", "MRR@5", "MRR@10", "MRR@20", "NDCG@20", "accuracy"]
    assert list(table.columns) == ["epoch", "loss", *metrics, "lr", "seconds"]
    assert table["epoch"].tolist() == [1, 2]
    assert table["lr"].tolist() == [0.02, 0.02]
    assert not table.attrs["interrupted"]
    best = table["MRR@20"].max()
    assert summarize(rank_labels(model, VALID, POPULARITY, mask_seen=True))["MRR@20"] == best


def test_without_a_validation_part_the_last_epoch_stays(monkeypatch):
    states = []
    model = make_model()
    add = train._Run.add
    monkeypatch.setattr(train._Run, "add", lambda run, row: (states.append(weights_of(model)), add(run, row)))
    table = run_fit(model, valid=None, epochs=3, patience=1)
    assert list(table.columns) == ["epoch", "loss", "lr", "seconds"]
    assert len(states) == 3
    assert_same_bits(weights_of(model), states[-1])


def plan_ranks(monkeypatch, model, ranks):
    """Validation finds these ranks, epoch by epoch; the weights of each epoch are in the list returned."""
    states, plan = [], iter(ranks)

    def planned(*_, **__):
        states.append(weights_of(model))
        return np.array([next(plan)])

    monkeypatch.setattr(train, "rank_labels", planned)
    return states


def test_early_stopping_keeps_the_best_epoch(monkeypatch):
    model = make_model()
    # The second best epoch comes back as good in the fourth: the first of equals counts.
    states = plan_ranks(monkeypatch, model, [9, 2, 5, 2, 3, 1])
    table = run_fit(model, epochs=10, patience=3)
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert table["MRR@20"].tolist() == pytest.approx([1 / 9, 1 / 2, 1 / 5, 1 / 2, 1 / 3])
    assert_same_bits(weights_of(model), states[1])


def test_without_patience_all_epochs_run(monkeypatch):
    model = make_model()
    states = plan_ranks(monkeypatch, model, [1, 9, 9, 9, 9])
    assert len(run_fit(model, epochs=5)) == 5
    assert_same_bits(weights_of(model), states[0])


def test_one_cycle_rises_and_falls_over_the_epochs_whatever_stops_it():
    whole = run_fit(make_model(), epochs=6, schedule="onecycle")
    assert whole["lr"].max() > 0.015
    assert whole["lr"].iloc[-1] < 1e-3
    stopped_model = make_model()
    stopped = run_fit(stopped_model, epochs=6, stop_after=2, schedule="onecycle")
    assert without_seconds(stopped) == without_seconds(whole.iloc[:2])
    with pytest.raises(ValueError, match="schedule='triangle': choose constant, onecycle, cosine"):
        run_fit(make_model(), schedule="triangle")


def test_a_cosine_falls_to_nothing_over_the_epochs():
    lr = run_fit(make_model(), epochs=4, lr=0.01, schedule="cosine")["lr"]
    want = [0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(1, 5)]
    assert lr.tolist() == pytest.approx(want, abs=1e-8)


def test_each_epoch_is_reported_and_the_listener_can_end_the_run():
    rows = []

    def listen(row):
        rows.append(row)
        if len(rows) == 2:
            raise StopIteration

    with pytest.raises(StopIteration):
        run_fit(make_model(), epochs=4, on_epoch=listen)
    assert without_seconds(pd.DataFrame(rows)) == without_seconds(run_fit(make_model(), epochs=2))


def test_one_seed_one_result():
    tables, weights = [], []
    for seed in (5, 5, 6):
        model = make_model(seed=seed)
        torch.manual_seed(seed)
        tables.append(without_seconds(run_fit(model, epochs=2, seed=seed)))
        weights.append(weights_of(model))
    assert tables[0] == tables[1] != tables[2]
    assert_same_bits(weights[0], weights[1])
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


def test_dropout_acts_however_the_model_arrives():
    losses = []
    for arrives in (torch.nn.Module.train, torch.nn.Module.eval):
        model = arrives(make_model(dropout=0.5))
        losses.append(run_fit(model, epochs=1)["loss"].tolist())
    assert losses[0] == losses[1]


def test_the_seed_orders_the_batches():
    first, second = (run_fit(make_model(dropout=0.0), epochs=1, seed=seed) for seed in (0, 1))
    assert first["loss"].tolist() != second["loss"].tolist()


STEPS = -(-len(TrainDataset(TRAIN)) // 32)


def test_a_loss_that_is_not_finite_names_step_and_rate():
    with pytest.raises(TrainingError, match=r"step \d+ of \d+ in epoch 1, at learning rate 1e\+30; try a sm"):
        run_fit(make_model(), lr=1e30)


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_a_loss_that_breaks_later_leaves_the_last_good_epoch(schedule, monkeypatch, tmp_path):
    calls, loss, state = [], train.next_item_loss, tmp_path / "state.safetensors"

    def breaks(*args, **options):
        calls.append(1)
        return loss(*args, **options) * (math.nan if len(calls) == 2 * STEPS + 3 else 1)

    good = make_model()
    run_fit(good, epochs=4, stop_after=2, schedule=schedule, state=state)
    kept = load_file(state)
    monkeypatch.setattr(train, "next_item_loss", breaks)
    model = make_model()
    rate = 0.02
    if schedule == "onecycle":
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=rate, total_steps=4 * STEPS)
        for _ in range(2 * STEPS + 2):
            adam.step()
            cycle.step()
        rate = cycle.get_last_lr()[0]
    said = f"loss is not finite at step 3 of {STEPS} in epoch 3, at learning rate {rate:.2g}; .*{state} k"
    with pytest.raises(TrainingError, match=said):
        run_fit(model, epochs=4, schedule=schedule, state=state)
    assert_same_bits(load_file(state), kept)
    assert_same_bits(model.state_dict(), good.state_dict())


def test_weights_that_break_without_a_validation_part_are_never_saved(tmp_path):
    state = tmp_path / "state.safetensors"
    with pytest.raises(TrainingError, match=r"a weight is not finite at step 1 of 1 in epoch 1, .* 1e\+39"):
        run_fit(make_model(), valid=None, lr=1e39, batch_size=1000, state=state)
    assert not state.exists()


def test_weights_that_break_in_the_last_step_are_named_too():
    # One batch an epoch: its loss is finite, what the step leaves is not.
    with pytest.raises(TrainingError, match=r"a score is not finite at step 1 of 1 in epoch 1, .* 1e\+30"):
        run_fit(make_model(), lr=1e30, batch_size=1000)


# --------------------------------------------------------------------------------------------------
# Interrupted and resumed


def interrupt(monkeypatch, function, call):
    """Ctrl-C at the n-th call of one of train.py's functions."""
    calls, original = [], getattr(train, function)

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(train, function, interrupted)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"schedule": "onecycle"},
        {"schedule": "cosine", "smoothing": 0.1},
        {"schedule": "onecycle", "negatives": 10, "lazy": True},
        {"schedule": "onecycle", "neighbours": 0.5, "graph": GRAPH},
    ],
    ids=["constant", "onecycle", "cosine", "lazy", "neighbours"],
)
@pytest.mark.parametrize(
    ("function", "call"),
    [("next_item_loss", 2 * STEPS + 3), ("rank_labels", 3)],
    ids=["in the third epoch", "in its validation"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(function, call, options, tmp_path, monkeypatch):
    options = {"seed": 3} | options
    whole = make_model()
    table = run_fit(whole, **options)

    state = tmp_path / "x.state.safetensors"
    with monkeypatch.context() as patch:
        interrupt(patch, function, call)
        begun = run_fit(make_model(), state=state, **options)
    assert begun.attrs["interrupted"]
    assert without_seconds(begun) == without_seconds(table.iloc[:2])
    assert os.listdir(tmp_path) == [state.name]

    resumed = make_model(seed=77)  # other weights and another generator: the state has its own
    rest = run_fit(resumed, state=state, resume=True, **options)
    assert not rest.attrs["interrupted"]
    assert without_seconds(rest) == without_seconds(table)
    assert_same_bits(weights_of(resumed), weights_of(whole))


def test_a_resumed_run_remembers_its_best_epoch(tmp_path, monkeypatch):
    state, model = tmp_path / "x.safetensors", make_model()
    with monkeypatch.context() as patch:
        states = plan_ranks(patch, model, [5, 1])
        run_fit(model, epochs=8, stop_after=2, state=state)
    again = make_model(seed=1)
    with monkeypatch.context() as patch:
        plan_ranks(patch, again, [7, 6, 2])
        table = run_fit(again, epochs=8, patience=3, state=state, resume=True)
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert_same_bits(weights_of(again), states[1])


def test_without_resume_an_old_state_does_not_matter(tmp_path):
    state = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=2, state=state)
    table = run_fit(make_model(), epochs=2, state=state)
    assert without_seconds(table) == without_seconds(run_fit(make_model(), epochs=2))


OTHERS = {
    "seed": {"seed": 1},
    "lr": {"lr": 0.01},
    "schedule": {"schedule": "onecycle"},
    "batch_size": {"batch_size": 16},
    "data": {"rows": TrainDataset(VALID)},
    "weight": {"rows": TrainDataset(TRAIN, weights="once")},
    "arguments": {"model": {"score": "cosine"}},
    # Another one than "auto" is here.
    "precision": {
        "precision": "fp32" if pick_precision("auto", torch.device("cpu")) == torch.bfloat16 else "bf16"
    },
    "negatives": {"negatives": 10},
    "smoothing": {"smoothing": 0.1},
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_run_is_refused(other, tmp_path):
    state = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=1, state=state)
    options = dict(OTHERS[other])
    model = make_model(**options.pop("model", {}))
    with pytest.raises(CheckpointError, match=f"another run's state .*{other}.*--resume") as raised:
        run_fit(model, state=state, resume=True, **options)
    assert str(state) in str(raised.value)


def test_a_state_may_go_on_for_more_epochs(tmp_path):
    state = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=2, state=state)
    longer = run_fit(make_model(), epochs=4, state=state, resume=True)
    assert without_seconds(longer) == without_seconds(run_fit(make_model(), epochs=4))


# --------------------------------------------------------------------------------------------------
# Recipes


def test_recipes_merge_the_general_first_and_the_special_last(tmp_path):
    file = tmp_path / "recipes.toml"
    file.write_text(
        """
        [best.default.common]
        model = { width = 1, dropout = 0.1, scale = 5.0 }
        fit = { epochs = 1, lr = 0.1, batch_size = 9 }
        [best.default.NARM]
        model = { dropout = 0.2, hidden = 2 }
        fit = { lr = 0.2 }
        [best.demo.common]
        model = { hidden = 3, width = 3 }
        [best.demo.NARM]
        fit = { epochs = 4 }
        [fast.default.common]
        fit = { epochs = 7 }
        """
    )
    assert load_recipe("best", "NARM", "demo", file=file) == {
        "model": {"width": 3, "dropout": 0.2, "scale": 5.0, "hidden": 3},
        "fit": {"epochs": 4, "lr": 0.2, "batch_size": 9},
        "data": {},
        "ensemble": {},
    }
    assert load_recipe("best", "NARM", "elsewhere", file=file) == {
        "model": {"width": 1, "dropout": 0.2, "scale": 5.0, "hidden": 2},
        "fit": {"epochs": 1, "lr": 0.2, "batch_size": 9},
        "data": {},
        "ensemble": {},
    }
    assert load_recipe("fast", "SRGNN", "demo", file=file)["fit"] == {"epochs": 7}
    with pytest.raises(ValueError, match="no recipe 'slow'; there are best, fast"):
        load_recipe("slow", "NARM", "demo", file=file)
    with pytest.raises(ValueError, match="no model 'LSTM'; there are GRU4REC"):
        load_recipe("best", "LSTM", "demo", file=file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "[mine.default.common]\nfit = { learning_rate = 1.0 }",
            "common]: fit takes no learning_rate; it takes",
        ),
        (
            "[mine.default.common]\ndata = { folded = true }",
            "data takes no folded; it takes dataset, fit_on,",
        ),
        ("[mine.default.NARM]\nfitt = { lr = 1.0 }", "NARM]: no settings 'fitt'; there are model, fit"),
        (
            "[mine.default.NARM]\nfit = 3",
            "no settings 'fit'; there are model, fit, data, ensemble, each a table",
        ),
        ("[mine.demo.narm]\nfit = { lr = 1.0 }", "[mine.demo.narm] names no model; there are GRU4REC"),
        ("[mine.default.common\nfit = 3", "Expected"),
        ("mine = 3", "[mine] holds something else than tables"),
        ("[mine]\nfit = { lr = 1.0 }", "[mine.fit] holds something else than tables"),
        ("[mine.default]\ncommon = 3", "[mine.default] holds something else than tables"),
        ("[mine.Demo.common]\nfit = { lr = 1.0 }", "[mine.Demo] is never read; datasets are in small"),
    ],
)
def test_a_recipe_that_says_what_nobody_reads_is_refused(text, reason, tmp_path):
    file = tmp_path / "recipes.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        load_recipe("mine", "NARM", "demo", file=file)
    assert str(raised.value).startswith(f"{file}: ")


def test_a_recipe_without_epochs_is_told(folder, monkeypatch):
    empty = {"model": {}, "fit": {}, "data": {}, "ensemble": {}}
    monkeypatch.setattr(train, "load_recipe", lambda *_: empty)
    with pytest.raises(ValueError, match="does not say how many epochs"):
        train_model(folder, "GRU4REC", progress=False)
    with pytest.raises(ValueError, match="fit takes no learning_rate"):
        train_model(folder, "GRU4REC", changes={"fit": {"learning_rate": 1}}, progress=False)


RECIPES = tomllib.loads((ROOT / "recipes.toml").read_text(encoding="utf-8"))


def test_recipes_name_nothing_that_is_never_read():
    assert {"best", "fast", "report"} <= set(RECIPES)
    for recipe, datasets in RECIPES.items():
        assert "default" in datasets, recipe
        for dataset, sections in datasets.items():
            assert dataset == dataset.lower()
            assert set(sections) <= {"common", "counted", *MODELS}, (recipe, dataset)
            for section in sections.values():
                assert set(section) <= {"model", "fit", "data", "ensemble"}, (recipe, dataset)


@pytest.mark.parametrize(
    ("recipe", "dataset"), [(recipe, dataset) for recipe in RECIPES for dataset in RECIPES[recipe]]
)
def test_every_ensemble_names_members_that_exist(recipe, dataset):
    members = load_recipe(recipe, "Ensemble", dataset)["ensemble"]["members"]
    assert len(members) > 1 and set(members) <= set(MODELS) - {"Ensemble"}


@pytest.mark.parametrize(
    ("recipe", "dataset"), [(recipe, dataset) for recipe in RECIPES for dataset in RECIPES[recipe]]
)
@pytest.mark.parametrize("name", [*NEURAL_MODELS, *COUNT_MODELS])
def test_every_recipe_is_accepted_by_what_takes_it(recipe, dataset, name):
    arguments = load_recipe(recipe, name, dataset)
    model = build_model(name, n_items=5, **arguments["model"])
    rows = {k: v for k, v in arguments["data"].items() if k not in train.CLEANING}
    if name in COUNT_MODELS:
        assert not rows and not arguments["fit"]
        return
    make_train_dataset(Sessions.from_lists([[1], [1, 2]], [2, 3], [0, 0]), **rows)
    fixed = {"popularity": None, "mask_seen": True}
    inspect.signature(fit).bind(model, None, None, **fixed, **arguments["fit"])
    assert arguments["fit"]["epochs"] >= 1


def test_the_report_recipe_is_the_reports():
    recipes = {name: load_recipe("report", name, "beauty") for name in MODELS}
    for name in ("NARM", "SRGNN"):
        assert recipes[name]["data"]["dataset"] == "MyDataset"
    for name in ("GRU4REC", "GRUwATT", "GGNNwATT"):
        assert recipes[name]["data"]["dataset"] == "TrainDataset"
    for name in ("GRUwATT", "GGNNwATT"):
        assert recipes[name]["model"]["causal"] is False
        assert recipes[name]["data"]["fold"] is False  # folding would change what it sees
    final = recipes["GRU4REC"]
    assert {k: final["fit"][k] for k in ("epochs", "batch_size", "lr")} == {
        "epochs": 200,
        "batch_size": 256,
        "lr": 0.01,
    }
    assert {k: final["model"][k] for k in ("width", "hidden", "dropout")} == {
        "width": 128,
        "hidden": 128,
        "dropout": 0,
    }


def test_make_train_dataset():
    assert isinstance(make_train_dataset(TRAIN, dataset="MyDataset"), MyDataset)
    rows = make_train_dataset(TRAIN, fold=False)
    assert len(rows) == len(TRAIN)
    assert len(make_train_dataset(TRAIN, weights="once")) == 150
    with pytest.raises(ValueError, match="dataset='All': choose 'TrainDataset' or 'MyDataset'"):
        make_train_dataset(TRAIN, dataset="All")


def test_changes_go_over_the_recipe_and_into_the_header(folder):
    changes = {"model": {"width": 8, "hidden": 8}, "fit": {"lr": 0.5}}
    run = train_model(folder, "GRU4REC", changes=changes, epochs=1, progress=False)
    assert run.model.arguments["width"] == run.model.arguments["hidden"] == 8
    assert run.header["recipe_values"]["fit"]["lr"] == 0.5
    assert run.header["recipe_values"]["fit"]["epochs"] == 1
    with pytest.raises(ValueError, match="GRU4REC takes no heads"):
        train_model(folder, "GRU4REC", changes={"model": {"heads": 2}}, epochs=1)


def test_the_device_is_one_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert train.pick_device().type == "cpu"
    with pytest.raises(TrainingError, match="device 'cuda:1' is not available here; choose cpu"):
        train.pick_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert train.pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert train.pick_device().type == "cuda"
    assert train.pick_device("cpu").type == "cpu"


# --------------------------------------------------------------------------------------------------
# Command line


def run_main(folder, output, *options, model="GRU4REC", epochs=2):
    arguments = ["--dataset", folder, "--model", model, "--output", output, "--epochs", epochs]
    return main([*map(str, arguments), "--device", "cpu", *map(str, options)])


@pytest.mark.parametrize(
    ("split", "parts"),
    [("user", ["valid", "test"]), ("row", ["valid"])],
)
def test_held_out_ranks_are_those_of_the_saved_model_in_file_order(split, parts, folder, tmp_path):
    output, result = tmp_path / "x.safetensors", tmp_path / "new" / "x.json"
    options = ["--split", split, "--split-seed", 4, "--seed", 2, "--json", result]
    assert run_main(folder, output, *options) == 0
    assert sorted(os.listdir(tmp_path)) == ["new", "x.safetensors"]  # the state is gone

    found = json.loads(result.read_text())
    saved = load_checkpoint(output)
    dataset = load_dataset(folder)
    data = prepare(dataset, split=split, split_seed=4)
    raw = [(dataset.train[r], dataset.train.labels[r]) for r in range(len(dataset.train))]
    assert list(found["ranks"]) == list(found["metrics"]) == parts
    for part in parts:
        held_out = getattr(data, part)
        ranks = rank_labels(saved.model, held_out, saved.popularity, mask_seen=True).tolist()
        assert found["ranks"][part] == ranks
        assert found["queries"][part] == len(ranks) > 0
        assert found["metrics"][part]["HR@20"] == np.mean([rank <= 20 for rank in ranks])
        assert found["metrics"][part]["accuracy"] == np.mean([rank == 1 for rank in ranks])
        assert found["metrics"][part] == saved.header["metrics"][part]
        # The rows are some of the file's, in its order.
        file_rows = iter(raw)
        for row in range(len(held_out)):
            session = saved.vocabulary.decode(held_out[row]).tolist()
            label = int(saved.vocabulary.decode(held_out.labels[row]))
            assert (session, label) in file_rows
    settings = {"dataset": "Planted", "recipe": "best", "split": split, "split_seed": 4, "seed": 2}
    for key, value in settings.items():
        assert found[key] == saved.header[key] == value
    assert saved.header["sha256"] == dataset.sha256
    assert saved.header["mask_seen"] is True
    assert saved.header["epochs"] == 1 + int(np.argmax(found["table"]["MRR@20"]))
    assert found["table"]["epoch"] == [1, 2]
    assert found["parameters"] == sum(p.numel() for p in saved.model.parameters())


def test_all_rows_train_for_as_long_as_the_twin_did(folder, tmp_path, capsys):
    twin, whole = tmp_path / "twin.safetensors", tmp_path / "whole.safetensors"
    assert run_main(folder, twin, epochs=3) == 0
    assert run_main(folder, whole, "--split", "none", epochs=3) == 0
    assert sorted(os.listdir(tmp_path)) == ["twin.safetensors", "whole.safetensors"]
    of_twin, of_whole = load_checkpoint(twin).header, load_checkpoint(whole).header
    assert of_whole["split"] == "none"
    assert of_whole["epochs"] == of_twin["epochs"]
    assert of_whole["metrics"] == {
        "twin_valid": of_twin["metrics"]["valid"],
        "twin_test": of_twin["metrics"]["test"],
    }
    assert "twin_test: HR@20" in capsys.readouterr().out
    # Every row is in it: each user's items once.
    walks = planted_sessions(0, 150)
    counts = np.bincount([i for walk in walks for i in walk], minlength=N_ITEMS + 1)
    assert load_checkpoint(whole).popularity.tolist() == counts.tolist()


def test_shares_are_settable(folder, tmp_path):
    result = tmp_path / "x.json"
    shares = ["--valid-share", 0.3, "--test-share", 0, "--json", result]
    assert run_main(folder, tmp_path / "x.safetensors", *shares, epochs=1) == 0
    users = prepare(load_dataset(folder), valid_share=0.3, test_share=0).valid.users
    assert len(np.unique(users)) == 45
    assert json.loads(result.read_text())["queries"] == {"valid": len(users)}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "GRU4REC"])
def test_every_model_trains_by_command(name, folder, tmp_path):
    output = tmp_path / "x.safetensors"
    assert run_main(folder, output, "--recipe", "report", model=name, epochs=1) == 0
    assert load_checkpoint(output).model.name == name


def test_half_storage_moves_no_metric(folder, tmp_path):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert run_main(folder, whole) == 0
    assert run_main(folder, half, "--half") == 0
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    data = prepare(load_dataset(folder))
    mrr = [
        summarize(rank_labels(load_checkpoint(f).model, data.test, data.popularity, mask_seen=True))
        for f in (whole, half)
    ]
    assert pd.Series(mrr[1]).to_dict() == pytest.approx(mrr[0], abs=0.02)


# Calls of rank_labels: one an epoch, two for the twin's held-out parts, then none without a split.
@pytest.mark.parametrize(
    ("split", "function", "call"),
    [
        ("user", "next_item_loss", 2),
        ("user", "rank_labels", 3),
        ("none", "rank_labels", 2),
        ("none", "next_item_loss", 5),  # past the twin's four batches: in the run on all rows
    ],
)
def test_an_interrupted_command_resumes_to_the_same_file(
    split, function, call, folder, tmp_path, monkeypatch, capsys
):
    options = ["--split", split, "--recipe", "report"]
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert run_main(folder, whole, *options, epochs=4) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, function, call)
        assert run_main(folder, broken, *options, epochs=4) == 130
    assert not broken.exists()
    assert "--resume goes on" in capsys.readouterr().out
    trained = []
    with monkeypatch.context() as patch:
        loss = train.next_item_loss
        patch.setattr(train, "next_item_loss", lambda *a, **k: (trained.append(1), loss(*a, **k))[1])
        assert run_main(folder, broken, *options, "--resume", epochs=4) == 0
    assert_same_bits(load_file(broken), load_file(whole))
    assert load_checkpoint(broken).header == load_checkpoint(whole).header
    assert sorted(os.listdir(tmp_path)) == ["broken.safetensors", "whole.safetensors"]
    if (split, function) == ("none", "next_item_loss"):  # the twin was not trained again
        assert len(trained) == load_checkpoint(whole).header["epochs"]


def assert_fails_in_a_sentence(capsys, code, *words):
    assert code == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("train.py: ")]
    assert len(lines) == 1
    assert "Traceback" not in shown.err
    for word in words:
        assert word in lines[0]


def test_what_is_wrong_is_said_in_a_sentence(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "x.safetensors"
    code = run_main("Amazon_Books", output)
    assert_fails_in_a_sentence(capsys, code, "Amazon_Books", "is no dataset folder", "Demo")
    code = run_main(folder, output, "--recipe", "slow")
    assert_fails_in_a_sentence(capsys, code, "no recipe 'slow'; there are best")
    code = run_main(folder, output, "--valid-share", 0.001)
    assert_fails_in_a_sentence(capsys, code, "150 users are too few for a validation share")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code = run_main(folder, output, "--device", "cuda")
    assert_fails_in_a_sentence(capsys, code, "device 'cuda' is not available")
    output.with_suffix(".state.safetensors").write_text("no state")
    code = run_main(folder, output, "--resume")
    assert_fails_in_a_sentence(capsys, code, "x.state.safetensors is no checkpoint")
    (tmp_path / "file").write_text("")
    code = run_main(folder, tmp_path / "file" / "x.safetensors", epochs=1)
    assert_fails_in_a_sentence(capsys, code, "file")
    assert not output.exists()


def test_the_metrics_do_not_replace_the_checkpoint(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_main(folder, tmp_path / "x.safetensors", "--json", str(tmp_path / "." / "x.safetensors"))
    assert "--json would replace the checkpoint" in capsys.readouterr().err


def test_ctrl_c_outside_the_training_is_a_sentence_too(folder, tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "load_dataset", stop)
    assert run_main(folder, tmp_path / "x.safetensors", epochs=1) == 130
    assert capsys.readouterr().err == "train.py: interrupted\n"  # and promises no state
    monkeypatch.undo()
    monkeypatch.setattr(train, "result_of", stop)
    output = tmp_path / "y.safetensors"
    assert run_main(folder, output, "--json", str(tmp_path / "y.json"), epochs=1) == 130
    shown = capsys.readouterr().err
    assert f"--resume goes on from {output.with_suffix('.state.safetensors')}" in shown
    monkeypatch.undo()
    assert run_main(folder, output, "--resume", epochs=1) == 0
    assert "to resume from" not in capsys.readouterr().out
    assert run_main(folder, output, "--resume", epochs=1) == 0
    assert "to resume from; the run starts anew" in capsys.readouterr().out


def test_a_catalogue_smaller_than_k_is_not_recommended_padding(tmp_path):
    (tmp_path / "train_sessions.csv").write_text(
        "session,label\n" + "".join(f"[{i % 6 + 1}],{(i + 1) % 6 + 1}\n" for i in range(60))
    )
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    result = train.result_of(train_model(tmp_path, "Popularity", progress=False))
    assert result["catalogue_share"] == 1.0


def test_a_malformed_file_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "train_sessions.csv").write_text("session,label\n[1],2\n[x],3\n")
    (tmp_path / "test_sessions.csv").write_text("session\n[1]\n")
    code = run_main(tmp_path, tmp_path / "x.safetensors")
    assert_fails_in_a_sentence(capsys, code, "train_sessions.csv, line 3", "'x'")


def test_a_damaged_download_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "Amazon_Beauty").mkdir()
    for file in ("train_sessions.csv", "test_sessions.csv"):
        (tmp_path / "Amazon_Beauty" / file).write_text("session,label\n[1],2\n")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path))
    code = run_main("Amazon_Beauty", tmp_path / "x.safetensors")
    assert_fails_in_a_sentence(capsys, code, "_sessions.csv", "SHA-256")


@pytest.mark.parametrize(
    "wrong",
    [
        ["--epochs", "0"],
        ["--output", "x.pt"],
        ["--model", "LSTM"],
        ["--split", "time"],
        ["--learning-rate", "1"],
        ["--split-seed", "-1"],
    ],
)
def test_a_wrong_option_is_a_usage_error(wrong, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main(folder, tmp_path / "x.safetensors", *wrong)
    assert stopped.value.code == 2
    assert wrong[0] in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
