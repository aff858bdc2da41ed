"""Checkpoints: saving, loading, and errors for invalid files."""

import errno
import functools
import json
import linecache
import os
import stat
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from dataset.files import ROOT
from models import MODELS, NEURAL_MODELS, build_model
from models.base import WrappedModule
from models.Ensemble import Ensemble
from process_data import Queries, Sessions, Vocabulary, load_dataset, prepare
from sessionrec import checkpoint
from sessionrec.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    make_checkpoint,
    save_checkpoint,
    write_checkpoint,
    write_tensors,
)
from sessionrec.scoring import score_sessions

RAW_IDS = np.array([0, 7, 40, 41, 999_999_999_999])
POPULARITY = np.array([0, 3, 1, 4, 1, 5])
HEADER = {"dataset": "Demo", "seed": 7, "metrics": {"valid": {"HR@20": 0.5}}, "mask_seen": True}
QUERIES = Queries.of(Sessions.from_lists([[1, 2], [5], [3, 4, 3], []], n_items=5), POPULARITY, mask_seen=False)


def make_model(name="GRU4REC", **arguments):
    torch.manual_seed(2)
    return build_model(name, n_items=len(RAW_IDS), width=8, **arguments)


def save(path, model=None, **options):
    model = model or make_model()
    header = {"model": model.name, "arguments": model.arguments, **HEADER}
    write_checkpoint(path, Checkpoint(model, Vocabulary(RAW_IDS), POPULARITY, header), **options)
    return path


def scores_of(model):
    chunks = score_sessions(model, QUERIES)
    return torch.cat([scores for _, scores in chunks])


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["header"])


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_a_loaded_model_gives_the_same_scores(name, tmp_path):
    model = make_model(name, score="cosine", scale=5.0).train()
    loaded = load_checkpoint(save(tmp_path / "new" / "x.safetensors", model))
    assert torch.equal(scores_of(loaded.model), scores_of(model))
    assert (loaded.model.name, loaded.model.arguments) == (model.name, model.arguments)
    assert not loaded.model.training
    assert loaded.vocabulary.item_ids.tolist() == RAW_IDS.tolist()
    assert loaded.popularity.tolist() == POPULARITY.tolist()


def test_header(tmp_path):
    model = make_model(hidden=4)
    path = save(tmp_path / "x.safetensors", model)
    want = {"format": 1, "model": "GRU4REC", "arguments": model.arguments, **HEADER}
    assert header_of(path) == want == load_checkpoint(path).header
    assert want["arguments"]["hidden"] == 4
    assert want["arguments"]["n_items"] == len(RAW_IDS)


def test_a_model_is_saved_with_facts_about_its_data(tmp_path):
    data = prepare(load_dataset("Demo"), split="row", split_seed=3, test_share=0.1)
    model = build_model("GRU4REC", n_items=data.n_items, width=8)
    info, metrics = {"recipe": "best", "seed": 7}, {"valid": {"HR@20": 0.5}}
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, model, data, metrics=metrics, info=info)
    loaded = load_checkpoint(path)
    want = {
        "model": "GRU4REC",
        "arguments": model.arguments,
        "dataset": "Demo",
        "sha256": data.sha256,
        "split": "row",
        "split_seed": 3,
        "shares": [None, 0.1],
        "mask_seen": True,
        "metrics": metrics,
        **info,
    }
    assert loaded.header == {"format": 1, **want}
    assert loaded.vocabulary.item_ids.tolist() == data.vocabulary.item_ids.tolist()
    assert loaded.popularity.tolist() == data.popularity.tolist()
    held = make_checkpoint(model, data, metrics=metrics, info=info)
    assert held.model is model and held.header == want
    assert make_checkpoint(model, data).header["metrics"] == {}


def test_a_header_that_is_not_json_is_refused(tmp_path):
    data = prepare(load_dataset("Demo"))
    model = build_model("Popularity", n_items=data.n_items)
    with pytest.raises(ValueError, match=r"x\.safetensors: the header cannot be written as JSON: .*ndarray"):
        save_checkpoint(tmp_path / "x.safetensors", model, data, info={"ranks": np.arange(3)})
    assert not os.listdir(tmp_path)


def test_compact_storage_is_smaller_and_computes_in_float32(tmp_path):
    torch.manual_seed(0)
    model = build_model("GRUwATT", n_items=len(RAW_IDS), width=64)
    whole = save(tmp_path / "whole.safetensors", model)
    compact = save(tmp_path / "compact.safetensors", model, compact=True)
    assert compact.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_checkpoint(compact)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert next(model.parameters()).dtype == torch.float32  # saving does not change the model
    torch.testing.assert_close(scores_of(loaded.model), scores_of(model), atol=5e-2, rtol=1e-2)
    assert loaded.popularity.tolist() == POPULARITY.tolist()


def test_compact_storage_keeps_embeddings_in_eight_bits(tmp_path):
    torch.manual_seed(0)
    model = build_model("GRUwATT", n_items=len(RAW_IDS), width=64)
    with torch.no_grad():
        model.embedding.weight[2] = 0  # all zeros
        model.embedding.weight[3] *= 1e3  # each row has its own scale
    path = save(tmp_path / "compact.safetensors", model, compact=True)
    stored, header = checkpoint.read_tensors(path)
    assert header["format"] == 2  # code for format 1 would use the integers as weights
    assert stored["model.embedding.weight"].dtype == torch.int8
    assert stored["model.head.weight"].dtype == torch.float16
    loaded = load_checkpoint(path).model
    rows, want = loaded.embedding.weight, model.embedding.weight
    assert rows.dtype == torch.float32
    # Half of 1/127 of the largest value, plus the error of the scale in half precision.
    assert ((rows - want).abs() <= want.abs().amax(1, keepdim=True) * (0.5 / 127 + 1e-3)).all()
    assert not rows[0].any() and not rows[2].any()
    assert torch.equal(loaded.head.weight, model.head.weight.half().float())


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = save(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def fill_the_disk(self, content):
        with open(self, "wb") as file:
            file.write(content[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, make_model(hidden=4))
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "new.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_file_is_replaced_completely(tmp_path):
    path = save(tmp_path / "x.safetensors")
    save(path, make_model(hidden=4))
    assert load_checkpoint(path).model.arguments["hidden"] == 4
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_checkpoint_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        path = save(tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# --------------------------------------------------------------------------------------------------
# Invalid files


def rewrite(path, *, header=None, drop=(), **tensors):
    """Write the file again with changed or removed tensors and header entries."""
    new = {k: v for k, v in load_file(path).items() if k not in drop} | tensors
    header = header_of(path) | (header or {})
    write_tensors(path, new, {k: v for k, v in header.items() if k not in drop})


def cut_off(path, keep):
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def more_than_a_gigabyte_of_header(path):
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")


SPOILED = {
    "cut off in its weights": (lambda p: cut_off(p, 0.9), "is no checkpoint, or is cut off"),
    "cut off in its header": (lambda p: cut_off(p, 0.05), "is no checkpoint, or is cut off"),
    "empty": (lambda p: p.write_bytes(b""), "is no checkpoint, or is cut off"),
    "text": (lambda p: p.write_text("session,label\n"), "is no checkpoint, or is cut off"),
    "absurd": (more_than_a_gigabyte_of_header, "is no checkpoint, or is cut off"),
    "other tensors": (lambda p: save_file({"a": torch.zeros(2)}, p), "has no header of ours"),
    "other header": (
        lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"header": "[1]"}),
        "has no header of ours",
    ),
    "header cut off": (
        lambda p: save_file({"a": torch.zeros(2)}, p, metadata={"header": '{"format"'}),
        "is no checkpoint",
    ),
    "without mask_seen": (lambda p: rewrite(p, drop=["mask_seen"]), "its header lacks mask_seen"),
    "newer": (lambda p: rewrite(p, header={"format": 3}), "has format 3; this code reads up to 2"),
    "no format": (lambda p: rewrite(p, header={"format": None}), "has format None"),
    "odd format": (lambda p: rewrite(p, header={"format": "1"}), "has format '?1'?"),
    "unknown model": (lambda p: rewrite(p, header={"model": "BERT4Rec"}), "no model 'BERT4Rec'; there are GRU4REC"),
    "unknown argument": (
        lambda p: rewrite(p, header={"arguments": {"n_items": 5, "heads": 2}}),
        "GRU4REC takes no heads",
    ),
    "other width": (lambda p: rewrite(p, header={"arguments": {"n_items": 5, "width": 9}}), "does not fit this code"),
    "weights missing": (lambda p: rewrite(p, drop=["model.head.bias"]), "does not fit this code"),
    "weights too many": (lambda p: rewrite(p, **{"model.head.extra": torch.zeros(1)}), "does not fit this code"),
    "ids missing": (lambda p: rewrite(p, drop=["item_ids"]), "does not fit this code"),
    "too few ids": (
        lambda p: rewrite(p, item_ids=torch.arange(4), popularity=torch.arange(5)),
        "its item ids do not fit its model of 5 items",
    ),
    "too many counts": (
        lambda p: rewrite(p, popularity=torch.arange(7)),
        "its popularity is not one count, of 0 or more, for the padding and each item",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_an_invalid_file_is_refused_by_name(spoiled, tmp_path):
    path = save(tmp_path / "x.safetensors")
    spoil, reason = SPOILED[spoiled]
    spoil(path)
    with pytest.raises(CheckpointError, match=reason) as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match="does not exist; train it with") as raised:
        load_checkpoint(path)
    assert f"python train.py --dataset NAME --model NAME --output {path}`" in str(raised.value)
    with pytest.raises(CheckpointError, match="is a folder; name a .safetensors file"):
        load_checkpoint(tmp_path)


def test_a_renamed_pickle_is_refused_and_not_executed(tmp_path):
    path, proof = tmp_path / "x.safetensors", tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(proof),)

    torch.save({"model": Payload()}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint") as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    assert not proof.exists()


# --------------------------------------------------------------------------------------------------
# Classes defined in a notebook


@pytest.fixture
def run_cell(monkeypatch):
    """Run source code as in a notebook cell: in a module without a file, with its lines in linecache only."""
    notebook = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)

    def run(source, remembered=True):
        name = f"<cell {len(linecache.cache)}>"
        if remembered:
            entry = (len(source), None, source.splitlines(keepends=True), name)
            monkeypatch.setitem(linecache.cache, name, entry)
        exec(compile(source, name, "exec"), vars(notebook))
        return notebook

    return run


def source_of(name):
    return (ROOT / "models" / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_an_unchanged_copy_of_a_model_needs_no_class(name, run_cell, tmp_path):
    copied = getattr(run_cell(source_of(name)), name)
    model = copied(n_items=len(RAW_IDS), width=8)
    assert type(model) is not MODELS[name]
    path = save(tmp_path / "x.safetensors", model)
    assert "custom_classes" not in header_of(path)
    loaded = load_checkpoint(path)
    assert type(loaded.model) is MODELS[name]
    assert torch.equal(scores_of(loaded.model), scores_of(model))


EDITS = {
    "a method": ("NARM", "self.decode(h, self.attention_weights(h) @ h)", "2 * self.decode(h, h)"),
    "the constructor": ("NARM", "bias=False)  # B of eq. 10", "bias=True)"),
    "a part": ("SRGNN", "nodes = self.update(a.view", "nodes = nodes + self.update(a.view"),
    "a base class": (
        "SRGNN",
        "nodes = self.graph(self.embed(items), A)",
        "nodes = 2 * self.graph(self.embed(items), A)",
    ),
    "one more method": (
        "GRU4REC",
        "    def forward",
        "    def query(self, states):\n        return states\n\n    def forward",
    ),
    "a class attribute": ("GRU4REC", "class GRU4REC(SessionModel):\n", "class GRU4REC(SessionModel):\n    gain = 2\n"),
    "a constant": ("GRU4REC", "hidden: int = 128", "hidden: int = 64"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_class_must_be_passed(edit, run_cell, tmp_path):
    name, old, new = EDITS[edit]
    assert old in source_of(name)
    edited = getattr(run_cell(source_of(name).replace(old, new)), name)
    model = edited(n_items=len(RAW_IDS), width=8)
    path = save(tmp_path / "x.safetensors", model)
    assert header_of(path)["custom_classes"] == [name]
    with pytest.raises(CheckpointError, match=f"holds a {name} that was defined or changed outside") as raised:
        load_checkpoint(path)
    assert f"load_checkpoint({str(path)!r}, model_class={name})" in str(raised.value)
    with pytest.raises(CheckpointError, match="you passed the unchanged class of models/"):
        load_checkpoint(path, model_class=MODELS[name])
    loaded = load_checkpoint(path, model_class=edited)
    assert type(loaded.model) is edited
    assert torch.equal(scores_of(loaded.model), scores_of(model))


REDEFINED = {
    "a function": ("SRGNN", "def take_step(states, step):\n    return states[:, 0]"),
    "a class": ("NARM", "class AdditiveAttention(AdditiveAttention):\n    gain = 2"),
}


@pytest.mark.parametrize("name, cell", REDEFINED.values(), ids=list(REDEFINED))
def test_what_an_unchanged_class_uses_may_be_redefined_in_the_notebook(name, cell, run_cell, tmp_path):
    notebook = run_cell(source_of(name))
    model = getattr(notebook, name)(n_items=len(RAW_IDS), width=8)
    run_cell("scale = embedding = 3")  # names of attributes, which are not these variables
    assert "custom_classes" not in header_of(save(tmp_path / "x.safetensors", model))
    run_cell(cell)
    assert header_of(save(tmp_path / "x.safetensors", model))["custom_classes"] == [name]


NEW_CLASS = """
from torch import nn
from models.base import SessionModel

class LastItem(SessionModel):
    def __init__(self, *, n_items, gain=2.0, **shared):
        super().__init__(n_items=n_items, width=4, **shared)
        self.gain = gain

    def forward(self, x):
        return self.gain * self.embed(x)
"""


def test_a_new_class_must_be_passed(run_cell, tmp_path):
    cls = run_cell(NEW_CLASS).LastItem
    model = cls(n_items=len(RAW_IDS), gain=3.0, score="dot")
    path = save(tmp_path / "x.safetensors", model)
    with pytest.raises(CheckpointError, match="holds a LastItem that was defined or changed outside of models/"):
        load_checkpoint(path)
    loaded = load_checkpoint(path, model_class=cls)
    assert loaded.model.arguments == {"n_items": 5, "gain": 3.0, "dropout": 0.0, "hidden_dropout": 0.0} | {
        "score": "dot",
        "scale": 12.0,
    }
    assert torch.equal(scores_of(loaded.model), scores_of(model))


def test_a_class_without_source_must_be_passed(run_cell, tmp_path):
    """As in a plain Python console, which does not store source lines."""
    cls = run_cell(source_of("GRU4REC"), remembered=False).GRU4REC
    path = save(tmp_path / "x.safetensors", cls(n_items=len(RAW_IDS), width=8))
    with pytest.raises(CheckpointError, match="model_class=GRU4REC"):
        load_checkpoint(path)
    assert type(load_checkpoint(path, model_class=cls).model) is cls


class Net(nn.Module):
    """A module that is not a SessionModel."""

    def __init__(self, n_items, width=4):
        super().__init__()
        self.items = nn.Embedding(n_items + 1, width, padding_idx=0)

    def forward(self, x):
        return self.items(x).cumsum(1)


def make_net(n_items):
    net = Net(n_items)
    return WrappedModule(net, net.items, score="dot")


def test_a_wrapped_module_is_rebuilt_by_a_function(tmp_path):
    model = make_net(len(RAW_IDS))
    path = save(tmp_path / "x.safetensors", model)
    assert header_of(path)["custom_classes"] == ["Net"]
    with pytest.raises(CheckpointError, match="holds a Net that was defined or changed outside of models/"):
        load_checkpoint(path)
    for make in (make_net, lambda n_items: make_net(n_items), functools.partial(make_net)):
        loaded = load_checkpoint(path, model_class=make)
        assert (loaded.model.name, loaded.model.arguments) == ("Net", {"n_items": 5})
        assert torch.equal(scores_of(loaded.model), scores_of(model))
    with pytest.raises(CheckpointError, match="does not fit this code"):
        load_checkpoint(path, model_class=lambda n_items: make_net(n_items + 1))


def test_all_classes_of_an_ensembles_members_must_be_passed(run_cell, tmp_path):
    name, old, new = EDITS["a method"]
    edited = getattr(run_cell(source_of(name).replace(old, new)), name)
    new = run_cell(NEW_CLASS).LastItem
    members = [edited(n_items=5, width=8), new(n_items=5), make_model(), edited(n_items=5, width=6)]
    model = Ensemble(members, [0.25] * 4)
    path = save(tmp_path / "x.safetensors", model)
    assert header_of(path)["custom_classes"] == ["LastItem", "NARM"]
    for classes, missing in (((), "LastItem"), ((edited,), "LastItem"), ((new,), "NARM")):
        with pytest.raises(CheckpointError, match=f"holds a {missing} that"):
            load_checkpoint(path, model_class=classes)
    loaded = load_checkpoint(path, model_class=[edited, new]).model
    assert [type(member) for member in loaded.members] == [type(member) for member in members]
    assert torch.equal(scores_of(loaded), scores_of(model))
