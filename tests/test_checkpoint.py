"""Checkpoints: one file gives the model back; whatever is no checkpoint is refused in a sentence."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import checkpoint
from checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_tensors
from models import NEURAL_MODELS, build_model
from process_data import Sessions, Vocabulary
from scoring import score_sessions

RAW_IDS = np.array([0, 7, 40, 41, 999_999_999_999])
POPULARITY = np.array([0, 3, 1, 4, 1, 5])
HEADER = {"dataset": "Demo", "seed": 7, "metrics": {"valid": {"HR@20": 0.5}}, "mask_seen": True}
SESSIONS = Sessions.from_lists([[1, 2], [5], [3, 4, 3], []])


def make_model(name="GRU4REC", **arguments):
    torch.manual_seed(2)
    return build_model(name, n_items=len(RAW_IDS), width=8, **arguments)


def save(path, model=None, **options):
    save_checkpoint(path, model or make_model(), Vocabulary(RAW_IDS), POPULARITY, HEADER, **options)
    return path


def scores_of(model):
    parts = score_sessions(model, SESSIONS, POPULARITY, mask_seen=False)
    return torch.cat([scores for _, scores in parts])


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


def test_half_storage_is_smaller_and_computes_in_float32(tmp_path):
    torch.manual_seed(0)
    model = build_model("GRUwATT", n_items=len(RAW_IDS), width=64)
    whole = save(tmp_path / "whole.safetensors", model)
    half = save(tmp_path / "half.safetensors", model, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded = load_checkpoint(half)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert next(model.parameters()).dtype == torch.float32  # saving changes nothing
    torch.testing.assert_close(scores_of(loaded.model), scores_of(model), atol=1e-2, rtol=1e-2)
    assert loaded.popularity.tolist() == POPULARITY.tolist()


def test_compact_storage_keeps_embeddings_in_eight_bits(tmp_path):
    torch.manual_seed(0)
    model = build_model("GRUwATT", n_items=len(RAW_IDS), width=64)
    with torch.no_grad():
        model.embedding.weight[2] = 0  # an item of no weight at all
        model.embedding.weight[3] *= 1e3  # each row has its own scale
    path = save(tmp_path / "compact.safetensors", model, compact=True)
    stored, header = checkpoint.read_tensors(path)
    assert header["format"] == 2  # what reads format 1 alone would take the whole numbers for the weights
    assert stored["model.embedding.weight"].dtype == torch.int8
    assert stored["model.head.weight"].dtype == torch.float16
    loaded = load_checkpoint(path).model
    rows, want = loaded.embedding.weight, model.embedding.weight
    assert rows.dtype == torch.float32
    # Half a step of 1/127 of the largest, and the rounding of the scale to half precision.
    assert ((rows - want).abs() <= want.abs().amax(1, keepdim=True) * (0.5 / 127 + 1e-3)).all()
    assert not rows[0].any() and not rows[2].any()
    assert torch.equal(loaded.head.weight, model.head.weight.half().float())


@pytest.mark.parametrize("error", [OSError, SafetensorError])  # the library's own is what it raises
def test_a_full_disk_leaves_the_file_that_was_there(error, tmp_path, monkeypatch):
    path = save(tmp_path / "x.safetensors")
    before = path.read_bytes()

    def fill_the_disk(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(before[:50])
        raise error("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, make_model(hidden=4))
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "new.safetensors")
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_an_overwritten_file_is_replaced_whole(tmp_path):
    path = save(tmp_path / "x.safetensors")
    save(path, make_model(hidden=4))
    assert load_checkpoint(path).model.arguments["hidden"] == 4
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_file_can_be_read_by_whom_the_umask_allows(tmp_path):
    before = os.umask(0o022)
    try:
        path = save(tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# --------------------------------------------------------------------------------------------------
# What is no checkpoint


def rewrite(path, *, header=None, drop=(), **tensors):
    """The same file with some tensors changed or dropped, and some of its header."""
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
    "unknown model": (
        lambda p: rewrite(p, header={"model": "BERT4Rec"}),
        "no model 'BERT4Rec'; there are GRU4REC",
    ),
    "unknown argument": (
        lambda p: rewrite(p, header={"arguments": {"n_items": 5, "heads": 2}}),
        "GRU4REC takes no heads",
    ),
    "other width": (
        lambda p: rewrite(p, header={"arguments": {"n_items": 5, "width": 9}}),
        "does not fit this code",
    ),
    "weights missing": (lambda p: rewrite(p, drop=["model.head.bias"]), "does not fit this code"),
    "weights too many": (
        lambda p: rewrite(p, **{"model.head.extra": torch.zeros(1)}),
        "does not fit this code",
    ),
    "ids missing": (lambda p: rewrite(p, drop=["item_ids"]), "does not fit this code"),
    "too few ids": (
        lambda p: rewrite(p, item_ids=torch.arange(4)),
        "its item ids do not fit its model of 5 items",
    ),
    "an id twice": (
        lambda p: rewrite(p, item_ids=torch.tensor([1, 2, 3, 4, 4])),
        "its item ids do not fit its model of 5 items",
    ),
    "too many counts": (
        lambda p: rewrite(p, popularity=torch.zeros(7)),
        "its item ids do not fit its model of 5 items",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_what_is_no_checkpoint_is_refused_by_name(spoiled, tmp_path):
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


def test_a_pickle_in_disguise_is_refused_and_not_run(tmp_path):
    path, proof = tmp_path / "x.safetensors", tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(proof),)

    torch.save({"model": Payload()}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint") as raised:
        load_checkpoint(path)
    assert str(path) in str(raised.value)
    assert not proof.exists()
