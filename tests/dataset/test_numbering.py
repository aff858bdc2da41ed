"""Numbers of items: an earlier `items.csv` is continued, and every name comes back from it."""

import pytest
from log_files import sequences, write_rows

from dataset.files import DataError, read_items
from dataset.logs.convert import ConvertOptions, convert
from dataset.logs.numbering import write_items
from dataset.logs.opening import ConvertError

HALF = ConvertOptions(test_share=0.5)


def log_of(folder, *sessions, name="log.csv"):
    rows = [(f"u{user}", item, time) for user, session in enumerate(sessions) for time, item in enumerate(session)]
    return write_rows(folder / name, rows, ("user", "item", "timestamp"))


def test_a_numbering_is_continued(tmp_path):
    """The second week has an item that sorts in front of all others, which would shift their numbers by one."""
    first = log_of(tmp_path, ["sku-10", "sku-12"], ["sku-14", "sku-10"])
    convert(first, tmp_path / "one", HALF)
    assert read_items(tmp_path / "one" / "items.csv") == {1: "sku-10", 2: "sku-12", 3: "sku-14"}
    second = log_of(tmp_path, ["sku-09", "sku-14"], ["sku-14", "sku-11", "sku-10"])
    convert(second, tmp_path / "two", HALF, items=tmp_path / "one" / "items.csv")
    names = {1: "sku-10", 2: "sku-12", 3: "sku-14", 4: "sku-09", 5: "sku-11"}
    assert read_items(tmp_path / "two" / "items.csv") == names
    assert sorted(sum(sequences(tmp_path / "two"), [])) == [[3, 5, 1], [4, 3]]
    third = log_of(tmp_path, ["sku-12", "sku-08"], ["sku-09", "sku-12"])
    convert(third, tmp_path / "two", HALF, items=tmp_path / "two" / "items.csv")  # in place
    assert read_items(tmp_path / "two" / "items.csv") == {**names, 6: "sku-08"}
    assert sorted(sum(sequences(tmp_path / "two"), [])) == [[2, 6], [4, 2]]


def test_integers_stay_their_own_ids(tmp_path):
    convert(log_of(tmp_path, [10, 30], [30, 10]), tmp_path / "one", HALF)
    convert(log_of(tmp_path, [7, 30], [30, 7]), tmp_path / "two", HALF, items=tmp_path / "one" / "items.csv")
    assert read_items(tmp_path / "two" / "items.csv") == {7: "7", 10: "10", 30: "30"}
    convert(log_of(tmp_path, ["x", 30], [30, 31]), tmp_path / "three", HALF, items=tmp_path / "two" / "items.csv")
    assert read_items(tmp_path / "three" / "items.csv") == {7: "7", 10: "10", 30: "30", 31: "31", 32: "x"}
    convert(log_of(tmp_path, [5, 30], [30, 7]), tmp_path / "four", HALF, items=tmp_path / "three" / "items.csv")
    assert read_items(tmp_path / "four" / "items.csv")[33] == "5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,item\n1,other\n2,another\n", "has none of the 2 items of the log; is it the items.csv of another log?"),
        ("id,item\n", "has no items; name the items.csv of an earlier conversion"),
        ("id,item\n1,a\n2,a\n", "the item 'a' has two ids, 1 and 2; remove one"),
        ("id,item\n1,a\n1,b\n", "line 3: must have an id that no other row has, and a name"),
        ("session,label\n[1],2\n", "line 1: must have the columns id,item"),
        (f"id,item\n{10**18 - 1},a\n", "the ids are too large to be continued; convert the log without --items"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_numbering_is_one_sentence(text, message, tmp_path):
    old = tmp_path / "items.csv"
    if text is not None:
        old.write_text(text)
    with pytest.raises((ConvertError, DataError)) as error:
        convert(log_of(tmp_path, ["a", "b"], ["b", "a"]), tmp_path / "out", HALF, items=old)
    assert message in str(error.value) and str(error.value).startswith(str(old)) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_every_name_comes_back(tmp_path):
    names = ["a\rb", "\r", "a\r\nb", "a\nb", 'a"b', '"', "a, b", " a ", "=1+1", "+1", "-1", "@x", "", "é", "'", "\t"]
    write_items(tmp_path / "items.csv", [*enumerate(names, 1)])
    assert read_items(tmp_path / "items.csv") == dict(enumerate(names, 1))


def test_a_carriage_return_in_a_log_comes_back(tmp_path):
    text = 'user,item,timestamp\nu,"a\rb",1\nu,=1+1,2\nv,=1+1,1\nv,"a\rb",2\n'
    (tmp_path / "log.csv").write_bytes(text.encode())
    convert(tmp_path / "log.csv", tmp_path / "out", HALF)
    assert read_items(tmp_path / "out" / "items.csv") == {1: "=1+1", 2: "a\rb"}
