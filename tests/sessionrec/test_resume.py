"""An interrupted run continues from its resume file with identical results; a file of another run is refused."""

import os
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from planted import (
    POPULARITY,
    STEPS,
    TRAIN,
    VALID,
    assert_same_bits,
    interrupt,
    make_loader,
    make_model,
    plan_ranks,
    run_fit,
    weights_of,
    without_seconds,
)

from models.item_graph import item_graph
from process_data import TrainDataset
from sessionrec.checkpoint import CheckpointError, write_tensors
from sessionrec.fit import EarlyStopping, Schedule
from sessionrec.losses import SampledSoftmax, full_softmax, pick_precision
from sessionrec.resume import discard_resume_files, resume_files
from sessionrec.smoothing import smoothed


def own_loss(queries, items, targets, weights):
    return full_softmax(queries, items, targets, weights) + 0.01 * queries.square().sum()


OPTIONS = {
    "constant": {},
    "onecycle": {"schedule": "onecycle"},
    "cosine": {"schedule": "cosine", "weight_decay": 0.01},
    "sparse gradients": {"schedule": "onecycle", "loss": SampledSoftmax(POPULARITY, 10), "sparse": True},
    "smoothed": {"schedule": "onecycle", "share": 0.5},
    "own loss": {"loss": own_loss},
    "early stopping": {"epochs": 12, "lr": 0.1, "callbacks": [EarlyStopping(2)]},
}


def train(model, *, sparse=False, share=0.0, **options):
    model.embedding.sparse = sparse
    with smoothed(model.embedding, item_graph(TRAIN), share) if share else nullcontext():
        return run_fit(model, make_loader(seed=3), **options)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    ("function", "call"),
    [("batch_loss", 2 * STEPS + 3), ("rank_labels", 3)],
    ids=["in the third epoch", "in its validation"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(function, call, options, tmp_path, monkeypatch):
    whole = make_model()
    history = train(whole, **options)

    resume_file = tmp_path / "x.state.safetensors"
    with monkeypatch.context() as patch:
        interrupt(patch, function, call)
        begun = train(make_model(), resume_file=resume_file, **options)
    assert begun.interrupted
    assert without_seconds(begun.table) == without_seconds(history.table.iloc[:2])
    assert os.listdir(tmp_path) == [resume_file.name]

    resumed = make_model(seed=77)  # the weights and the generator's state come from the file
    rest = train(resumed, resume_file=resume_file, **options)
    assert not rest.interrupted
    assert without_seconds(rest.table) == without_seconds(history.table)
    assert_same_bits(weights_of(resumed), weights_of(whole))


def test_a_run_that_is_interrupted_in_a_callback_resumes_with_identical_results(tmp_path):
    def press(history):
        if len(history.rows) == 2:
            raise KeyboardInterrupt

    resume_file, whole, resumed = tmp_path / "x.safetensors", make_model(), make_model(seed=5)
    history = run_fit(whole)
    begun = run_fit(make_model(), resume_file=resume_file, callbacks=[press])
    assert begun.interrupted and len(begun.rows) == 2
    assert without_seconds(run_fit(resumed, resume_file=resume_file).table) == without_seconds(history.table)
    assert_same_bits(weights_of(resumed), weights_of(whole))


def test_the_message_names_the_resume_file(tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, "batch_loss", STEPS + 1)
    run_fit(make_model(), resume_file=tmp_path / "x.safetensors")
    assert "Interrupted after epoch 1; resume continues from there." in capsys.readouterr().out


def test_a_resumed_run_keeps_its_best_epoch(tmp_path, monkeypatch):
    resume_file, model = tmp_path / "x.safetensors", make_model()
    with monkeypatch.context() as patch:
        states = plan_ranks(patch, model, [5, 1])
        run_fit(model, epochs=2, schedule=Schedule("onecycle", 8), resume_file=resume_file)
    again = make_model(seed=1)
    with monkeypatch.context() as patch:
        plan_ranks(patch, again, [7, 6, 2])
        history = run_fit(again, epochs=8, schedule="onecycle", callbacks=[EarlyStopping(3)], resume_file=resume_file)
    assert history.table["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history.best_epoch == 2
    assert_same_bits(weights_of(again), states[1])


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    resume_file, model, again = tmp_path / "x.safetensors", make_model(), make_model(seed=1)
    history = run_fit(model, epochs=2, resume_file=resume_file)
    interrupt(monkeypatch, "batch_loss", 1)
    same = run_fit(again, epochs=2, resume_file=resume_file)
    assert same.rows == history.rows and not same.interrupted
    assert_same_bits(weights_of(again), weights_of(model))


def test_a_run_that_stopped_early_stops_again(tmp_path):
    model, again, resume_file = make_model(), make_model(seed=1), tmp_path / "x.safetensors"
    options = {"epochs": 9, "callbacks": [EarlyStopping(1)], "resume_file": resume_file, "lr": 0.3}
    history, same = run_fit(model, **options), run_fit(again, **options)
    assert len(history.rows) < 9
    assert without_seconds(same.table) == without_seconds(history.table)
    assert_same_bits(weights_of(again), weights_of(model))


def test_without_its_file_a_run_starts_again(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=2, lr=0.01, resume_file=resume_file)
    discard_resume_files(resume_file)
    assert not resume_file.exists()
    history = run_fit(make_model(), epochs=2, resume_file=str(resume_file))
    assert without_seconds(history.table) == without_seconds(run_fit(make_model(), epochs=2).table)


def test_the_files_of_a_run_are_its_own_its_held_out_runs_and_its_members(tmp_path):
    names = ["", ".heldout", ".0", ".12", ".heldout.3"]
    names = [f"x.state{name}.safetensors" for name in names]
    path = tmp_path / names[0]
    run_fit(make_model(), epochs=1, resume_file=path)
    # Other names, and files of these names that are no resume files, are somebody else's.
    others = ["y.state.safetensors", "x.safetensors", "x.state.mine.safetensors", "x.state.0.safetensors.txt"]
    foreign = ["x.state.7.safetensors", "x.state.8.safetensors", "x.state.9.safetensors"]
    for name in [*names[1:], *others]:
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / foreign[0]).write_text("mine")
    write_tensors(tmp_path / foreign[1], {"a": torch.zeros(1)}, {"format": 1, "model": "GRU4REC"})
    (tmp_path / foreign[2]).mkdir()
    others += foreign
    assert sorted(file.name for file in resume_files(path)) == sorted(names)
    discard_resume_files(path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)
    discard_resume_files(path)


ANOTHER_PRECISION = "fp32" if pick_precision("auto", torch.device("cpu")) == torch.bfloat16 else "bf16"
# Changes since the file was written, and the setting that the message names.
OTHERS = {
    "seed": ("seed", {"loader": {"seed": 1}}),
    "learning rate": ("lr", {"lr": 0.01}),
    "schedule": ("schedule", {"schedule": "onecycle"}),
    "weight decay": ("weight_decay", {"weight_decay": 0.1}),
    "batch size": ("batch_size", {"loader": {"batch_size": 16}}),
    "rows": ("data", {"loader": {"rows": TrainDataset(VALID)}}),
    "weights of the rows": ("data", {"loader": {"rows": TrainDataset(TRAIN, weights="once")}}),
    "validation queries": ("data", {"valid": VALID.take([0, 1])}),
    "no validation": ("data", {"valid": None}),
    "repeated items": ("data", {"valid": replace(VALID, mask_seen=False)}),
    "arguments": ("model", {"model": {"score": "cosine"}}),
    "width": ("model", {"model": {"width": 8}}),
    "another model": ("model", {"model": {"name": "NARM"}}),
    "precision": ("loss", {"loss": partial(full_softmax, precision=ANOTHER_PRECISION)}),
    "negatives": ("loss", {"loss": SampledSoftmax(POPULARITY, 10)}),
    "own loss": ("loss", {"loss": own_loss}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_of_another_run_is_refused(other, tmp_path):
    resume_file = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=1, resume_file=resume_file)
    named, options = OTHERS[other]
    options = dict(options)
    model, loader = make_model(**options.pop("model", {})), make_loader(**options.pop("loader", {}))
    with pytest.raises(CheckpointError, match=f"belongs to another run .*{named}.* differ.*delete it") as raised:
        run_fit(model, loader, resume_file=resume_file, **options)
    assert str(resume_file) in str(raised.value)


def test_a_file_of_another_loss_of_the_same_kind_is_refused(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=1, loss=SampledSoftmax(POPULARITY, 10), resume_file=resume_file)
    with pytest.raises(CheckpointError, match="loss differ"):
        run_fit(make_model(), loss=SampledSoftmax(POPULARITY, 11), resume_file=resume_file)


def test_a_file_of_a_smoothed_run_is_refused_by_a_plain_one(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    train(make_model(), share=0.5, epochs=1, resume_file=resume_file)
    for share in (0.0, 0.4):
        with pytest.raises(CheckpointError, match="belongs to another run"):
            train(make_model(), share=share, resume_file=resume_file)


def test_an_invalid_resume_file_is_refused(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    resume_file.write_text("no state")
    with pytest.raises(CheckpointError, match="x.safetensors is no checkpoint"):
        run_fit(make_model(), resume_file=resume_file)


def test_a_run_with_a_constant_rate_can_be_resumed_for_more_epochs(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=2, resume_file=resume_file)
    longer = run_fit(make_model(), epochs=4, resume_file=resume_file)
    assert without_seconds(longer.table) == without_seconds(run_fit(make_model(), epochs=4).table)


def test_a_run_with_a_schedule_cannot(tmp_path):
    resume_file = tmp_path / "x.safetensors"
    run_fit(make_model(), epochs=2, schedule="onecycle", resume_file=resume_file)
    with pytest.raises(CheckpointError, match="another run .schedule differ"):
        run_fit(make_model(), epochs=4, schedule="onecycle", resume_file=resume_file)
