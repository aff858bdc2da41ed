"""Every public function, called with one argument of a wrong type at a time: it works, or it says why in one sentence.

A sentence is a ValueError (or one of its kind) that our own code raises, not numpy, torch or pandas.
"""

import traceback
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import write_planted

import metrics
import process_data
from dataset import files, find, sessions, split
from dataset.files import ROOT
from dataset.find import load_dataset
from dataset.sessions import DataError
from experiments import leakage
from models import build_model
from models.item_graph import item_graph
from process_data import MyDataset, Queries, Sessions, TrainDataset, Vocabulary, get_dataloader, prepare
from sessionrec import checkpoint, ensemble, fit, losses, pretrained, recipes, recommend, run, scoring
from sessionrec import results as run_results
from sessionrec.device import TrainingError

WRONG = {
    "None": None, "text": "x", "empty text": "", "5.0": 5.0, "True": True, "-1": -1, "0": 0, "NaN": float("nan"),
    "2**63": 2**63, "list": [1, 2], "empty list": [], "lists": [[1, 2], [3]], "names": [["a", "b"]], "dict": {"a": 1},
    "object": object(), "matrix": np.zeros((2, 2)), "integers": np.array([[1, 2], [3, 4]]), "floats": np.array([1.5]),
    "tensor": torch.tensor([[1, 2]]), "frame": pd.DataFrame({"a": [1]}), "class": Sessions, "function": len,
    "raw sessions": Sessions.from_lists([[1, 2]], labels=[3], users=[0]),
    "encoded sessions": Sessions.from_lists([[1, 2]], labels=[2], users=[0], n_items=3),
    "sessions alone": Sessions.from_lists([[1, 2]], n_items=40),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Objects to call functions with."""
    folder = tmp_path_factory.mktemp("data")
    dataset = load_dataset(write_planted(folder / "Planted"))
    data = prepare(dataset)
    model = build_model("GRU4REC", n_items=data.n_items, hidden=4, width=4)
    baseline = build_model("Popularity", n_items=data.n_items).fit(data.train, data.popularity)
    recipe = recipes.load_recipe("best", "Popularity", "x")
    finished = run.run_recipe(recipe, dataset)
    finished.save(folder / "x.safetensors")
    return {
        "folder": folder, "dataset": dataset, "data": data, "model": model, "baseline": baseline, "recipe": recipe,
        "run": finished, "checkpoint": folder / "x.safetensors", "loader": get_dataloader(TrainDataset(data.train)),
        "ranks": np.array([1, 2, 30]), "raw": dataset.test,
        "found": recommend.recommend(finished.checkpoint(), dataset.test, 3),
    }  # fmt: skip


def calls(g):
    """Function -> arguments of a call that works."""
    data, ranks = g["data"], g["ranks"]
    neural = recipes.Recipe("mine", "GRU4REC", fit={"epochs": 1}, model={"width": 4, "hidden": 4})
    scores = torch.rand(2, 5)
    return {
        Sessions.from_lists: {"lists": [[1], [1, 2]], "labels": [2, 3], "users": [0, 0], "n_items": 3},
        Queries.of: {"sessions": data.train, "popularity": data.popularity, "mask_seen": True},
        Vocabulary: {"item_ids": [3, 5]},
        data.vocabulary.encode: {"raw": [3, 5]},
        data.vocabulary.decode: {"ids": [1, 2]},
        data.vocabulary.encode_sessions: {"sessions": g["raw"]},
        find.load_dataset: {"name": g["dataset"].folder},
        find.load_datasets: {"names": [g["dataset"].folder]},
        files.read_sessions: {"path": g["dataset"].folder / "train_sessions.csv", "labels": True},
        files.read_items: {"path": g["folder"] / "items.csv"},
        sessions.maximal_sessions: {"sessions": data.train},
        sessions.count_items: {"sessions": data.train},
        sessions.has_repeats: {"sessions": data.train},
        split.split_sessions: {"sessions": g["dataset"].train, "by": "user", "valid_share": 0.1, "seed": 0},
        process_data.prepare: {"dataset": g["dataset"], "split": "user", "split_seed": 0, "valid_share": 0.1,
                               "test_share": 0.1, "min_item_count": 1, "min_session_length": 1, "fit_on": "train"},
        TrainDataset: {"sessions": data.train, "fold": True, "weights": "rows"},
        MyDataset: {"sessions": data.train},
        process_data.get_dataloader: {"dataset": TrainDataset(data.train), "batch_size": 5, "shuffle": True, "seed": 0,
                                      "num_workers": 0, "rank": 0, "world_size": 1},
        process_data.get_slice: {"x": torch.tensor([[1, 2]])},
        process_data.expand_prefixes: {"x": torch.tensor([[1, 2]])},
        metrics.check_finite: {"scores": scores},
        metrics.ranks_of_targets: {"scores": scores, "targets": torch.tensor([1, 2])},
        metrics.per_query_metric: {"ranks": ranks, "metric": "HR", "k": 5},
        metrics.hit_rate: {"ranks": ranks, "k": 5},
        metrics.mean_reciprocal_rank: {"ranks": ranks, "k": 5},
        metrics.ndcg: {"ranks": ranks, "k": 5},
        metrics.summarize: {"ranks": ranks},
        metrics.summarize_groups: {"ranks": ranks, "groups": np.array([1, 1, 2])},
        metrics.confidence_interval: {"values": ranks, "users": np.array([1, 1, 2]), "level": 0.9, "rounds": 3,
                                      "seed": 0},
        item_graph: {"sessions": data.train},
        g["baseline"].fit: {"sessions": data.train, "popularity": data.popularity},
        scoring.rank_labels: {"model": g["model"], "queries": data.valid},
        scoring.top_items: {"model": g["model"], "queries": data.valid, "k": 3},
        scoring.popularity_scores: {"popularity": data.popularity},
        losses.SampledSoftmax: {"popularity": data.popularity, "negatives": 3, "power": 0.5, "precision": "fp32"},
        recommend.recommend: {"checkpoint": g["checkpoint"], "sessions": [[10, 20]], "k": 3, "mask_seen": True},
        recommend.evaluate: {"checkpoint": g["checkpoint"], "sessions": [[10, 20]], "labels": [30], "mask_seen": False},
        recommend.write_recommendations: {"path": g["folder"] / "out.csv", "sessions": g["raw"],
                                          "recommendations": g["found"], "scores": True},
        fit.fit: {"model": g["model"], "loader": g["loader"], "valid": data.valid, "epochs": 1, "lr": 0.01,
                  "schedule": "constant", "weight_decay": 0.0, "resume_file": None, "callbacks": ()},
        fit.fit_baseline: {"model": g["baseline"], "data": data},
        fit.EarlyStopping: {"patience": 2},
        fit.Schedule: {"name": "cosine", "epochs": 2},
        checkpoint.make_checkpoint: {"model": g["model"], "data": data},
        checkpoint.save_checkpoint: {"path": g["folder"] / "y.safetensors", "model": g["model"], "data": data,
                                     "compact": False},
        checkpoint.load_checkpoint: {"path": g["checkpoint"], "device": "cpu"},
        checkpoint.read_header: {"path": g["checkpoint"]},
        recipes.load_recipe: {"name": "best", "model": "NARM", "dataset": "x"},
        g["recipe"].with_changes: {"changes": {}},
        run.run_recipe: {"recipe": g["recipe"], "dataset": g["dataset"], "seed": 0, "device": "cpu",
                         "evaluate_on": ("valid",), "split": run.Split(), "stop_after": 1, "callbacks": (),
                         "members": None},
        run.train_on_all_rows: {"recipe": g["recipe"], "dataset": g["dataset"], "split": run.Split(),
                                "heldout_run": g["run"]},
        run.fit_by_recipe: {"model": g["model"], "data": data, "recipe": neural, "seed": 0, "stop_after": 1},
        run.make_loss: {"data": data, "negatives": 3, "precision": "fp32"},
        run.make_train_dataset: {"sessions": data.train, "recipe": neural},
        run.recipes_of: {"recipe": g["recipe"], "dataset": g["dataset"]},
        run_results.summarize_run: {"run": g["run"]},
        run_results.beyond_accuracy: {"run": g["run"], "k": 3, "seed": 0},
        ensemble.choose_weights: {"models": [g["baseline"]], "valid": data.valid, "rounds": 1, "start": 0},
        pretrained.find_pretrained: {"dataset": g["dataset"], "model": "NARM", "epochs": 1},
        leakage.leak_rate: {"train": data.train, "validation": data.valid},
        leakage.leaked_rows: {"train": data.train, "validation": data.valid},
        build_model: {"name": "GRU4REC", "n_items": 3, "layers": 1, "hidden": 4, "width": 4},
    }  # fmt: skip


def test_every_function_says_in_one_sentence_what_is_wrong(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some calls with a path such as "x" work
    (good["folder"] / "items.csv").write_text("id,item\n1,a\n")
    problems = []
    for function, arguments in calls(good).items():
        function(**arguments)
        for name in arguments:
            for kind, value in WRONG.items():
                problem = attempt(function, arguments | {name: value})
                if problem:
                    problems.append(f"{getattr(function, '__qualname__', function)}({name}={kind}): {problem}")
    assert not problems, "\n".join(problems)


def attempt(function, arguments):
    """What is wrong with the way in which a call fails; nothing if it works or fails with a sentence of ours."""
    try:
        function(**arguments)
    except (ValueError, TrainingError, OSError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error)
        if not last.filename.startswith(str(ROOT)) or ".venv" in last.filename:
            return f"{type(error).__name__} from {last.filename}: {text[:100]}"
        if "\n" in text or len(text) > 400 or not text:
            return f"not a sentence: {text[:100]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


# ------------------------------------------------------------------------------------------------------------
# The sentences

LISTS = [[1, 2], [3]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1, 2],), r"sessions: each session must be a list of items: \[\[1, 2\]\], not \[1, 2\]"),
        (("ab",), "sessions: pass a list of lists of items"),
        ((["ab"],), "sessions: each session must be a list of items"),
        (([["a", "b"]],), "sessions: item ids must be non-negative integers"),
        (([[1.0, 2.0]],), "sessions: item ids must be non-negative integers"),
        (([[True, 2]],), "sessions: item ids must be non-negative integers"),
        (([[1, None]],), "sessions: item ids must be non-negative integers"),
        (([[1, [2, 3]]],), "sessions: item ids must be non-negative integers"),
        (([[-1]],), "sessions: item ids must be non-negative integers"),
        (([[2**63]],), "sessions: item ids must be non-negative integers"),
        (({1: [2]},), "sessions: pass a list of lists of items"),
        ((np.array([[1, 2], [3, 0]]),), "sessions: an array may hold padding"),
        ((torch.tensor([[1, 2], [3, 0]]),), "sessions: an array may hold padding"),
        ((LISTS, [1]), "labels: there are 1 for 2 sessions"),
        ((LISTS, [1, 2, 3]), "labels: there are 3 for 2 sessions"),
        ((LISTS, [1, 2.5]), "labels: labels must be non-negative integers"),
        ((LISTS, [1, float("nan")]), "labels: labels must be non-negative integers"),
        ((LISTS, [1, None]), "labels: labels must be non-negative integers"),
        ((LISTS, [[1], [2]]), "labels: labels must be non-negative integers"),
        ((LISTS, 5), "labels: labels must be non-negative integers"),
        ((LISTS, [1, 2], [0]), "users: there are 1 for 2 sessions"),
        ((LISTS, [1, 2], ["ann", "bob"]), "users: users must be non-negative integers"),
        ((LISTS, [1, 2], [0, 1], 2), r"sessions: encoded ids are 1..2; leave n_items out for raw ids"),
        ((LISTS, [1, 4], [0, 1], 3), r"sessions: encoded ids are 1..3"),
        ((LISTS, None, None, 5.0), "n_items=5.0: must be a whole number"),
    ],
)
def test_lists_that_are_no_sessions(arguments, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}") as error:
        Sessions.from_lists(*arguments)
    assert isinstance(error.value, DataError) or "n_items=" in sentence


def test_lists_of_any_sequence_are_sessions():
    expected = Sessions.from_lists([[1, 2], [3], []], labels=[4, 5, 6], users=[0, 1, 1])
    for lists in (
        [(1, 2), (3,), ()], ([1, 2], [3], []), [np.array([1, 2]), np.array([3]), np.array([], np.int64)],
        pd.Series([[1, 2], [3], []]), (row for row in ([1, 2], [3], [])), [torch.tensor([1, 2]), [3], range(0)],
    ):  # fmt: skip
        found = Sessions.from_lists(lists, pd.Series([4, 5, 6]), np.array([0, 1, 1], np.uint8))
        for name in ("items", "offsets", "labels", "users"):
            assert getattr(found, name).dtype == np.int64
            assert getattr(found, name).tolist() == getattr(expected, name).tolist()


def sentences(g):
    data, raw, path = g["data"], g["raw"], g["checkpoint"]
    alone = Sessions.from_lists([[1, 2]], n_items=data.n_items)
    with_labels = Sessions.from_lists([[1, 2]], labels=[3], n_items=data.n_items)
    no_users = replace(g["dataset"], train=replace(g["dataset"].train, users=None))
    return [
        (lambda: prepare(LISTS), "dataset: must be SessionDataset, such as load_dataset"),
        (lambda: prepare(g["dataset"].train), "dataset: must be SessionDataset"),
        (lambda: prepare(no_users), "the sessions have no users; name them"),
        (lambda: TrainDataset(LISTS), "TrainDataset takes encoded sessions"),
        (lambda: TrainDataset(alone), "the sessions have no labels; name them"),
        (lambda: TrainDataset(with_labels), "the sessions have no users; name them"),
        (lambda: MyDataset(alone), "the sessions have no labels; name them"),
        (lambda: recommend.recommend(path, [[10, 20]], k=5.0), "k=5.0: must be a whole number"),
        (lambda: recommend.recommend(path, [[10, 20]], k=True), "k=True: must be a whole number"),
        (lambda: recommend.recommend(path, data.test, k=3), "these sessions are encoded already; pass raw ids"),
        (lambda: recommend.evaluate(path, LISTS), "these sessions have no labels to evaluate against"),
        (lambda: recommend.evaluate(path, LISTS, labels=5), "labels must be a list of ids or names, not int"),
        (lambda: recommend.write_recommendations("x", raw.take([0]), g["found"]), "do not fit 1 sessions"),
        (lambda: scoring.rank_labels(g["model"], LISTS), "queries: must be Queries, such as data.valid of"),
        (lambda: scoring.rank_labels(g["model"], data.train), "queries: must be Queries, such as data.valid of"),
        (lambda: scoring.rank_labels(g["model"], replace(data.valid, labels=None)), "the sessions have no labels"),
        (lambda: scoring.rank_labels("NARM", data.valid), "model: must be a model such as build_model returns"),
        (lambda: scoring.rank_labels(build_model("GRU4REC", n_items=3), data.valid), "the model has 3 items and "),
        (lambda: scoring.top_items(g["model"], data.valid, k=10**6), "k=1000000: must be a whole number from 1 to"),
        (lambda: fit.fit(g["model"], g["loader"], data.valid, epochs=0, lr=1e-3), "epochs=0: must be a whole number"),
        (lambda: fit.fit_baseline(g["model"], data), "fit_baseline takes a baseline, not GRU4REC"),
        (lambda: run.run_recipe("best", g["dataset"]), "recipe: must be Recipe, such as load_recipe"),
        (lambda: run.run_recipe(g["recipe"], g["dataset"], split="row"), "split: must be Split, such as Split"),
        (lambda: find.load_datasets("Demo"), "names='Demo': must be a list"),
        (lambda: metrics.hit_rate([0, 1], 5), "ranks must be numbers of at least 1"),
        (lambda: metrics.hit_rate([float("nan")], 5), "ranks must be numbers of at least 1"),
        (lambda: metrics.hit_rate([1, 2], 5.0), "k=5.0: must be a whole number of at least 1"),
        (lambda: metrics.hit_rate([1, 2], True), "k=True: must be a whole number of at least 1"),
        (lambda: metrics.per_query_metric([1], "MAP", 5), "metric='MAP': choose HR, MRR, NDCG"),
        (lambda: leakage.leak_rate(with_labels, data.valid), "the sessions have no users; name them"),
    ]  # fmt: skip


def test_the_sentence_says_what_to_pass(good):
    for call, sentence in sentences(good):
        with pytest.raises(ValueError, match=sentence):
            call()
