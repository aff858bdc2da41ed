"""dataset/logs/frames.py: pandas and polars frames give the dataset that their CSV file gives."""

from datetime import UTC, datetime

import pandas as pd
import polars as pl
import pytest

from dataset.files import read_items
from dataset.find import load_dataset
from dataset.logs.convert import ConvertOptions, convert
from dataset.logs.frames import log_from_frame, sessions_from_frame
from dataset.logs.opening import ConvertError
from process_data import prepare

ROWS = {"who": ["u", "u", "v", "v", "u"], "what": ["a", "b", "b", "a", "c"], "when": [10, 5, 1, 2, 20]}
NAMES = {"user": "who", "item": "what", "time": "when"}
HALF = ConvertOptions(test_share=0.5)
TIMES = [datetime.fromtimestamp(time, UTC) for time in ROWS["when"]]


def lists(sessions):
    rows = sessions.with_labels_appended()
    return sorted(rows[row] for row in range(len(rows)))


FRAMES = {
    "pandas": pd.DataFrame(ROWS),
    "polars": pl.DataFrame(ROWS),
    "polars, lazy": pl.LazyFrame(ROWS),
    "pandas, another index": pd.DataFrame(ROWS, index=[9, 9, 7, 7, 1]),
    "pandas, dates": pd.DataFrame({**ROWS, "when": pd.to_datetime(TIMES)}),
    "pandas, dates without a zone": pd.DataFrame(
        {**ROWS, "when": pd.to_datetime([t.replace(tzinfo=None) for t in TIMES])}
    ),
    "polars, dates": pl.DataFrame({**ROWS, "when": TIMES}),
    "text": pd.DataFrame({**ROWS, "when": [time.isoformat() for time in TIMES]}),
    "pandas, categories": pd.DataFrame(ROWS).astype({"who": "category", "what": "category"}),
    "polars, categories": pl.DataFrame(ROWS).cast({"who": pl.Categorical}),
    "pandas, Int64 and float": pd.DataFrame(ROWS).astype({"when": "Int64"}),
    "pandas, float": pd.DataFrame(ROWS).astype({"when": float}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_frame_gives_the_dataset_of_its_csv_file(kind, tmp_path):
    pl.DataFrame(ROWS).write_csv(tmp_path / "log.csv")
    convert(tmp_path / "log.csv", tmp_path / "out", HALF, columns="user,item,timestamp")
    expected = load_dataset(tmp_path / "out")
    dataset, items, summary = sessions_from_frame(FRAMES[kind], **NAMES, options=HALF, name="Shop")
    assert dataset.sha256 == expected.sha256 and dataset.name == "Shop"
    assert sorted([*lists(dataset.train), *lists(dataset.test)]) == sorted(
        [*lists(expected.train), *lists(expected.test)]
    )
    assert items == read_items(tmp_path / "out" / "items.csv") == {1: "a", 2: "b", 3: "c"}
    assert summary.interactions == 5 and summary.notes[0].startswith("Shop: user = who, item = what, time = when (")


def test_a_frame_is_trained_on(tmp_path):
    frame = pd.DataFrame([(u, u * 7 % 5 + i, i) for u in range(40) for i in range(4)], columns=["u", "i", "t"])
    dataset, items, _ = sessions_from_frame(frame, user="u", item="i", time="t")
    assert prepare(dataset).n_items == len(items) == 8 and items[7] == "7"


def test_without_a_time_the_order_of_the_frame_counts():
    dataset, items, summary = sessions_from_frame(pl.DataFrame(ROWS), user="who", item="what", options=HALF)
    assert "no time: the order of the file" in summary.notes[0]
    longest = max([*lists(dataset.train), *lists(dataset.test)], key=len)
    assert [items[item] for item in longest] == ["a", "b", "c"]


def test_integers_with_gaps_are_integers_in_pandas():
    frame = pd.DataFrame({"u": [1.0, 1.0, 2.0, 2.0], "i": [10.0, 20.0, 20.0, 10.0], "t": [20140407.0, 20140408] * 2})
    _, items, summary = sessions_from_frame(frame, user="u", item="i", time="t", options=HALF)
    assert items == {10: "10", 20: "20"} and "time = t (dates)" in summary.notes[0]


def test_a_frame_can_be_converted_into_a_folder(tmp_path):
    convert(log_from_frame(pd.DataFrame(ROWS), **NAMES), tmp_path / "out", HALF)
    again = sessions_from_frame(pd.DataFrame(ROWS), **NAMES, options=HALF, items=tmp_path / "out" / "items.csv")
    assert load_dataset(tmp_path / "out").sha256 == again.dataset.sha256


@pytest.mark.parametrize(
    ("frame", "names", "message"),
    [
        (pd.DataFrame(ROWS), {"item": "sku"}, "frame: there is no column 'sku'; the columns are who, what, when"),
        ([[1, 2]], {}, "frame: a list is not a frame; pass a pandas or polars DataFrame"),
        (pd.DataFrame({**ROWS, "what": ["a", None, "b", "c", "d"]}), {}, "frame, row 2: the item is missing"),
        (pd.DataFrame({**ROWS, "what": [1.0, 2.0, float("nan"), 2, 3]}), {}, "frame, row 3: the item is missing"),
        (pl.DataFrame({**ROWS, "when": [1, 2, 3, None, 4]}), {}, "frame, row 4: the timestamp is missing"),
        (
            pd.DataFrame({**ROWS, "when": ["1", "x", "3", "4", "5"]}),
            {},
            "row 2: the timestamp is missing or not a number",
        ),
        (
            pl.DataFrame({**ROWS, "what": [["a"]] * 5}),
            {},
            "the column of the item is of the type List(String); save it",
        ),
        (pd.DataFrame(ROWS)[:0], {}, "frame: the log contains no interactions"),
        (pd.DataFrame(ROWS), {"time_unit": "weeks"}, "time_unit='weeks': choose one of s, ms"),
        (
            pd.DataFrame([[1, 2, 3]], columns=["who", "what", "who"]),
            {"time": None},
            "several columns 'who'; rename them",
        ),
    ],
)
def test_a_wrong_frame_is_one_sentence(frame, names, message):
    with pytest.raises(ConvertError) as error:
        sessions_from_frame(frame, **{**NAMES, **names}, options=HALF)
    assert message in str(error.value) and "\n" not in str(error.value)
