"""Outputs replace regular files only, never an input, and every error names its file."""

import errno
import os
import stat

import pytest
import torch
from planted import write_planted

import recommend
import train
from dataset.files import check_outputs, replacing
from models import build_model
from process_data import Vocabulary
from sessionrec.checkpoint import Checkpoint, write_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and devices are POSIX")


def write(path, text="new"):
    with replacing(path) as part:
        part.write_text(text)


def make_pipe(path):
    os.mkfifo(path)


def link_to(target):
    return lambda path: path.symlink_to(target)


REFUSED = {
    "a pipe": (make_pipe, "is a device, pipe or socket"),
    "a link to a device": (link_to("/dev/null"), "is a device, pipe or socket"),
    "a link to nothing": (link_to("missing"), "is a link to a file that does not exist"),
    "a link to itself": (link_to("x.csv"), "cannot be written"),
    "a link to a folder": (link_to("."), "is a folder"),
    "a folder": (lambda path: path.mkdir(), "is a folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_regular_file_is_not_replaced(case, tmp_path):
    path, (make, reason) = tmp_path / "x.csv", REFUSED[case]
    make(path)
    kind = stat.S_IFMT(path.lstat().st_mode)
    for attempt in (write, lambda path: check_outputs([path])):
        with pytest.raises(OSError, match=reason) as raised:
            attempt(path)
        assert str(path) in str(raised.value)
    assert stat.S_IFMT(path.lstat().st_mode) == kind and os.listdir(tmp_path) == ["x.csv"]


def test_a_device_stays_one():
    with pytest.raises(OSError, match="/dev/null is a device, pipe or socket; name a file"):
        write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.csv", tmp_path / "x.csv"
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink() and target.read_text() == "new" and os.listdir(tmp_path / "folder") == ["target.csv"]


def test_an_error_without_a_file_gets_its_name(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(OSError, match=r"x\.csv cannot be written \(No space left on device\)"), replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="other.csv"), replacing(path):  # this one is about another file
        open(tmp_path / "other.csv")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.csv"]


def test_an_output_is_no_input_and_no_other_output(tmp_path):
    a, b, link, hard = (tmp_path / name for name in ("a.csv", "b.csv", "link.csv", "hard.csv"))
    a.write_text("data")
    link.symlink_to(a)
    os.link(a, hard)
    check_outputs([b, tmp_path / "c.csv"], [a])
    for output in (a, link, hard, tmp_path / "." / "a.csv"):
        with pytest.raises(ValueError, match="would replace an input file"):
            check_outputs([output], [a])
    with pytest.raises(ValueError, match="would replace an input file"):
        check_outputs([b], [tmp_path / "x" / ".." / "b.csv"])
    with pytest.raises(ValueError, match="is named for two outputs"):
        check_outputs([b, tmp_path / "." / "b.csv"])


@pytest.fixture
def folder(tmp_path):
    return write_planted(tmp_path / "Planted")


def run_train(folder, output, *options):
    arguments = ["--dataset", folder, "--model", "Popularity", "--output", output, *options]
    return train.main([*map(str, arguments), "--device", "cpu"])


@pytest.mark.parametrize("name", ["train_sessions.csv", "test_sessions.csv", "items.csv"])
def test_the_metrics_do_not_replace_the_data(name, folder, tmp_path, capsys):
    (folder / "items.csv").write_text("id,item\n" + "".join(f"{i},name {i}\n" for i in range(1000)))
    before = (folder / name).read_bytes()
    assert run_train(folder, tmp_path / "x.safetensors", "--json", folder / name) == 1
    assert "would replace an input file" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before and os.listdir(tmp_path) == ["Planted"]


def test_an_output_that_cannot_be_written_is_said_before_training(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "run_recipe", None)
    for name in ("pipe.safetensors", "loop.safetensors"):
        path = tmp_path / name
        make_pipe(path) if "pipe" in name else path.symlink_to(path)
        assert run_train(folder, path) == 1
        error = capsys.readouterr().err
        assert str(path) in error and error.count("\n") == 1


def test_a_run_deletes_no_file_of_others(folder, tmp_path):
    names = ["x.state.safetensors", "x.state.0.safetensors", "x.other.safetensors", "x.state.a.safetensors"]
    for name in names[1:]:
        (tmp_path / name).write_text("mine")
    assert run_train(folder, tmp_path / "x.safetensors") == 0
    assert sorted(os.listdir(tmp_path)) == sorted(["Planted", "x.safetensors", *names[1:]])


def test_a_neural_run_does_not_write_its_state_over_a_file_of_others(folder, tmp_path, capsys):
    state = tmp_path / "x.state.safetensors"
    state.write_text("mine")
    assert run_train(folder, tmp_path / "x.safetensors", "--model", "GRU4REC", "--epochs", 1) == 1
    assert "x.state.safetensors is no checkpoint" in capsys.readouterr().err
    assert state.read_text() == "mine"


def test_recommendations_do_not_replace_what_they_come_from(folder, tmp_path, capsys):
    model = build_model("Popularity", n_items=40)
    header = {"model": model.name, "arguments": model.arguments, "mask_seen": True}
    checkpoint = Checkpoint(model, Vocabulary(torch.arange(0, 400, 10).numpy()), torch.ones(41).long().numpy(), header)
    saved, items, mine = tmp_path / "x.safetensors", tmp_path / "items.csv", folder / "mine.csv"
    write_checkpoint(saved, checkpoint)
    items.write_text("id,item\n")
    mine.write_text("session\n[10]\n")
    os.link(mine, tmp_path / "hard.csv")
    (tmp_path / "link.csv").symlink_to(mine)
    inputs = [saved, items, mine, tmp_path / "hard.csv", tmp_path / "link.csv"]
    inputs += [folder / "train_sessions.csv", folder / "test_sessions.csv"]
    before = [path.read_bytes() for path in inputs]
    for output in inputs:
        arguments = ["--checkpoint", saved, "--sessions", mine, "--items", items, "--output", output]
        assert recommend.main([*map(str, arguments)]) == 1
        assert "would replace an input file" in capsys.readouterr().err
    assert [path.read_bytes() for path in inputs] == before
    arguments = ["--checkpoint", saved, "--sessions", mine, "--output", folder / "out.csv"]
    assert recommend.main([*map(str, arguments)]) == 0
