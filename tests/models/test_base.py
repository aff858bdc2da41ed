"""Making models: recorded arguments, wrapped modules, `build_model`, and scores computed by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from models import BASELINES, MODELS, NEURAL_MODELS, build_model
from models.base import SessionModel, WrappedModule
from models.Ensemble import Ensemble
from models.GRU4REC import GRU4REC
from models.NARM import NARM
from process_data import MyDataset, Queries, Sessions, get_dataloader
from sessionrec.fit import fit
from sessionrec.scoring import rank_labels

SHARED = {"width": 128, "dropout": 0.0, "hidden_dropout": 0.0, "score": "cosine", "scale": 12.0}
RULES = {"distance": "same", "backward": 1.0, "memory": 1.0, "norm": 0.0}
# Every argument of every constructor, with its default.
DEFAULTS = {
    "GRU4REC": SHARED | {"hidden": 128, "layers": 1},
    "SRGNN": SHARED | {"graph_steps": 1},
    "NARM": SHARED | {"hidden": 128},
    "GRUwATT": SHARED | {"hidden": 128, "causal": True},
    "GGNNwATT": SHARED | {"graph_steps": 1, "causal": True},
    "SASRec": SHARED | {"layers": 1, "heads": 2, "inner": 256, "longest": 50},
    "Popularity": {},
    "CoOccurrence": RULES,
    "RandomWalk": RULES | {"walk": 1.0},
    "SKNN": {"k": 100},
    "VSKNN": {"k": 100, "weighting": "div", "weighting_score": "div", "idf": 0.0},
    "STAN": {"k": 500, "lambda_spw": 1.02, "lambda_inh": 2.05},
    "SLIST": {"alpha": 0.5, "direction": "part", "reg": 10.0, "train_weight": 1.0, "predict_weight": 1.0}
    | {"keep": 100, "smallest": 1e-7},
}


def shapes(model):
    return {key: value.shape for key, value in model.state_dict().items()}


# --------------------------------------------------------------------------------------------------
# Recorded arguments


def test_every_model_is_known():
    assert DEFAULTS.keys() == NEURAL_MODELS.keys() | BASELINES.keys() == MODELS.keys() - {"Ensemble"}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_argument_is_recorded(name):
    want = {"n_items": 9, **DEFAULTS[name]}
    for model in (MODELS[name](n_items=9), build_model(name, n_items=9)):
        assert (model.name, model.arguments) == (name, want)
    again = build_model(model.name, **model.arguments)
    assert shapes(again) == shapes(model)
    copied = copy.deepcopy(model)
    assert (copied.name, copied.arguments) == (name, want)
    assert shapes(copied) == shapes(model)


def test_passed_arguments_are_recorded_and_copied():
    model = GRU4REC(n_items=9, hidden=4, score="dot", dropout=0.2)
    want = {"n_items": 9} | DEFAULTS["GRU4REC"] | {"hidden": 4, "score": "dot", "dropout": 0.2}
    assert model.arguments == copy.deepcopy(model).arguments == want
    assert all(a.equal(b) for a, b in zip(model.parameters(), copy.deepcopy(model).parameters(), strict=True))
    copied = copy.deepcopy(model)
    copied.arguments["hidden"] = 5
    assert model.arguments["hidden"] == 4


class FixedState(SessionModel):
    """Returns the same state for every session."""

    def __init__(self, state, gain=1.0, **shared):
        super().__init__(width=len(state), dropout=0, hidden_dropout=0, **shared)
        self.state = torch.tensor(state)

    def forward(self, x):
        return self.state.expand(*x.shape, -1)


class Derived(NARM):
    """Inherits the constructor."""


def test_arguments_of_a_new_class_are_recorded():
    state = [3.0, 4.0]
    for model in (FixedState(state, n_items=2), FixedState(state=state, n_items=2, scale=12.0)):
        # Width and dropouts are not recorded, because the class sets them.
        assert model.arguments == {"state": state, "gain": 1.0, "n_items": 2, "score": "cosine", "scale": 12.0}
    model = FixedState(state, 2.0, n_items=2, score="dot")
    assert (model.arguments["gain"], model.arguments["score"]) == (2.0, "dot")
    again = build_model(model.name, classes={"FixedState": FixedState}, **model.arguments)
    assert again.arguments == copy.deepcopy(model).arguments == model.arguments
    assert (Derived(n_items=9).name, Derived(n_items=9).arguments) == ("Derived", {"n_items": 9} | DEFAULTS["NARM"])


def test_dot_and_cosine_by_hand():
    for score, want in (("dot", [0, 24, -10]), ("cosine", [0, 10 * 24 / 25, -10 * 10 / 10])):
        model = FixedState([3.0, 4.0], n_items=2, score=score, scale=10.0)
        with torch.no_grad():
            model.embedding.weight[1:] = torch.tensor([[4.0, 3.0], [-1.2, -1.6]])
            scores = model.query(model.state) @ model.item_matrix().T
        assert scores.tolist() == pytest.approx(want)


# --------------------------------------------------------------------------------------------------
# build_model


def test_build_model_records_every_argument():
    model = build_model("GRU4REC", n_items=9, hidden=4, score="cosine")
    assert model.name == "GRU4REC"
    assert model.arguments == {
        "n_items": 9,
        "width": 128,
        "hidden": 4,
        "layers": 1,
        "dropout": 0.0,
        "hidden_dropout": 0.0,
        "score": "cosine",
        "scale": 12.0,
    }
    again = build_model(model.name, **model.arguments)
    assert shapes(again) == shapes(model)


def test_build_model_refuses_unknown_models_and_arguments():
    with pytest.raises(ValueError, match="no model 'BERT4Rec'; there are GRU4REC, SRGNN, NARM"):
        build_model("BERT4Rec", n_items=9)
    with pytest.raises(ValueError, match="NARM takes no lr; it takes n_items, hidden, width"):
        build_model("NARM", n_items=9, lr=0.1)
    with pytest.raises(ValueError, match="NARM takes no decay, lr; it takes n_items"):
        build_model("NARM", n_items=9, lr=0.1, decay=0.1)
    with pytest.raises(ValueError, match="GRU4REC takes no causal"):
        build_model("GRU4REC", n_items=9, causal=True)
    for score in ("euclid", "learned"):
        with pytest.raises(ValueError, match=f"score='{score}': choose 'dot' or 'cosine'"):
            build_model("GRU4REC", n_items=9, score=score)
    with pytest.raises(TypeError, match="n_items"):
        build_model("GRU4REC")
    with pytest.raises(TypeError, match="lr"):
        NARM(n_items=9, lr=0.1)  # an unknown argument is never ignored
    for name in DEFAULTS:
        with pytest.raises(TypeError):
            MODELS[name](9)  # arguments are keyword-only


def test_build_model_takes_other_classes_and_functions():
    model = build_model("Derived", classes={"Derived": Derived}, n_items=9, hidden=4)
    assert type(model) is Derived and model.arguments["hidden"] == 4
    model = build_model("Mine", classes={"Mine": lambda n_items: NARM(n_items=n_items, width=8)}, n_items=9)
    assert (model.n_items, model.width) == (9, 8)


# --------------------------------------------------------------------------------------------------
# Ensemble


def test_an_ensemble_is_rebuilt_from_its_arguments():
    models = [GRU4REC(n_items=5, width=8, hidden=4), build_model("SKNN", n_items=5, k=3)]
    ensemble = Ensemble(models, [0.25, 0.75])
    assert ensemble.arguments["n_items"] == 5
    assert [m["model"] for m in ensemble.arguments["members"]] == ["GRU4REC", "SKNN"]
    assert ensemble.arguments["members"][1]["arguments"] == {"k": 3}
    again = build_model(ensemble.name, **ensemble.arguments)
    assert again.arguments == ensemble.arguments and again.weights == [0.25, 0.75]
    assert again.members[0].gru.hidden_size == 4 and again.members[1].k == 3


def test_members_that_do_not_fit_together_are_refused():
    five, six = (build_model("Popularity", n_items=n) for n in (5, 6))
    with pytest.raises(ValueError, match=r"the members have catalogues of \[5, 6\] items; train them on the same data"):
        Ensemble([five, six], [0.5, 0.5])
    with pytest.raises(ValueError, match="2 members with 1 weights: pass one weight per member"):
        Ensemble([five, five], [1.0])
    with pytest.raises(ValueError, match="0 members"):
        Ensemble([], [])
    for weights in ([0.5, 0.6], [1.5, -0.5], [1.0, 0.0]):
        with pytest.raises(ValueError, match="must be positive and add up to 1"):
            Ensemble([five, five], weights)


# --------------------------------------------------------------------------------------------------
# A wrapped module


class Net(nn.Module):
    """A module that does not use this collection: an item embedding and a linear layer."""

    def __init__(self, n_items, width=8):
        super().__init__()
        self.item_embedding = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        return self.linear(self.item_embedding(x))


def wrapped(**options):
    torch.manual_seed(0)
    net = Net(5)
    return WrappedModule(net, net.item_embedding, **options)


def test_a_wrapped_module_is_a_session_model():
    model = wrapped(score="dot", scale=3.0)
    assert (model.name, model.arguments) == ("Net", {"n_items": 5})
    assert (model.n_items, model.width, model.score, model.scale) == (5, 8, "dot", 3.0)
    x = torch.tensor([[1, 2, 0], [3, 0, 0]])
    assert model(x).equal(model.module(x))
    assert model.last_state(x).equal(model.module(x)[[0, 1], [1, 0]])
    assert model.item_matrix().equal(model.module.item_embedding.weight)
    assert wrapped().score == "cosine"
    # The embedding belongs to the module and is registered only once.
    assert {*model.state_dict()} == {"module.item_embedding.weight", "module.linear.weight", "module.linear.bias"}
    assert len([*model.parameters()]) == 3
    with pytest.raises(ValueError, match="choose 'dot' or 'cosine'"):
        wrapped(score="euclid")


def test_copying_a_wrapped_module_copies_its_embedding():
    model = wrapped()
    copied = copy.deepcopy(model)
    assert copied.embedding is copied.module.item_embedding is not model.embedding
    assert (copied.name, copied.arguments) == (model.name, model.arguments)


def test_a_wrapped_module_trains_and_ranks_like_the_others():
    rows = Sessions.from_lists([[i] for i in range(1, 6)], [2, 3, 4, 5, 1], users=range(5), n_items=5)
    queries = Queries.of(rows, np.array([0, 2, 2, 2, 2, 2]), mask_seen=True)
    model = wrapped()
    history = fit(model, get_dataloader(MyDataset(rows), 5), queries, epochs=40, lr=0.05)
    assert history.rows[-1]["loss"] < 0.1 < history.rows[0]["loss"]
    assert rank_labels(model, queries).tolist() == [1] * 5  # it has memorised the cycle 1, 2, 3, 4, 5, 1
    assert not model.embedding.weight[0].any()
