"""A resume file that does not fit the run is one sentence, and nothing of the run has changed by then."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import (
    BATCH_SIZE,
    N_ITEMS,
    POPULARITY,
    STEPS,
    TRAIN,
    VALID,
    assert_same_bits,
    make_loader,
    make_model,
    run_fit,
    weights_of,
    without_seconds,
)
from safetensors.torch import load_file, save_file

from models.item_graph import item_graph
from process_data import Sessions, TrainDataset
from sessionrec.checkpoint import CheckpointError, read_header
from sessionrec.fit import Schedule, fit
from sessionrec.losses import SampledSoftmax, full_softmax
from sessionrec.smoothing import smoothed

DENSE = {"schedule": Schedule("onecycle", 8), "epochs": 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The state of a run after two epochs of eight: tensors and header."""
    path = tmp_path_factory.mktemp("state") / "x.safetensors"
    run_fit(make_model(), resume_file=path, **DENSE)
    return load_file(path), read_header(path)


def moments(tensors, change):
    return {k: change(v) if ".exp_avg" in k else v for k, v in tensors.items()}


def of_header(**values):
    return lambda tensors, header: (tensors, header | values)


def in_first(key, **values):
    """Change values of the first group, scheduler or row."""

    def change(tensors, header):
        entries = json.loads(json.dumps(header[key]))
        first = entries[0][0] if key == "groups" else entries[0]
        first.update(values)
        return tensors, header | {key: entries}

    return change


def with_tensor(name, value):
    return lambda tensors, header: (tensors | {name: value}, header)


def without(name):
    return lambda tensors, header: ({k: v for k, v in tensors.items() if k != name}, header)


HOSTILE = {
    # what was done to the file: (how, what the sentence says)
    "moments of another shape": (lambda t, h: (moments(t, lambda v: v.flatten()[:1]), h), "optimizer.0"),
    "larger moments": (lambda t, h: (moments(t, lambda v: torch.cat([v, v])), h), "optimizer.0"),
    "moments of another type": (lambda t, h: (moments(t, lambda v: v.double()), h), "float64"),
    "scalar moments": (lambda t, h: (moments(t, lambda v: torch.zeros(())), h), "optimizer.0"),
    "moments that are not finite": (lambda t, h: (moments(t, lambda v: v * torch.nan), h), "is not finite"),
    "half of a parameter's moments": (without("optimizer.0.0.exp_avg"), "lacks optimizer.0.0.exp_avg"),
    "a moment too many": (with_tensor("optimizer.0.0.max_exp_avg", torch.zeros(1)), "optimizer.0.0.max_exp_avg"),
    "a parameter too many": (with_tensor("optimizer.0.99.step", torch.ones(())), "optimizer.0.99.step"),
    "an optimizer too many": (with_tensor("optimizer.1.0.step", torch.ones(())), "optimizer.1.0.step"),
    "a name that is no number": (with_tensor("optimizer.0.x.step", torch.ones(())), "optimizer.0.x.step"),
    "a name without a slot": (with_tensor("optimizer.0.0", torch.ones(())), "optimizer.0.0"),
    "steps as a list": (with_tensor("optimizer.0.0.step", torch.ones(2)), "optimizer.0.0.step"),
    "steps as whole numbers": (with_tensor("optimizer.0.0.step", torch.tensor(3)), "optimizer.0.0.step"),
    "a step below 0": (with_tensor("optimizer.0.0.step", torch.tensor(-1.0)), "optimizer.0.0.step is -1"),
    "too many steps": (with_tensor("optimizer.0.0.step", torch.tensor(1e9)), "optimizer.0.0.step is 1e"),
    "weights missing": (without("model.head.bias"), "lacks model.head.bias"),
    "weights of another shape": (with_tensor("model.head.bias", torch.zeros(3)), "model.head.bias is float32"),
    "weights of another type": (with_tensor("model.head.bias", torch.zeros(16).int()), "model.head.bias is int32"),
    "best weights missing": (without("best.head.bias"), "lacks best.head.bias"),
    "a foreign tensor": (with_tensor("extra", torch.zeros(3)), "extra"),
    "no rows": (lambda t, h: (t, {k: v for k, v in h.items() if k != "rows"}), "rows=None: must be a list"),
    "no epoch": (of_header(rows=[]), "no epoch"),
    "rows of numbers": (of_header(rows=[1, 2]), "rows[0]=1: must be a table"),
    "rows without a loss": (of_header(rows=[{"epoch": 1}]), "rows[0].loss=None: must be a number"),
    "a loss as text": (in_first("rows", loss="x"), "rows[0].loss='x': must be a number"),
    "rows in another order": (in_first("rows", epoch=7), "rows[0] is not epoch 1"),
    "a validation that is missing": (in_first("rows", **{"MRR@20": None}), "rows[0].MRR@20=None"),
    "settings as a list": (of_header(settings=[1]), "settings=[1]: must be a table"),
    "no settings": (of_header(settings={}), "lr, schedule, weight_decay, loss, model, data"),
    "settings too many": (lambda t, h: (t, h | {"settings": h["settings"] | {"x": 1}}), "(x differ)"),
    "groups of null": (of_header(groups=None), "groups=None: must be a list"),
    "groups of text": (of_header(groups=["x"]), "groups[0]='x': must be a list"),
    "no groups": (of_header(groups=[]), "its optimizers are others"),
    "another optimizer's option": (in_first("groups", amsgrad=True), "its optimizers are others"),
    "an option that Adam lacks": (in_first("groups", junk=1), "its optimizers are others"),
    "other parameters": (in_first("groups", params=[0, 0]), "its optimizers are others"),
    "a rate as text": (in_first("groups", lr="x"), "lr='x': must be a number"),
    "a rate of NaN": (in_first("groups", lr=float("nan")), "lr=nan: must be a number"),
    "three betas": (in_first("groups", betas=[0.9, 0.9, 0.9]), "its optimizers are others"),
    "a beta above 1": (in_first("groups", betas=[2.0, 0.9]), "betas[0]=2.0: must be a number from 0 to 1"),
    "schedulers of numbers": (of_header(schedulers=[3]), "schedulers[0]=3: must be a table"),
    "no schedulers": (of_header(schedulers=[]), "its schedulers are others"),
    "an attribute of a scheduler": (in_first("schedulers", step="x"), "its schedulers are others"),
    "another optimizer in a scheduler": (in_first("schedulers", optimizer=1), "its schedulers are others"),
    "other steps of a scheduler": (in_first("schedulers", total_steps=1), "its schedulers are others"),
    "a scheduler at another step": (in_first("schedulers", last_epoch=1), f"not at step {2 * STEPS}"),
    "rates of a scheduler": (in_first("schedulers", _last_lr=[]), "its schedulers are others"),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_state_that_does_not_fit_is_one_sentence(hostile, written, tmp_path):
    path, model = tmp_path / "x.safetensors", make_model(seed=1)
    before = weights_of(model)
    change, reason = HOSTILE[hostile]
    tensors, header = change(dict(written[0]), dict(written[1]))
    save_file(tensors, path, metadata={"header": json.dumps(header)})
    content = path.read_bytes()
    with pytest.raises(
        CheckpointError, match="belongs to another run .*; delete it, or run without --resume"
    ) as raised:
        run_fit(model, resume_file=path, **DENSE | {"epochs": 3})
    assert reason in str(raised.value) and str(path) in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400 + len(str(path))
    assert_same_bits(weights_of(model), before)
    assert path.read_bytes() == content


@pytest.mark.parametrize("depth", [990, 10_000, 400_000])
def test_a_header_that_is_nested_deeply_is_one_sentence(depth, tmp_path):
    path = tmp_path / "x.safetensors"
    text = '{"format": 1, "settings": ' + "[" * depth + "]" * depth + "}"
    save_file({"a": torch.zeros(1)}, path, metadata={"header": text})
    with pytest.raises(CheckpointError, match="x.safetensors"):
        run_fit(make_model(), resume_file=path)


def test_sparse_moments_are_checked_too(tmp_path):
    path, options = tmp_path / "x.safetensors", {"loss": SampledSoftmax(POPULARITY, 10), "schedule": "onecycle"}

    def train():
        model = make_model()
        model.embedding.sparse = True
        return run_fit(model, resume_file=path, **options)

    history = train()
    tensors, header = load_file(path), read_header(path)
    assert without_seconds(train().table) == without_seconds(history.table)
    for name, value in (("exp_avg", torch.zeros(1)), ("exp_avg_sq", torch.zeros(3, 3)), ("step", torch.tensor(2.0))):
        save_file(tensors | {f"optimizer.1.0.{name}": value}, path, metadata={"header": json.dumps(header)})
        with pytest.raises(CheckpointError, match=f"optimizer.1.0.{name} is"):
            train()


# --------------------------------------------------------------------------------------------------
# Everything that a run reads


def permuted_labels():
    """The training rows, a third of their labels permuted among themselves."""
    labels, some = TRAIN.labels.copy(), np.random.default_rng(0).random(len(TRAIN)) < 1 / 3
    labels[some] = np.random.default_rng(1).permutation(labels[some])
    assert (labels != TRAIN.labels).sum() > 50
    return Sessions(TRAIN.items, TRAIN.offsets, labels, TRAIN.users, N_ITEMS)


OTHER_DATA = {
    "permuted labels": ("data", lambda: {"loader": make_loader(TrainDataset(permuted_labels(), fold=False))}),
    "labels of validation": ("data", lambda: {"valid": replace(VALID, labels=VALID.labels[::-1].copy())}),
    "popularity of validation": ("data", lambda: {"valid": replace(VALID, popularity=POPULARITY[::-1].copy())}),
    "batches in file order": ("shuffle", lambda: {"loader": make_loader(shuffle=False)}),
    "other files": ("dataset", lambda: {"loader": with_hash("b")}),
    "heads": ("model", lambda: {"model": make_model("SASRec", heads=4)}),
    "steps of a graph": ("model", lambda: {"model": make_model("SRGNN", graph_steps=2)}),
    "causal": ("model", lambda: {"model": make_model("GRUwATT", causal=False)}),
    "popularity of negatives": ("loss", lambda: {"loss": SampledSoftmax(POPULARITY[::-1].copy(), 10)}),
}
FIRST = {
    "permuted labels": lambda: {"loader": make_loader(TrainDataset(TRAIN, fold=False))},
    "other files": lambda: {"loader": with_hash("a")},
    "heads": lambda: {"model": make_model("SASRec")},
    "steps of a graph": lambda: {"model": make_model("SRGNN")},
    "causal": lambda: {"model": make_model("GRUwATT")},
    "popularity of negatives": lambda: {"loss": SampledSoftmax(POPULARITY, 10)},
}


def with_hash(sha256):
    loader = make_loader()
    loader.dataset.sha256 = sha256
    return loader


@pytest.mark.parametrize("other", OTHER_DATA)
def test_a_run_is_not_continued_with_anything_else(other, tmp_path):
    path = tmp_path / "x.safetensors"
    named, options = OTHER_DATA[other]

    def train(model=None, **options):
        return run_fit(model or make_model(), epochs=1, resume_file=path, **options)

    first = FIRST.get(other, dict)
    train(**first())
    train(**first())
    with pytest.raises(CheckpointError, match=rf"belongs to another run \({named} differ\)"):
        train(**options())


def test_another_graph_of_the_same_weights_is_another_run(tmp_path):
    graph = item_graph(TRAIN)
    other = graph.copy()
    first = np.repeat(graph.indptr[:-1], np.diff(graph.indptr))
    other.indices = (np.arange(graph.nnz) - first + 1).astype(graph.indices.dtype)  # each row has the first items
    path = tmp_path / "x.safetensors"
    for of_run in (graph, graph, other):
        model, refused = make_model(), of_run is other
        with smoothed(model.embedding, of_run, 0.5):
            if refused:
                with pytest.raises(CheckpointError, match=re.escape("(model differ)")):
                    run_fit(model, epochs=1, resume_file=path)
            else:
                fit(model, make_loader(batch_size=BATCH_SIZE), VALID, epochs=1, lr=0.02, schedule="constant",
                    loss=full_softmax, resume_file=path)  # fmt: skip
