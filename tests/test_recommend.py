"""Recommending: the right items in the right order, files as promised, and errors in a sentence."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import scoring
from checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from models import NEURAL_MODELS, build_model
from models.base import SessionModel
from process_data import ROOT, DataError, Sessions, Vocabulary, load_dataset, read_sessions
from recommend import evaluate, main, recommend, write_recommendations
from train import train_model

DEMO = ROOT / "dataset" / "Demo"


class Table(SessionModel):
    """Scores read off a table: after item i, item j has table[i - 1][j - 1]."""

    def __init__(self, table):
        n = len(table)
        super().__init__(n_items=n, width=n, dropout=0.0, hidden_dropout=0.0, score="dot", scale=1.0)
        self.table = torch.tensor([[0] * n, *table], dtype=torch.float)
        with torch.no_grad():
            self.embedding.weight[1:] = torch.eye(n)

    def forward(self, x):
        return self.table[x]


#        0  7 40 41 90
TABLE = [
    [9, 1, 2, 3, 4],  # after 0
    [5, 9, 1, 2, 3],  # after 7
    [1, 2, 9, 8, 7],  # after 40
    [6, 6, 2, 9, 6],  # after 41: three alike
    [2, 4, 6, 8, 9],  # after 90
]
BY_POPULARITY = [90, 7, 0, 40, 41]  # 9, 5, 3, 3, 0 times: of equals the lower id first


def hand_made(mask_seen=True):
    """A checkpoint whose every recommendation can be read off TABLE."""
    popularity = np.array([0, 3, 5, 3, 0, 9])
    return Checkpoint(
        Table(TABLE), Vocabulary(np.array([0, 7, 40, 41, 90])), popularity, {"mask_seen": mask_seen}
    )


def items_for(*sessions, k=2, checkpoint=None, **options):
    return recommend(checkpoint or hand_made(), list(sessions), k, **options).items.tolist()


# --------------------------------------------------------------------------------------------------
# recommend()


def test_recommendations_by_hand():
    found = recommend(hand_made(), [[0], [7, 40], [40, 7], [90]], k=3)
    assert found.items.tolist() == [[90, 41, 40], [41, 90, 0], [0, 90, 41], [41, 40, 7]]
    assert found.scores.tolist() == [[4, 3, 2], [8, 7, 1], [5, 3, 2], [8, 6, 4]]
    assert (found.items.dtype, found.scores.dtype) == (np.int64, np.float32)


def test_seen_items_come_back_only_where_the_switch_says_so():
    assert items_for([7, 40], mask_seen=False) == [[40, 41]]
    assert items_for([7, 40], mask_seen=True) == [[41, 90]]
    # Without the switch, what the checkpoint's training data did.
    assert items_for([7, 40]) == [[41, 90]]
    assert items_for([7, 40], checkpoint=hand_made(mask_seen=False)) == [[40, 41]]
    assert items_for([7, 40], checkpoint=hand_made(mask_seen=False), mask_seen=True) == [[41, 90]]


def test_a_partly_known_session_counts_by_what_is_known():
    assert items_for([7, 40]) == items_for([7, 8, 40]) == items_for([99, 7, 40, 39, 10**17])
    # The last known item decides, not the last item.
    assert items_for([40, 7, 41000]) == items_for([40, 7]) != items_for([7, 40])


def test_a_session_of_which_nothing_is_known_gets_popular_items():
    assert items_for([8], [1, 2, 3], [], k=5) == [BY_POPULARITY] * 3
    assert items_for([8], k=5, mask_seen=False) == [BY_POPULARITY]


def test_how_much_was_known_is_counted_and_said():
    found = recommend(hand_made(), [[0], [7, 8], [8, 9], [40, 7], [41, 90, 1], [90]], k=1)
    assert (found.known, found.partly_known, found.unknown) == (3, 2, 1)
    assert str(found) == ("6 sessions: 3 known, 2 partly known, 1 not known at all (popular items instead)")
    assert recommend(hand_made(), [[], [0]], k=1).unknown == 1


def test_lists_and_sessions_and_arrays_are_all_taken():
    lists = [[0], [7, 8, 40], [8]]
    want = items_for(*lists)
    for sessions in (Sessions.from_lists(lists), [np.array(s) for s in lists], tuple(map(tuple, lists))):
        assert recommend(hand_made(), sessions, 2).items.tolist() == want
    # Labels, where there are any, do not matter.
    assert recommend(hand_made(), Sessions.from_lists(lists, [1, 1, 1]), 2).items.tolist() == want


def test_no_session_is_no_error():
    for nothing in ([], Sessions.from_lists([])):
        found = recommend(hand_made(), nothing, 3)
        assert found.items.shape == found.scores.shape == (0, 3)
        assert str(found).startswith("0 sessions")


@pytest.mark.parametrize("wrong", [[[-1]], [[1.5]], [["7"]], [[2**63]]])
def test_what_is_no_id_is_refused(wrong):
    with pytest.raises(DataError, match="non-negative integers"):
        recommend(hand_made(), wrong)


def test_k_must_be_what_the_catalogue_can_fill():
    assert items_for([7], [40, 0], k=3) == [[0, 90, 41], [90, 41, 7]]
    for k in (0, -1, 4):
        with pytest.raises(ValueError, match=rf"k={k}: .*1 to 3 items \(5 known less the 2 "):
            items_for([7], [40, 0], k=k)
    assert len(items_for([7], [40, 0], k=5, mask_seen=False)[0]) == 5
    with pytest.raises(ValueError, match=r"k=6: .*1 to 5 items \(5 known\)"):
        items_for([7], k=6, mask_seen=False)
    with pytest.raises(ValueError, match="k=20"):
        recommend(hand_made(), [[7]])


def test_an_item_seen_twice_takes_one_place():
    assert items_for([7, 7, 7, 7, 7, 7], k=4) == [[0, 90, 41, 40]]
    with pytest.raises(ValueError, match="1 to 3 items"):
        items_for([7, 40, 7, 40], [0, 0], k=4)


# --------------------------------------------------------------------------------------------------
# recommend() with real models


def random_checkpoint(name="GRU4REC", n_items=100, **arguments):
    torch.manual_seed(4)
    model = build_model(name, n_items=n_items, width=8, **arguments)
    raw = 3 * np.arange(n_items) + 5
    popularity = np.random.default_rng(4).integers(0, 50, n_items + 1)
    return Checkpoint(model, Vocabulary(raw), popularity, {"mask_seen": True, "model": name})


def random_sessions(seed=0, rows=200):
    """Raw ids 5..304, of which a third is known to `random_checkpoint`."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(300)[: generator.integers(1, 9)] + 5 for _ in range(rows)]


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_list_is_of_distinct_known_items_best_first(name, mask_seen):
    checkpoint, sessions = random_checkpoint(name), random_sessions()
    found = recommend(checkpoint, sessions, 20, mask_seen=mask_seen)
    assert found.items.shape == found.scores.shape == (200, 20)
    assert np.isfinite(found.scores).all()  # a masked item would bring its -inf
    assert (np.diff(found.scores, axis=1) <= 0).all()
    seen = 0
    for session, items in zip(sessions, found.items.tolist(), strict=True):
        assert len(set(items)) == 20
        assert {*items} <= {*range(5, 305, 3)}
        seen += len({*session.tolist()} & {*items})
    assert (seen == 0) == mask_seen
    again = recommend(checkpoint, sessions, 20, mask_seen=mask_seen)
    assert (again.items == found.items).all()
    assert (again.scores == found.scores).all()


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_what_else_is_asked_changes_nothing(name, monkeypatch):
    checkpoint, sessions = random_checkpoint(name), random_sessions(rows=30)
    whole = recommend(checkpoint, sessions, 10)
    for rows in (1, 7):
        monkeypatch.setattr(scoring, "_CHUNK_ENTRIES", rows * 101)
        parts = recommend(checkpoint, sessions, 10)
        assert (parts.items == whole.items).all()
        np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-4)
    backwards = recommend(checkpoint, sessions[::-1], 10)
    assert (backwards.items[::-1] == whole.items).all()


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_a_very_long_session_counts_by_its_last_items(name):
    checkpoint = random_checkpoint(name)
    longest = scoring.LONGEST_SESSION
    long = checkpoint.vocabulary.item_ids[: longest + 10].tolist()
    last = recommend(checkpoint, [long[-longest:]], 90, mask_seen=False).items[0].tolist()
    assert recommend(checkpoint, [long], 90, mask_seen=False).items[0].tolist() == last
    # Masked are all of its items, the first ones too.
    assert recommend(checkpoint, [long], 20).items[0].tolist() == [i for i in last if i not in long][:20]


def test_the_last_fifty_items_count(monkeypatch):
    """A model that looks at nothing but the first item it is given says where that is."""
    checkpoint = hand_made()
    monkeypatch.setattr(
        checkpoint.model, "forward", lambda x: checkpoint.model.table[x[:, :1]].expand(-1, 50, -1)
    )
    for before, after, want in ((10, 49, 40), (10, 50, 41), (0, 49, 40)):
        session = [0] * before + [40] + [41] * after  # scored best after an item is that item itself
        assert items_for(session, k=1, checkpoint=checkpoint, mask_seen=False) == [[want]]


def test_a_diverged_model_raises_and_recommends_nothing():
    checkpoint = random_checkpoint()
    with torch.no_grad():
        checkpoint.model.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        recommend(checkpoint, [[5]])
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(checkpoint, Sessions.from_lists([[5]], [8]))


# --------------------------------------------------------------------------------------------------
# evaluate()


def test_evaluation_by_hand():
    rows = [
        ([0], 90, 1),  # 90 41 40 7
        ([7, 40], 0, 3),  # 41 90 0
        ([41], 7, 3),  # alike are 0, 7, 90: the label comes last of them
        ([41], 40, 4),
        ([90, 8], 7, 3),  # 41 40 7
        ([8], 40, 4),  # popular: 90 7 0 40
        ([7], 99, 6),  # no item of ours: a miss
        ([7, 0], 7, 6),  # already seen, so never recommended: a miss
    ]
    sessions, labels, ranks = zip(*rows, strict=True)
    result = evaluate(hand_made(), Sessions.from_lists(sessions, labels))
    assert result.ranks.tolist() == list(ranks)
    assert result.coverage == 7 / 8
    assert (result.known, result.partly_known, result.unknown) == (6, 1, 1)
    assert result.metrics["HR@5"] == 6 / 8
    assert result.metrics["accuracy"] == 1 / 8
    assert result.metrics["MRR@5"] == pytest.approx((1 + 3 / 3 + 2 / 4) / 8)


def test_evaluation_with_seen_items():
    sessions = Sessions.from_lists([[7, 40], [7, 40], [0]], [40, 0, 90])
    assert evaluate(hand_made(), sessions, mask_seen=False).ranks.tolist() == [1, 5, 2]
    assert evaluate(hand_made(mask_seen=False), sessions).ranks.tolist() == [1, 5, 2]
    assert evaluate(hand_made(), sessions).ranks.tolist() == [6, 3, 1]


def test_evaluation_needs_labels():
    with pytest.raises(ValueError, match="no labels"):
        evaluate(hand_made(), Sessions.from_lists([[7]]))


def test_a_path_is_loaded(tmp_path):
    held = random_checkpoint()
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, held.model, held.vocabulary, held.popularity, {"mask_seen": True})
    sessions = random_sessions(rows=20)
    want = recommend(held, sessions).items
    assert (recommend(path, sessions).items == want).all()
    assert (recommend(str(path), sessions).items == want).all()
    labelled = Sessions.from_lists(sessions, want[:, 2])
    assert evaluate(path, labelled).ranks.tolist() == [3] * 20
    with pytest.raises(CheckpointError, match="does not exist"):
        recommend(tmp_path / "y.safetensors", sessions)


# --------------------------------------------------------------------------------------------------
# write_recommendations()


def test_the_file_by_hand(tmp_path):
    path = tmp_path / "new" / "x.csv"
    sessions = Sessions.from_lists([[7, 8], [90]])
    found = recommend(hand_made(), sessions, 2)
    write_recommendations(path, sessions, found)
    assert path.read_bytes() == b'session,predict\n"[7, 8]","[0, 90]"\n[90],"[41, 40]"\n'
    write_recommendations(path, sessions, found, scores=True)
    assert path.read_bytes() == (
        b'session,predict,scores\n"[7, 8]","[0, 90]","[5.0, 3.0]"\n[90],"[41, 40]","[8.0, 6.0]"\n'
    )


def test_the_file_with_the_logs_own_names(tmp_path):
    path = tmp_path / "x.csv"
    sessions = Sessions.from_lists([[7, 8], [90]])
    names = {7: 'a "b"', 8: "ü, x", 41: "=cmd()", 40: "d"}  # neither 0 nor 90 has one
    write_recommendations(path, sessions, recommend(hand_made(), sessions, 2), names=names)
    assert read_rows(path) == [
        {"session": ['a "b"', "ü, x"], "predict": [0, 90]},
        {"session": [90], "predict": ["=cmd()", "d"]},
    ]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("what was there")
    found = recommend(hand_made(), [[7]], 2)
    with pytest.raises(IndexError):  # fails in its second row
        write_recommendations(path, Sessions.from_lists([[7], [90]]), found)
    assert path.read_text() == "what was there"
    assert os.listdir(tmp_path) == ["x.csv"]


# --------------------------------------------------------------------------------------------------
# Command line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two epochs on the Demo: {"whole": ..., "half": ..., "compact": ...}, the same checkpoint stored."""
    folder = tmp_path_factory.mktemp("trained")
    run = train_model(load_dataset(DEMO), "GRU4REC", epochs=2, split="none", progress=False)
    paths = {storage: folder / f"{storage}.safetensors" for storage in ("whole", "half", "compact")}
    for storage, path in paths.items():
        run.save(path, half=storage == "half", compact=storage == "compact")
    return paths


def read_rows(path):
    """Rows of a result file as {column: list}, by other means than read_sessions."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: json.loads(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def test_command_writes_a_row_a_session_in_order(trained, tmp_path, capsys):
    lines = (DEMO / "test_sessions.csv").read_text().splitlines()
    source, output = tmp_path / "in.csv", tmp_path / "out" / "x.csv"
    # Duplicates stay, neighbours or not; so do sessions of which nothing or not all is known.
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
    assert rows[62]["predict"] == rows[0]["predict"]  # [1505] too, once 999999 is left out
    sessions = read_sessions(output)
    assert [sessions[row] for row in range(63)] == [row["session"] for row in rows]
    found = recommend(trained["whole"], read_sessions(source, labels=False), 7)
    assert [row["predict"] for row in rows] == found.items.tolist()

    assert main([*arguments, "--scores"]) == 0  # and 20 is the default
    rows = read_rows(output)
    assert {len(row["predict"]) for row in rows} == {len(row["scores"]) for row in rows} == {20}
    assert list(rows[0]) == ["session", "predict", "scores"]
    for row in rows:
        assert sorted(row["scores"], reverse=True) == row["scores"]
    found = recommend(trained["whole"], read_sessions(source, labels=False), 20)
    np.testing.assert_allclose([row["scores"] for row in rows], found.scores, atol=1e-4)


def test_evaluation_is_what_the_written_lists_give(trained, tmp_path, capsys):
    test, output = DEMO / "test_sessions.csv", tmp_path / "x.csv"
    checkpoint = ["--checkpoint", str(trained["whole"])]
    assert main([*checkpoint, "--sessions", str(test), "--output", str(output)]) == 0
    places = []
    for row, truth in zip(read_rows(output), read_rows(test), strict=True):
        predicted, label = row["predict"], truth["label"]
        places.append(predicted.index(label) + 1 if label in predicted else None)
    hits = [place for place in places if place]
    assert len(places) == 600
    assert len(hits) > 60  # chance gives 15: it has learned something, so there is something to compare
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


def test_the_switch_for_seen_items(trained, tmp_path):
    output = tmp_path / "x.csv"
    arguments = ["--checkpoint", str(trained["whole"]), "--sessions", str(DEMO / "test_sessions.csv")]
    repeats = {}
    for option in ("--mask-seen", "--no-mask-seen"):
        assert main([*arguments, "--output", str(output), option]) == 0
        repeats[option] = sum(len({*row["session"]} & {*row["predict"]}) for row in read_rows(output))
    assert repeats["--mask-seen"] == 0 < repeats["--no-mask-seen"]


@pytest.mark.parametrize("storage", ["half", "compact"])
def test_small_storage_moves_no_metric(storage, trained):
    sessions = read_sessions(DEMO / "test_sessions.csv")
    whole, small = (evaluate(trained[name], sessions).metrics for name in ("whole", storage))
    assert whole["MRR@20"] > 0.05
    for name, value in whole.items():
        assert small[name] == pytest.approx(value, abs=0.005), name
    found = [recommend(trained[name], sessions).items for name in ("whole", storage)]
    assert (found[0][:, 0] == found[1][:, 0]).mean() > 0.95


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def diverge(path):
    checkpoint = load_checkpoint(path)
    checkpoint.model.head.bias.data.fill_(torch.nan)
    save_checkpoint(path, checkpoint.model, checkpoint.vocabulary, checkpoint.popularity, {"mask_seen": True})


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
        ["in.csv, line 2", "which is no item id"],
    ),
    "other column": (lambda c, s: s.write_text("sessions\n[1]\n"), [], ["line 1", "no column `session`"]),
    "k too small": (lambda c, s: None, ["--k", "0"], ["k=0", "1 to "]),
    "k too large": (lambda c, s: None, ["--k", "5000"], ["k=5000", "1 to "]),
    "no such device": (lambda c, s: None, ["--device", "tpu"], ["tpu", "not available"]),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_a_sentence_and_leaves_the_output(failure, tmp_path, capsys):
    spoil, options, words = FAILURES[failure]
    checkpoint, source, output = (tmp_path / name for name in ("x.safetensors", "in.csv", "out.csv"))
    held = random_checkpoint()
    save_checkpoint(checkpoint, held.model, held.vocabulary, held.popularity, {"mask_seen": True})
    source.write_text('session\n[5]\n"[8, 11]"\n')
    arguments = ["--checkpoint", str(checkpoint), "--sessions", str(source), "--output", str(output)]
    assert main(arguments) == 0  # it was all right before
    before = output.read_bytes()
    spoil(checkpoint, source)
    capsys.readouterr()
    assert main([*arguments, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    # A progress bar may have started; the sentence is the last line, and there is no other.
    *bar, sentence = err.splitlines()
    assert all(line.startswith("Recommending") or not line for line in bar)
    assert sentence.startswith("recommend.py: ")
    for word in words:
        assert word in sentence
    assert output.read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_a_place_that_cannot_be_written_is_named(trained, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ["--checkpoint", str(trained["whole"]), "--sessions", str(DEMO / "test_sessions.csv")]
    for output in (tmp_path / "file" / "x.csv", tmp_path):
        assert main([*arguments, "--output", str(output)]) == 1
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert sentence.startswith("recommend.py: ")
        assert str(tmp_path) in sentence
    assert (tmp_path / "file").read_text() == "in the way"
    assert os.listdir(tmp_path) == ["file"]


def test_a_checkpoint_of_other_data_is_said(trained, tmp_path, capsys):
    for name in ("train_sessions.csv", "test_sessions.csv"):
        (tmp_path / name).write_bytes((DEMO / name).read_bytes())
    arguments = ["--checkpoint", str(trained["whole"]), "--evaluate", str(tmp_path / "test_sessions.csv")]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""  # the same data, wherever they lie
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
        (["--sessions", "in.csv", "--output", "./in.csv"], "would replace what is read"),
        (["--sessions", "in.csv", "--output", "x.safetensors"], "would replace what is read"),
        (["--sessions", "in.csv", "--output", "n.csv", "--items", "n.csv"], "would replace what is read"),
        (["--evaluate", "in.csv", "--items", "n.csv"], "--items go with --sessions"),
    ],
)
def test_a_wrong_command_is_a_usage_error(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--checkpoint", "x.safetensors", *arguments])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_as_a_program(trained, tmp_path):
    """In another folder and process: exit code, and a sentence instead of a traceback."""

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
