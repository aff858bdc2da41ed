"""dataset/logs/export.py: exported sessions can be converted back."""

from pathlib import Path

import pytest
from log_files import SHARE, write_amazon

from dataset.find import load_dataset
from dataset.logs.convert import FILES, convert
from dataset.logs.export import export

DEMO = Path(__file__).parents[2] / "dataset" / "Demo"


@pytest.mark.parametrize(
    ("to", "names"),
    [("recbole", ["Back.train.inter", "Back.test.inter"]), ("session-rec", ["Back_train_full.txt", "Back_test.txt"])],
)
def test_exported_sessions_are_restored_by_conversion(to, names, tmp_path):
    train, test = export(DEMO, tmp_path / "Back", to)
    assert [train.name, test.name] == names
    convert(train, tmp_path / "out", test_log=test)
    assert (tmp_path / "out" / FILES[1]).read_bytes() == (DEMO / FILES[1]).read_bytes()
    restored = [line.rpartition(",") for line in (tmp_path / "out" / FILES[0]).read_text().splitlines()]
    assert [line for line, _, _ in restored] == (DEMO / FILES[0]).read_text().splitlines()
    demo, again = load_dataset(DEMO).train, load_dataset(tmp_path / "out").train
    assert again.users.tolist() == demo.users.tolist()  # so the split is the same, too


def test_exported_rows_by_hand(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "out", SHARE)
    train, test = export(tmp_path / "out", tmp_path / "back", "session-rec")
    rows = ["1 2 1", "1 3 2", "1 4 3", "2 4 4", "2 3 5", "2 2 6", "3 1 7", "3 2 8"]
    assert train.read_text().replace("\t", " ").split("\n") == ["SessionId ItemId Time", *rows, ""]
    assert test.read_text().split() == "SessionId ItemId Time 4 3 9 4 2 10".split()
    train, _ = export(tmp_path / "out", tmp_path / "back", "recbole")
    assert train.read_text().startswith("session_id:token\titem_id:token\ttimestamp:float\n1\t2\t1\n")


def test_test_sessions_without_labels_are_exported_as_they_are(tmp_path):
    (tmp_path / "train_sessions.csv").write_text("session,label\n[1],2\n")
    (tmp_path / "test_sessions.csv").write_text('session\n"[1, 2]"\n[3]\n')
    _, test = export(tmp_path, tmp_path / "back", "session-rec")
    assert test.read_text() == "SessionId\tItemId\tTime\n2\t1\t3\n2\t2\t4\n3\t3\t5\n"
