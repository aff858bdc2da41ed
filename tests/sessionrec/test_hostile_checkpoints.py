"""A checkpoint that does not fit is one sentence, quickly and in little memory, whatever its header says."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dataset.files import ROOT
from models import build_model
from models.Ensemble import MOST_MEMBERS, Ensemble
from process_data import Sessions, Vocabulary
from sessionrec.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    read_header,
    read_names,
    write_checkpoint,
)

N_ITEMS = 5
POPULARITY = np.array([0, 3, 1, 4, 1, 5])
ROWS = Sessions.from_lists([[1], [2, 3], [4, 5]], [2, 1, 1], users=[0, 1, 2], n_items=N_ITEMS)


def neural(name="GRU4REC", **arguments):
    torch.manual_seed(0)
    return build_model(name, n_items=N_ITEMS, width=4, **arguments)


def baseline(name):
    return build_model(name, n_items=N_ITEMS).fit(ROWS, POPULARITY)


def save(path, model, names=None, **options):
    header = {"model": model.name, "arguments": model.arguments, "mask_seen": True}
    vocabulary = Vocabulary(np.arange(10, 60, 10), names)
    write_checkpoint(path, Checkpoint(model, vocabulary, POPULARITY, header), **options)
    return path


def rewrite(path, tensors=None, **header):
    """The same file with some tensors and header entries changed."""
    save_file(load_file(path) | (tensors or {}), path, metadata={"header": json.dumps(read_header(path) | header)})


def assert_refused(path, *words):
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and len(message) < 700 + len(str(path))
    for word in words:
        assert word in message


ARGUMENTS = [
    ({"n_items": -1}, "its item ids do not fit its model of -1 items"),
    ({"n_items": 5.5}, "model of 5.5 items"),
    ({"n_items": "5"}, "model of '5' items"),
    ({"n_items": [5]}, "model of [5] items"),
    ({"n_items": None}, "model of None items"),
    ({"scale": "x"}, "scale='x': must be a number above 0"),
    ({"scale": 0}, "scale=0: must be a number above 0"),
    ({"layers": True}, "layers=True: must be a whole number"),
    ({"layers": 0}, "layers=0: must be a whole number from 1 to 100"),
    ({"layers": 10**6}, "layers=1000000: must be a whole number from 1 to 100"),
    ({"layers": 2}, "it lacks gru.bias_hh_l1"),
    ({"dropout": float("nan")}, "dropout=nan: must be a number from 0 to 1"),
    ({"dropout": 2}, "dropout=2: must be a number from 0 to 1"),
    ({"hidden_dropout": []}, "hidden_dropout=[]: must be a number"),
    ({"score": ["dot"]}, "score=['dot']: choose 'dot' or 'cosine'"),
    ({"width": 8}, "embedding.weight is float32 (6, 4), not float32 (6, 8)"),
    ({"width": 10**12}, "width=1000000000000: must be a whole number"),
    ({"hidden": 2**16}, "not float32"),
    ({"hidden": None}, "hidden=None: must be a whole number from 1 to 65536"),
    ({"name": "x"}, "does not fit this code"),
    ({"classes": {}}, "does not fit this code"),
]


@pytest.mark.parametrize(("arguments", "reason"), ARGUMENTS)
def test_an_argument_of_the_wrong_type_or_value(arguments, reason, tmp_path):
    path = save(tmp_path / "x.safetensors", neural())
    rewrite(path, arguments=read_header(path)["arguments"] | arguments)
    assert_refused(path, reason)


HEADERS = [
    ({"model": []}, "model=[]: must be text"),
    ({"model": "Ensemble"}, "an Ensemble takes n_items, members and weights"),
    ({"arguments": [1]}, "arguments=[1]: must be a table"),
    ({"arguments": {}}, "model of None items"),
    ({"mask_seen": 1}, "mask_seen=1: must be true or false"),
    ({"mask_seen": "false"}, "mask_seen='false': must be true or false"),
    ({"mask_seen": None}, "mask_seen=None: must be true or false"),
    ({"metrics": [1]}, "metrics=[1]: must be a table"),
    ({"recipe_values": {"fit": 3}}, "recipe_values.fit=3: must be a table"),
    ({"custom_classes": 5}, "custom_classes=5: must be a list"),
    ({"custom_classes": [5]}, "custom_classes[0]=5: must be text"),
    ({"members": "x"}, "members='x': must be a list"),
    ({"sha256": 3}, "sha256=3: must be text"),
    ({"format": True}, "has format True"),
    ({"format": -1}, "has format -1"),
    ({"format": 1.0}, "has format 1.0"),
    ({"junk": "x" * 2**22}, "has a header of 4,194,5"),
]


@pytest.mark.parametrize(("header", "reason"), HEADERS)
def test_a_header_of_the_wrong_type(header, reason, tmp_path):
    path = save(tmp_path / "x.safetensors", neural())
    rewrite(path, **header)
    assert_refused(path, reason)


IDS = "its item ids are not in ascending order, each once and none below 0"
COUNTS = "its popularity is not one count, of 0 or more, for the padding and each item"
TENSORS = [
    ({"item_ids": torch.tensor([20, 10, 30, 40, 50])}, IDS),
    ({"item_ids": torch.tensor([10, 10, 30, 40, 50])}, IDS),
    ({"item_ids": torch.tensor([-1, 10, 30, 40, 50])}, IDS),
    ({"item_ids": torch.tensor([10.5, 20, 30, 40, 50])}, "it lacks item_ids, a list of whole numbers"),
    ({"item_ids": torch.tensor(5)}, "it lacks item_ids, a list of whole numbers"),
    ({"item_ids": torch.tensor([], dtype=torch.int64)}, IDS),
    ({"item_ids": torch.arange(10).reshape(5, 2)}, "it lacks item_ids"),
    ({"popularity": torch.tensor([0, 3, 1, -4, 1, 5])}, COUNTS),
    ({"popularity": torch.tensor(3)}, "it lacks popularity, a list of whole numbers"),
    ({"popularity": torch.arange(5)}, COUNTS),
    ({"popularity": torch.rand(6)}, "it lacks popularity, a list of whole numbers"),
    ({"model.head.bias": torch.tensor(1.0)}, "head.bias is float32 (), not float32 (4,)"),
    ({"model.head.bias": torch.zeros(4, dtype=torch.int64)}, "head.bias is int64 (4,), not float32 (4,)"),
    ({"model.head.bias": torch.zeros(4, dtype=torch.complex64)}, "head.bias is complex64"),
    ({"model.embedding.weight": torch.zeros(6, 4, dtype=torch.int8)}, "embedding.weight is int8"),
    ({"scale.model.head.bias": torch.ones(4, 1)}, "model.head.bias is not one row of 8 bits for each"),
    ({"model.extra": torch.zeros(1)}, "it has extra, which the model does not have"),
]


@pytest.mark.parametrize(("tensors", "reason"), TENSORS)
def test_tensors_of_the_wrong_shape_type_or_value(tensors, reason, tmp_path):
    path = save(tmp_path / "x.safetensors", neural())
    rewrite(path, tensors)
    assert_refused(path, reason)


def test_names_are_saved_and_loaded(tmp_path):
    names = ("a", "=ü, \n", "", "b" * 5000, "\U0001f600\0")
    path = save(tmp_path / "x.safetensors", neural(), names=names, compact=True)
    assert load_checkpoint(path).vocabulary.names == names
    assert read_names(path) == dict(zip(range(10, 60, 10), names, strict=True))
    save(path, neural())
    assert load_checkpoint(path).vocabulary.names is None is read_names(path)
    assert not {"item_names", "item_name_ends"} & {*load_file(path)}


def text(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


NAMES = "its item names are not bytes and the end of each name"
WRONG_NAMES = [
    ({"item_name_ends": torch.tensor([1, 2, 3, 4, 6])}, NAMES),
    ({"item_name_ends": torch.tensor([1, 2, 3, 4, 4])}, NAMES),
    ({"item_name_ends": torch.tensor([1, 3, 2, 4, 5])}, NAMES),
    ({"item_name_ends": torch.tensor([-1, 2, 3, 4, 5])}, NAMES),
    ({"item_name_ends": torch.tensor([2**62, 2, 3, 4, 5])}, NAMES),
    ({"item_name_ends": torch.tensor([1.0, 2, 3, 4, 5])}, NAMES),
    ({"item_name_ends": torch.tensor([1, 2, 3, 4, 5], dtype=torch.int32)}, NAMES),
    ({"item_name_ends": torch.tensor([[1, 2, 3, 4, 5]])}, NAMES),
    ({"item_name_ends": torch.tensor(5)}, NAMES),
    ({"item_name_ends": torch.tensor([], dtype=torch.int64)}, NAMES),
    ({"item_name_ends": torch.tensor([1, 2, 3, 5])}, "4 names do not fit 5 items"),
    ({"item_name_ends": torch.tensor([1, 2, 3, 4, 5, 5])}, "6 names do not fit 5 items"),
    ({"item_names": text(b"abcd")}, NAMES),
    ({"item_names": text(b"abcdef")}, NAMES),
    ({"item_names": torch.arange(5)}, NAMES),
    ({"item_names": torch.tensor(3, dtype=torch.uint8)}, NAMES),
    ({"item_names": text(b"abca\x00")}, "two items have the name 'a'"),
    ({"item_names": text(b"abc\xff\xfe")}, "its item names are not UTF-8 text"),
    ({"item_names": text(b"abc\xc3\xbc")}, "its item names are not UTF-8 text"),  # a name ends within a character
    ({"item_names": text(b"abc\xed\xa0")}, "its item names are not UTF-8 text"),
]


@pytest.mark.parametrize(("tensors", "reason"), WRONG_NAMES)
def test_names_that_do_not_fit(tensors, reason, tmp_path):
    path = save(tmp_path / "x.safetensors", neural(), names=[*"abcde"])
    rewrite(path, tensors)
    assert_refused(path, reason)
    with pytest.raises(CheckpointError):
        read_names(path)


def test_one_tensor_of_names_without_the_other(tmp_path):
    for missing in ("item_names", "item_name_ends"):
        path = save(tmp_path / "x.safetensors", neural(), names=[*"abcde"])
        tensors = load_file(path)
        del tensors[missing]
        save_file(tensors, path, metadata={"header": json.dumps(read_header(path))})
        assert_refused(path, NAMES)


def test_scales_of_another_shape_are_not_multiplied_out(tmp_path):
    """A column of bytes times a row of scales would be a huge matrix."""
    path = save(tmp_path / "x.safetensors", neural(), compact=True)
    for scale in (torch.ones(1, 6), torch.ones(6), torch.ones(6, 1, dtype=torch.int8), torch.ones(())):
        rewrite(path, {"scale.model.embedding.weight": scale})
        assert_refused(path, "model.embedding.weight is not one row of 8 bits for each of its scales")


OF_BASELINES = {
    "occurrences that are too few": ("Popularity", {"occurrences": torch.ones(2, dtype=torch.int64)}),
    "occurrences as one number": ("Popularity", {"occurrences": torch.tensor(2)}),
    "rows that are too few": (
        "CoOccurrence",
        {
            "pairs_offsets": torch.tensor([0, 1]),
            "pairs_items": torch.tensor([1], dtype=torch.int32),
            "pairs_values": torch.ones(1),
        },
    ),
    "neighbours that are too few": (
        "RandomWalk",
        {
            "neighbours_offsets": torch.tensor([0]),
            "neighbours_items": torch.zeros(0, dtype=torch.int32),
            "neighbours_values": torch.zeros(0),
        },
    ),
    "a session of a thousand items": (
        "STAN",
        {"sessions_offsets": torch.tensor([0, 1000]), "sessions_items": torch.ones(1000, dtype=torch.int32)},
    ),
    "items as one number": ("SKNN", {"sessions_items": torch.tensor(1, dtype=torch.int32)}),
    "offsets as fractions": ("SKNN", {"sessions_offsets": torch.tensor([0.0, 2.0])}),
    "no ranks": ("SLIST", {"popularity_rank": torch.zeros(0, dtype=torch.int32)}),
}


@pytest.mark.parametrize("case", OF_BASELINES)
def test_matrices_that_would_break_later(case, tmp_path):
    name, tensors = OF_BASELINES[case]
    path = save(tmp_path / "x.safetensors", baseline(name))
    load_checkpoint(path)
    rewrite(path, {f"model.{key}": value for key, value in tensors.items()})
    assert_refused(path, next(iter(tensors)))


MEMBER = {"model": "GRU4REC", "arguments": {"width": 4}}
NESTED = {"model": "Ensemble", "arguments": {"members": [MEMBER], "weights": [1.0]}}
MEMBERS = [
    ({"members": 5}, "members=5: must be a list"),
    ({"members": [5]}, "members[0]=5: must be a table"),
    ({"members": [{}]}, "members[0].model=None: must be text"),
    ({"members": [{"model": "GRU4REC"}]}, "members[0].arguments=None: must be a table"),
    ({"members": [NESTED]}, "members[0] is an Ensemble"),
    ({"members": [MEMBER] * (MOST_MEMBERS + 1)}, f"an Ensemble has at most {MOST_MEMBERS}"),
    ({"members": []}, "0 members with 2 weights"),
    ({"members": [MEMBER]}, "1 members with 2 weights"),
    ({"members": [MEMBER, {"model": "SASRec", "arguments": {"layers": 100}}]}, "it lacks blocks.0"),
    ({"members": [{"model": "GRU4REC", "arguments": {"hidden": 60_000}}]}, "not float32"),
    ({"weights": 1}, "weights=1: must be a list"),
    ({"weights": ["x", 1]}, "weights[0]='x': must be a number"),
    ({"weights": [float("nan"), 1.0]}, "weights[0]=nan: must be a number"),
    ({"weights": [1.5, -0.5]}, "must be positive and add up to 1"),
    ({"extra": 1}, "an Ensemble takes n_items, members and weights"),
    ({"n_items": 10**9}, "model of 1000000000 items"),
]


@pytest.mark.parametrize(("arguments", "reason"), MEMBERS)
def test_an_ensemble_that_is_not_what_it_says(arguments, reason, tmp_path):
    path = save(tmp_path / "x.safetensors", Ensemble([neural(), baseline("SKNN")], [0.5, 0.5]))
    load_checkpoint(path)
    rewrite(path, arguments=read_header(path)["arguments"] | arguments)
    assert_refused(path, reason)


def test_a_small_file_that_declares_a_huge_ensemble_is_refused_at_once(tmp_path):
    """Under a limit of memory that its declared models would exceed a hundred times."""
    path = save(tmp_path / "x.safetensors", neural())
    wide = {"model": "SRGNN", "arguments": {"width": 2**16}}
    header = {"n_items": N_ITEMS, "members": [wide] * MOST_MEMBERS, "weights": [1 / MOST_MEMBERS] * MOST_MEMBERS}
    rewrite(path, {"model.members.0.embedding.weight": torch.zeros(6, 4)}, model="Ensemble", arguments=header)
    tensors = {key: value for key, value in load_file(path).items() if not key.startswith("model.h")}
    tensors = {k: v for k, v in tensors.items() if k in ("item_ids", "popularity") or ".members." in k}
    save_file(tensors, path, metadata={"header": json.dumps(read_header(path))})
    assert path.stat().st_size < 20_000
    code = f"""
import resource, sys, time
from sessionrec.checkpoint import CheckpointError, load_checkpoint
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    load_checkpoint({str(path)!r})
except CheckpointError as error:
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024, time.process_time() - started, error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    mebibytes, seconds, sentence = run.stdout.split(maxsplit=2)
    assert int(mebibytes) < 200 and float(seconds) < 5 and "does not fit this code" in sentence


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is no regular file"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_loading_does_not_change_the_random_numbers_to_come(tmp_path):
    path = save(tmp_path / "x.safetensors", Ensemble([neural(), baseline("SKNN")], [0.5, 0.5]))
    torch.manual_seed(3)
    build_model("GRU4REC", n_items=N_ITEMS, width=4)
    want = torch.rand(2)
    torch.manual_seed(3)
    load_checkpoint(path)
    assert torch.equal(torch.rand(2), want)
