"""dataset/logs/read_log.py: all formats give the same sessions, and a bad log gives one message."""

import random
from datetime import UTC, datetime

import polars as pl
import pytest
from log_files import (
    HALF,
    INTERACTIONS,
    ITEMS,
    SHARE,
    START,
    TEST,
    TRAIN,
    USERS,
    X,
    Y,
    read_output,
    sequences,
    write_amazon,
    write_parquet,
    write_rows,
)

from dataset.logs.convert import FILES, convert
from dataset.logs.opening import ConvertError
from dataset.logs.read_log import read_log

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
    "session-rec": lambda folder: write_rows(folder / "log.txt", INTERACTIONS, ("SessionId", "ItemId", "Time"), "\t"),
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


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_files(name, tmp_path):
    summary = convert(FORMATS[name](tmp_path), tmp_path / "out", SHARE)
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]
    assert (summary.interactions, summary.users, summary.items) == (12, 5, 4)
    assert (summary.sessions, summary.train_rows, summary.test_rows) == (4, 5, 1)
    assert [count for count in summary.dropped.values() if count] == [1, 1]
    assert summary.known_labels == 1


@pytest.mark.parametrize("name", FORMATS)
def test_read_log_has_lines_text_and_seconds(name, tmp_path):
    log = pl.concat(read_log(FORMATS[name](tmp_path)).batches)
    assert list(zip(log["user"], log["item"], log["time"], strict=True)) == INTERACTIONS
    assert log["line"].to_list() == list(range(log["line"][0], log["line"][0] + 12))


def test_columns_can_be_named(tmp_path):
    odd = write_rows(tmp_path / "odd.csv", [(t, "x", u, i) for u, i, t in INTERACTIONS])
    convert(odd, tmp_path / "out", SHARE, columns="time,-,user,item")
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]
    named = write_rows(tmp_path / "named.csv", INTERACTIONS, ("who", "what", "when"))
    convert(named, tmp_path / "out", SHARE, columns="user,item,timestamp")
    assert read_output(tmp_path / "out") == [TRAIN, TEST, ITEMS]


def test_a_session_column_takes_precedence_over_a_user_column(tmp_path):
    rows = [(7, "s1", "a", 1), (7, "s2", "a", 2), (7, "s1", "b", 3), (7, "s2", "c", 4)]
    log = write_rows(tmp_path / "log.csv", rows, ("user_id", "session_id", "item_id", "timestamp"))
    convert(log, tmp_path / "out", HALF)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2], [1, 3]]


def test_isbns_are_recognised_as_items(tmp_path):
    rows = [("0000031852", USERS[1]), ("B00000000X", USERS[1]), ("012345678X", USERS[2]), (X, USERS[2])]
    log = write_rows(tmp_path / "log.csv", [(item, user, 5, START) for item, user in rows])
    assert pl.concat(read_log(log).batches)["item"].to_list() == [item for item, _ in rows]


def test_quotes_bom_crlf_and_blank_lines_are_accepted(tmp_path):
    rows = 'user,item,timestamp\r\nu,"a, ""b""",1\r\n\r\nu,c,2\r\nv,c,1\r\nv,d,2\r\n\r\n'
    (tmp_path / "log.csv").write_bytes(b"\xef\xbb\xbf" + rows.encode())
    convert(tmp_path / "log.csv", tmp_path / "out", HALF)
    assert (tmp_path / "out" / "items.csv").read_text() == 'id,item\n1,"a, ""b"""\n2,c\n3,d\n'


# --------------------------------------------------------------------------------------------------
# Errors

GOOD = "user,item,timestamp\nu,a,1\nu,b,2\nv,a,1\nv,b,2\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "log.csv: the file is empty"),
        ("\nu,a,1\n", "line 1: the line is empty"),
        ("user,item,timestamp\n", "the log contains no interactions"),
        ("user,item,day\nu,a,1\n", "there is no column `timestamp` (the columns are user,item,day)"),
        ("user,film,timestamp\nu,a,1\n", "--columns user,item,rating,timestamp"),
        ("user_id:token\titem_id_list:token_seq\nu\ta b\n", "there is no column `item`"),
        ("1,2,3,4,5\n", "there is no header, and the 5 columns do not show"),
        ("1,2,5.0,100\n3,4,5.0,100\n", "the 4 columns do not show which one contains the items; add --col"),
        (f"{X},{Y},5.0,100\n", "do not show"),
        (GOOD + "u,c,today\n", "line 6: the timestamp is missing or not a number"),
        (GOOD + "u,c,nan\n", "line 6: the timestamp is missing or not a number"),
        (GOOD + "u,c,\n" + GOOD, "line 6: the timestamp is missing"),
        (GOOD + "u,c\n", "line 6: the timestamp is missing"),
        (GOOD + ",c,3\n", "line 6: the user is missing"),
        (GOOD + "\n\nu,,3\n", "line 8: the item is missing"),
        (GOOD + "u,c,3,4\n", "line 6: there are more cells than in line 1"),
        (GOOD + "u,c,3,4,5,6\n", "line 6: there are more cells than in line 1"),
        (GOOD + 'u,"c,3\n', "line 6: a quote opens a cell and is not closed"),
        (GOOD.encode() + b"\xff,c,3\n", "the file is not UTF-8 text; save it as UTF-8"),
        ("user,item,timestamp\nu,a,1\nv,a,1\n", "no session with at least 2 interactions is left"),
        ("user,item,timestamp\nu,a,1\nu,b,2\n", "splitting 1 sessions leaves no"),
    ],
)
def test_a_bad_log_is_an_error_with_one_line(text, message, tmp_path):
    log = tmp_path / "log.csv"
    log.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConvertError) as error:
        convert(log, tmp_path / "out", HALF)
    assert message in str(error.value) and str(log) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet", "log.inter"])
def test_missing_and_other_files_are_errors(name, tmp_path):
    with pytest.raises(ConvertError, match=f"{name}: the file does not exist"):
        convert(tmp_path / name, tmp_path / "out")
    (tmp_path / name).write_bytes(b"\x1f\x8bPAR1\x00\xff\xfe" * 40)
    with pytest.raises(ConvertError, match=f"{name}: the file (cannot be read|is not UTF-8)"):
        convert(tmp_path / name, tmp_path / "out")
    with pytest.raises(ConvertError, match="cannot be read"):
        convert(tmp_path, tmp_path / "out")


def test_an_incomplete_compressed_log_is_an_error(tmp_path):
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
