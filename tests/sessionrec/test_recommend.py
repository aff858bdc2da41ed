"""Recommending: items, their order, and the files."""

import csv
import json
import os

import numpy as np
import pytest
import torch

from models import NEURAL_MODELS, build_model
from models.base import SessionModel
from process_data import DataError, Sessions, Vocabulary
from sessionrec import scoring
from sessionrec.checkpoint import Checkpoint, CheckpointError, write_checkpoint
from sessionrec.recommend import evaluate, recommend, write_recommendations


class Table(SessionModel):
    """Scores from a table: after item i, item j has the score table[i - 1][j - 1]."""

    def __init__(self, table):
        n = len(table)
        super().__init__(n_items=n, width=n, dropout=0.0, hidden_dropout=0.0, score="dot", scale=1.0)
        self.table = torch.tensor([[0] * n, *table], dtype=torch.float)
        with torch.no_grad():
            self.embedding.weight[1:] = torch.eye(n)

    def forward(self, x):
        return self.table[x]


#        0  7 40 41 90
TABLE = [
    [9, 1, 2, 3, 4],  # after 0
    [5, 9, 1, 2, 3],  # after 7
    [1, 2, 9, 8, 7],  # after 40
    [6, 6, 2, 9, 6],  # after 41: three equal scores
    [2, 4, 6, 8, 9],  # after 90
]
BY_POPULARITY = [90, 7, 0, 40, 41]  # they occur 9, 5, 3, 3, 0 times; ties by the lower id


def hand_made(mask_seen=True, names=None):
    """A checkpoint whose recommendations follow from TABLE."""
    popularity, vocabulary = np.array([0, 3, 5, 3, 0, 9]), Vocabulary(np.array([0, 7, 40, 41, 90]), names)
    return Checkpoint(Table(TABLE), vocabulary, popularity, {"mask_seen": mask_seen})


NAMES = ["=pen", "ink", "pad", "40", "ü, x"]  # of 0, 7, 40, 41 and 90


def items_for(*sessions, k=2, checkpoint=None, **options):
    return recommend(checkpoint or hand_made(), list(sessions), k, **options).items.tolist()


# --------------------------------------------------------------------------------------------------
# recommend()


def test_recommendations_by_hand():
    found = recommend(hand_made(), [[0], [7, 40], [40, 7], [90]], k=3)
    assert found.items.tolist() == [[90, 41, 40], [41, 90, 0], [0, 90, 41], [41, 40, 7]]
    assert found.scores.tolist() == [[4, 3, 2], [8, 7, 1], [5, 3, 2], [8, 6, 4]]
    assert (found.items.dtype, found.scores.dtype) == (np.int64, np.float32)


def test_seen_items_are_recommended_only_with_mask_seen_false():
    assert items_for([7, 40], mask_seen=False) == [[40, 41]]
    assert items_for([7, 40], mask_seen=True) == [[41, 90]]
    # By default, as in the checkpoint's training data.
    assert items_for([7, 40]) == [[41, 90]]
    assert items_for([7, 40], checkpoint=hand_made(mask_seen=False)) == [[40, 41]]
    assert items_for([7, 40], checkpoint=hand_made(mask_seen=False), mask_seen=True) == [[41, 90]]


def test_unknown_items_of_a_session_are_ignored():
    assert items_for([7, 40]) == items_for([7, 8, 40]) == items_for([99, 7, 40, 39, 10**17])
    # The last known item determines the scores, not the last item.
    assert items_for([40, 7, 41000]) == items_for([40, 7]) != items_for([7, 40])


def test_a_session_without_known_items_gets_popular_items():
    assert items_for([8], [1, 2, 3], [], k=5) == [BY_POPULARITY] * 3
    assert items_for([8], k=5, mask_seen=False) == [BY_POPULARITY]


def test_known_and_unknown_sessions_are_counted():
    found = recommend(hand_made(), [[0], [7, 8], [8, 9], [40, 7], [41, 90, 1], [90]], k=1)
    assert (found.known, found.partly_known, found.unknown) == (3, 2, 1)
    assert str(found) == ("6 sessions: 3 known, 2 partly known, 1 not known at all (popular items instead)")
    assert recommend(hand_made(), [[], [0]], k=1).unknown == 1


def test_lists_sessions_and_arrays_are_accepted():
    lists = [[0], [7, 8, 40], [8]]
    want = items_for(*lists)
    for sessions in (Sessions.from_lists(lists), [np.array(s) for s in lists], tuple(map(tuple, lists))):
        assert recommend(hand_made(), sessions, 2).items.tolist() == want
    # Labels are ignored.
    assert recommend(hand_made(), Sessions.from_lists(lists, [1, 1, 1]), 2).items.tolist() == want


def test_an_empty_list_of_sessions_is_accepted():
    for nothing in ([], Sessions.from_lists([])):
        found = recommend(hand_made(), nothing, 3)
        assert found.items.shape == found.scores.shape == (0, 3)
        assert str(found).startswith("0 sessions")


@pytest.mark.parametrize("wrong", [[[-1]], [[1.5]], [[b"7"]], [[2**63]]])
def test_invalid_ids_are_refused(wrong):
    with pytest.raises(DataError, match="non-negative integers"):
        recommend(hand_made(), wrong)


def test_a_list_is_as_long_as_it_can_be():
    """Five items; the first session leaves four of them, the second three, the third none."""
    found = recommend(hand_made(), [[7], [40, 0], [0, 7, 40, 41, 90]], 20)
    assert found.lists == [[0, 90, 41, 40], [90, 41, 7], []]
    assert found.items.tolist() == [[0, 90, 41, 40, -1], [90, 41, 7, -1, -1], [-1] * 5]
    assert found.lengths.tolist() == [4, 3, 0]
    assert np.isnan(found.scores).tolist() == (found.items < 0).tolist()
    assert str(found).endswith("; 3 with fewer than 20 items, because there are no more to recommend")
    assert items_for([7], [40, 0], k=3) == [[0, 90, 41], [90, 41, 7]]
    assert "fewer" not in str(recommend(hand_made(), [[7], [40, 0]], 3))
    whole = recommend(hand_made(), [[7]], 6, mask_seen=False)
    assert whole.lists == [[7, 0, 90, 41, 40]] and "; 1 with fewer than 6 items" in str(whole)


def test_one_long_session_does_not_shorten_the_other_lists():
    found = recommend(hand_made(), [[0, 7, 40], [7]], 4)
    assert found.lists == [[41, 90], [0, 90, 41, 40]]


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3", 2**40])
def test_a_k_that_is_no_count_is_refused(k):
    with pytest.raises(ValueError, match="^k="):
        recommend(hand_made(), [[7]], k)


def test_an_item_that_was_seen_twice_is_counted_once():
    assert items_for([7, 7, 7, 7, 7, 7], k=4) == [[0, 90, 41, 40]]
    assert recommend(hand_made(), [[7, 40, 7, 40], [0, 0]], 4).lists == [[41, 90, 0], [90, 41, 40, 7]]


def test_the_popular_items_are_marked_and_scored_by_their_share_of_the_training_data():
    found = recommend(hand_made(), [[8], [7, 40], []], 5)
    assert found.popular.tolist() == [True, False, True]
    assert found.lists[0] == found.lists[2] == BY_POPULARITY
    assert found.scores[0] == pytest.approx([9 / 20, 5 / 20, 3 / 20, 3 / 20, 0])
    assert found.scores[1, :3].tolist() == [8, 7, 1]  # the model's own


# --------------------------------------------------------------------------------------------------
# Names


def test_names_go_in_and_come_out():
    named = hand_made(names=NAMES)
    by_id, by_name = [[0], [7, 40], [90]], [["=pen"], ["ink", "pad"], ["ü, x"]]
    for sessions in (by_id, by_name, [np.array(session) for session in by_name]):
        found = recommend(named, sessions, 2)
        assert found.items.tolist() == [[90, 41], [41, 90], [41, 40]]
        assert found.names == [["ü, x", "40"], ["40", "ü, x"], ["40", "pad"]]
    # "40" is the name of item 41, and 40 is the id of the item "pad".
    assert recommend(named, [["40"], ["pad"]], 1, mask_seen=False).names == [["40"], ["pad"]]
    assert recommend(named, [[40]], 1, mask_seen=False).names == [["pad"]]


def test_names_that_the_checkpoint_does_not_know_are_unknown_items():
    found = recommend(hand_made(names=NAMES), [["ink", "cap", "pad"], ["cap", "0"], ["ink"]], 2)
    assert found.items.tolist() == [[41, 90], [90, 7], [0, 90]]
    assert (found.known, found.partly_known, found.unknown) == (1, 1, 1)
    assert recommend(hand_made(names=NAMES), [], 2).names == []


def test_without_names_decimal_text_is_an_id():
    found = recommend(hand_made(), [["7", "40"], ["8"]], 2)
    assert found.items.tolist() == items_for([7, 40], [8])
    assert found.names == [["41", "90"], ["90", "7"]]
    for name in ("pen", "07", "7.0", "-1", ""):
        with pytest.raises(DataError, match=f"sessions: has the name '{name}', but the checkpoint knows its items by"):
            recommend(hand_made(), [["7"], ["40", name]], 2)


@pytest.mark.parametrize("sessions", [[["ink", 7]], [["ink"], [7]], [["ink", None]], [["ink", 1.5]], [[["ink"]]]])
def test_a_mixture_of_names_and_ids_is_refused(sessions):
    with pytest.raises(DataError, match=r"has the name 'ink' and .*, which is no name; give|must be non-negative int"):
        recommend(hand_made(names=NAMES), sessions, 2)


@pytest.mark.parametrize("sessions", ["ink", ["ink", "pad"], [b"ink"], [None]])
def test_text_is_no_list_of_names(sessions):
    with pytest.raises(DataError, match="must be a list of items|pass a list of lists of items"):
        recommend(hand_made(names=NAMES), sessions, 2)


def test_evaluation_takes_names():
    named, sessions = hand_made(names=NAMES), [["=pen"], ["ink", "pad"], ["cap"], ["ink"]]
    result = evaluate(named, sessions, ["ü, x", "=pen", "pad", "cap"])
    assert result.ranks.tolist() == [1, 3, 4, 6] and result.coverage == 3 / 4
    assert (result.known, result.unknown) == (3, 1)
    assert evaluate(named, [[0], [7, 40]], [90, 0]).ranks.tolist() == [1, 3]
    with pytest.raises(DataError, match="2 labels do not fit 1 sessions"):
        evaluate(named, [["ink"]], ["pad", "pad"])
    with pytest.raises(DataError, match="has the name 'ink' and 7, which is no name"):
        evaluate(named, [["ink"]], [7])
    with pytest.raises(ValueError, match="no labels"):
        evaluate(named, [["ink"]])
    with pytest.raises(ValueError, match="labels of their own"):
        evaluate(named, Sessions.from_lists([[7]], [0]), [0])


# --------------------------------------------------------------------------------------------------
# recommend() with real models


def random_checkpoint(name="GRU4REC", n_items=100, **arguments):
    torch.manual_seed(4)
    model = build_model(name, n_items=n_items, width=8, **arguments)
    raw = 3 * np.arange(n_items) + 5
    popularity = np.random.default_rng(4).integers(0, 50, n_items + 1)
    header = {"mask_seen": True, "model": name, "arguments": model.arguments}
    return Checkpoint(model, Vocabulary(raw), popularity, header)


def random_sessions(seed=0, rows=200):
    """Sessions of raw ids 5..304. `random_checkpoint` knows a third of them."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(300)[: generator.integers(1, 9)] + 5 for _ in range(rows)]


@pytest.mark.parametrize("mask_seen", [True, False])
@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_every_list_is_of_distinct_known_items_best_first(name, mask_seen):
    checkpoint, sessions = random_checkpoint(name), random_sessions()
    found = recommend(checkpoint, sessions, 20, mask_seen=mask_seen)
    assert found.items.shape == found.scores.shape == (200, 20)
    assert np.isfinite(found.scores).all()  # masked items have -inf
    assert (np.diff(found.scores, axis=1) <= 0).all()
    seen = 0
    for session, items in zip(sessions, found.items.tolist(), strict=True):
        assert len(set(items)) == 20
        assert {*items} <= {*range(5, 305, 3)}
        seen += len({*session.tolist()} & {*items})
    assert (seen == 0) == mask_seen
    again = recommend(checkpoint, sessions, 20, mask_seen=mask_seen)
    assert (again.items == found.items).all()
    assert (again.scores == found.scores).all()


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_recommendations_do_not_depend_on_other_sessions(name, monkeypatch):
    checkpoint, sessions = random_checkpoint(name), random_sessions(rows=30)
    whole = recommend(checkpoint, sessions, 10)
    for rows in (1, 7):
        monkeypatch.setattr(scoring, "_CHUNK_ENTRIES", rows * 101)
        parts = recommend(checkpoint, sessions, 10)
        assert (parts.items == whole.items).all()
        np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-4)
    backwards = recommend(checkpoint, sessions[::-1], 10)
    assert (backwards.items[::-1] == whole.items).all()


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_only_the_last_items_of_a_long_session_are_read(name):
    checkpoint = random_checkpoint(name)
    longest = scoring.LONGEST_SESSION
    long = checkpoint.vocabulary.item_ids[: longest + 10].tolist()
    last = recommend(checkpoint, [long[-longest:]], 90, mask_seen=False).items[0].tolist()
    assert recommend(checkpoint, [long], 90, mask_seen=False).items[0].tolist() == last
    # All of its items are masked, including the first ones.
    assert recommend(checkpoint, [long], 20).items[0].tolist() == [i for i in last if i not in long][:20]


def test_the_last_fifty_items_are_read(monkeypatch):
    """A model that reads only the first item of its input shows which item that is."""
    checkpoint = hand_made()
    monkeypatch.setattr(checkpoint.model, "forward", lambda x: checkpoint.model.table[x[:, :1]].expand(-1, 50, -1))
    for before, after, want in ((10, 49, 40), (10, 50, 41), (0, 49, 40)):
        session = [0] * before + [40] + [41] * after  # the best score after an item is that of the item itself
        assert items_for(session, k=1, checkpoint=checkpoint, mask_seen=False) == [[want]]


def test_a_diverged_model_raises_an_error():
    checkpoint = random_checkpoint()
    with torch.no_grad():
        checkpoint.model.head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        recommend(checkpoint, [[5]])
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(checkpoint, Sessions.from_lists([[5]], [8]))


# --------------------------------------------------------------------------------------------------
# evaluate()


def test_evaluation_by_hand():
    rows = [
        ([0], 90, 1),  # 90 41 40 7
        ([7, 40], 0, 3),  # 41 90 0
        ([41], 7, 3),  # 0, 7 and 90 are tied: the label comes last
        ([41], 40, 4),
        ([90, 8], 7, 3),  # 41 40 7
        ([8], 40, 4),  # by popularity: 90 7 0 40
        ([7], 99, 6),  # unknown item: a miss
        ([7, 0], 7, 6),  # a seen item is masked: a miss
    ]
    sessions, labels, ranks = zip(*rows, strict=True)
    result = evaluate(hand_made(), Sessions.from_lists(sessions, labels))
    assert result.ranks.tolist() == list(ranks)
    assert result.coverage == 7 / 8
    assert (result.known, result.partly_known, result.unknown) == (6, 1, 1)
    assert result.metrics["HR@5"] == 6 / 8
    assert result.metrics["accuracy"] == 1 / 8
    assert result.metrics["MRR@5"] == pytest.approx((1 + 3 / 3 + 2 / 4) / 8)


def test_evaluation_with_seen_items():
    sessions = Sessions.from_lists([[7, 40], [7, 40], [0]], [40, 0, 90])
    assert evaluate(hand_made(), sessions, mask_seen=False).ranks.tolist() == [1, 5, 2]
    assert evaluate(hand_made(mask_seen=False), sessions).ranks.tolist() == [1, 5, 2]
    assert evaluate(hand_made(), sessions).ranks.tolist() == [6, 3, 1]


def test_evaluation_needs_labels():
    with pytest.raises(ValueError, match="no labels"):
        evaluate(hand_made(), Sessions.from_lists([[7]]))


def test_a_path_is_loaded(tmp_path):
    held = random_checkpoint()
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, held)
    sessions = random_sessions(rows=20)
    want = recommend(held, sessions).items
    assert (recommend(path, sessions).items == want).all()
    assert (recommend(str(path), sessions).items == want).all()
    labelled = Sessions.from_lists(sessions, want[:, 2])
    assert evaluate(path, labelled).ranks.tolist() == [3] * 20
    with pytest.raises(CheckpointError, match="does not exist"):
        recommend(tmp_path / "y.safetensors", sessions)


# --------------------------------------------------------------------------------------------------
# write_recommendations()


def read_rows(path):
    """Rows of a result file as {column: list}, read without `read_sessions`."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: json.loads(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def test_the_file_by_hand(tmp_path):
    path = tmp_path / "new" / "x.csv"
    sessions = Sessions.from_lists([[7, 8], [90]])
    found = recommend(hand_made(), sessions, 2)
    write_recommendations(path, sessions, found)
    assert path.read_bytes() == b'session,predict\n"[7, 8]","[0, 90]"\n[90],"[41, 40]"\n'
    write_recommendations(path, sessions, found, scores=True)
    assert path.read_bytes() == (
        b'session,predict,scores\n"[7, 8]","[0, 90]","[5.0, 3.0]"\n[90],"[41, 40]","[8.0, 6.0]"\n'
    )


def test_the_file_with_item_names(tmp_path):
    path = tmp_path / "x.csv"
    sessions = Sessions.from_lists([[7, 8], [90]])
    names = {7: 'a "b"', 8: "ü, x", 41: "=cmd()", 40: "d"}  # 0 and 90 have no name
    write_recommendations(path, sessions, recommend(hand_made(), sessions, 2), names=names)
    assert read_rows(path) == [
        {"session": ['a "b"', "ü, x"], "predict": ["0", "90"]},
        {"session": ["90"], "predict": ["=cmd()", "d"]},
    ]


def test_the_file_has_the_names_of_the_checkpoint(tmp_path):
    path, named = tmp_path / "x.csv", hand_made(names=NAMES)
    sessions = Sessions.from_lists([[7, 8], [90]])
    found = recommend(named, sessions, 2)
    write_recommendations(path, sessions, found, scores=True)
    text = 'session,predict,scores\n"[""ink"", ""8""]","[""=pen"", ""ü, x""]","[5.0, 3.0]"\n'
    assert path.read_text(encoding="utf-8") == text + '"[""ü, x""]","[""40"", ""pad""]","[8.0, 6.0]"\n'
    write_recommendations(path, sessions, found, names={8: "cap"})
    assert read_rows(path)[0] == {"session": ["ink", "cap"], "predict": ["=pen", "ü, x"]}
    lists = [["ink", "\ud800"], ["ü, x"]]  # half a character, as JSON allows it
    write_recommendations(path, lists, recommend(named, lists, 2), users=["b\r", 'a "c"'])
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["user", "session", "predict"] and [row[0] for row in rows] == ["b\r", 'a "c"']
    assert [json.loads(cell) for cell in rows[0][1:]] == [["ink", "\ud800"], ["=pen", "ü, x"]]


def test_the_file_has_ids_if_there_are_no_names(tmp_path):
    lists = [["7", "8"], ["90"]]
    write_recommendations(tmp_path / "x.csv", lists, recommend(hand_made(), lists, 2))
    assert (tmp_path / "x.csv").read_bytes() == b'session,predict\n"[7, 8]","[0, 90]"\n[90],"[41, 40]"\n'


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("what was there")
    found = recommend(hand_made(names=NAMES), [["ink"], ["pad"]], 2)
    with pytest.raises(TypeError):  # fails in the second row
        write_recommendations(path, [["ink"], [object()]], found)
    with pytest.raises(ValueError, match="recommendations for 2 sessions do not fit 1 sessions"):
        write_recommendations(path, [["ink"]], found)
    assert path.read_text() == "what was there"
    assert os.listdir(tmp_path) == ["x.csv"]
