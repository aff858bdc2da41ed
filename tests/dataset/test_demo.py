"""dataset/make_demo.py: reproducible, similar to the Amazon data, and not predictable by popularity alone."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from dataset.files import read_items, read_sessions
from dataset.logs.convert import convert
from dataset.make_demo import make_demo, make_log

DEMO = Path(__file__).parents[2] / "dataset" / "Demo"
FILES = ("train_sessions.csv", "test_sessions.csv")


def read_rows(file):
    with open(DEMO / file, newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header == ["session", "label"]
    return [(json.loads(session), int(label)) for session, label in rows]


@pytest.fixture(scope="module")
def train():
    return read_rows("train_sessions.csv")


@pytest.fixture(scope="module")
def test():
    return read_rows("test_sessions.csv")


def test_generator_reproduces_the_committed_files(tmp_path):
    make_demo(tmp_path / "new")
    for file in FILES:
        assert (tmp_path / "new" / file).read_bytes() == (DEMO / file).read_bytes()


def test_another_seed_gives_other_sessions(tmp_path):
    make_demo(tmp_path, seed=1)
    for file in FILES:
        assert (tmp_path / file).read_bytes() != (DEMO / file).read_bytes()


def test_the_log_has_the_same_users_and_named_items(tmp_path, train, test):
    make_log(tmp_path / "shop.csv")
    rows = list(csv.DictReader(open(tmp_path / "shop.csv", newline="")))
    assert [int(row["timestamp"]) for row in rows] == sorted(int(row["timestamp"]) for row in rows)
    walks = {}
    for row in rows:
        walks.setdefault(row["user"], []).append(int(row["item"][-4:]))
    ends = [i for i, (session, _) in enumerate(train[1:]) if len(session) == 1] + [len(train) - 1]
    ours = [[*train[i][0], train[i][1]] for i in ends] + [[*session, label] for session, label in test]
    assert sorted(walks.values()) == sorted(ours)
    # After conversion, items.csv maps each id to its name.
    convert(tmp_path / "shop.csv", tmp_path / "Shop")
    names = read_items(tmp_path / "Shop" / "items.csv")
    converted = read_sessions(tmp_path / "Shop" / "test_sessions.csv")
    back = [[int(names[i][-4:]) for i in converted[row]] for row in range(len(converted))]
    known = {tuple(walk[:-1]) for walk in walks.values()}
    assert len(back) == 360 and all(tuple(session) in known for session in back)


def test_files_are_small_and_end_lines_with_lf():
    texts = [(DEMO / file).read_bytes() for file in FILES]
    assert sum(map(len, texts)) <= 400 * 1024
    assert not any(b"\r" in text for text in texts)
    assert all(text.endswith(b"\n") for text in texts)


def test_rows_of_a_user_are_a_chain_of_prefixes(train):
    chains = []
    for session, label in train:
        if len(session) == 1:
            chains.append([*session, label])
        else:
            assert session == chains[-1]
            chains[-1].append(label)
    assert len(chains) == 3000
    assert {len(chain) for chain in chains} == {2, 3, 4, 5, 6}
    assert all(len(set(chain)) == len(chain) for chain in chains)


def test_test_rows_do_not_repeat_items(test):
    assert len(test) == 600
    assert all(len({*session, label}) == len(session) + 1 for session, label in test)


def test_item_ids_have_gaps_and_include_zero(train):
    items = {item for session, label in train for item in (*session, label)}
    assert 780 <= len(items) <= 800
    assert min(items) == 0
    assert max(items) > 2 * len(items)


@pytest.mark.parametrize(
    ("part", "beauty"), [("train", (27728, 11844, 5921, 3045, 1759)), ("test", (2920, 1364, 534, 249, 326))]
)
def test_session_lengths_are_distributed_like_beautys(part, beauty):
    lengths = Counter(len(session) for session, _ in read_rows(f"{part}_sessions.csv"))
    assert set(lengths) == {1, 2, 3, 4, 5}
    for length, rows in enumerate(beauty, start=1):
        share = lengths[length] / lengths.total()
        assert share == pytest.approx(rows / sum(beauty), abs=0.03)


def test_last_item_predicts_the_next_and_popularity_does_not(train, test):
    counts, followers = Counter(), {}
    for session, label in train:
        counts[label] += 1
        followers.setdefault(session[-1], Counter())[label] += 1

    def hit_rate(rank):
        hits = 0
        for session, label in test:
            unseen = [item for item, _ in rank(session).most_common() if item not in session]
            hits += label in unseen[:20]
        return hits / len(test)

    assert hit_rate(lambda session: counts) < 0.1
    assert 0.4 < hit_rate(lambda session: followers.get(session[-1], Counter())) < 0.8
