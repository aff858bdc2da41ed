"""The names of items: in a dataset folder, in a vocabulary, in lists of names, and in the sessions of a raw log."""

import gzip

import numpy as np
import polars as pl
import pytest
from log_files import write_rows

from dataset.files import ROOT, read_items
from dataset.find import load_dataset
from dataset.folders import hash_dataset
from dataset.logs.log_sessions import read_log_sessions
from dataset.logs.opening import ConvertError
from dataset.session_lists import NamedSessions, is_list_file, read_lists
from dataset.sessions import DataError, Sessions, Vocabulary
from process_data import prepare

ITEMS = "id,item\n1,pen\n2,ink\n3,pad\n5,cap\n"


def folder_of(path, items=ITEMS):
    path.mkdir(exist_ok=True)
    (path / "train_sessions.csv").write_text('session,label\n[3],1\n"[3, 1]",2\n[2],1\n[1],3\n[2],3\n[1],2\n[3],2\n')
    (path / "test_sessions.csv").write_text("session,label\n[2],3\n")
    if items is not None:
        (path / "items.csv").write_text(items)
    return path


# --------------------------------------------------------------------------------------------------
# A dataset folder


def test_a_dataset_has_the_names_of_its_items(tmp_path):
    assert load_dataset(folder_of(tmp_path, None)).names is None
    sha256 = hash_dataset(tmp_path)
    dataset = load_dataset(folder_of(tmp_path))
    assert dataset.names == {1: "pen", 2: "ink", 3: "pad", 5: "cap"}
    assert dataset.sha256 == sha256  # committed checkpoints name it
    assert load_dataset(folder_of(tmp_path, "id,item\n1,1\n2,2\n3,3\n")).names is None
    assert load_dataset(folder_of(tmp_path, "id,item\n1,1\n2,2\n3,4\n")).names == {1: "1", 2: "2", 3: "4"}
    assert load_dataset(ROOT / "dataset" / "Demo").names is None


def test_a_vocabulary_has_the_names_of_its_items(tmp_path):
    vocabulary = prepare(load_dataset(folder_of(tmp_path)), split="none").vocabulary
    assert vocabulary.item_ids.tolist() == [1, 2, 3] and vocabulary.names == ("pen", "ink", "pad")
    assert prepare(load_dataset(folder_of(tmp_path / "x", None)), split="none").vocabulary.names is None


@pytest.mark.parametrize(
    ("items", "line", "reason"),
    [
        ("", None, "is empty"),
        ("item,id\npen,1\n", 1, "must have the columns id,item, as dataset/convert.py writes it, not 'item,id'"),
        ("id,item\n1,pen\n1,ink\n", 3, "must have an id that no other row has, and a name; correct it"),
        ("id,item\n1,pen\nx,ink\n", 3, "must have an id that no other row has"),
        ("id,item\n1,pen\n2\n", 3, "must have an id that no other row has"),
        ("id,item\n1,pen\n2,ink\n3,pen\n", 4, "the item 'pen' has two ids, 1 and 3; remove one"),
        ("id,item\n1,pen\n3,pad\n4,cap\n", None, "does not name the item 2 of the sessions beside it"),
        ("id,item\n", None, "does not name the item 1 of the sessions beside it, so it belongs to other sessions; put"),
    ],
)
def test_a_wrong_items_csv_is_one_sentence(items, line, reason, tmp_path):
    with pytest.raises(DataError) as error:
        load_dataset(folder_of(tmp_path, items))
    assert (error.value.file, error.value.line) == (str(tmp_path / "items.csv"), line)
    assert error.value.reason.startswith(reason) and "\n" not in str(error.value)


def test_a_label_of_the_test_file_needs_a_name_too(tmp_path):
    folder_of(tmp_path, "id,item\n1,pen\n2,ink\n3,pad\n")
    (tmp_path / "test_sessions.csv").write_text("session,label\n[2],9\n")
    with pytest.raises(DataError, match=r"items\.csv: does not name the item 9"):
        load_dataset(tmp_path)


def test_a_cell_that_a_spreadsheet_would_run_is_a_name(tmp_path):
    names = {1: "=1+1", 2: "@x", 3: "-2+3"}
    dataset = load_dataset(folder_of(tmp_path, "id,item\n" + "".join(f"{i},{name}\n" for i, name in names.items())))
    assert dataset.names == names == read_items(tmp_path / "items.csv")


# --------------------------------------------------------------------------------------------------
# Vocabulary


def test_names_and_ids_by_hand():
    vocabulary = Vocabulary(np.array([0, 7, 40]), ["pen", "7 up", "40"])
    assert vocabulary.names_of([40, 0, 8, -1]) == ["40", "pen", "8", "-1"]
    assert vocabulary.names_of(np.array([[7, 0], [9, 7]])) == [["7 up", "pen"], ["9", "7 up"]]
    assert vocabulary.names_of([]) == []
    ids = vocabulary.ids_of(["40", "pen", "7", "PEN", "", "7 up"])
    assert ids.tolist() == [40, 0, -1, -1, -1, 7] and ids.dtype == np.int64
    assert vocabulary.encode(ids).tolist() == [3, 1, 0, 0, 0, 2]
    assert {type(name) for name in vocabulary.names_of([7, 8])} == {str}


def test_without_names_decimal_text_is_the_id():
    vocabulary = Vocabulary(np.array([40, 0, 7]))
    assert vocabulary.names is None
    assert vocabulary.names_of([[7, 40], [8, 10**17]]) == [["7", "40"], ["8", "1" + "0" * 17]]
    texts = ["0", "7", "9", "007", "-7", "7.0", " 7", "x", "9" * 18, "9" * 19, "\u0667", ""]
    assert vocabulary.ids_of(texts).tolist() == [0, 7, 9, -1, -1, -1, -1, -1, 10**18 - 1, -1, -1, -1]


@pytest.mark.parametrize(
    ("ids", "names", "message"),
    [
        ([1, 2], ["a"], "1 names do not fit 2 items"),
        ([1, 2], ["a", "a"], "two items have the name 'a'"),
        ([1, 2], ["a", 5], "the names of items must be text"),
        ([2, 1], ["b", "a"], "the item ids of names must be sorted, each once"),
        ([1, 1], ["b", "a"], "the item ids of names must be sorted, each once"),
    ],
)
def test_names_that_do_not_fit_are_refused(ids, names, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(np.array(ids), names)


@pytest.mark.parametrize("session", ["ab", b"ab", 5, np.int64(5), np.array(5), None])
def test_text_and_numbers_are_no_sessions(session):
    """Text would be read as its letters, bytes as their values."""
    with pytest.raises(DataError, match="each session must be a list of items"):
        Sessions.from_lists([[1], session])


@pytest.mark.parametrize("items", [[[1], [2]], [[1], [2, 3]], [None], ["1"], [1, "a"]])
def test_items_that_are_no_ids_are_refused(items):
    with pytest.raises(DataError, match="item ids must be non-negative integers"):
        Sessions.from_lists([items])


# --------------------------------------------------------------------------------------------------
# Lists of names


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_lists_of_names_are_read(tmp_path):
    text = 'session,label\n"[""sku-14"", ""ü, \\""x\\""""]",sku 16\n" [ ""=1+1"" ]","[x]"\n'
    file = write(tmp_path / "in.csv", text)
    sessions = [["sku-14", 'ü, "x"'], ["=1+1"]]
    assert read_lists(file) == NamedSessions(sessions)
    assert read_lists(file, labels=True) == NamedSessions(sessions, ["sku 16", "[x]"])
    ids = read_lists(write(tmp_path / "ids.csv", 'session,label\n"[1, 2]",3\n[4],5\n'), labels=True)
    assert [ids[0], ids[1], ids.labels.tolist()] == [[1, 2], [4], [3, 5]]


@pytest.mark.parametrize(
    ("rows", "line", "reason"),
    [
        (['"[""b"", 7]"'], 3, "the session contains '7', which is not a name in quotes"),
        (['"[""b"", null]"'], 3, "the session contains 'null', which is not a name in quotes"),
        (['"[[""b""]]"'], 3, "the session contains '[\"b\"]', which is not a name in quotes"),
        (['"[1, 2]"'], 3, "the session contains '1', which is not a name in quotes"),
        (["[]"], 3, "the session is an empty list"),
        (['"[""b"""'], 3, 'the session \'["b"\' is not a list of names such as ["a", "b"]'),
        (["b"], 3, "the session 'b' is not a list of names"),
        (['"{""b"": 1}"'], 3, "the session '{\"b\": 1}' is not a list of names"),
        (["[" * 100_000], 3, "is not a list of names"),
        (['"[""\\ud800""]"'], 3, "contains half a character"),
        (['"[""b""]"', "[1,"], 4, "has 2 cells where the header has 1"),
    ],
)
def test_a_malformed_list_of_names_is_named_with_its_line(rows, line, reason, tmp_path):
    file = write(tmp_path / "in.csv", "\n".join(["session", '"[""a""]"', *rows, ""]))
    assert is_list_file(file)
    with pytest.raises(DataError) as error:
        read_lists(file)
    assert error.value.line == line and reason in error.value.reason and len(str(error.value)) < 300


def test_a_label_without_a_name_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match="line 3: the label is missing"):
        read_lists(write(tmp_path / "in.csv", 'session,label\n"[""a""]",b\n"[""a""]",\n'), labels=True)
    with pytest.raises(DataError, match="line 2: the session contains '\"a\"', which is not an item id"):
        read_lists(write(tmp_path / "in.csv", 'session,label\n"[5,""a""]",b\n'), labels=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("session\n[1]\n", True),
        ('\ufeffsession,label\r\n"[""a""]",b\r\n', True),
        ("session,item,timestamp\n7,a,1\n7,b,2\n", False),  # a log by session ids
        ("session,item,timestamp\n[7],a,1\n", True),
        ("session;item;timestamp\n7;a;1\n", False),
        ("session,label\n7,8\n", True),  # no item: lists that are malformed
        ("user,item,timestamp\n1,a,1\n", False),
        ("1,a,1\n1,b,2\n", False),
        ("1 5 6 7\n2 5\n", False),
        ("sessions\n[1]\n", True),
        ("", True),
        (gzip.compress(b"session\n[1]\n", mtime=0), False),
        (b"PAR1", False),
    ],
)
def test_a_list_file_is_told_from_a_log(text, expected, tmp_path):
    assert is_list_file(write(tmp_path / "x", text)) == expected


def test_what_cannot_be_read_is_said_by_the_reader_of_lists(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        assert is_list_file(path)
        with pytest.raises(DataError, match="cannot be read"):
            read_lists(path)


# --------------------------------------------------------------------------------------------------
# The sessions of a log

HEADER = ("user", "item", "timestamp")
# In the order of the file: b comes first, and its second session before the first of c.
ROWS = [
    ("b", "pen", 1000),
    ("a", "pad", 3000),
    ("b", "ink", 900),
    ("b", "pen", 1100),
    ("b", "cap", 90_000),
    ("c", "=x", 5),
    ("a", "ink", 2000),
]


def test_sessions_of_a_log_are_in_the_order_of_their_first_appearance(tmp_path):
    file = write_rows(tmp_path / "log.csv", ROWS, HEADER)
    found = read_log_sessions(file)
    assert found.users == ["b", "a", "c"]
    assert found.sessions == [["ink", "pen", "cap"], ["ink", "pad"], ["=x"]]
    assert found.notes[0].startswith("log.csv: cells separated by `,`, line 1 is the header; user = user, item = item")
    assert found.notes[1:] == ("1 repeats of an item within a session were left out, as in the training data",)
    found = read_log_sessions(file, gap=24, keep_repeats=True)
    assert found.users == ["b", "a", "b", "c"]
    assert found.sessions == [["ink", "pen", "pen"], ["ink", "pad"], ["cap"], ["=x"]] and len(found.notes) == 1
    assert found.labels is None


def test_any_format_of_a_log_gives_its_sessions(tmp_path):
    expected = (["b", "a", "c"], [["ink", "pen", "cap"], ["ink", "pad"], ["=x"]])

    def sessions_of(file, **options):
        found = read_log_sessions(file, **options)
        return found.users, found.sessions

    assert sessions_of(write_rows(tmp_path / "x.gz", ROWS, HEADER)) == expected
    pl.DataFrame(ROWS, HEADER, orient="row").write_parquet(tmp_path / "x.parquet")
    assert sessions_of(tmp_path / "x.parquet") == expected
    swapped = write_rows(tmp_path / "y.csv", [(item, time, user) for user, item, time in ROWS])
    assert sessions_of(swapped, columns="item,timestamp,user") == expected
    lines = write(tmp_path / "lines.txt", "b pen ink\na pad ink cap cap\n")
    assert sessions_of(lines) == (["b", "a"], [["pen", "ink"], ["pad", "ink", "cap"]])


def test_a_wrong_log_is_one_sentence(tmp_path):
    file = write_rows(tmp_path / "log.csv", [*ROWS, ("d", "", 7)], HEADER)
    with pytest.raises(ConvertError, match="line 9: the item is missing"):
        read_log_sessions(file)
    with pytest.raises(ConvertError, match="the log has no times, which --gap needs"):
        read_log_sessions(write_rows(tmp_path / "x.csv", [("b", "pen"), ("b", "ink")], HEADER[:2]), gap=1)
    with pytest.raises(ConvertError, match="gap=-1: the gap must be"):
        read_log_sessions(file, gap=-1)
