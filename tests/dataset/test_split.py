"""dataset/split.py and dataset/users.py on files: the same rows in any order give the same split."""

import random
from dataclasses import replace

import numpy as np
import pytest
from session_lists import as_rows, prefix_rows

from dataset.files import ROOT, read_sessions
from dataset.find import load_dataset
from dataset.sessions import DataError, Sessions
from dataset.split import TooFewUsers, split_sessions
from dataset.users import identify_users
from experiments.leakage import leak_rate
from process_data import prepare
from sessionrec.recipes import load_recipe
from sessionrec.run import run_recipe

DEMO = ROOT / "dataset" / "Demo"


def write_dataset(folder, rows, header="session,label", test="session\n[1]\n"):
    folder.mkdir(exist_ok=True)
    (folder / "train_sessions.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "test_sessions.csv").write_text(test)
    return folder


def as_lines(sessions, *columns):
    rows = zip(as_rows(sessions), *columns, strict=True)
    return [",".join([f'"{session}"', str(label), *map(str, more)]) for (session, label), *more in rows]


def rows_of(parts):
    return [sorted(as_rows(part)) for part in parts]


def consecutive_users(sessions):
    """Users by the rule that saved results were made with: a row continues the row before it."""
    rows, users = as_rows(sessions), []
    for row, (session, _) in enumerate(rows):
        continues = row and session == [*rows[row - 1][0], rows[row - 1][1]]
        users.append(users[-1] + (not continues) if users else 0)
    return users


def in_other_orders(sessions):
    """Orders of the rows, by name: (R,) indices."""
    rng = np.random.default_rng(0)
    users = np.array(consecutive_users(sessions))
    return {
        "longest first": np.lexsort((-sessions.lengths, users)),
        "shuffled": rng.permutation(len(sessions)),
        "users in another order": np.lexsort((sessions.lengths, rng.permutation(users.max() + 1)[users])),
    }


# --------------------------------------------------------------------------------------------------
# Any order


def test_demo_is_the_same_in_any_order(tmp_path):
    demo, test = load_dataset(DEMO), (DEMO / "test_sessions.csv").read_text()
    want = rows_of(split_sessions(demo.train, seed=1))
    recipe = load_recipe("best", "STAN", "demo")
    hit_rate = run_recipe(recipe, demo).metrics["test"]["HR@20"]
    assert hit_rate == pytest.approx(0.568, abs=0.001)
    for name, order in in_other_orders(demo.train).items():
        folder = write_dataset(tmp_path / "Demo", as_lines(demo.train.take(order)), test=test)
        other = load_dataset(folder)
        assert len(np.unique(other.train.users)) == 3000, name
        assert rows_of(split_sessions(other.train, seed=1)) == want, name
        assert run_recipe(recipe, other).metrics["test"]["HR@20"] == pytest.approx(hit_rate, abs=0.001), name


@pytest.mark.parametrize("seed", range(20))
def test_files_of_ones_own_are_the_same_in_any_order(seed, tmp_path):
    rng = random.Random(seed)
    histories = [[rng.randint(1, 5) for _ in range(rng.randint(2, 6))] for _ in range(40)]
    sessions = prefix_rows(histories)
    if seed % 2:  # rows are missing
        sessions = sessions.take(np.array(sorted(rng.sample(range(len(sessions)), len(sessions) // 2))))
    want = None
    for run in range(4):
        lines = as_lines(sessions)
        if run:
            rng.shuffle(lines)
        if seed % 2:
            with pytest.warns(UserWarning, match=rf"the user of \d+ of {len(lines)} rows is uncertain") as caught:
                dataset = load_dataset(write_dataset(tmp_path / "Mine", lines))
        else:
            caught, dataset = [], load_dataset(write_dataset(tmp_path / "Mine", lines))
            assert len(np.unique(dataset.train.users)) == 40
        found = rows_of(split_sessions(dataset.train)), [str(warning.message) for warning in caught]
        want = want or found
        assert found == want


@pytest.mark.parametrize("name", ["Demo", "Amazon_Beauty", "Amazon_Cell"])
def test_published_files_keep_their_users(name, request):
    folder = DEMO if name == "Demo" else request.getfixturevalue("real_data") / name
    train = load_dataset(folder).train
    assert train.users.tolist() == consecutive_users(train)
    assert train.users.max() + 1 == {"Demo": 3000, "Amazon_Beauty": 27_728, "Amazon_Cell": 27_238}[name]
    for order in in_other_orders(train).values():
        other, uncertain = identify_users(replace(train, users=None).take(order))
        assert uncertain == 0
        assert rows_of(split_sessions(other)) == rows_of(split_sessions(train))


def test_uncertain_rows_are_reported(tmp_path):
    folder = write_dataset(tmp_path / "Mine", ["[1],2", '"[1, 2]",3', '"[1, 2]",4', '"[5, 6, 7]",8'])
    with pytest.warns(UserWarning) as caught:
        load_dataset(folder)
    assert [str(warning.message) for warning in caught] == [
        f"{folder / 'train_sessions.csv'}: the user of 2 of 4 rows is uncertain, because earlier rows are missing; "
        "a column `user` settles it"
    ]


# --------------------------------------------------------------------------------------------------
# The column `user`


def test_named_users_are_numbered_in_sorted_order(tmp_path):
    rows = ['"[1, 2]",3,zoë', "[1],2,Ann", '"[1, 2]",4,Ann', "[1],2,zoë", "[5],6,Ann"]
    train = load_dataset(write_dataset(tmp_path / "Mine", rows, "session,label,user")).train
    assert train.users.tolist() == [1, 0, 0, 1, 0]
    assert train.chains.tolist() == [0, 1, 1, 0, 2]
    path = write_dataset(tmp_path / "Mine", ["10,[1],2", "9,[1],2", "9,[3],4"], "user,session,label")
    assert read_sessions(path / "train_sessions.csv", labels=True).users.tolist() == [1, 0, 0]
    assert read_sessions(path / "train_sessions.csv").users is None  # only a training file has users


def test_a_user_without_a_name_is_an_error(tmp_path):
    folder = write_dataset(tmp_path / "Mine", ["[1],2,a", "[3],4, "], "session,label,user")
    with pytest.raises(DataError, match=r"train_sessions\.csv, line 3: the user is missing"):
        load_dataset(folder)


def test_all_sessions_of_a_named_user_are_in_one_split(tmp_path):
    histories = [[item, item + 1, item + 2] for item in range(0, 400, 4)]
    sessions = prefix_rows(histories)
    names = [f"u{user // 4}" for user in sessions.users]  # four sessions each
    lines = as_lines(sessions, names)
    parts = split_sessions(load_dataset(write_dataset(tmp_path / "Mine", lines, "session,label,user")).train)
    assert [len(np.unique(part.users)) for part in parts] == [21, 2, 2]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert not np.isin(parts[one].users, parts[two].users).any()
    random.Random(0).shuffle(lines)
    again = load_dataset(write_dataset(tmp_path / "Mine", lines, "session,label,user")).train
    assert rows_of(split_sessions(again)) == rows_of(parts)


# --------------------------------------------------------------------------------------------------
# Leave one out, and small data


def test_leave_one_out_takes_the_last_row_of_each_user():
    sessions = prefix_rows([[1, 2, 3, 4], [5, 6], [7, 8, 9]]).take(np.array([2, 5, 0, 3, 1, 4]))  # any order
    train, valid, test = split_sessions(sessions, "leave-one-out")
    assert sorted(as_rows(train)) == [([1], 2), ([1, 2], 3), ([7], 8)]
    assert sorted(as_rows(valid)) == [([1, 2, 3], 4), ([5], 6), ([7, 8], 9)]
    assert len(test) == 0
    assert leak_rate(train, valid).same_user == 0
    several = replace(sessions, users=np.zeros(6, int), chains=sessions.users)
    assert as_rows(split_sessions(several, "leave-one-out").valid) == [([7, 8], 9)]  # of the last chain
    with pytest.raises(ValueError, match="it has no shares"):
        split_sessions(sessions, "leave-one-out", valid_share=0.1)


def test_leave_one_out_tests_the_rows_of_the_test_file(tmp_path):
    rows = ["[1],2", '"[1, 2]",3', "[4],1"]
    test = 'session,label\n"[1, 2, 3]",4\n"[4, 1]",9\n'
    data = prepare(load_dataset(write_dataset(tmp_path / "Mine", rows, test=test)), split="leave-one-out")
    assert as_rows(data.train) == [([1], 2)]
    assert as_rows(data.valid) == [([1, 2], 3), ([4], 1)]
    assert as_rows(data.test) == [([1, 2, 3], 4), ([4, 1], 0)]  # item 9 is in no training row
    assert not np.isin(data.test.users, data.train.users).any() and len(set(data.test.users)) == 2
    assert (data.split, data.shares) == ("leave-one-out", (None, None))
    no_labels = prepare(load_dataset(write_dataset(tmp_path / "Mine", rows)), split="leave-one-out")
    assert len(no_labels.test) == 0 and len(no_labels.valid) == 2
    with pytest.raises(DataError, match="nothing is left to train on after cleaning and the split 'leave-one-out'"):
        prepare(load_dataset(write_dataset(tmp_path / "Mine", ["[1],2", "[4],1"])), split="leave-one-out")


def test_the_split_last_takes_the_users_whose_rows_end_last(tmp_path):
    sessions = Sessions.from_lists([[1], [2], [3], [1, 2], [4]], [2, 3, 4, 3, 5], users=[7, 3, 9, 7, 1])
    train, valid, test = split_sessions(sessions, "last", valid_share=0.25, test_share=0.25)
    assert as_rows(test) == [([4], 5)]  # user 1
    assert as_rows(valid) == [([1], 2), ([1, 2], 3)]  # user 7, with both rows
    assert as_rows(train) == [([2], 3), ([3], 4)]
    assert as_rows(split_sessions(sessions, "last", valid_share=0.25, seed=5).valid) == [([4], 5)]
    rows = [f"[{i}],{i + 1}" for i in range(10)]
    folder = write_dataset(tmp_path / "Mine", rows, test="session,label\n[3],4\n")
    data = prepare(load_dataset(folder), split="last")
    assert as_rows(data.valid) == [([10], 0)]  # the tenth user, whose label does not occur in training
    assert (len(data.train), as_rows(data.test)) == (9, [([4], 5)])  # the test file's row, encoded
    with pytest.raises(TooFewUsers, match="2 users are too few for a validation share"):
        split_sessions(Sessions.from_lists([[1], [2]], [2, 3], users=[0, 1]), "last")


def test_too_few_users_are_an_error_with_a_remedy():
    for users, words in ((1, "1 user is"), (2, "2 users are"), (5, "5 users are")):
        with pytest.raises(TooFewUsers, match=rf"^{words} too few for a validation share of 0\.1; take larger shares"):
            split_sessions(prefix_rows([[1, 2, 3]] * users))
    assert [len(part) for part in split_sessions(prefix_rows([[1, 2]] * 6))] == [4, 1, 1]
    with pytest.raises(TooFewUsers, match="2 users: 1 for validation and 1 for test leave none to train on"):
        split_sessions(prefix_rows([[1, 2]] * 2), valid_share=0.45, test_share=0.45)


def test_sessions_without_users_cannot_be_split_by_user():
    for by in ("user", "last", "leave-one-out"):
        with pytest.raises(ValueError, match="the sessions have no users; name them"):
            split_sessions(Sessions.from_lists([[1], [2]], [2, 3]), by)
    assert len(split_sessions(Sessions.from_lists([[1], [2]], [2, 3]), "none").train) == 2
