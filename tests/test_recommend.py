"""recommend.py: the files that it writes, its reports and its errors."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from dataset.files import ROOT
from models import build_model
from models.base import SessionModel
from process_data import Vocabulary, load_dataset, read_sessions
from recommend import main
from sessionrec.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from sessionrec.recipes import load_recipe
from sessionrec.recommend import evaluate, recommend
from sessionrec.run import Split, run_recipe

DEMO = ROOT / "dataset" / "Demo"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{"whole": ..., "compact": ...}: one model after two epochs on Demo, saved in both ways."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = load_recipe("best", "GRU4REC", "demo").with_changes({"fit": {"epochs": 2}})
    run = run_recipe(recipe, load_dataset(DEMO), split=Split(by="none"))
    paths = {storage: folder / f"{storage}.safetensors" for storage in ("whole", "compact")}
    for storage, path in paths.items():
        run.save(path, compact=storage == "compact")
    return paths


def read_rows(path):
    """Rows of a result file as {column: list}, read without `read_sessions`."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: json.loads(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def test_command_writes_one_row_per_session_in_order(trained, tmp_path, capsys):
    lines = (DEMO / "test_sessions.csv").read_text().splitlines()
    source, output = tmp_path / "in.csv", tmp_path / "out" / "x.csv"
    # Duplicate sessions are kept, as are sessions with some or only unknown items.
    body = [*lines[1:41], lines[40], *lines[1:21], "[999999],1", '"[999999, 1505]",1']
    source.write_text("\n".join([lines[0], *body]) + "\n")
    arguments = ["--checkpoint", str(trained["whole"]), "--sessions", str(source), "--output", str(output)]
    assert main([*arguments, "--k", "7"]) == 0
    assert capsys.readouterr().out == (
        f"{output}: 63 sessions: 61 known, 1 partly known, 1 not known at all (popular items instead)\n"
    )
    raw = output.read_bytes()
    assert raw.startswith(b"session,predict\n")
    assert raw.endswith(b"\n")
    assert b"\r" not in raw
    rows = read_rows(output)
    assert [row["session"] for row in rows] == [json.loads(next(csv.reader([line]))[0]) for line in body]
    assert [len({*row["predict"]} - {*row["session"]}) for row in rows] == [7] * 63
    assert [row["predict"] for row in rows[:20]] == [row["predict"] for row in rows[41:61]]
    assert rows[39] == rows[40]
    assert rows[62]["predict"] == rows[0]["predict"]  # this is [1505] too, because 999999 is unknown
    sessions = read_sessions(output)
    assert [sessions[row] for row in range(63)] == [row["session"] for row in rows]
    found = recommend(trained["whole"], read_sessions(source, labels=False), 7)
    assert [row["predict"] for row in rows] == found.items.tolist()

    assert main([*arguments, "--scores"]) == 0  # k is 20 by default
    rows = read_rows(output)
    assert {len(row["predict"]) for row in rows} == {len(row["scores"]) for row in rows} == {20}
    assert list(rows[0]) == ["session", "predict", "scores"]
    for row in rows:
        assert sorted(row["scores"], reverse=True) == row["scores"]
    found = recommend(trained["whole"], read_sessions(source, labels=False), 20)
    np.testing.assert_allclose([row["scores"] for row in rows], found.scores, atol=1e-4)


def test_evaluation_agrees_with_the_written_lists(trained, tmp_path, capsys):
    test, output = DEMO / "test_sessions.csv", tmp_path / "x.csv"
    checkpoint = ["--checkpoint", str(trained["whole"])]
    assert main([*checkpoint, "--sessions", str(test), "--output", str(output)]) == 0
    places = []
    for row, truth in zip(read_rows(output), read_rows(test), strict=True):
        predicted, label = row["predict"], truth["label"]
        places.append(predicted.index(label) + 1 if label in predicted else None)
    hits = [place for place in places if place]
    assert len(places) == 600
    assert len(hits) > 60  # a random model has about 15 hits
    capsys.readouterr()
    assert main([*checkpoint, "--evaluate", str(test), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) == 1
    report = json.loads(out)
    assert report["HR@20"] == pytest.approx(len(hits) / 600)
    assert report["HR@5"] == pytest.approx(sum(place <= 5 for place in hits) / 600)
    assert report["MRR@20"] == pytest.approx(sum(1 / place for place in hits) / 600)
    assert report["accuracy"] == pytest.approx(sum(place == 1 for place in hits) / 600)
    assert (report["model"], report["queries"]) == ("GRU4REC", 600)
    assert report["known"] + report["partly_known"] + report["unknown"] == 600

    assert main([*checkpoint, "--evaluate", str(test)]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert shown["HR@20"] == f"{report['HR@20']:.4f}"
    assert shown["queries"] == "600"


def test_the_option_for_seen_items(trained, tmp_path):
    output = tmp_path / "x.csv"
    arguments = ["--checkpoint", str(trained["whole"]), "--sessions", str(DEMO / "test_sessions.csv")]
    repeats = {}
    for option in ("--mask-seen", "--no-mask-seen"):
        assert main([*arguments, "--output", str(output), option]) == 0
        repeats[option] = sum(len({*row["session"]} & {*row["predict"]}) for row in read_rows(output))
    assert repeats["--mask-seen"] == 0 < repeats["--no-mask-seen"]


def test_compact_storage_does_not_change_metrics(trained):
    sessions = read_sessions(DEMO / "test_sessions.csv")
    whole, small = (evaluate(trained[name], sessions).metrics for name in ("whole", "compact"))
    assert whole["MRR@20"] > 0.05
    for name, value in whole.items():
        assert small[name] == pytest.approx(value, abs=0.005), name
    found = [recommend(trained[name], sessions).items for name in ("whole", "compact")]
    assert (found[0][:, 0] == found[1][:, 0]).mean() > 0.95


def untrained(path):
    """A checkpoint with random weights and the items 5, 8, 11, ..., 302."""
    torch.manual_seed(4)
    model = build_model("GRU4REC", n_items=100, width=8)
    header = {"model": model.name, "arguments": model.arguments, "mask_seen": True}
    write_checkpoint(path, Checkpoint(model, Vocabulary(3 * np.arange(100) + 5), np.arange(101), header))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def diverge(path):
    checkpoint = load_checkpoint(path)
    checkpoint.model.head.bias.data.fill_(torch.nan)
    write_checkpoint(path, checkpoint)


FAILURES = {
    "no checkpoint": (lambda c, s: c.unlink(), [], ["x.safetensors does not exist"]),
    "cut off": (lambda c, s: cut_off(c), [], ["x.safetensors", "cut off"]),
    "a CSV as checkpoint": (lambda c, s: c.write_bytes(s.read_bytes()), [], ["x.safetensors"]),
    "diverged": (lambda c, s: diverge(c), [], ["NaN or infinity"]),
    "no sessions": (lambda c, s: s.unlink(), [], ["in.csv", "cannot be read"]),
    "sessions empty": (lambda c, s: s.write_bytes(b""), [], ["in.csv", "is empty"]),
    "no list": (lambda c, s: s.write_text("session\n[1]\n7\n[2]\n"), [], ["in.csv, line 3", "'7'"]),
    "code": (
        lambda c, s: s.write_text("session\n[__import__('os')]\n"),
        [],
        ["in.csv, line 2", "which is not an item id"],
    ),
    "other column": (lambda c, s: s.write_text("sessions\n[1]\n"), [], ["line 1", "no column `session`"]),
    "k too small": (lambda c, s: None, ["--k", "0"], ["k=0", "at least 1"]),
    "no such device": (lambda c, s: None, ["--device", "tpu"], ["tpu", "not available"]),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_reported_in_one_line_and_keeps_the_output(failure, tmp_path, capsys):
    spoil, options, words = FAILURES[failure]
    checkpoint, source, output = (tmp_path / name for name in ("x.safetensors", "in.csv", "out.csv"))
    untrained(checkpoint)
    source.write_text('session\n[5]\n"[8, 11]"\n')
    arguments = ["--checkpoint", str(checkpoint), "--sessions", str(source), "--output", str(output)]
    assert main(arguments) == 0  # the inputs are valid before the change
    before = output.read_bytes()
    spoil(checkpoint, source)
    capsys.readouterr()
    assert main([*arguments, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    # The message is the last line. Only a progress bar may come before it.
    *bar, sentence = err.splitlines()
    assert all(line.startswith("Recommending") or not line for line in bar)
    assert sentence.startswith("recommend.py: ")
    for word in words:
        assert word in sentence
    assert output.read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_a_k_above_the_catalogue_writes_all_that_is_left(tmp_path, capsys):
    """The first session's five items are left out of its list, and the second gets the popular items."""
    checkpoint, source, output = (tmp_path / name for name in ("x.safetensors", "in.csv", "out.csv"))
    untrained(checkpoint)
    known = load_checkpoint(checkpoint).vocabulary.item_ids.tolist()
    assert 10**6 not in known
    source.write_text(f'session\n"{known[:5]}"\n[1000000]\n')
    arguments = ["--checkpoint", str(checkpoint), "--sessions", str(source), "--output", str(output)]
    assert main([*arguments, "--k", "5000", "--mask-seen", "--scores"]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    lists, scores = ([json.loads(row[name]) for row in rows] for name in ("predict", "scores"))
    assert [len(row) for row in lists] == [len(row) for row in scores] == [len(known) - 5, len(known)]
    assert {*lists[0]} == {*known[5:]} and {*lists[1]} == {*known}
    assert capsys.readouterr().out.endswith("; 2 with fewer than 5000 items, because there are no more to recommend\n")


def test_an_output_that_cannot_be_written_is_named(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ["--checkpoint", str(trained["whole"]), "--sessions", str(DEMO / "test_sessions.csv")]
    for output in (tmp_path / "file" / "x.csv", tmp_path):
        assert main([*arguments, "--output", str(output)]) == 1
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert sentence.startswith("recommend.py: ")
        assert str(tmp_path) in sentence
    assert (tmp_path / "file").read_text() == "in the way"
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_of_other_data_gives_a_warning(trained, tmp_path, capsys):
    for name in ("train_sessions.csv", "test_sessions.csv"):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    arguments = ["--checkpoint", str(trained["whole"]), "--evaluate", str(tmp_path / "test_sessions.csv")]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""  # no warning for the same data in another folder
    with open(tmp_path / "train_sessions.csv", "a") as file:
        file.write("[7],9\n")
    assert main(arguments) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "was trained on another dataset (Demo) than the one in" in warning and "train one on" in warning


def test_evaluation_without_labels_names_the_column(trained, tmp_path, capsys):
    source = tmp_path / "in.csv"
    source.write_text("session\n[5]\n")
    assert main(["--checkpoint", str(trained["whole"]), "--evaluate", str(source), "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"recommend.py: {source}, line 1: has no column `label`")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sessions", "in.csv"], "needs --output"),
        ([], "--sessions --evaluate is required"),
        (["--sessions", "in.csv", "--output", "x.csv", "--evaluate", "in.csv"], "not allowed with"),
        (["--sessions", "in.csv", "--output", "x.csv", "--k", "many"], "invalid int value"),
        (["--evaluate", "in.csv", "--items", "n.csv"], "--items, --columns, --time-unit and --gap go with --sessions"),
        (["--evaluate", "in.csv", "--gap", "3"], "--items, --columns, --time-unit and --gap go with --sessions"),
    ],
)
def test_wrong_arguments_are_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--checkpoint", "x.safetensors", *arguments])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_as_a_process(trained, tmp_path):
    """Run from another folder: the exit code, and one line instead of a traceback."""

    def run(*arguments):
        command = [sys.executable, str(ROOT / "recommend.py"), "--checkpoint", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "in.csv").write_text("session\n[1505]\n")
    done = run(str(trained["whole"]), "--sessions", "in.csv", "--output", "x.csv", "--k", "3")
    assert done.returncode == 0
    assert done.stdout.startswith("x.csv: 1 sessions: 1 known")
    assert len(read_rows(tmp_path / "x.csv")[0]["predict"]) == 3
    done = run("missing.safetensors", "--sessions", "in.csv", "--output", "x.csv")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("recommend.py: missing.safetensors does not exist")
    assert len(done.stderr.splitlines()) == 1


class Unregistered(SessionModel):
    """A model of the user's own."""

    def forward(self, x):
        return self.embed(x)


@pytest.mark.parametrize("option", ["--sessions", "--evaluate"])
def test_a_model_of_ones_own_is_referred_to_python(option, tmp_path, capsys):
    path, output = tmp_path / "own.safetensors", tmp_path / "x.csv"
    model = Unregistered(n_items=3, width=4)
    header = {"model": "Unregistered", "arguments": model.arguments, "mask_seen": False}
    write_checkpoint(path, Checkpoint(model, Vocabulary([1, 2, 3]), np.zeros(4, int), header))
    arguments = ["--checkpoint", str(path), option, str(DEMO / "test_sessions.csv")]
    assert main([*arguments, *(["--output", str(output)] if option == "--sessions" else [])]) == 1
    error = capsys.readouterr().err
    assert f"load_checkpoint({str(path)!r}, model_class=Unregistered)" in error
    call = "recommend" if option == "--sessions" else "evaluate"
    assert error.endswith(
        f"; the command line cannot pass a class, so call {call} from Python (docs/adding_a_model.md)\n"
    )
    assert not output.exists()
