"""process_data.py by hand and by property: parser, users, splits, cleaning, batches, graphs."""

import csv
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import process_data
from dataset.fetch_amazon import ServerUnreachable
from process_data import (
    DataError,
    MyDataset,
    SessionDataset,
    Sessions,
    TrainDataset,
    Vocabulary,
    clean_sessions,
    count_items,
    expand_prefixes,
    find_dataset,
    find_users,
    get_dataloader,
    get_slice,
    has_repeats,
    leak_rate,
    leaked_rows,
    load_dataset,
    load_datasets,
    maximal_sessions,
    prepare,
    read_items,
    read_sessions,
    split_sessions,
)

BIGGEST = 10**18 - 1  # 18 digits

ids = st.integers(0, BIGGEST)
raw_sessions = st.lists(ids, min_size=1, max_size=5)
# What users bought, in order: few items, so that users share prefixes and repeat items.
histories = st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=6), min_size=1, max_size=6)


def write(folder, text, name="train_sessions.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def as_lists(sessions):
    return [sessions[row] for row in range(len(sessions))]


def as_rows(sessions):
    return list(zip(as_lists(sessions), sessions.labels.tolist(), strict=True))


def prefix_rows(histories):
    """All prefix rows of each user's history: [a, b, c] gives [a]->b and [a, b]->c."""
    rows = [(h[:t], h[t], u) for u, h in enumerate(histories) for t in range(1, len(h))]
    return Sessions.from_lists(*map(list, zip(*rows, strict=True)))


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
def test_every_way_to_write_the_rows_reads_alike(tmp_path, text):
    assert as_rows(read_sessions(write(tmp_path, text), labels=True)) == ROWS


def test_label_column_is_taken_where_wanted(tmp_path):
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


# The third line is the bad one.
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("5,2", "the session '5' is not a list"),
        ("word,2", "the session 'word' is not a list"),
        ("[5,2", "the session '[5' is not a list"),
        (",2", "the session '' is not a list"),
        ("[],2", "empty list"),
        ("[ ],2", "empty list"),
        ("[-1],2", "holds '-1', which is no item id"),
        ("[1.0],2", "holds '1.0', which is no item id"),
        ("[1e3],2", "holds '1e3', which is no item id"),
        ("[x],2", "holds 'x', which is no item id"),
        ("['1'],2", "which is no item id"),
        ("[\u0661],2", "which is no item id"),  # an Arabic digit one
        ('"[1 2]",2', "holds '1 2', which is no item id"),
        ('"[1,]",2', "holds '', which is no item id"),
        ('"[1, [2]]",2', "holds '[2]', which is no item id"),
        ('"[1], [2]",2', "which is no item id"),
        (f"[{BIGGEST + 1}],2", "has more than 18 digits"),
        ("[1],", "the label is missing"),
        ("[1]", "the label is missing"),
        ("[1], ", "the label is missing"),
        ("[1],x", "the label 'x' is no item id"),
        ("[1],2.0", "the label '2.0' is no item id"),
        ("[1],-2", "the label '-2' is no item id"),
        (f"[1],{BIGGEST + 1}", "is no item id"),
        ("[1],2,3", "has 3 cells where the header has 2"),
        ("[1, 2],3", "has 3 cells where the header has 2"),
        ("", "has 0 cells where the header has 2"),
        ('"[1]"x,2', "is no CSV"),
    ],
)
def test_malformed_row_is_named(tmp_path, line, reason):
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
        ("s\0e\0s\0s\0i\0o\0n\0\n\0", 1, "has no column `session`"),  # UTF-16, unmarked
        ("session,next\n[1],2\n", 1, "has no column `label`"),
        ("session,label,label\n[1],2,2\n", 1, "has the column `label` more than once"),
        ("session,label,session\n[1],2,[1]\n", 1, "has the column `session` more than once"),
        ('session,label\n[1],2\n"[1, 2', 3, "was cut off"),
    ],
)
def test_unusable_file_is_named(tmp_path, text, line, reason):
    path = write(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_sessions(path, labels=True)
    assert (error.value.file, error.value.line) == (str(path), line)
    assert reason in error.value.reason


@pytest.mark.parametrize(("encoding", "line"), [("latin-1", 3), ("utf-16", 1)])
def test_other_encoding_is_named(tmp_path, encoding, line):
    path = write(tmp_path, "session,label\n[1],2\n[3],\u00e9\n", encoding=encoding)
    with pytest.raises(DataError) as error:
        read_sessions(path, labels=True)
    assert error.value.line == line


def test_line_of_an_error_counts_lines_not_records(tmp_path):
    path = write(tmp_path, 'session,label\n"[1,\n2,\n3]",4\n[x],2\n')
    with pytest.raises(DataError, match="line 5:"):
        read_sessions(path, labels=True)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: cannot be read \(No such file"):
        read_sessions(tmp_path / "absent.csv")


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
        ("id,item\n1,a\nb,1\n", 3, "is not an item id, given once"),
        ("id,item\n1,a\n1,b\n", 3, "is not an item id, given once"),
        ("id,item\n1,a,b\n", 2, "is not an item id, given once"),
        ("id,item\n-1,a\n", 2, "is not an item id, given once"),
        ('id,item\n1,"a\n', 2, "is no CSV, or was cut off"),
    ],
)
def test_unusable_item_names_are_named(tmp_path, text, line, reason):
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
    with pytest.raises(DataError, match=r"no item id"):
        read_sessions(write(tmp_path, f"session,label\n{row}\n"), labels=True)
    assert not mark.exists()


# --------------------------------------------------------------------------------------------------
# Sessions


@given(st.lists(st.lists(ids, max_size=5), max_size=8), st.data())
def test_sessions_agree_with_lists(lists, data):
    labels = list(range(100, 100 + len(lists)))
    sessions = Sessions.from_lists(lists, labels, users=labels)
    assert as_lists(sessions) == lists
    assert sessions.lengths.tolist() == [len(s) for s in lists]
    assert sessions.row_of_item.tolist() == [r for r, s in enumerate(lists) for _ in s]
    appended = [s + [label] for s, label in zip(lists, labels, strict=True)]
    assert as_lists(sessions.with_labels_appended()) == appended

    rows = data.draw(st.lists(st.sampled_from(range(len(lists))), max_size=10)) if lists else []
    taken = sessions.take(np.array(rows, int))
    assert as_lists(taken) == [lists[r] for r in rows]
    assert taken.labels.tolist() == taken.users.tolist() == [labels[r] for r in rows]
    mask = np.array([r in rows for r in range(len(lists))], bool)
    assert as_lists(sessions.take(mask)) == [lists[r] for r in sorted(set(rows))]

    longest = data.draw(st.none() | st.integers(1, 4))
    tails = [s if longest is None else s[-longest:] for s in lists]
    width = max([1, *map(len, tails)])
    assert sessions.padded(longest).tolist() == [s + [0] * (width - len(s)) for s in tails]


@pytest.mark.parametrize("bad", [-1, 1.5, "1", True, 2**63, 2**64])
def test_sessions_from_lists_refuse_what_is_no_id(bad):
    with pytest.raises(DataError, match="non-negative integers"):
        Sessions.from_lists([[bad]])
    with pytest.raises(DataError, match="each session must be a list of ids"):
        Sessions.from_lists([1, 2])


def test_negative_rows_count_from_the_end():
    sessions = Sessions.from_lists([[1], [2, 3]])
    assert sessions[-1] == [2, 3]
    with pytest.raises(IndexError):
        sessions[2]


# --------------------------------------------------------------------------------------------------
# Dataset folders


def make_folder(folder, train="session,label\n[1],2\n", test="session\n[1]\n"):
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, train)
    if test:
        write(folder, test, "test_sessions.csv")
    return folder


def test_dataset_root_comes_before_the_collections_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASET_ROOT", raising=False)
    own = Path(__file__).parents[1] / "dataset" / "Demo"
    assert find_dataset("Demo") == own
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    assert find_dataset("Demo") == own  # the root has none
    assert find_dataset(make_folder(tmp_path / "root" / "Demo").name) == tmp_path / "root" / "Demo"
    assert find_dataset(own) == own  # a path is that path


def test_unknown_dataset_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "root" / "Shop")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    with pytest.raises(DataError, match="one of Amazon_Beauty, Amazon_Cell, Demo, Shop") as error:
        find_dataset("Books")
    assert error.value.file == "Books"


def test_a_folder_goes_before_the_short_name_of_an_amazon_dataset(tmp_path, monkeypatch):
    mine = make_folder(tmp_path / "root" / "Beauty")
    monkeypatch.setenv("DATASET_ROOT", str(tmp_path / "root"))
    assert find_dataset("Beauty") == mine


def test_folder_without_the_files_is_named(tmp_path):
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


def test_demo_stands_in_where_the_server_does_not_answer(monkeypatch, capsys):
    def fetch(name):
        raise ServerUnreachable("No answer.")

    monkeypatch.setattr("dataset.fetch_amazon.fetch", fetch)
    names = [data.short_name for data in load_datasets(["Demo", "cell", "beauty"])]
    assert names == ["demo"]
    assert "embedded Demo dataset instead" in capsys.readouterr().out
    assert [data.name for data in load_datasets(["Demo"])] == ["Demo"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rows", "users"),
    [
        ([([1], 2), ([1, 2], 3), ([1, 2, 3], 4)], [0, 0, 0]),
        ([([1], 2), ([1], 2)], [0, 1]),  # the same length
        ([([1], 2), ([1, 3], 4)], [0, 1]),  # another item than the label
        ([([1], 2), ([5, 2], 4)], [0, 1]),  # another item before it
        ([([1, 2], 3), ([2, 1, 3], 4)], [0, 1]),  # the same items in another order
        ([([1], 2), ([1, 2, 3], 4)], [0, 1]),  # two items longer
        ([([1], 2), ([1, 1, 2], 4)], [0, 1]),
        ([([1, 2], 3), ([1], 2), ([1, 2], 3)], [0, 1, 1]),  # shorter: starts anew
        ([([1], 2), ([1, 2], 3), ([1, 2], 3)], [0, 0, 1]),
        ([([1, 1], 1), ([1, 1, 1], 1)], [0, 0]),
        ([([1], 2), ([3], 4), ([5], 6)], [0, 1, 2]),
        ([([1, 2], 3)], [0]),
    ],
)
def test_user_goes_on_where_a_row_is_the_last_one_and_its_label(rows, users):
    lists, labels = zip(*rows, strict=True)
    assert find_users(Sessions.from_lists(lists, labels)).tolist() == users


# --------------------------------------------------------------------------------------------------
# Splitting

# 100 users with 1 to 4 rows each: 250 rows. No item comes twice: a label names its row, and a
# session's first item its user.
FILE = prefix_rows([list(range(10 * u, 10 * u + 2 + u % 4)) for u in range(1, 101)])


def labels_of(parts):
    return [part.labels.tolist() for part in parts]


def test_user_split_keeps_whole_users_in_file_order():
    parts = split_sessions(FILE)
    users = [set(part.users.tolist()) for part in parts]
    assert [len(part) for part in users] == [80, 10, 10]
    assert set.union(*users) == set(range(100))
    assert sum(labels_of(parts), []) != FILE.labels.tolist()  # not cut in file order
    assert sorted(sum(labels_of(parts), [])) == FILE.labels.tolist()  # each row once
    for part in parts:
        assert as_rows(part) == [row for row in as_rows(FILE) if row[1] in part.labels]
        assert find_users(part).max() == len(np.unique(part.users)) - 1


def test_row_split_takes_a_fifth_of_the_rows():
    parts = split_sessions(FILE, by="row")
    assert [len(part) for part in parts] == [200, 50, 0]
    assert sorted(sum(labels_of(parts), [])) == FILE.labels.tolist()
    assert all(labels == sorted(labels) for labels in labels_of(parts))
    assert np.isin(parts.valid.users, parts.train.users).any()


def test_no_split_trains_on_all():
    assert [len(part) for part in split_sessions(FILE, by="none")] == [250, 0, 0]


@pytest.mark.parametrize("by", ["user", "row"])
def test_split_repeats_with_its_seed(by):
    first = labels_of(split_sessions(FILE, by, seed=3))
    assert labels_of(split_sessions(FILE, by, seed=3)) == first
    assert labels_of(split_sessions(FILE, by, seed=4)) != first


@pytest.mark.parametrize(
    ("by", "shares", "sizes"),
    [
        ("user", (0.25, 0.05), [70, 25, 5]),
        ("user", (0.5, 0.0), [50, 50, 0]),
        ("user", (0.0, 0.3), [70, 0, 30]),
        ("row", (0.1, 0.2), [175, 25, 50]),
    ],
)
def test_shares_are_of_users_or_rows(by, shares, sizes):
    parts = split_sessions(FILE, by, valid_share=shares[0], test_share=shares[1])
    units = [len(np.unique(part.users)) if by == "user" else len(part) for part in parts]
    assert units == sizes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valid_share": 1.0}, "shares"),
        ({"valid_share": -0.1}, "shares"),
        ({"valid_share": 0.6, "test_share": 0.4}, "shares"),
        ({"valid_share": 0.001}, "too few for a validation share"),
        ({"test_share": 0.001}, "too few for a test share"),
        ({"by": "item"}, "choose 'user', 'row' or 'none'"),
    ],
)
def test_impossible_split_is_an_error(options, words):
    with pytest.raises(ValueError, match=words):
        split_sessions(FILE, **options)


def test_leak_rate_tells_the_same_user_from_any():
    train = Sessions.from_lists([[1, 2], [7]], [3, 8], users=[0, 1])
    rows = [
        ([1], 2, 0),  # step 1 of [1, 2]->3, the same user's
        ([1, 2], 3, 5),  # verbatim, another user's
        ([7], 8, 6),  # verbatim, another user's
        ([1, 2, 3], 4, 0),  # longer than what was trained
        ([2], 3, 0),  # within a session, but no prefix
        ([1], 3, 0),
        ([8], 7, 1),
        ([], 7, 1),  # encoding left it empty: no pair
    ]
    validation = Sessions.from_lists(*map(list, zip(*rows, strict=True)))
    assert leak_rate(train, validation) == (1 / 8, 3 / 8)
    assert leaked_rows(train, validation).tolist() == [True] + [False] * 7
    assert leak_rate(train, validation.take(np.array([], int))) == (0, 0)


@given(histories, st.integers(0, 99))
def test_leak_rate_agrees_with_sets(histories, seed):
    rows = prefix_rows(histories)
    held_out = np.random.default_rng(seed).random(len(rows)) < 0.4
    train, validation = rows.take(~held_out), rows.take(held_out)
    trained = set()
    for (session, label), user in zip(as_rows(train), train.users.tolist(), strict=True):
        sequence = (*session, label)
        trained |= {(user, sequence[:t]) for t in range(2, len(sequence) + 1)}
    anybody = {sequence for _, sequence in trained}
    asked = [(*session, label) for session, label in as_rows(validation)]
    own = [pair in trained for pair in zip(validation.users.tolist(), asked, strict=True)]
    expected = (np.mean(own), np.mean([s in anybody for s in asked])) if asked else (0, 0)
    assert leak_rate(train, validation) == pytest.approx(expected)
    assert leaked_rows(train, validation).tolist() == own


# --------------------------------------------------------------------------------------------------
# Cleaning and encoding


def test_vocabulary_codes_sorted_ids_from_one():
    vocabulary = Vocabulary(np.array([70, 0, 5, 70]))
    assert len(vocabulary) == 3
    assert vocabulary.encode(np.array([[0, 5], [70, 6]])).tolist() == [[1, 2], [3, 0]]
    assert vocabulary.encode(np.array([71])).tolist() == [0]
    assert vocabulary.decode(np.array([[3, 1], [2, 2]])).tolist() == [[70, 0], [5, 5]]
    for bad in (0, 4, -1):
        with pytest.raises(ValueError, match=r"must be 1\.\.3"):
            vocabulary.decode(np.array([1, bad]))
    assert Vocabulary(np.array([], int)).encode(np.array([3])).tolist() == [0]


def test_unknown_items_leave_their_session_and_rows_stay():
    sessions = Sessions.from_lists([[9, 5, 9, 7], [9], [7]], [5, 7, 9], users=[3, 4, 5])
    encoded = Vocabulary(np.array([5, 7])).encode_sessions(sessions)
    assert as_rows(encoded) == [([1, 2], 1), ([], 2), ([2], 0)]
    assert encoded.users.tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("shortest", "expected"),
    [
        (0, [([1], 3, 0), ([1, 3], 4, 0), ([4], 3, 2)]),
        (1, [([1], 3, 0), ([1, 3], 4, 0), ([4], 3, 2)]),
        (2, [([1, 3], 4, 0)]),
    ],
)
def test_rows_vanish_with_their_label_or_whole_session(shortest, expected):
    sessions = Sessions.from_lists([[1], [1, 2], [1, 2, 3], [2], [4]], [2, 3, 4, 4, 3], users=[0, 0, 0, 1, 2])
    keep = np.array([1, 3, 4])
    cleaned = clean_sessions(sessions, keep=keep, min_session_length=shortest)
    left = [(*row, user) for row, user in zip(as_rows(cleaned), cleaned.users, strict=True)]
    assert left == expected


def test_an_interaction_counts_once_however_many_rows_repeat_it():
    # User 0: [8, 6, 7] in two rows. User 1: [7, 6, 6] in one.
    sessions = Sessions.from_lists([[8], [8, 6], [7, 6]], [6, 7, 6], users=[0, 0, 1])
    items, counts = count_items(sessions)
    assert dict(zip(items.tolist(), counts.tolist(), strict=True)) == {6: 3, 7: 2, 8: 1}


def make_dataset(histories, test=((0,),)):
    empty = Path("nowhere")
    return SessionDataset("Toy", empty, prefix_rows(histories), Sessions.from_lists(test), "0")


def test_filter_counts_only_the_training_part():
    data = make_dataset([[8, 9]] * 4)  # two of the four users train
    options = {"valid_share": 0.5, "test_share": 0.0}
    assert len(prepare(data, min_item_count=2, **options).train) == 2
    with pytest.raises(DataError, match="nothing is left to train on"):
        prepare(data, min_item_count=3, **options)
    assert len(prepare(data, min_item_count=4, fit_on="all", **options).train) == 2


def test_shortest_session_holds_for_training_only_unless_all_rows_are_fitted():
    data = make_dataset([[1, 2, 3]] * 10)  # a row of one item and one of two
    ours = prepare(data, min_session_length=2)
    assert [len(part) for part in (ours.train, ours.valid, ours.test)] == [8, 2, 2]
    report = prepare(data, min_session_length=2, fit_on="all")
    assert [len(part) for part in (report.train, report.valid, report.test)] == [8, 1, 1]


def test_vocabulary_is_the_training_parts_items_and_the_test_files():
    # Every user: item 5, then two of their own; the test file has item 0 and 999 besides.
    data = make_dataset([[5, 10 * u, 10 * u + 1] for u in range(1, 11)], test=[[0, 5], [999]])
    prepared = prepare(data)
    own = [[10 * (u + 1), 10 * (u + 1) + 1] for u in np.unique(prepared.train.users)]
    assert prepared.vocabulary.item_ids.tolist() == sorted([0, 5, 999, *sum(own, [])])
    assert prepared.n_items == 3 + 16
    for part in (prepared.valid, prepared.test):
        assert as_rows(part) == [([2], 0), ([2], 0)]  # [5]->? and [5, ?]->?
    popularity = dict(enumerate(prepared.popularity.tolist()))
    assert popularity.pop(2) == 8  # item 5: once a training user
    assert popularity.pop(0) == popularity.pop(1) == popularity.pop(19) == 0
    assert set(popularity.values()) == {1}
    assert not prepared.repeats

    assert prepare(data, fit_on="all").n_items == 3 + 20
    with pytest.raises(ValueError, match="'train' or 'all'"):
        prepare(data, fit_on="test")


@pytest.mark.parametrize(
    ("session", "label", "expected"),
    [([1, 2], 3, False), ([1, 2], 1, True), ([1, 2, 1], 3, True), ([3], 3, True), ([3], 4, False)],
)
def test_repeats_are_seen_within_session_and_label(session, label, expected):
    others = [[1, 2], [2, 1]], [3, 3]  # the same items in other rows are no repeat
    assert has_repeats(Sessions.from_lists([*others[0], session], [*others[1], label])) == expected


# --------------------------------------------------------------------------------------------------
# Datasets and dataloader


def count_steps(dataset):
    """{(items up to a step, its target): total weight}."""
    steps = Counter()
    for row in range(len(dataset)):
        x, y, w = (part[0].tolist() for part in dataset.__getitems__([row]))
        for t, target in enumerate(y):
            steps[tuple(x[: t + 1]), target] += w[t]
    return steps


def test_train_dataset_shifts_and_my_dataset_keeps_one_label():
    sessions = Sessions.from_lists([[7], [1, 2, 3, 4]], [8, 5], users=[0, 1])
    for dataset in (TrainDataset(sessions), TrainDataset(sessions, fold=False)):
        x, y = dataset[1]
        assert x.tolist() == [1, 2, 3, 4]
        assert y.tolist() == [2, 3, 4, 5]
        assert [part.tolist() for part in dataset[0]] == [[7], [8]]
    batch = MyDataset(sessions).__getitems__([1, 0])
    assert batch.x.tolist() == [[1, 2, 3, 4], [7, 0, 0, 0]]
    assert batch.y.tolist() == [[0, 0, 0, 5], [8, 0, 0, 0]]
    assert batch.w.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_my_dataset_leaves_other_rows_alone_where_a_session_is_empty():
    dataset = MyDataset(Sessions.from_lists([[], [1, 2], [], [3]], [9, 8, 7, 6]))
    assert len(dataset) == 2  # the empty ones have no step to train on
    assert dataset.__getitems__([0, 1]).y.tolist() == [[0, 8], [6, 0]]


def test_prefix_rows_fold_into_one_weighted_session():
    # User 0 has [1]->2, [1, 2]->3, [1, 2, 3]->4; user 1 lost the row [5]->6.
    sessions = Sessions.from_lists([[1], [1, 2], [1, 2, 3], [5, 6]], [2, 3, 4, 7], users=[0, 0, 0, 1])
    folded, weights = maximal_sessions(sessions)
    assert as_lists(folded) == [[1, 2, 3, 4], [5, 6, 7]]
    assert weights.tolist() == [3, 2, 1, 1, 1]
    batch = TrainDataset(sessions).__getitems__([0, 1])
    assert batch.x.tolist() == [[1, 2, 3], [5, 6, 0]]
    assert batch.y.tolist() == [[2, 3, 4], [6, 7, 0]]
    assert batch.w.tolist() == [[3, 2, 1], [1, 1, 0]]
    assert TrainDataset(sessions).total_weight == 8
    once = TrainDataset(sessions, weights="once")
    assert once.__getitems__([0, 1]).w.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_reversed_sessions_are_added_with_their_share_of_the_weight():
    sessions = Sessions.from_lists([[1], [1, 2], [1, 2, 3], [5]], [2, 3, 4, 6], users=[0, 0, 0, 1])
    dataset = TrainDataset(sessions, reverse=0.5)
    batch = dataset.__getitems__(range(4))
    assert batch.x.tolist() == [[1, 2, 3], [5, 0, 0], [4, 3, 2], [6, 0, 0]]
    assert batch.y.tolist() == [[2, 3, 4], [6, 0, 0], [3, 2, 1], [5, 0, 0]]
    assert batch.w.tolist() == [[3, 2, 1], [1, 0, 0], [0.5, 1, 1.5], [0.5, 0, 0]]
    assert dataset.total_weight == 7 + 3.5


@given(histories, st.data())
def test_folding_keeps_every_step_and_its_weight(histories, data):
    sessions = prefix_rows(histories)
    # Any rows in any order: a row split leaves gaps in the chains.
    places = st.integers(0, len(sessions) - 1)
    rows = data.draw(st.lists(places, min_size=1, unique=True))
    sessions = sessions.take(np.array(rows))
    folded, unfolded = TrainDataset(sessions), TrainDataset(sessions, fold=False)
    assert count_steps(folded) == count_steps(unfolded)
    assert folded.total_weight == unfolded.total_weight == sessions.lengths.sum()
    assert len(folded) == len(np.unique(sessions.users))
    assert len(unfolded) == len(sessions)


@given(histories, st.sets(st.integers(1, 4), min_size=1))
def test_folding_keeps_every_step_of_filtered_rows(histories, keep):
    sessions = clean_sessions(prefix_rows(histories), keep=np.array(sorted(keep)))
    assert count_steps(TrainDataset(sessions)) == count_steps(TrainDataset(sessions, fold=False))


def test_wrong_weights_are_an_error():
    with pytest.raises(ValueError, match="choose 'rows' or 'once'"):
        TrainDataset(FILE, weights="row")
    with pytest.raises(ValueError, match="needs fold=True"):
        TrainDataset(FILE, fold=False, weights="once")


@given(histories, st.data())
def test_batch_is_its_rows_padded(histories, data):
    sessions = prefix_rows(histories)
    dataset = data.draw(st.sampled_from([TrainDataset, MyDataset]))(sessions)
    rows = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=6))
    batch = dataset.__getitems__(torch.tensor(rows))
    assert batch.x.shape == (len(rows), max(len(dataset[r][0]) for r in rows))
    for place, row in enumerate(rows):
        x, y = dataset[row]
        assert batch.x[place, : len(x)].equal(x)
        assert batch.y[place, : len(x)].equal(y)
        assert not any(part[place, len(x) :].any() for part in batch)


def epochs(n, **options):
    """Row numbers of each batch, for n epochs: one folded row a user of FILE."""
    loader = get_dataloader(TrainDataset(FILE), batch_size=8, **options)
    return [[(batch.x[:, 0] // 10 - 1).tolist() for batch in loader] for _ in range(n)]


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    first, second = epochs(2)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(100))
    assert first != second
    assert len(first) == len(get_dataloader(TrainDataset(FILE), batch_size=8)) == 13
    assert {frozenset(rows) for rows in first} != {frozenset(rows) for rows in second}


def test_same_seed_gives_the_same_epochs():
    first = epochs(2, seed=5)
    torch.rand(3)  # the global generator has no say
    assert epochs(2, seed=5) == first
    assert epochs(1, seed=6) != first[:1]
    loader = get_dataloader(TrainDataset(FILE), batch_size=8, seed=5)
    loader.batch_sampler.epoch = 1
    assert [(batch.x[:, 0] // 10 - 1).tolist() for batch in loader] == first[1]


def test_batches_hold_similar_lengths_and_come_in_mixed_order():
    loader = get_dataloader(TrainDataset(FILE), batch_size=8)
    lengths = [(batch.x > 0).sum(1) for batch in loader]
    assert sum(int(length.max() - length.min()) for length in lengths) <= 3  # 1 to 4, sorted
    assert [int(length.max()) for length in lengths] != sorted(int(n.max()) for n in lengths)


def test_unshuffled_batches_keep_the_file_order():
    batches = epochs(1, shuffle=False)[0]
    assert sum(batches, []) == list(range(100))
    assert [len(rows) for rows in batches] == [8] * 9 + [7] * 4  # equal, give or take a row


def test_batch_size_below_one_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        get_dataloader(TrainDataset(FILE), batch_size=0)


# --------------------------------------------------------------------------------------------------
# Session graphs


def test_slice_of_the_reports_examples():
    sliced = get_slice(torch.tensor([[464, 1150, 0]]))
    assert sliced.items.tolist() == [[0, 464, 1150]]
    assert sliced.alias_inputs.tolist() == [[1, 2, 0]]
    assert sliced.mask.tolist() == [[True, True, False]]
    assert sliced.A.tolist() == [[[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0]]]
    sliced = get_slice(torch.tensor([[5, 11, 7, 0, 0, 0]]))
    assert sliced.alias_inputs.tolist() == [[1, 3, 2, 0, 0, 0]]


def test_slice_of_repeated_items():
    # Edges 1->3 (twice, counts once), 3->2, 2->3, 3->1; nodes are 1, 2, 3 and three unused ones.
    sliced = get_slice(torch.tensor([[1, 3, 2, 3, 1, 3]]))
    assert sliced.items.tolist() == [[1, 2, 3, 0, 0, 0]]
    assert sliced.alias_inputs.tolist() == [[0, 2, 1, 2, 0, 2]]
    unused = [[0] * 12] * 3
    assert sliced.A.tolist() == [
        [
            [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0, 0, 0.5, 0.5, 0, 0, 0, 0],
            *unused,
        ]
    ]


def slice_by_loops(row):
    """One padded row -> alias_inputs, A, items, mask, in plain Python."""
    nodes = sorted(set(row))
    pairs = zip(row, row[1:], strict=False)
    edges = {(nodes.index(u), nodes.index(v)) for u, v in pairs if u and v}
    A = [[0.0] * (2 * len(row)) for _ in row]
    for u, v in edges:
        A[v][u] = 1 / sum(end == v for _, end in edges)
        A[u][len(row) + v] = 1 / sum(start == u for start, _ in edges)
    items = nodes + [0] * (len(row) - len(nodes))
    return [nodes.index(i) for i in row], A, items, [i > 0 for i in row]


@given(st.lists(st.lists(st.integers(1, 5), max_size=8), min_size=1, max_size=5))
def test_slice_agrees_with_loops(sessions):
    x = Sessions.from_lists(sessions).padded().tolist()
    sliced = get_slice(torch.tensor(x))
    alias_inputs, A, items, mask = map(list, zip(*map(slice_by_loops, x), strict=True))
    assert sliced.alias_inputs.tolist() == alias_inputs
    assert sliced.items.tolist() == items
    assert sliced.mask.tolist() == mask
    assert torch.allclose(sliced.A, torch.tensor(A))


def test_prefixes_expand_to_rows_that_the_mask_puts_back():
    x = torch.tensor([[4, 7, 4], [5, 0, 0]])
    prefixes, mask = expand_prefixes(x)
    assert prefixes.tolist() == [[4, 0, 0], [4, 7, 0], [4, 7, 4], [5, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_long_sessions_are_cut_from_their_end(monkeypatch):
    monkeypatch.setattr(process_data, "LONGEST_SESSION", 3)
    sessions = Sessions.from_lists([[1, 2, 3, 4, 5, 6, 7], [8]], [9, 10], [0, 1])

    def rows(dataset):
        return [tuple(t.tolist() for t in dataset[i]) for i in range(len(dataset))]

    pieces = [([1], [2]), ([2, 3, 4], [3, 4, 5]), ([5, 6, 7], [6, 7, 9]), ([8], [10])]
    assert rows(TrainDataset(sessions)) == pieces
    assert rows(MyDataset(sessions)) == [([5, 6, 7], [0, 0, 9]), ([8], [10])]
