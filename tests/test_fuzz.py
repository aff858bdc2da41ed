"""For arbitrary bytes, `read_sessions` and `recommend` return a result or raise the documented error.

TRIED lists known cases; hypothesis searches for others.
"""

import codecs

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataset.files import ROOT, read_items, read_sessions
from dataset.sessions import LONGEST_SESSION, DataError, Sessions
from recommend import main
from sessionrec.checkpoint import load_checkpoint
from sessionrec.recommend import recommend

pytestmark = pytest.mark.filterwarnings("ignore:.*no line end")

GOOD = b'session,label\n"[1, 2]",3\n[4],5\n'
BIGGEST = 10**18 - 1  # the largest number with 18 digits
TRIED = {
    # name: (bytes, lists and labels or the message of the error)
    "plain": (GOOD, ([[1, 2], [4]], [3, 5])),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), ([[1, 2], [4]], [3, 5])),
    "CR": (GOOD.replace(b"\n", b"\r"), ([[1, 2], [4]], [3, 5])),
    "mixed line ends": (b"session,label\r\n[1],2\n[3],4\r[5],6\r\n", ([[1], [3], [5]], [2, 4, 6])),
    "UTF-8 BOM": (codecs.BOM_UTF8 + GOOD, ([[1, 2], [4]], [3, 5])),
    "UTF-16": (GOOD.decode().encode("utf-16"), "is not UTF-8 text"),
    "Latin-1": (b"session,label\n[1],\xe9\n", "line 2: is not UTF-8 text"),
    "NUL byte": (b"session,label\n[1\x00],2\n", "line 2"),
    "only NUL bytes": (b"\x00" * 100, "line 1"),
    "empty": (b"", "is empty"),
    "blank": (b" \n\n \n", "is empty"),
    "header only": (b"session,label\n", "has a header but no rows"),
    "duplicate header": (b"session,session\n[1],[2]\n", "line 1: has the column `session` more than once"),
    "duplicate label": (b"session,label,label\n[1],2,3\n", "line 1: has the column `label` more than once"),
    "other header": (b"user,item\n1,2\n", "line 1: has no column `session`"),
    "formula": (b'session,label\n"=HYPERLINK(""x"")",2\n', "line 2: the session '=HYPERLINK"),
    "formula in label": (b"session,label\n[1],=1+1\n", r"line 2: the label '=1\+1' is not an item id"),
    "code": (b"session,label\n\"__import__('os').getcwd()\",2\n", "line 2: the session"),
    "dictionary": (b'session,label\n"{1: 2}",2\n', "line 2: the session '{1: 2}' is not a list"),
    "nested": (b'session,label\n"[[1], 2]",2\n', r"line 2: the session contains '\[1\]'"),
    "huge id": (f"session,label\n[{BIGGEST}],2\n".encode(), ([[BIGGEST]], [2])),
    "too huge an id": (f"session,label\n[{BIGGEST + 1}],2\n".encode(), "line 2: the id .* has more than 18"),
    "thousand digits": (b"session,label\n[" + b"9" * 1000 + b"],2\n", "line 2: the id .* has more than 18"),
    "negative": (b"session,label\n[-1],2\n", "line 2: the session contains '-1'"),
    "negative label": (b"session,label\n[1],-2\n", "line 2: the label '-2'"),
    "float": (b"session,label\n[1.5],2\n", "line 2: the session contains '1.5'"),
    "exponent": (b"session,label\n[1e3],2\n", "line 2: the session contains '1e3'"),
    "underscore": (b"session,label\n[1_000],2\n", "line 2: the session contains '1_000'"),
    "other digits": ("session,label\n[\u0661],2\n".encode(), "line 2: the session contains"),
    "infinity": (b"session,label\n[inf],2\n", "line 2: the session contains 'inf'"),
    "empty list": (b"session,label\n[],2\n", "line 2: the session is an empty list"),
    "trailing comma": (b'session,label\n"[1,]",2\n', "line 2: the session contains ''"),
    "blank label": (b"session,label\n[1],\n", "line 2: the label is missing"),
    "missing label": (b"session,label\n[1]\n", "line 2: the label is missing"),
    "too many cells": (b"session,label\n[1],2,3\n", "line 2: has 3 cells where the header has 2"),
    "unclosed quote": (b'session,label\n"[1, 2],3\n', "is not valid CSV, or is incomplete"),
    "cut off in a list": (GOOD[:19], "is not valid CSV, or is incomplete"),
    "line of a later error": (b'session,label\n"[1,\n2]",3\n[x],4\n', "line 4: the session contains 'x'"),
    "a session of 300,000 items": (b'session,label\n"[' + b"7, " * 299_999 + b'7]",3\n', ([[7] * 300_000], [3])),
    "a million characters that are no list": (b"session,label\n" + b"x" * 10**6 + b",3\n", "line 2"),
    "spaces": (b'session , label\n"[ 1 , 2 ]", 3\n', ([[1, 2]], [3])),
    "a directory": (None, "cannot be read"),
}


@pytest.mark.parametrize("name", TRIED)
def test_examples(name, tmp_path):
    content, expected = TRIED[name]
    file = tmp_path / "train_sessions.csv"
    file.mkdir() if content is None else file.write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected) as raised:
            read_sessions(file, labels=True)
        assert str(raised.value).startswith(str(file)) and len(str(raised.value)) < 400 + len(str(file))
    else:
        sessions = read_sessions(file, labels=True)
        assert [sessions[i] for i in range(len(sessions))] == expected[0]
        assert sessions.labels.tolist() == expected[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "sessions.csv"


def read_or_refuse(file, content):
    """Check for a valid result, or a DataError that names the file and an existing line."""
    file.write_bytes(content)

    def attempt(read):
        try:
            return read()
        except DataError as error:
            assert error.file == str(file) and error.reason
            assert error.line is None or 1 <= error.line <= content.count(b"\n") + content.count(b"\r") + 1

    attempt(lambda: read_items(file))
    for labels in (True, False, None):
        sessions = attempt(lambda labels=labels: read_sessions(file, labels=labels))
        if sessions is None:
            continue
        assert len(sessions) and sessions.lengths.min() >= 1
        assert sessions.items.dtype == np.int64 and 0 <= sessions.items.min() <= sessions.items.max() <= BIGGEST
        assert (sessions.labels is None) == (labels is False or b"label" not in content.split(b"\n")[0])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes(file, content):
    read_or_refuse(file, content)


@settings(max_examples=300)
@given(st.data())
def test_a_good_file_with_a_few_bytes_changed(file, data):
    content = bytearray(data.draw(st.sampled_from([GOOD * 2, b"id,item\n1,a\n2,b\n"])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        kind = data.draw(st.sampled_from(["insert", "delete", "replace"]))
        new = data.draw(st.sampled_from(list(b'[],"\n\r \x000123456789-e.xl\xff\xef'))).to_bytes()
        content[place : place + (kind != "insert")] = b"" if kind == "delete" else new
    read_or_refuse(file, bytes(content))


@settings(max_examples=300)
@given(st.lists(st.text(st.sampled_from('[], "0123456789-=\n\r'), max_size=12), max_size=6))
@example(["[1", "2]"])
def test_any_cells(file, cells):
    read_or_refuse(file, ("session,label\n" + ",".join(cells) + "\n").encode())


CHECKPOINT = ROOT / "pretrained_model" / "Beauty" / "GRU4REC.safetensors"


@pytest.fixture(scope="module")
def saved():
    return load_checkpoint(CHECKPOINT)


values = st.one_of(
    st.integers(-3, 30), st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.text(max_size=3), st.none()
)


@settings(max_examples=150)
@given(st.lists(st.lists(values, max_size=8), max_size=3))
@example([[2**63]])
@example([[]])
@example([["7", "10"], ["0"]])
@example([["07"]])
@example([["7", 7]])
def test_any_lists_give_recommendations_or_an_error(saved, lists):
    try:
        found = recommend(saved, lists, k=3)
    except DataError as error:
        assert "non-negative integers" in str(error) or "but the checkpoint knows its items by id only" in str(error)
        return
    # This checkpoint has no names: decimal text is an id.
    assert all(item.isdecimal() if isinstance(item, str) else item >= 0 for session in lists for item in session)
    assert len({isinstance(item, str) for session in lists for item in session}) < 2
    lists = [[int(item) for item in session] for session in lists]
    assert found.items.shape == (len(lists), 3)
    assert found.known + found.partly_known + found.unknown == len(lists)
    for row, session in zip(found.items.tolist(), lists, strict=True):
        assert len(set(row)) == 3 and not set(row) & set(session)


def test_a_very_long_session(saved):
    ids = saved.vocabulary.item_ids
    long = np.tile(ids[:LONGEST_SESSION], 2000)
    found = recommend(saved, [long.tolist(), long[-LONGEST_SESSION:].tolist()], k=5)
    assert found.items[0].tolist() == found.items[1].tolist()


# Without errors in labels, because `recommend` does not read that column. "other header" is a log to `recommend`.
NOT_REFUSED = {"blank label", "other header"}
REFUSED = [n for n, (_, e) in TRIED.items() if isinstance(e, str) and "the label '" not in e and n not in NOT_REFUSED]


@pytest.mark.parametrize("name", REFUSED)
def test_the_command_reports_the_error_and_keeps_the_old_output(name, tmp_path, capsys):
    content, expected = TRIED[name]
    sessions, output = tmp_path / "sessions.csv", tmp_path / "out.csv"
    sessions.mkdir() if content is None else sessions.write_bytes(content)
    output.write_text("precious")
    arguments = ["--checkpoint", str(CHECKPOINT), "--sessions", str(sessions), "--output", str(output)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("recommend.py: ") and error.count("\n") == 1 and "Traceback" not in error
    assert output.read_text() == "precious"


def test_empty_sessions(saved):
    assert recommend(saved, []).items.shape == (0, 20)
    assert len(Sessions.from_lists([])) == 0
