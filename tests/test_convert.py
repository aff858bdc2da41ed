"""dataset/convert.py: every format gives the same sessions, by hand; splits, errors, and the way back."""

import csv
import gzip
import random
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dataset.convert import FILES, ConvertError, convert, export, main, read_log
from process_data import load_dataset

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "dataset" / "Demo"
DAY = 86400
START = 16_000 * DAY
W, X, Y, Z = (f"B00000000{letter}" for letter in "WXYZ")  # will be 1, 2, 3, 4
USERS = [f"A{number}QWERTZUIOPAS" for number in range(6)]

# (user, item, day). User 1 took Y and Z on one day, in this order; 3 repeats Z; 4 has one item; 5's days
# are not in order.
LOG = [
    (1, X, 1),
    (3, Z, 1),
    (1, Y, 2),
    (2, Y, 1),
    (5, X, 2),
    (1, Z, 2),
    (3, Y, 2),
    (4, W, 5),
    (3, Z, 3),
    (2, X, 3),
    (5, W, 1),
    (3, X, 4),
]
INTERACTIONS = [(USERS[user], item, START + day * DAY) for user, item, day in LOG]
# Seed 0 puts the second of the four users that are left, number 2, first: it is tested.
TRAIN = 'session,label\n[2],3\n"[2, 3]",4\n[4],3\n"[4, 3]",2\n[1],2\n'
TEST = "session,label\n[3],2\n"
ITEMS = f"id,item\n1,{W}\n2,{X}\n3,{Y}\n4,{Z}\n"
SHARE = {"test_share": 0.25}


def write_rows(path, rows, header=None, separator=","):
    rows = [header, *rows] if header else rows
    text = "".join(separator.join(map(str, row)) + "\n" for row in rows)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def write_amazon(path, rows=INTERACTIONS):
    return write_rows(path, [(user, item, "5.0", time) for user, item, time in rows])


def write_parquet(path, rows, names=("user_id", "item_id", "timestamp")):
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(path)
    return path


FORMATS = {
    "amazon 2014": lambda folder: write_amazon(folder / "log.csv"),
    "amazon 2014, packed": lambda folder: write_amazon(folder / "log.csv.gz"),
    "amazon 2018": lambda folder: write_rows(
        folder / "log.csv", [(item, user, "5.0", time) for user, item, time in INTERACTIONS]
    ),
    "amazon 2023": lambda folder: write_rows(
        folder / "log.csv",
        [(user, item, "5.0", time * 1000) for user, item, time in INTERACTIONS],
        ("user_id", "parent_asin", "rating", "timestamp"),
    ),
    "session-rec": lambda folder: write_rows(
        folder / "log.txt", INTERACTIONS, ("SessionId", "ItemId", "Time"), "\t"
    ),
    "recbole": lambda folder: write_rows(
        folder / "log.inter",
        [(item, user, "5.0", float(time)) for user, item, time in INTERACTIONS],
        ("item_id:token", "user_id:token", "rating:float", "timestamp:float"),
        "\t",
    ),
    "plain": lambda folder: write_rows(folder / "log.csv", INTERACTIONS, ("user", "item", "timestamp")),
    "three columns": lambda folder: write_rows(folder / "log.csv", INTERACTIONS),
    "parquet": lambda folder: write_parquet(folder / "log.parquet", INTERACTIONS),
    "parquet, dates": lambda folder: write_parquet(
        folder / "log.parquet", [(u, i, datetime.fromtimestamp(t, UTC)) for u, i, t in INTERACTIONS]
    ),
}


def read_output(folder):
    return [(folder / name).read_text() for name in FILES]


def sequences(folder):
    """The sessions of both files, label appended: training ones at full length."""
    parts = []
    for name in FILES[:2]:
        with open(folder / name, newline="") as file:
            rows = [
                [int(item) for item in re.findall(r"\d+", row["session"])] + [int(row["label"])]
                for row in csv.DictReader(file)
            ]
        parts.append([row for row, after in zip(rows, [*rows[1:], []], strict=True) if after[:-1] != row])
    return parts


# --------------------------------------------------------------------------------------------------
# Formats


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_files(name, tmp_path):
    summary = convert(FORMATS[name](tmp_path), tmp_path / "out", **SHARE)
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]
    assert (summary.interactions, summary.users, summary.items) == (12, 5, 4)
    assert (summary.sessions, summary.train_rows, summary.test_rows) == (4, 5, 1)
    assert [count for count in summary.dropped.values() if count] == [1, 1]
    assert summary.known_labels == 1


@pytest.mark.parametrize("name", FORMATS)
def test_read_log_has_lines_text_and_seconds(name, tmp_path):
    log = read_log(FORMATS[name](tmp_path)).collect()
    assert list(zip(log["user"], log["item"], log["time"], strict=True)) == INTERACTIONS
    assert log["line"].to_list() == list(range(log["line"][0], log["line"][0] + 12))


def test_columns_can_be_named(tmp_path):
    odd = write_rows(tmp_path / "odd.csv", [(t, "x", u, i) for u, i, t in INTERACTIONS])
    convert(odd, tmp_path / "out", columns="time,-,user,item", **SHARE)
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]
    named = write_rows(tmp_path / "named.csv", INTERACTIONS, ("who", "what", "when"))
    convert(named, tmp_path / "out", columns="user,item,timestamp", **SHARE)
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]


def test_a_session_goes_before_a_user(tmp_path):
    rows = [(7, "s1", "a", 1), (7, "s2", "a", 2), (7, "s1", "b", 3), (7, "s2", "c", 4)]
    log = write_rows(tmp_path / "log.csv", rows, ("user_id", "session_id", "item_id", "timestamp"))
    convert(log, tmp_path / "out", test_share=0.5)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2], [1, 3]]


def test_books_are_items_by_their_isbn(tmp_path):
    rows = [("0000031852", USERS[1]), ("B00000000X", USERS[1]), ("012345678X", USERS[2]), (X, USERS[2])]
    log = write_rows(tmp_path / "log.csv", [(item, user, 5, START) for item, user in rows])
    assert read_log(log).collect()["item"].to_list() == [item for item, _ in rows]


def test_quotes_bom_crlf_and_blank_lines_are_harmless(tmp_path):
    rows = 'user,item,timestamp\r\nu,"a, ""b""",1\r\n\r\nu,c,2\r\nv,c,1\r\nv,d,2\r\n\r\n'
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    convert(tmp_path / "log.csv", tmp_path / "out", test_share=0.5)
    assert (tmp_path / "out" / "items.csv").read_text() == 'id,item\n1,"a, ""b"""\n2,c\n3,d\n'


# --------------------------------------------------------------------------------------------------
# Ids and order


def test_integer_ids_stay_and_users_are_in_their_order(tmp_path):
    rows = [(10, 30, 1), (10, 0, 2), (9, 7, 1), (9, 100, 2), (100, 7, 1), (100, 30, 2)]
    summary = convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", test_share=0.3)
    train, test = sequences(tmp_path / "out")
    assert sorted([*train, *test]) == [[7, 30], [7, 100], [30, 0]]
    assert train == [s for s in ([7, 100], [30, 0], [7, 30]) if s not in test]
    assert (tmp_path / "out" / "items.csv").read_text() == "id,item\n0,0\n7,7\n30,30\n100,100\n"
    assert summary.items_kept == 4


@pytest.mark.parametrize("item", ["007", "1" * 19, "-1", "1.0", "x"])
def test_ids_that_are_no_such_integers_are_numbered(item, tmp_path):
    rows = [(1, item, 1), (1, 5, 2), (2, 5, 1), (2, item, 2)]
    convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", test_share=0.5)
    expected = {text: number for number, text in enumerate(sorted([item, "5"]), 1)}
    with open(tmp_path / "out" / "items.csv") as file:
        assert {row["item"]: int(row["id"]) for row in csv.DictReader(file)} == expected


def test_ties_stay_in_the_order_of_the_file(tmp_path):
    rows = [("u", "b", 5), ("v", "a", 5), ("u", "a", 5), ("u", "c", 4), ("v", "b", 5)]
    convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", test_share=0.5)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2], [3, 2, 1]]


@pytest.mark.parametrize("split", ["user", "time"])
def test_the_order_of_the_rows_does_not_matter_where_times_differ(split, tmp_path):
    rng = random.Random(0)
    times = rng.sample(range(START, START + 1000 * DAY), 600)
    rows = [(f"u{rng.randrange(90)}", f"i{rng.randrange(40)}", time) for time in times]
    outputs = []
    for run in range(3):
        log = write_rows(tmp_path / f"{run}.csv", rows)
        convert(log, tmp_path / f"out{run}", split=split, gap=2400, min_item_count=12)
        outputs.append(read_output(tmp_path / f"out{run}"))
        rng.shuffle(rows)
    assert outputs[0] == outputs[1] == outputs[2]


# --------------------------------------------------------------------------------------------------
# Choices


def test_a_gap_splits_a_users_sessions(tmp_path):
    hours = [0, 1, 2, 6, 7, 7.5]
    rows = [("u", item, START + hour * 3600) for item, hour in zip("abcabd", hours, strict=True)]
    rows += [("v", "a", START), ("v", "d", START + 3 * 3600)]  # exactly the gap is none
    for unit in (1, 1000, 10**6):
        log = write_rows(tmp_path / "log.csv", [(u, i, int(t * unit)) for u, i, t in rows])
        convert(log, tmp_path / "out", gap=3, test_share=0.5)
        train, test = sequences(tmp_path / "out")
        assert sorted([*train, *test]) == [[1, 2, 3], [1, 2, 4], [1, 4]]
        # Both sessions of u are on the same side.
        assert sorted(map(len, (train, test))) == [1, 2]
    log = write_rows(tmp_path / "log.csv", rows)
    convert(log, tmp_path / "out", test_share=0.5)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2, 3, 4], [1, 4]]


def test_repeats_can_be_kept(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "out", keep_repeats=True, **SHARE)
    assert read_output(tmp_path / "out")[:2] == [
        TRAIN.replace('"[4, 3]",2', '"[4, 3]",4\n"[4, 3, 4]",2'),
        TEST,
    ]


def test_rare_items_go_then_short_sessions(tmp_path):
    log = write_amazon(tmp_path / "log.csv")
    summary = convert(log, tmp_path / "out", min_item_count=3, test_share=0.3)
    train, test = sequences(tmp_path / "out")
    assert sorted([*train, *test]) == [[1, 2], [2, 1], [2, 1]]
    assert (tmp_path / "out" / "items.csv").read_text() == f"id,item\n1,{X}\n2,{Y}\n"
    assert list(summary.dropped.values()) == [1, 4, 1, 0]
    convert(log, tmp_path / "out", min_session_length=3, test_share=0.5)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2, 3], [3, 2, 1]]


def test_long_sessions_count_by_their_end(tmp_path):
    rows = [(user, item, item) for user in (1, 2) for item in range(10, 70)]
    log = write_rows(tmp_path / "log.csv", rows)
    summary = convert(log, tmp_path / "out", test_share=0.5)
    assert sequences(tmp_path / "out") == [[list(range(20, 70))]] * 2
    assert summary.train_rows == 49 and list(summary.dropped.values())[-1] == 20
    convert(log, tmp_path / "out", test_share=0.5, longest=3)
    assert sequences(tmp_path / "out") == [[[67, 68, 69]]] * 2


def test_user_split_keeps_a_user_together_and_depends_on_the_seed(tmp_path):
    rows = [(user, user * 10 + step, step * DAY) for user in range(50) for step in range(4)]
    log = write_rows(tmp_path / "log.csv", rows)
    tested = []
    for seed in (0, 0, 1):
        convert(log, tmp_path / "out", gap=36, seed=seed)
        train, test = ({item // 10 for s in part for item in s} for part in sequences(tmp_path / "out"))
        assert len(test) == 5 and len(train) == 45 and not train & test
        tested.append(test)
    assert tested[0] == tested[1] != tested[2]


def test_time_split_tests_what_ends_last(tmp_path):
    # Sessions end on days 2 (1), 3 (2), 4 (3), 2 (5).
    log = write_amazon(tmp_path / "log.csv")
    convert(log, tmp_path / "out", split="time", test_share=0.25)
    assert sequences(tmp_path / "out") == [[[2, 3, 4], [3, 2], [1, 2]], [[4, 3, 2]]]
    convert(log, tmp_path / "out", split="time", test_share=0.5)
    assert sequences(tmp_path / "out") == [[[2, 3, 4], [1, 2]], [[3, 2], [4, 3, 2]]]
    with pytest.raises(ConvertError, match="nothing to train on"):  # ties go together
        convert(log, tmp_path / "out", split="time", test_share=0.75)


def test_a_second_log_is_the_test_file(tmp_path):
    first = write_amazon(tmp_path / "first.csv", INTERACTIONS[:6])
    second = write_amazon(tmp_path / "second.csv", INTERACTIONS[6:])
    summary = convert(first, tmp_path / "out", test_log=second)
    assert sequences(tmp_path / "out") == [[[1, 2, 3]], [[2, 3, 1]]]
    assert summary.interactions == 12 and summary.users == 5


def test_the_result_is_a_dataset(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "Mine", **SHARE)
    dataset = load_dataset(tmp_path / "Mine")
    assert dataset.name == "Mine"
    assert dataset.train.users.tolist() == [0, 0, 1, 1, 2]
    assert dataset.test[0] == [3] and dataset.test.labels.tolist() == [2]


# --------------------------------------------------------------------------------------------------
# The way back


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("recbole", ["Back.train.inter", "Back.test.inter"]),
        ("session-rec", ["Back_train_full.txt", "Back_test.txt"]),
    ],
)
def test_sessions_survive_the_way_back(to, names, tmp_path):
    train, test = export(DEMO, tmp_path / "Back", to)
    assert [train.name, test.name] == names
    convert(train, tmp_path / "out", test_log=test)
    for name in FILES[:2]:
        assert (tmp_path / "out" / name).read_bytes() == (DEMO / name).read_bytes()


def test_exported_rows_by_hand(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "out", **SHARE)
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


# --------------------------------------------------------------------------------------------------
# Errors

GOOD = "user,item,timestamp\nu,a,1\nu,b,2\nv,a,1\nv,b,2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "log.csv: is empty"),
        ("\nu,a,1\n", "line 1: is empty"),
        ("user,item,timestamp\n", "has no interactions"),
        ("user,item\nu,a\n", "has no column `timestamp` (its columns are user,item)"),
        ("user,film,timestamp\nu,a,1\n", "--columns user,item,rating,timestamp"),
        ("user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n", "no column `timestamp`"),
        ("user;item;timestamp\nu;a;1\n", "its cells are separated by `;`; save it with commas or tabs"),
        ("1,2,3,4,5\n", "has no header, and its 5 columns do not tell"),
        ("1,2,5.0,100\n3,4,5.0,100\n", "its 4 columns do not tell which holds the items; say it with --col"),
        (f"{X},{Y},5.0,100\n", "do not tell"),
        (GOOD + "u,c,today\n", "line 6: the timestamp is missing, or no number"),
        (GOOD + "u,c,nan\n", "line 6: the timestamp is missing, or no number"),
        (GOOD + "u,c,\n" + GOOD, "line 6: the timestamp is missing"),
        (GOOD + "u,c\n", "line 6: the timestamp is missing"),
        (GOOD + ",c,3\n", "line 6: the user is missing"),
        (GOOD + "\n\nu,,3\n", "line 8: the item is missing"),
        (GOOD + "u,c,3,4\n", "line 6: has more cells than line 1"),
        (GOOD + "u,c,3,4,5,6\n", "line 6: has more cells than line 1"),
        (GOOD + 'u,"c,3\n', "cannot be read"),
        (GOOD.encode() + b"\xff,c,3\n", "is not UTF-8 text"),
        ("user,item,timestamp\nu,a,1\nv,a,1\n", "no session of at least 2 interactions is left"),
        ("user,item,timestamp\nu,a,1\nu,b,2\n", "1 sessions leave nothing to"),
    ],
)
def test_bad_logs_are_told_in_one_sentence(text, message, tmp_path):
    log = tmp_path / "log.csv"
    log.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConvertError) as error:
        convert(log, tmp_path / "out", test_share=0.5)
    assert message in str(error.value) and str(log) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet", "log.inter"])
def test_missing_and_foreign_files_are_told(name, tmp_path):
    with pytest.raises(ConvertError, match=f"{name}: does not exist"):
        convert(tmp_path / name, tmp_path / "out")
    (tmp_path / name).write_bytes(b"\x1f\x8bPAR1\x00\xff\xfe" * 40)
    with pytest.raises(ConvertError, match=f"{name}: (cannot be read|is not UTF-8)"):
        convert(tmp_path / name, tmp_path / "out")
    with pytest.raises(ConvertError, match="cannot be read"):
        convert(tmp_path, tmp_path / "out")


def test_a_packed_log_that_is_cut_off_is_told(tmp_path):
    log = write_rows(tmp_path / "log.csv.gz", [(u, random.random(), u) for u in range(50_000)])
    log.write_bytes(log.read_bytes()[:-1000])
    with pytest.raises(ConvertError, match="cannot be read"):
        convert(log, tmp_path / "out")


def test_a_parquet_column_may_have_any_name(tmp_path):
    rows = [(f"u{u}", f"i{i}", i) for u in range(8) for i in range(3)]
    log = write_parquet(tmp_path / "log.parquet", rows)
    convert(log, tmp_path / "out")
    pl.read_parquet(log).with_columns(line=pl.lit(7)).write_parquet(tmp_path / "more.parquet")
    convert(tmp_path / "more.parquet", tmp_path / "again")
    for file in FILES:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_parquet_errors_name_the_row(tmp_path):
    log = write_parquet(tmp_path / "log.parquet", [("u", "a", 1), ("u", None, 2)])
    with pytest.raises(ConvertError, match=r"log\.parquet, row 2: the item is missing"):
        convert(log, tmp_path / "out")
    log = write_parquet(tmp_path / "log.parquet", [("u", ["a"], 1)])
    with pytest.raises(ConvertError, match="cannot be read"):
        convert(log, tmp_path / "out")


@pytest.mark.parametrize(
    "choice",
    [
        {"split": "row"},
        {"test_share": 0},
        {"test_share": 1.0},
        {"test_share": float("nan")},
        {"gap": 0},
        {"gap": float("nan")},
        {"min_item_count": 0},
        {"min_session_length": 1},
        {"longest": 1},
        {"seed": -1},
        {"columns": "user,item"},
        {"columns": "user,item,rating,-"},
        {"min_item_count": 100},
        {"test_share": 0.01},
    ],
)
def test_bad_choices_are_told(choice, tmp_path):
    with pytest.raises(ConvertError):
        convert(write_amazon(tmp_path / "log.csv"), tmp_path / "out", **choice)


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    log = write_amazon(tmp_path / "log.csv")
    convert(log, out, **SHARE)
    bad = write_amazon(tmp_path / "bad.csv", [*INTERACTIONS, ("u", "a", "x")])
    with pytest.raises(ConvertError):
        convert(bad, out, **SHARE)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataset.convert._line", fail)
    with pytest.raises(OSError, match="No space"):
        convert(log, out, **SHARE)
    assert read_output(out) == [TRAIN, TEST, ITEMS]
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_a_log_is_never_replaced_by_its_own_output(tmp_path):
    log = write_amazon(tmp_path / "items.csv")
    before = log.read_bytes()
    with pytest.raises(ConvertError, match="would be replaced"):
        convert(log, tmp_path, **SHARE)
    assert log.read_bytes() == before


# --------------------------------------------------------------------------------------------------
# Command line


def test_command_line_there_and_back(tmp_path, monkeypatch, capsys):
    log = write_amazon(tmp_path / "log.csv")

    command = [
        sys.executable,
        ROOT / "dataset" / "convert.py",
        log,
        "--output",
        "out",
        "--test-share",
        "0.25",
    ]
    there = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]
    assert "12 interactions of 5 users with 4 items" in there.stdout
    assert "dropped 1 (8.3%): repeats" in there.stdout
    assert "Reading" in there.stderr and "Writing" in there.stderr
    monkeypatch.chdir(tmp_path)
    assert main(["out", "--to", "recbole", "--output", "back"]) == 0
    assert capsys.readouterr().out.split() == ["back/back.train.inter", "back/back.test.inter"]


def test_command_line_errors_are_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "no.csv"), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"convert.py: {tmp_path / 'no.csv'}: does not exist"
    assert main([str(tmp_path), "--to", "recbole", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(
        f"convert.py: {tmp_path / 'train_sessions.csv'}: cannot be read"
    )
    (tmp_path / "file").write_text("")
    log = write_amazon(tmp_path / "log.csv")
    assert main([str(log), "--output", str(tmp_path / "file"), "--test-share", "0.25"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("convert.py: ")
    with pytest.raises(SystemExit):
        main([str(DEMO), "--to", "recbole", "--output", str(tmp_path / "out"), "--seed", "1"])
    with pytest.raises(SystemExit):
        main([str(log), "--test-log", str(log), "--split", "time", "--output", str(tmp_path / "out")])


# --------------------------------------------------------------------------------------------------
# Size

MEASURE = """
import resource, sys
from dataset.convert import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(code)
"""


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_million_interactions_stay_below_two_gib(tmp_path):
    """Measured: 1.0 GiB, and one minute on 2 busy cores (2 million users, 74,000 items)."""
    rng = np.random.default_rng(0)
    n = 1_000_000
    with open(tmp_path / "log.csv", "wb") as file:
        for _ in range(10):
            popular = (300 * rng.pareto(1.1, n)).astype(np.int64)
            item = np.where(rng.random(n) < 0.5, popular, rng.integers(0, 300_000, n)) % 300_000
            frame = pl.DataFrame({"user": rng.integers(0, 2_000_000, n), "item": item})
            frame.select(
                pl.format("A{}", pl.col("user") * 2_654_435_761 + 10**12),
                pl.format("B{}", pl.col("item") + 10**8),
                pl.lit("5.0").alias("rating"),
                pl.Series("time", START + rng.integers(0, 5000, n) * DAY),
            ).write_csv(file, include_header=False)
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "log.csv", "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("10000000 interactions of 19")
    peak = int(run.stdout.split()[-1])
    assert peak < 2 * 2**30, f"{peak / 2**30:.2f} GiB"
