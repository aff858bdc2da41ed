"""dataset/files.py: valid and invalid files, finding datasets, and writing."""

import csv
import os
import stat
import tracemalloc
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_lists import as_lists, as_rows

from dataset.fetch import DownloadError, ServerUnreachable
from dataset.files import ROOT, read_items, read_sessions, replacing
from dataset.find import find_dataset, load_dataset, load_datasets
from dataset.folders import short_name
from dataset.sessions import DataError

BIGGEST = 10**18 - 1  # 18 digits

ids = st.integers(0, BIGGEST)
raw_sessions = st.lists(ids, min_size=1, max_size=5)


def write(folder, text, name="train_sessions.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


# --------------------------------------------------------------------------------------------------
# Reading

ROWS = [([5], 0), ([5, 0], 123), ([5, 0, 123], BIGGEST)]


@pytest.mark.parametrize(
    "text",
    [
        f'session,label\n[5],0\n"[5, 0]",123\n"[5, 0, 123]",{BIGGEST}\n',
        f'session,label\r\n[5],0\r\n"[5, 0]",123\r\n"[5, 0, 123]",{BIGGEST}\r\n',
        f'"session","label"\n"[5]","0"\n"[5, 0]","123"\n"[5, 0, 123]","{BIGGEST}"\n',
        f'\ufeffsession,label\n[5],0\n"[5, 0]",123\n"[5, 0, 123]",{BIGGEST}\n',
        f' session , label\n [ 5 ] , 0 \n"[5,0]",123\n"[ 5 ,\t0,123 ]",{BIGGEST} \n',
        f'label,extra,session\n0,x,[5]\n123,"a,b","[5, 0]"\n{BIGGEST},,"[5, 0, 123]"\n',
        f'session,label\n[5],0\n"[5, 0]",123\n"[5, 0, 123]",{BIGGEST}\n\n\n',
        f'session,label\n[5],0\n"[5,\n 0]",123\n"[5, 0, 123]",{BIGGEST}\n',
    ],
    ids=["LF", "CRLF", "all quoted", "BOM", "spaces", "columns", "blank end", "two-line cell"],
)
def test_all_csv_variants_are_read_alike(tmp_path, text):
    assert as_rows(read_sessions(write(tmp_path, text), labels=True)) == ROWS


def test_label_column_is_optional(tmp_path):
    labelled = write(tmp_path, "session,label\n[1],2\n")
    assert read_sessions(labelled).labels.tolist() == [2]
    assert read_sessions(labelled, labels=False).labels is None
    unlabelled = write(tmp_path, 'session\n[1]\n"[1, 2]"\n')
    assert read_sessions(unlabelled).labels is None
    assert as_lists(read_sessions(unlabelled)) == [[1], [1, 2]]


@given(
    rows=st.lists(st.tuples(raw_sessions, ids), min_size=1, max_size=8),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    lineterminator=st.sampled_from(["\n", "\r\n"]),
)
def test_written_rows_are_read_back(tmp_path_factory, rows, quoting, lineterminator):
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=lineterminator)
        writer.writerows([("session", "label"), *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_rows(read_sessions(path, labels=True)) == rows


# The third line is malformed.
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("5,2", "the session '5' is not a list"),
        ("word,2", "the session 'word' is not a list"),
        ("[5,2", "the session '[5' is not a list"),
        (",2", "the session '' is not a list"),
        ("[],2", "empty list"),
        ("[ ],2", "empty list"),
        ("[-1],2", "contains '-1', which is not an item id"),
        ("[1.0],2", "contains '1.0', which is not an item id"),
        ("[1e3],2", "contains '1e3', which is not an item id"),
        ("[x],2", "contains 'x', which is not an item id"),
        ("['1'],2", "which is not an item id"),
        ("[\u0661],2", "which is not an item id"),  # the Arabic digit one
        ('"[1 2]",2', "contains '1 2', which is not an item id"),
        ('"[1,]",2', "contains '', which is not an item id"),
        ('"[1, [2]]",2', "contains '[2]', which is not an item id"),
        ('"[1], [2]",2', "which is not an item id"),
        (f"[{BIGGEST + 1}],2", "has more than 18 digits"),
        ("[1],", "the label is missing"),
        ("[1]", "the label is missing"),
        ("[1], ", "the label is missing"),
        ("[1],x", "the label 'x' is not an item id"),
        ("[1],2.0", "the label '2.0' is not an item id"),
        ("[1],-2", "the label '-2' is not an item id"),
        (f"[1],{BIGGEST + 1}", "is not an item id"),
        ("[1],2,3", "has 3 cells where the header has 2"),
        ("[1, 2],3", "has 3 cells where the header has 2"),
        ("", "has 0 cells where the header has 2"),
        ('"[1]"x,2', "is not valid CSV"),
    ],
)
def test_malformed_row_is_reported(tmp_path, line, reason):
    path = write(tmp_path, f"session,label\n[7],8\n{line}\n[9],10\n")
    with pytest.raises(DataError) as error:
        read_sessions(path, labels=True)
    assert (error.value.file, error.value.line) == (str(path), 3)
    assert reason in error.value.reason
    assert str(error.value) == f"{path}, line 3: {error.value.reason}"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "is empty"),
        ("\n \n", None, "is empty"),
        ("session,label\n", None, "has a header but no rows"),
        ("session,label\n\n\n", None, "has a header but no rows"),
        ("items,label\n[1],2\n", 1, "has no column `session` (its header is 'items,label')"),
        ("[1],2\n[3],4\n", 1, "has no column `session`"),
        ("s\0e\0s\0s\0i\0o\0n\0\n\0", 1, "has no column `session`"),  # UTF-16 without a byte order mark
        ("session,next\n[1],2\n", 1, "has no column `label`"),
        ("session,label,label\n[1],2,2\n", 1, "has the column `label` more than once"),
        ("session,label,session\n[1],2,[1]\n", 1, "has the column `session` more than once"),
        ('session,label\n[1],2\n"[1, 2', 3, "is incomplete"),
    ],
)
def test_unusable_file_is_reported(tmp_path, text, line, reason):
    path = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_sessions(path, labels=True)
    assert (error.value.file, error.value.line) == (str(path), line)
    assert reason in error.value.reason


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 3), ("utf-16", 1)])
def test_other_encoding_is_reported(tmp_path, encoding, line):
    path = write(tmp_path, "session,label\n[1],2\n[3],\u00e9\n", encoding=encoding)
    with pytest.raises(DataError) as error:
        read_sessions(path, labels=True)
    assert error.value.line == line


def test_line_of_an_error_counts_lines_not_records(tmp_path):
    path = write(tmp_path, 'session,label\n"[1,\n2,\n3]",4\n[x],2\n')
    with pytest.raises(DataError, match="line 5:"):
        read_sessions(path, labels=True)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read \(No such file"):
        read_sessions(tmp_path / "absent.csv")


@pytest.mark.skipif(os.name != "posix", reason="devices and pipes are POSIX")
@pytest.mark.parametrize("read", [read_sessions, read_items])
def test_an_endless_file_is_refused_before_it_fills_the_memory(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(DataError, match=f"^{path}: is a pipe or a device; save it as a file$"):
            read(path)
    path = write(tmp_path, "session,label\n[1],2\n")
    with open(path, "r+b") as file:
        file.truncate(5 << 30)  # takes no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="train_sessions.csv, line 3: is longer than 16,777,216 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_last_row_without_a_line_end_is_read_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="is the file complete"):
        sessions = read_sessions(write(tmp_path, "session,label\n[1],2\n[3],4"))
    assert as_rows(sessions) == [([1], 2), ([3], 4)]


def test_item_names_are_read(tmp_path):
    (tmp_path / "items.csv").write_bytes('\ufeffid,item\r\n7,"a, ""b"""\r\n0,ü\r\n12,\r\n'.encode())
    assert read_items(tmp_path / "items.csv") == {7: 'a, "b"', 0: "ü", 12: ""}


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "is empty"),
        ("session,label\n[1],2\n", 1, "must have the columns id,item"),
        ("id,item\n1,a\nb,1\n", 3, "must have an id that no other row has"),
        ("id,item\n1,a\n1,b\n", 3, "must have an id that no other row has"),
        ("id,item\n1,a,b\n", 2, "must have an id that no other row has"),
        ("id,item\n-1,a\n", 2, "must have an id that no other row has"),
        ("id,item\n1,a\n2,b\n3,a\n", 4, "the item 'a' has two ids, 1 and 3"),
        ('id,item\n1,"a\n', 2, "is not valid CSV, or is incomplete"),
    ],
)
def test_unusable_item_names_are_reported(tmp_path, text, line, reason):
    file = tmp_path / "items.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=reason) as raised:
        read_items(file)
    assert (raised.value.file, raised.value.line) == (str(file), line)


@pytest.mark.parametrize("column", ["session", "label"])
def test_cells_are_never_evaluated(tmp_path, column):
    mark = tmp_path / "evaluated"
    code = f"__import__('pathlib').Path('{mark}').touch()"
    row = f'"[{code}]",2' if column == "session" else f'[1],"{code}"'
    with pytest.raises(DataError, match="not an item id"):
        read_sessions(write(tmp_path, f"session,label\n{row}\n"), labels=True)
    assert not mark.exists()


# --------------------------------------------------------------------------------------------------
# Dataset folders


def make_folder(folder, train="session,label\n[1],2\n", test="session\n[1]\n"):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, train)
    if test:
        write(folder, test, "test_sessions.csv")
    return folder


def test_dataset_root_is_searched_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET_ROOT", raising=False)
    own = ROOT / "dataset" / "Demo"
    assert find_dataset("Demo") == own
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    assert find_dataset("Demo") == own  # DATASET_ROOT has no Demo
    assert find_dataset(make_folder(tmp_path / "root" / "Demo").name) == tmp_path / "root" / "Demo"
    assert find_dataset(own) == own  # an existing path is used as it is


def test_unknown_dataset_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "root" / "Shop")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    with pytest.raises(DataError, match="one of Amazon_Beauty, Amazon_Cell, Demo, .*, Shop, Tmall") as error:
        find_dataset("Books")
    assert error.value.file == "Books"


def test_a_folder_takes_precedence_over_a_short_name(tmp_path, monkeypatch):
    mine = make_folder(tmp_path / "root" / "Beauty")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    assert find_dataset("Beauty") == mine


def test_folder_without_the_files_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"train_sessions\.csv: does not exist"):
        load_dataset(tmp_path)
    make_folder(tmp_path, test=None)
    with pytest.raises(DataError, match=r"test_sessions\.csv: cannot be read"):
        load_dataset(tmp_path)


def test_dataset_is_loaded_with_users_name_and_hash(tmp_path):
    train = 'session,label\n[1],2\n"[1, 2]",3\n[1],2\n'
    data = load_dataset(make_folder(tmp_path / "Shop", train))
    assert as_rows(data.train) == [([1], 2), ([1, 2], 3), ([1], 2)]
    assert data.train.users.tolist() == [0, 0, 1]
    assert as_lists(data.test) == [[1]]
    assert (data.name, data.short_name) == ("Shop", "shop")
    assert load_dataset(make_folder(tmp_path / "Copy", train)).sha256 == data.sha256
    other = make_folder(tmp_path / "Other", train, test="session\n[2]\n")
    assert load_dataset(other).sha256 != data.sha256


def test_demo_is_used_if_the_server_does_not_answer(monkeypatch, capsys):
    def fetch(name):
        raise ServerUnreachable("No answer.")

    monkeypatch.setattr("dataset.find.fetch", fetch)
    names = [data.short_name for data in load_datasets(["Demo", "cell", "beauty"])]
    assert names == ["demo"]
    assert "included dataset Demo instead" in capsys.readouterr().out
    assert [data.name for data in load_datasets(["Demo"])] == ["Demo"]
    assert capsys.readouterr().out == ""


def test_a_wrong_answer_is_an_error(monkeypatch):
    def fetch(name):
        raise DownloadError("Another file.")

    monkeypatch.setattr("dataset.find.fetch", fetch)
    with pytest.raises(DownloadError, match="Another file"):
        load_datasets(["Demo", "beauty"])


def test_short_names():
    names = ["Amazon_Beauty", "Amazon_Cell", "amazon_cell", "Demo", "My Shop"]
    assert [short_name(name) for name in names] == ["beauty", "cell", "cell", "demo", "my shop"]


# --------------------------------------------------------------------------------------------------
# Writing


def test_a_file_is_replaced_only_after_success(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with replacing(path) as part:
        part.write_text("first")
        assert part.parent == path.parent and not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half of the sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    with replacing(path) as part:
        part.write_text("second")
    assert path.read_text() == "second"
    assert os.listdir(path.parent) == ["x.txt"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_a_written_file_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "x.txt") as part:
            part.write_text("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o640
