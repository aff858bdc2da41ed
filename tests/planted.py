"""A small dataset in which most items are the successor of the previous item on a ring, and helpers to train on it."""

import csv

import numpy as np
import torch

from models import build_model
from process_data import Queries, Sessions, TrainDataset, get_dataloader
from sessionrec import fit as fit_module
from sessionrec import run as run_module
from sessionrec.fit import fit

N_ITEMS = 40


def planted_walks(seed, users):
    """Walks over a ring of items: mostly to the next item, sometimes to a random one, never to an earlier one."""
    generator = np.random.default_rng(seed)
    walks = []
    for _ in range(users):
        walk = [int(generator.integers(1, N_ITEMS + 1))]
        for _ in range(generator.integers(1, 5)):
            step = walk[-1] % N_ITEMS + 1
            if step in walk or generator.random() < 0.1:
                step = int(generator.choice(np.setdiff1d(np.arange(1, N_ITEMS + 1), walk)))
            walk.append(step)
        walks.append(walk)
    return walks


def prefix_rows(walks):
    """(session, label, user) of every prefix of every walk."""
    return [(w[:t], w[t], user) for user, w in enumerate(walks) for t in range(1, len(w))]


def as_sessions(walks):
    sessions, labels, users = zip(*prefix_rows(walks), strict=True)
    return Sessions.from_lists(sessions, labels, users, n_items=N_ITEMS)


TRAIN = as_sessions(planted_walks(0, 150))
POPULARITY = np.bincount(np.r_[TRAIN.items, TRAIN.labels], minlength=N_ITEMS + 1)
VALID = Queries.of(as_sessions(planted_walks(1, 40)), POPULARITY, True)
BATCH_SIZE = 32
STEPS = -(-len(TrainDataset(TRAIN)) // BATCH_SIZE)


def write_planted(folder):
    """Write the training walks as a dataset folder; raw ids are 0, 10, ... 390."""
    folder.mkdir()
    with open(folder / "train_sessions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "label"])
        for session, label, _ in prefix_rows(planted_walks(0, 150)):
            writer.writerow([[10 * i - 10 for i in session], 10 * label - 10])
    with open(folder / "test_sessions.csv", "w", newline="") as file:
        csv.writer(file).writerows([["session"], [[0]], [[10, 20]], [[390]]])
    return folder


def make_model(name="GRU4REC", *, seed=0, **arguments):
    torch.manual_seed(seed)
    arguments = {"width": 16, "dropout": 0.1, "hidden_dropout": 0.1, "score": "dot"} | arguments
    return build_model(name, n_items=N_ITEMS, **arguments)


def make_loader(rows=None, *, batch_size=BATCH_SIZE, seed=0, **options):
    return get_dataloader(TrainDataset(TRAIN) if rows is None else rows, batch_size, seed=seed, **options)


def run_fit(model, loader=None, valid=VALID, **options):
    """`fit` on the planted rows, by default with a constant learning rate."""
    options = {"lr": 0.02, "epochs": 4, "schedule": "constant"} | options
    return fit(model, make_loader() if loader is None else loader, valid, **options)


def weights_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_bits(got, want):
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def without_seconds(table):
    return table.drop(columns="seconds").to_dict("list")


def plan_ranks(monkeypatch, model, ranks):
    """Make validation return these ranks, one per epoch. Returns a list that receives the weights of each epoch."""
    states, plan = [], iter(ranks)

    def planned(*_, **__):
        states.append(weights_of(model))
        return np.array([next(plan)])

    monkeypatch.setattr(fit_module, "rank_labels", planned)
    return states


def interrupt(monkeypatch, function, call):
    """Raise KeyboardInterrupt at the n-th call of a function in `sessionrec.fit` or `sessionrec.run`."""
    calls, original = [], getattr(fit_module, function)

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **options)

    for module in (fit_module, run_module):
        monkeypatch.setattr(module, function, interrupted, raising=module is fit_module)
