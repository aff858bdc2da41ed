"""The training loop: learning, the best epoch, interruptions, and refused inputs."""

import inspect
import math
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from planted import (
    N_ITEMS,
    POPULARITY,
    STEPS,
    TRAIN,
    VALID,
    as_sessions,
    assert_same_bits,
    make_loader,
    make_model,
    plan_ranks,
    run_fit,
    weights_of,
    without_seconds,
)
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from dataset.files import ROOT
from metrics import summarize
from models import NEURAL_MODELS, build_model
from models.item_graph import item_graph
from process_data import Prepared, TrainDataset, Vocabulary, get_dataloader, load_dataset
from sessionrec.device import TrainingError, pick_device
from sessionrec.fit import EarlyStopping, History, Schedule, StopTraining, fit, fit_baseline
from sessionrec.losses import SampledSoftmax, full_softmax
from sessionrec.resume import TrainingState
from sessionrec.scoring import rank_labels
from sessionrec.smoothing import smoothed

METRICS = ["HR@5", "HR@10", "HR@20", "MRR@5", "MRR@10", "MRR@20", "NDCG@20", "accuracy"]


def popularity_mrr(sessions):
    """MRR@20 of popularity without the session's items, with ties by the lower id, by plain loops."""
    reciprocal = []
    for row in range(len(sessions)):
        session, label = sessions[row], sessions.labels[row]
        allowed = [i for i in range(1, N_ITEMS + 1) if i not in session and i != label]
        rank = 1 + sum((-POPULARITY[i], i) < (-POPULARITY[label], label) for i in allowed)
        reciprocal.append(1 / rank if rank <= 20 and label not in session else 0)
    return np.mean(reciprocal)


# --------------------------------------------------------------------------------------------------
# Learning


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_model_learns_the_planted_successors(name):
    table = run_fit(make_model(name), epochs=12).table
    assert table["loss"].iloc[-1] < 0.7 * table["loss"].iloc[0]
    assert table["MRR@20"].max() > 3 * popularity_mrr(VALID)


FAST = {
    "bf16": lambda: (partial(full_softmax, precision="bf16"), False),
    "negatives": lambda: (SampledSoftmax(POPULARITY, 10), False),
    "sparse gradients": lambda: (SampledSoftmax(POPULARITY, 10), True),
}


@pytest.mark.parametrize("way", FAST)
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_model_also_learns_with_fast_options(name, way):
    model = make_model(name)
    loss, model.embedding.sparse = FAST[way]()
    table = run_fit(model, epochs=12, loss=loss).table
    assert table["loss"].iloc[-1] < 0.8 * table["loss"].iloc[0]
    assert table["MRR@20"].max() > 3 * popularity_mrr(VALID)


def test_sparse_gradients_do_not_change_other_embeddings():
    """Adam changes an embedding while it has momentum; SparseAdam only when a step uses it."""
    few = TrainDataset(as_sessions([[1, 2, 3], [2, 3, 1]]))
    moved = {}
    for sparse in (False, True):
        model = make_model()
        model.embedding.sparse = sparse
        before = model.embedding.weight.detach().clone()
        run_fit(model, make_loader(few, batch_size=1), epochs=1, loss=SampledSoftmax(POPULARITY, 2))
        moved[sparse] = int((model.embedding.weight.detach() != before).any(1).sum())
        assert model.embedding.weight[0].abs().sum() == 0
    assert moved[True] <= 3 + 2 * 2 < N_ITEMS
    assert moved[True] <= moved[False]


def test_graph_smoothing_trains_and_leaves_plain_weights():
    model, plain = make_model(), make_model()
    with smoothed(model.embedding, item_graph(TRAIN), 0.5):
        table = run_fit(model, epochs=12).table
    assert table["MRR@20"].max() > 3 * popularity_mrr(VALID)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert summarize(rank_labels(model, VALID))["MRR@20"] == pytest.approx(table["MRR@20"].max(), abs=1e-9)


def test_graph_smoothing_needs_dense_gradients():
    model = make_model()
    model.embedding.sparse = True
    with pytest.raises(ValueError, match="leave it out, or `lazy`"), smoothed(model.embedding, item_graph(TRAIN), 0.5):
        pass


def test_one_seed_gives_one_result():
    tables, weights = [], []
    for seed in (5, 5, 6):
        model = make_model(seed=seed)
        torch.manual_seed(seed)
        tables.append(without_seconds(run_fit(model, make_loader(seed=seed), epochs=2).table))
        weights.append(weights_of(model))
    assert tables[0] == tables[1] != tables[2]
    assert_same_bits(weights[0], weights[1])
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


def test_fit_trains_in_training_mode():
    losses = []
    for set_mode in (torch.nn.Module.train, torch.nn.Module.eval):
        model = set_mode(make_model(dropout=0.5))
        losses.append(run_fit(model, epochs=1).table["loss"].tolist())
    assert losses[0] == losses[1]


def test_the_seed_orders_the_batches():
    first, second = (run_fit(make_model(dropout=0.0), make_loader(seed=seed), epochs=1) for seed in (0, 1))
    assert first.rows[0]["loss"] != second.rows[0]["loss"]


def test_weight_decay_shrinks_the_weights():
    norms = []
    for weight_decay in (0.0, 0.1):
        model = make_model()
        run_fit(model, valid=None, epochs=2, weight_decay=weight_decay)
        norms.append(float(model.embedding.weight.detach().norm()))
    assert norms[1] < 0.8 * norms[0]


# --------------------------------------------------------------------------------------------------
# Loaders


def orders_of(loader, epochs):
    """The batches of some epochs, as lists of row numbers."""
    orders = []
    for epoch in epochs:
        loader.sampler.epoch = epoch
        orders.append([rows.tolist() for rows in loader.sampler])
    return orders


def test_epoch_e_of_a_fit_has_the_samplers_order_e(monkeypatch):
    loader = make_loader(seed=4)
    loader.sampler.epoch = 17  # `fit` sets the epoch
    seen, gather = [], TrainDataset.__getitem__
    monkeypatch.setattr(TrainDataset, "__getitem__", lambda d, rows: (seen.append(rows.tolist()), gather(d, rows))[1])
    run_fit(make_model(), loader, epochs=3)
    assert seen == sum(orders_of(make_loader(seed=4), [1, 2, 3]), [])
    assert loader.sampler.epoch == 4
    assert sorted(sum(seen[:STEPS], [])) == [*range(len(loader.dataset))]


def test_iterating_a_loader_advances_the_epoch():
    loader = make_loader()
    first, second = ([rows.tolist() for rows in loader.sampler] for _ in range(2))
    assert [first, second] == orders_of(make_loader(), [0, 1])
    assert first != second


def test_a_plain_torch_loader_can_be_used():
    few = TrainDataset(TRAIN.take(np.arange(60)))
    losses = []
    for _ in range(2):
        history = run_fit(make_model(), DataLoader(few, batch_size=4, shuffle=True), epochs=6)
        losses.append([row["loss"] for row in history.rows])
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == losses[1]  # `fit` seeds the order of each epoch


def test_worker_processes_do_not_change_batches():
    rows = TrainDataset(TRAIN.take(np.arange(30)))
    alone, shared = get_dataloader(rows, 4), get_dataloader(rows, 4, num_workers=2)
    shared.multiprocessing_context = "spawn"
    for _ in range(2):
        batches, same = list(alone), list(shared)
        assert len(batches) == len(same) == len(alone) > 1
        for batch, other in zip(batches, same, strict=True):
            assert type(batch) is type(other)
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))


# --------------------------------------------------------------------------------------------------
# The history


def test_fit_takes_few_arguments():
    assert len(inspect.signature(fit).parameters) <= 10


def test_the_table_has_one_row_per_epoch():
    model = make_model()
    history = run_fit(model, epochs=2)
    assert isinstance(history, History) and not history.interrupted
    table = history.table
    assert list(table.columns) == list(history.rows[0]) == ["epoch", "loss", *METRICS, "lr", "seconds"]
    assert table["epoch"].tolist() == [1, 2]
    assert table["lr"].tolist() == [0.02, 0.02]
    assert (table["seconds"] > 0).all()
    best = table["MRR@20"].max()
    assert history.best_epoch == 1 + int(table["MRR@20"].argmax())
    assert summarize(rank_labels(model, VALID))["MRR@20"] == best


def test_an_empty_history_has_an_empty_table():
    history = History()
    assert history.table.empty and history.best_epoch == 0
    assert list(history.table.columns) == ["epoch", "seconds"]


@pytest.mark.parametrize("valid", [None, VALID.take([])], ids=["None", "empty"])
def test_without_validation_queries_the_last_epoch_is_used(valid, monkeypatch):
    states = []
    model = make_model()
    add = TrainingState.add
    monkeypatch.setattr(TrainingState, "add", lambda state, row: (states.append(weights_of(model)), add(state, row)))
    history = run_fit(model, valid=valid, epochs=3, callbacks=[EarlyStopping(1)])
    assert list(history.table.columns) == ["epoch", "loss", "lr", "seconds"]
    assert len(states) == history.best_epoch == 3
    assert_same_bits(weights_of(model), states[-1])


def test_early_stopping_keeps_the_best_epoch(monkeypatch):
    model = make_model()
    # The second and fourth epoch are equally good: the first of them is the best epoch.
    states = plan_ranks(monkeypatch, model, [9, 2, 5, 2, 3, 1])
    history = run_fit(model, epochs=10, callbacks=[EarlyStopping(3)])
    assert history.table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history.table["MRR@20"].tolist() == pytest.approx([1 / 9, 1 / 2, 1 / 5, 1 / 2, 1 / 3])
    assert history.best_epoch == 2 and not history.interrupted
    assert_same_bits(weights_of(model), states[1])


def test_without_early_stopping_all_epochs_run(monkeypatch):
    model = make_model()
    states = plan_ranks(monkeypatch, model, [1, 9, 9, 9, 9])
    assert len(run_fit(model, epochs=5).rows) == 5
    assert_same_bits(weights_of(model), states[0])


def test_one_cycle_rises_and_falls_over_its_epochs_wherever_training_stops():
    whole = run_fit(make_model(), epochs=6, schedule="onecycle").table
    assert whole["lr"].max() > 0.015
    assert whole["lr"].iloc[-1] < 1e-3
    stopped = run_fit(make_model(), epochs=2, schedule=Schedule("onecycle", 6)).table
    assert without_seconds(stopped) == without_seconds(whole.iloc[:2])
    with pytest.raises(ValueError, match="schedule='triangle': choose 'constant', 'onecycle' or 'cosine'"):
        run_fit(make_model(), schedule="triangle")
    with pytest.raises(ValueError, match="epochs=3: the schedule onecycle ends after 2"):
        run_fit(make_model(), epochs=3, schedule=Schedule("onecycle", 2))


def test_a_cosine_schedule_ends_at_zero():
    lr = run_fit(make_model(), epochs=4, lr=0.01, schedule="cosine").table["lr"]
    want = [0.01 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(1, 5)]
    assert lr.tolist() == pytest.approx(want, abs=1e-8)


# --------------------------------------------------------------------------------------------------
# Callbacks and interruptions


def test_every_callback_sees_the_history_after_every_epoch():
    seen, counts = [], []
    history = run_fit(
        make_model(),
        epochs=3,
        callbacks=[lambda h: seen.append(dict(h.rows[-1])), lambda h: counts.append((id(h), len(h.rows)))],
    )
    assert without_seconds(pd.DataFrame(seen)) == without_seconds(history.table)
    assert counts == [(id(history), 1), (id(history), 2), (id(history), 3)]


def test_a_callback_can_end_the_run():
    def stop(history):
        if len(history.rows) == 2:
            raise StopTraining

    history = run_fit(make_model(), epochs=4, callbacks=[stop])
    assert not history.interrupted
    assert without_seconds(history.table) == without_seconds(run_fit(make_model(), epochs=2).table)


def test_other_exceptions_of_callbacks_are_raised_and_the_best_weights_kept(monkeypatch):
    def fail(history):
        if len(history.rows) == 2:
            raise StopIteration

    model = make_model()
    states = plan_ranks(monkeypatch, model, [1, 9])
    with pytest.raises(StopIteration):
        run_fit(model, epochs=4, callbacks=[fail])
    assert_same_bits(weights_of(model), states[0])


def test_ctrl_c_keeps_the_finished_epochs_and_the_best_weights(monkeypatch):
    def press(history):
        if len(history.rows) == 3:
            raise KeyboardInterrupt

    model = make_model()
    states = plan_ranks(monkeypatch, model, [5, 1, 9])
    history = run_fit(model, epochs=10, callbacks=[press])
    assert history.interrupted
    assert history.table["epoch"].tolist() == [1, 2, 3]
    assert history.best_epoch == 2
    assert_same_bits(weights_of(model), states[1])


@pytest.mark.parametrize("step", [2, STEPS + 3])
def test_a_signal_in_an_epoch_keeps_the_finished_epochs(step, capsys):
    """SIGINT while a step computes its loss, as by Ctrl-C in a terminal or the kernel's stop button."""
    steps = []

    def pressed(*inputs):
        steps.append(1)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return full_softmax(*inputs)

    model = make_model()
    history = run_fit(model, epochs=10, loss=pressed)
    assert history.interrupted
    done = step // STEPS
    assert len(history.rows) == done
    assert f"Interrupted after epoch {done}; run it again to start anew." in capsys.readouterr().out
    if done:
        same = make_model()
        whole = run_fit(same, epochs=done)
        assert without_seconds(history.table) == without_seconds(whole.table)
        assert_same_bits(weights_of(model), weights_of(same))


def shown_by(tmp_path, **environment):
    """The standard error of a process that trains one epoch."""
    program = tmp_path / "program.py"
    program.write_text("from planted import make_model, run_fit\nrun_fit(make_model(), epochs=1)\n")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    own = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    done = subprocess.run(
        [sys.executable, program], env=own | {"PYTHONPATH": path} | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_progress_bar_can_be_hidden(tmp_path):
    shown = shown_by(tmp_path)
    assert "GRU4REC: 100%" in shown and "MRR@20=" in shown and "loss=" in shown
    assert shown_by(tmp_path, TQDM_DISABLE="1") == ""


def test_these_tests_show_no_progress_bars():
    assert tqdm(total=1).disable


# --------------------------------------------------------------------------------------------------
# Values that are not finite


def test_the_error_of_a_loss_that_is_not_finite_names_step_and_rate():
    with pytest.raises(TrainingError, match=r"step \d+ of \d+ in epoch 1, at learning rate 1e\+30; try a sm"):
        run_fit(make_model(), lr=1e30)


class Breaking:
    """The full softmax, which returns NaN at one step."""

    __qualname__ = full_softmax.__qualname__

    def __init__(self, step):
        self.step, self.calls = step, 0

    def __call__(self, *inputs):
        self.calls += 1
        return full_softmax(*inputs) * (math.nan if self.calls == self.step else 1)


@pytest.mark.parametrize("name", ["constant", "onecycle"])
def test_a_loss_that_becomes_nan_keeps_the_last_good_epoch(name, tmp_path):
    resume_file, schedule = tmp_path / "state.safetensors", Schedule(name, 4)
    good = make_model()
    run_fit(good, epochs=2, schedule=schedule, resume_file=resume_file)
    kept = load_file(resume_file)
    resume_file.unlink()
    model, rate = make_model(), 0.02
    if name == "onecycle":
        adam = torch.optim.Adam(model.parameters(), lr=rate)
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, max_lr=rate, total_steps=4 * STEPS)
        for _ in range(2 * STEPS + 2):
            adam.step()
            cycle.step()
        rate = cycle.get_last_lr()[0]
    said = f"loss is not finite at step 3 of {STEPS} in epoch 3, at learning rate {rate:.2g}; .*{resume_file} keeps"
    with pytest.raises(TrainingError, match=said):
        run_fit(model, epochs=4, schedule=schedule, resume_file=resume_file, loss=Breaking(2 * STEPS + 3))
    assert_same_bits(load_file(resume_file), kept)
    assert_same_bits(model.state_dict(), good.state_dict())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    resume_file = tmp_path / "state.safetensors"
    with pytest.raises(TrainingError, match=r"a weight is not finite at step 1 of 1 in epoch 1, .* 1e\+39"):
        run_fit(make_model(), make_loader(batch_size=1000), None, lr=1e39, resume_file=resume_file)
    assert not resume_file.exists()


def test_weights_that_are_not_finite_after_the_last_step_are_reported():
    # With one batch per epoch, the loss is finite, but not the weights after the step.
    with pytest.raises(TrainingError, match=r"a score is not finite at step 1 of 1 in epoch 1, .* 1e\+30"):
        run_fit(make_model(), make_loader(batch_size=1000), lr=1e30)


def test_scores_that_are_not_finite_are_reported_with_the_last_step(monkeypatch):
    class BrokenInUse(NEURAL_MODELS["GRU4REC"]):
        def forward(self, x):
            return super().forward(x) * (1 if self.training else math.nan)

    model = BrokenInUse(n_items=N_ITEMS, width=8, hidden=8)
    with pytest.raises(TrainingError, match=f"a score is not finite at step {STEPS} of {STEPS} in epoch 1, .* 0.02"):
        run_fit(model)


# --------------------------------------------------------------------------------------------------
# Inputs that are refused


def raw_loader():
    """A plain loader of raw session files, without encoding."""
    return DataLoader(load_dataset("Demo").train, batch_size=4)


REFUSED = {
    "a module": (lambda: {"model": torch.nn.Linear(3, 3)}, "takes a SessionModel, not Linear: .*WrappedModule"),
    "a name": (lambda: {"model": "GRU4REC"}, "takes a SessionModel, not str"),
    "a baseline": (lambda: {"model": build_model("Popularity", n_items=N_ITEMS)}, "not Popularity: .* fit_baseline"),
    "a dataset": (lambda: {"loader": TrainDataset(TRAIN)}, r"takes a loader: get_dataloader\(TrainDataset"),
    "a list": (lambda: {"loader": [1, 2]}, r"takes a loader: get_dataloader\(TrainDataset"),
    "a raw loader": (lambda: {"loader": raw_loader()}, r"takes a loader: get_dataloader\(TrainDataset"),
    "a subset of a dataset": (lambda: {"loader": DataLoader(Subset(TrainDataset(TRAIN), [0]))}, "takes a loader"),
    "other items": (
        lambda: {"model": build_model("GRU4REC", n_items=7)},
        f"the model has 7 items and the data {N_ITEMS}: n_items=data.n_items",
    ),
    "raw sessions": (lambda: {"valid": load_dataset("Demo").train}, "valid: must be Queries, such as data.valid of"),
    "no epoch": (lambda: {"epochs": 0}, "epochs=0: must be a whole number of at least 1"),
    "half an epoch": (lambda: {"epochs": 0.5}, "epochs=0.5: must be a whole number"),
    "epochs as text": (lambda: {"epochs": "4"}, "epochs='4': must be a whole number"),
    "no rate": (lambda: {"lr": 0}, "lr=0: must be a number above 0"),
    "a rate below 0": (lambda: {"lr": -0.1}, "lr=-0.1: must be a number above 0"),
    "a rate that is no number": (lambda: {"lr": math.nan}, "lr=nan: must be a number above 0"),
    "an endless rate": (lambda: {"lr": math.inf}, "lr=inf: must be a number above 0"),
    "a rate as text": (lambda: {"lr": "0.1"}, "lr='0.1': must be a number above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_inputs_of_fit_are_refused(case):
    changes, sentence = REFUSED[case]
    options = {"model": make_model(), "loader": make_loader(), "valid": VALID} | changes()
    with pytest.raises(ValueError, match=sentence):
        run_fit(options.pop("model"), **options)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="learning_rate"):
        run_fit(make_model(), learning_rate=0.1)


def test_raw_sessions_and_bad_batch_sizes_are_refused_before_the_loader():
    with pytest.raises(ValueError, match="raw ids: pass `data.train`"):
        TrainDataset(load_dataset("Demo").train)
    with pytest.raises(ValueError, match="takes a TrainDataset or MyDataset, not Sessions"):
        get_dataloader(TRAIN, 4)
    with pytest.raises(ValueError, match="batch_size=0: must be a whole number of at least 1"):
        get_dataloader(TrainDataset(TRAIN), 0)


# --------------------------------------------------------------------------------------------------
# Baselines and devices


def planted_data():
    vocabulary = Vocabulary(np.arange(N_ITEMS))
    return Prepared("Planted", "", vocabulary, TRAIN, VALID, VALID.take([]), POPULARITY, False, "user", 0, (None, None))


def test_the_history_of_a_baseline_has_one_row():
    model = build_model("Popularity", n_items=N_ITEMS)
    history = fit_baseline(model, planted_data())
    assert list(history.table.columns) == ["epoch", *METRICS, "seconds"]
    assert history.table["MRR@20"].tolist() == [pytest.approx(popularity_mrr(VALID))]
    assert history.best_epoch == 1 and not history.interrupted


def test_an_interrupted_baseline_has_an_empty_history(monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    model = build_model("Popularity", n_items=N_ITEMS)
    monkeypatch.setattr(model, "fit", press)
    history = fit_baseline(model, planted_data())
    assert history.interrupted and history.rows == [] and history.table.empty


@pytest.mark.parametrize("name", ["cpu:x", "cpu:-1", "cpu:7", "cpu:", "", "tpu:0", "cuda:x", 5])
def test_a_device_that_does_not_exist_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match=f"device '{name}' is not available here; choose cpu"):
        pick_device(name)
    assert pick_device("cpu:0").type == pick_device(torch.device("cpu")).type == "cpu"


def test_the_device_is_one_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device().type == "cpu"
    with pytest.raises(TrainingError, match="device 'cuda:1' is not available here; choose cpu"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device().type == "cuda"
    assert pick_device("cpu").type == "cpu"
