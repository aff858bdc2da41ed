"""dataset/convert.py: ids, order, options, and the command line."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from log_files import (
    DAY,
    HALF,
    INTERACTIONS,
    ITEMS,
    SHARE,
    START,
    TEST,
    TRAIN,
    X,
    Y,
    read_output,
    sequences,
    write_amazon,
    write_rows,
)

from dataset.convert import main
from dataset.find import load_dataset
from dataset.logs.convert import FILES, ConvertOptions, convert
from dataset.logs.opening import ConvertError
from process_data import prepare

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "dataset" / "Demo"

# --------------------------------------------------------------------------------------------------
# Ids and order


def test_integer_ids_are_kept_and_users_are_sorted_by_number(tmp_path):
    rows = [(10, 30, 1), (10, 0, 2), (9, 7, 1), (9, 100, 2), (100, 7, 1), (100, 30, 2)]
    summary = convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", ConvertOptions(test_share=0.3))
    train, test = sequences(tmp_path / "out")
    assert sorted([*train, *test]) == [[7, 30], [7, 100], [30, 0]]
    assert train == [s for s in ([7, 100], [30, 0], [7, 30]) if s not in test]
    assert (tmp_path / "out" / "items.csv").read_text() == "id,item\n0,0\n7,7\n30,30\n100,100\n"
    assert summary.items_kept == 4


@pytest.mark.parametrize("item", ["007", "1" * 19, "-1", "1.0", "x"])
def test_other_ids_are_numbered(item, tmp_path):
    rows = [(1, item, 1), (1, 5, 2), (2, 5, 1), (2, item, 2)]
    convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", HALF)
    expected = {text: number for number, text in enumerate(sorted([item, "5"]), 1)}
    with open(tmp_path / "out" / "items.csv") as file:
        assert {row["item"]: int(row["id"]) for row in csv.DictReader(file)} == expected


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    rows = [("u", "b", 5), ("v", "a", 5), ("u", "a", 5), ("u", "c", 4), ("v", "b", 5)]
    convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", HALF)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2], [3, 2, 1]]


@pytest.mark.parametrize("split", ["user", "time"])
def test_the_order_of_the_rows_does_not_matter_if_times_differ(split, tmp_path):
    rng = random.Random(0)
    times = rng.sample(range(START, START + 1000 * DAY), 600)
    rows = [(f"u{rng.randrange(90)}", f"i{rng.randrange(40)}", time) for time in times]
    outputs = []
    for run in range(3):
        log = write_rows(tmp_path / f"{run}.csv", rows)
        convert(log, tmp_path / f"out{run}", ConvertOptions(split=split, gap=2400, min_item_count=12))
        outputs.append(read_output(tmp_path / f"out{run}"))
        rng.shuffle(rows)
    assert outputs[0] == outputs[1] == outputs[2]


# --------------------------------------------------------------------------------------------------
# Options


def test_a_gap_splits_a_users_sessions(tmp_path):
    hours = [0, 1, 2, 6, 7, 7.5]
    rows = [("u", item, START + hour * 3600) for item, hour in zip("abcabd", hours, strict=True)]
    rows += [("v", "a", START), ("v", "d", START + 3 * 3600)]  # exactly the gap, which does not split
    for unit in (1, 1000, 10**6):
        log = write_rows(tmp_path / "log.csv", [(u, i, int(t * unit)) for u, i, t in rows])
        convert(log, tmp_path / "out", ConvertOptions(gap=3, test_share=0.5))
        train, test = sequences(tmp_path / "out")
        assert sorted([*train, *test]) == [[1, 2, 3], [1, 2, 4], [1, 4]]
        # Both sessions of u are in the same file.
        assert sorted(map(len, (train, test))) == [1, 2]
    log = write_rows(tmp_path / "log.csv", rows)
    convert(log, tmp_path / "out", HALF)
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2, 3, 4], [1, 4]]


def test_repeats_can_be_kept(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "out", ConvertOptions(keep_repeats=True, test_share=0.25))
    assert read_output(tmp_path / "out")[:2] == [TRAIN.replace('"[4, 3]",2', '"[4, 3]",4,2\n"[4, 3, 4]",2'), TEST]


def test_rare_items_are_removed_before_short_sessions(tmp_path):
    log = write_amazon(tmp_path / "log.csv")
    summary = convert(log, tmp_path / "out", ConvertOptions(min_item_count=3, test_share=0.3))
    train, test = sequences(tmp_path / "out")
    assert sorted([*train, *test]) == [[1, 2], [2, 1], [2, 1]]
    assert (tmp_path / "out" / "items.csv").read_text() == f"id,item\n1,{X}\n2,{Y}\n"
    assert list(summary.dropped.values()) == [1, 4, 1, 0]
    convert(log, tmp_path / "out", ConvertOptions(min_session_length=3, test_share=0.5))
    assert sorted(sum(sequences(tmp_path / "out"), [])) == [[1, 2, 3], [3, 2, 1]]


def test_only_the_last_items_of_a_long_session_are_kept(tmp_path):
    rows = [(user, item, item) for user in (1, 2) for item in range(10, 70)]
    log = write_rows(tmp_path / "log.csv", rows)
    summary = convert(log, tmp_path / "out", HALF)
    assert sequences(tmp_path / "out") == [[list(range(20, 70))]] * 2
    assert summary.train_rows == 49 and list(summary.dropped.values())[-1] == 20
    convert(log, tmp_path / "out", ConvertOptions(test_share=0.5, longest=3))
    assert sequences(tmp_path / "out") == [[[67, 68, 69]]] * 2


def test_user_split_keeps_a_user_together_and_depends_on_the_seed(tmp_path):
    rows = [(user, user * 10 + step, step * DAY) for user in range(50) for step in range(4)]
    log = write_rows(tmp_path / "log.csv", rows)
    tested = []
    for seed in (0, 0, 1):
        convert(log, tmp_path / "out", ConvertOptions(gap=36, seed=seed))
        train, test = ({item // 10 for s in part for item in s} for part in sequences(tmp_path / "out"))
        assert len(test) == 5 and len(train) == 45 and not train & test
        tested.append(test)
    assert tested[0] == tested[1] != tested[2]


def test_time_split_tests_the_sessions_that_end_last(tmp_path):
    # Sessions end on days 2 (1), 3 (2), 4 (3), 2 (5).
    log = write_amazon(tmp_path / "log.csv")
    convert(log, tmp_path / "out", ConvertOptions(split="time", test_share=0.25))
    assert sequences(tmp_path / "out") == [[[2, 3, 4], [3, 2], [1, 2]], [[4, 3, 2]]]
    convert(log, tmp_path / "out", ConvertOptions(split="time", test_share=0.5))
    assert sequences(tmp_path / "out") == [[[2, 3, 4], [1, 2]], [[3, 2], [4, 3, 2]]]
    with pytest.raises(
        ConvertError, match="leaves no training session"
    ):  # sessions that end at the same time stay together
        convert(log, tmp_path / "out", ConvertOptions(split="time", test_share=0.75))


def read_rows(folder, name):
    with open(folder / name, newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def test_rows_carry_the_number_of_their_user(tmp_path):
    hours = {"v": (0, 1, 50, 51), "u": (0, 1, 2), "w": (0, 1)}
    rows = [(user, f"i{n}", START + hour * 3600) for user in hours for n, hour in enumerate(hours[user])]
    summary = convert(
        write_rows(tmp_path / "log.csv", rows), tmp_path / "out", ConvertOptions(gap=24, test_share=0.3, seed=1)
    )
    train, test = (read_rows(tmp_path / "out", name) for name in FILES[:2])
    # User u, the first in sorted order, is tested: v and w are 1 and 2. Both sessions of v carry its number.
    assert train == [("session", "label", "user"), ("[1]", "2", "1"), ("[3]", "4", "1"), ("[1]", "2", "2")]
    assert test == [("session", "label"), ("[1, 2]", "3")]
    assert (summary.sessions, summary.train_rows, summary.test_rows) == (4, 3, 1)
    dataset = load_dataset(tmp_path / "out")
    assert (dataset.train.users.tolist(), dataset.train.chains.tolist()) == ([0, 0, 1], [0, 1, 2])


def test_leave_one_out_tests_the_last_item_of_each_user(tmp_path):
    # Users 0 to 2 with sessions [1, 2, 3, 4], [3, 2] and, after a day without clicks, [1, 2] and [4, 3].
    clicks = [
        (0, 1, 0),
        (0, 2, 1),
        (0, 3, 2),
        (0, 4, 3),
        (1, 3, 0),
        (1, 2, 1),
        (2, 1, 0),
        (2, 2, 1),
        (2, 4, 90),
        (2, 3, 91),
    ]
    log = write_rows(tmp_path / "log.csv", [(user, item, START + hour * 3600) for user, item, hour in clicks])
    summary = convert(log, tmp_path / "out", ConvertOptions(split="leave-one-out", gap=24))
    train, test = (read_rows(tmp_path / "out", name)[1:] for name in FILES[:2])
    # User 1 has two items and keeps them. The last session of user 2 leaves no training row.
    assert train == [("[1]", "2", "1"), ("[1, 2]", "3", "1"), ("[3]", "2", "2"), ("[1]", "2", "3")]
    assert test == [("[1, 2, 3]", "4"), ("[4]", "3")]
    assert (summary.train_rows, summary.test_rows, summary.known_labels) == (4, 2, 0.5)  # 4 is not trained
    data = prepare(load_dataset(tmp_path / "out"), split="leave-one-out")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1, 3, 2]
    with pytest.raises(ConvertError, match="leaves no test session"):
        convert(
            write_rows(tmp_path / "log.csv", [(1, 1, 1), (1, 2, 2)]),
            tmp_path / "out",
            ConvertOptions(split="leave-one-out"),
        )
    with pytest.raises(SystemExit):
        main([str(log), "--output", str(tmp_path / "out"), "--split", "leave-one-out", "--test-share", "0.2"])


def test_leave_one_out_of_the_literature(real_data, tmp_path):
    """S3-Rec's Beauty, split as in its paper: 22,363 users, each with one item for validation and one for test."""
    source = real_data / "literature" / "S3_Beauty.txt"
    if not source.is_file():
        pytest.skip("no literature/S3_Beauty.txt in DATASET_ROOT")
    histories = [line.split()[1:] for line in source.read_text().splitlines()]
    rows = [(user, item, time) for user, items in enumerate(histories) for time, item in enumerate(items)]
    options = ConvertOptions(split="leave-one-out", longest=1000)
    summary = convert(write_rows(tmp_path / "log.csv", rows), tmp_path / "out", options)
    assert (summary.interactions, summary.users, summary.items, sum(summary.dropped.values())) == (
        198_502,
        22_363,
        12_101,
        0,
    )
    assert (summary.train_rows, summary.test_rows) == (198_502 - 2 * 22_363, 22_363)
    dataset = load_dataset(tmp_path / "out")
    data = prepare(dataset, split="leave-one-out")
    assert [len(part) for part in (data.train, data.valid, data.test)] == [198_502 - 3 * 22_363, 22_363, 22_363]
    assert np.bincount(data.valid.users).tolist() == [1] * 22_363
    # By the lines of the file: the labels, and that the test session ends with the item of validation.
    decode = data.vocabulary.decode
    order = np.argsort(data.valid.users)
    assert decode(data.valid.labels[order]).tolist() == [int(items[-2]) for items in histories]
    assert dataset.test.labels.tolist() == [int(items[-1]) for items in histories]
    assert decode(data.test.items[data.test.offsets[1:] - 1]).tolist() == [int(items[-2]) for items in histories]


def test_a_second_log_is_the_test_file(tmp_path):
    first = write_amazon(tmp_path / "first.csv", INTERACTIONS[:6])
    second = write_amazon(tmp_path / "second.csv", INTERACTIONS[6:])
    summary = convert(first, tmp_path / "out", test_log=second)
    assert sequences(tmp_path / "out") == [[[1, 2, 3]], [[2, 3, 1]]]
    assert summary.interactions == 12 and summary.users == 5


def test_the_result_is_a_dataset(tmp_path):
    convert(write_amazon(tmp_path / "log.csv"), tmp_path / "Mine", SHARE)
    dataset = load_dataset(tmp_path / "Mine")
    assert dataset.name == "Mine"
    assert dataset.train.users.tolist() == [0, 0, 1, 1, 2]
    assert dataset.test[0] == [3] and dataset.test.labels.tolist() == [2]


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
    ],
)
def test_invalid_options_are_refused(choice):
    with pytest.raises(ConvertError, match=next(iter(choice))):
        ConvertOptions(**choice)


@pytest.mark.parametrize(
    ("options", "columns"),
    [({}, "user,item"), ({}, "user,item,rating,-"), ({"min_item_count": 100}, None), ({"test_share": 0.01}, None)],
)
def test_options_that_do_not_fit_the_log_are_errors(options, columns, tmp_path):
    log = write_amazon(tmp_path / "log.csv")
    with pytest.raises(ConvertError, match=r"log\.csv"):
        convert(log, tmp_path / "out", ConvertOptions(**options), columns=columns)


def test_a_failure_keeps_the_earlier_files(tmp_path, monkeypatch):
    out = tmp_path / "out"
    log = write_amazon(tmp_path / "log.csv")
    convert(log, out, SHARE)
    bad = write_amazon(tmp_path / "bad.csv", [*INTERACTIONS, ("u", "a", "x")])
    with pytest.raises(ConvertError):
        convert(bad, out, SHARE)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dataset.logs.convert._format_row", fail)
    with pytest.raises(OSError, match="No space"):
        convert(log, out, SHARE)
    assert read_output(out) == [TRAIN, TEST, ITEMS]
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


def test_a_log_is_never_replaced_by_its_own_output(tmp_path):
    log = write_amazon(tmp_path / "items.csv")
    before = log.read_bytes()
    with pytest.raises(ConvertError, match="the output would replace this log"):
        convert(log, tmp_path, SHARE)
    assert log.read_bytes() == before


# --------------------------------------------------------------------------------------------------
# Command line


def test_command_line_converts_and_exports(tmp_path, monkeypatch, capsys):
    log = write_amazon(tmp_path / "log.csv")

    command = [sys.executable, ROOT / "dataset" / "convert.py", log, "--output", "out", "--test-share", "0.25"]
    environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    there = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
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
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"convert.py: {tmp_path / 'no.csv'}: the file does not exist; check its name"
    )
    assert main([str(tmp_path), "--to", "recbole", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"convert.py: {tmp_path / 'train_sessions.csv'}: cannot be read")
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
    """Measured: 1.0 GiB and one minute on 2 busy cores, with 2 million users and 74,000 items."""
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
    assert run.stdout.splitlines()[1].startswith("10000000 interactions of 19")
    peak = int(run.stdout.split()[-1])
    assert peak < 2 * 2**30, f"{peak / 2**30:.2f} GiB"
