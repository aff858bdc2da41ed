"""Pickle files of lists: right values, and hostile files that must not run."""

import os
import pickle
import struct

import pytest

from dataset.pickled_lists import read_pickled_lists
from dataset.sessions import DataError

LISTS = [[1, 2], [300, 70000, 2**40], [], [[5], (6, 7)]]


@pytest.fixture
def write(tmp_path):
    def write(raw):
        path = tmp_path / "x.pkl"
        path.write_bytes(raw)
        return path

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_tuples_and_integers_are_read(write, protocol):
    assert read_pickled_lists(write(pickle.dumps(LISTS, protocol))) == LISTS
    assert read_pickled_lists(write(pickle.dumps((LISTS, [1, 2]), protocol))) == (LISTS, [1, 2])


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_run(write, tmp_path, protocol):
    target = tmp_path / "made"
    raw = pickle.dumps([[1, 2], Touch(str(target))], protocol)
    with pytest.raises(DataError, match="x.pkl: has the opcode .* only lists, tuples and integers are read"):
        read_pickled_lists(write(raw))
    assert not target.exists()
    pickle.loads(raw)
    assert target.exists()  # the file is hostile indeed


@pytest.mark.parametrize("value", [{1: 2}, {1}, "text", 1.5, None, True, b"x", [["a"]], [1.5], [None], object()])
def test_other_types_are_refused(write, value):
    with pytest.raises(DataError, match="x.pkl: "):
        read_pickled_lists(write(pickle.dumps(value, 4)))


HOSTILE = {
    "an old instance": b"(ios\nsystem\n(S'true'\ntR.",
    "persistent": b"Pname\n.",
    "an extension": b"\x82\x01.",
    "a huge memo index": b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b".",
    "a huge integer": b"\x80\x02]\x8a\xff" + b"\x7f" * 255 + b"a.",
    "cut off": pickle.dumps(LISTS, 2)[:-3],
    "an append without a list": b"\x80\x02K\x01K\x02a.",
    "no mark": b"\x80\x02e.",
    "a missing memo": b"\x80\x02h\x07.",
    "no stop": b"\x80\x02]",
    "empty": b"",
    "text": b"user,item\n1,2\n",
    "a lone number": b"\x80\x02K\x01.",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=list(HOSTILE))
def test_a_damaged_file_is_one_sentence(write, raw):
    with pytest.raises(DataError, match="x.pkl: (has|is|numbers|holds)") as raised:
        read_pickled_lists(write(raw))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_too_large_is_one_sentence(tmp_path, monkeypatch, write):
    with pytest.raises(DataError, match="cannot be read"):
        read_pickled_lists(tmp_path / "missing.pkl")
    monkeypatch.setattr("dataset.pickled_lists.LARGEST", 10)
    with pytest.raises(DataError, match="is larger than 10 bytes"):
        read_pickled_lists(write(pickle.dumps(LISTS)))
