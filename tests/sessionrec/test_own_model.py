"""Models that are not in models/: training, ranking, saving, loading in another process, and ensembles."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from planted import BATCH_SIZE, assert_same_bits, run_fit, weights_of, write_planted
from torch import nn

from dataset.files import ROOT
from metrics import summarize
from models import Ensemble, build_model
from models.base import SessionModel, WrappedModule
from models.GRU4REC import GRU4REC
from process_data import TrainDataset, get_dataloader, load_dataset, prepare
from sessionrec.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sessionrec.recommend import evaluate, recommend
from sessionrec.scoring import rank_labels

SESSIONS = [[10, 20], [390], [70, 80, 90]]


class MeanOfItems(SessionModel):
    """The running mean of a session's items, multiplied by a matrix. The constructor has few arguments."""

    def __init__(self, *, n_items, width=16):
        super().__init__(n_items=n_items, width=width, score="dot")
        self.map = nn.Linear(width, width)
        self.reset_parameters()

    def forward(self, x):
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.map(self.embed(x).cumsum(1) / steps)


class Positional(SessionModel):
    """The constructor has positional arguments and no shared ones."""

    def __init__(self, n_items, width, scale=5.0):
        super().__init__(n_items=n_items, width=width, scale=scale)

    def forward(self, x):
        return self.embed(x)


class Net(nn.Module):
    """A plain module. Its item embedding has another name than in SessionModel."""

    def __init__(self, n_items):
        super().__init__()
        self.item_embedding = nn.Embedding(n_items + 1, 16, padding_idx=0)
        self.gru = nn.GRU(16, 16, batch_first=True)

    def forward(self, x):
        return self.gru(self.item_embedding(x))[0]


def wrapped_net(n_items):
    net = Net(n_items)
    return WrappedModule(net, net.item_embedding, score="dot")


class RNN(GRU4REC):
    """GRU4REC with another cell, made with the arguments of GRU4REC."""

    def __init__(self, *, n_items, nonlinearity="tanh", **shared):
        super().__init__(n_items=n_items, **shared)
        self.gru = nn.RNN(self.width, self.gru.hidden_size, nonlinearity=nonlinearity, batch_first=True)


# Function that makes the model, class name, recorded arguments, and `model_class` for `load_checkpoint`.
OWN = {
    "fewer arguments": (lambda n: MeanOfItems(n_items=n), "MeanOfItems", {"width": 16}, MeanOfItems),
    "by position": (lambda n: Positional(n, 8), "Positional", {"width": 8, "scale": 5.0}, Positional),
    "wrapped": (wrapped_net, "Net", {}, wrapped_net),
    "subclass": (
        lambda n: RNN(n_items=n, width=16, hidden=8),
        "RNN",
        {
            "nonlinearity": "tanh", "hidden": 8, "layers": 1, "width": 16, "dropout": 0.0, "hidden_dropout": 0.0,
            "score": "cosine", "scale": 12.0,
        },
        RNN,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(load_dataset(write_planted(tmp_path_factory.mktemp("data") / "Planted")))


def train(model, data, **options):
    loader = get_dataloader(TrainDataset(data.train), BATCH_SIZE)
    return run_fit(model, loader, data.valid, **options)


@pytest.fixture(scope="module", params=OWN)
def own(request, data, tmp_path_factory):
    """A trained model, its file, and `model_class` for loading it."""
    make, name, arguments, model_class = OWN[request.param]
    torch.manual_seed(0)
    model = make(data.n_items)
    assert model.name == name
    assert model.arguments == {"n_items": data.n_items} | arguments
    before = rank_labels(model, data.valid)
    history = train(model, data, epochs=8)
    assert history.rows[-1]["loss"] < 0.9 * history.rows[0]["loss"]
    metrics = summarize(rank_labels(model, data.valid))
    assert metrics["MRR@20"] == history.table["MRR@20"].max() > 2 * summarize(before)["MRR@20"]
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_checkpoint(path, model, data, metrics={"valid": metrics})
    return model, path, model_class


def test_a_new_model_is_loaded_with_its_class(own, data):
    model, path, model_class = own
    loaded = load_checkpoint(path, model_class=model_class)
    assert type(loaded.model) is type(model) and not loaded.model.training
    assert (loaded.model.name, loaded.model.arguments) == (model.name, model.arguments)
    assert_same_bits(loaded.model.state_dict(), weights_of(model))
    assert rank_labels(loaded.model, data.test).tolist() == rank_labels(model, data.test).tolist()
    assert evaluate(loaded, load_dataset("Demo").train.take([0, 1])).ranks.shape == (2,)


def test_a_fresh_process_recommends_the_same_items(own, data):
    _, path, model_class = own
    found = recommend(load_checkpoint(path, model_class=model_class), SESSIONS, 5)
    program = (
        "import json, test_own_model as module\n"
        "from sessionrec.checkpoint import load_checkpoint\n"
        "from sessionrec.recommend import recommend\n"
        f"loaded = load_checkpoint({str(path)!r}, model_class=module.{model_class.__name__})\n"
        f"print(json.dumps(recommend(loaded, {SESSIONS}, 5).items.tolist()))\n"
    )
    path = os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "sessionrec"]))
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == found.items.tolist()


def test_without_its_class_the_error_says_what_to_pass(own):
    model, path, _ = own
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path)
    assert str(raised.value) == (
        f"{path} holds a {model.name} that was defined or changed outside of models/: "
        "pass its class, or for a WrappedModule a function that makes it: "
        f"load_checkpoint({str(path)!r}, model_class={model.name})"
    )
    with pytest.raises(CheckpointError, match=f"holds a {model.name}"):
        recommend(path, SESSIONS, 5)


def test_another_class_does_not_fit(own):
    _, path, _ = own

    class Other(SessionModel):
        def __init__(self, *, n_items, width=16):
            super().__init__(n_items=n_items, width=width)

    with pytest.raises(CheckpointError, match="does not fit this code"):
        load_checkpoint(path, model_class=Other)


@pytest.mark.parametrize("compact", [False, True])
def test_a_new_model_can_be_a_member_of_an_ensemble(own, data, compact, tmp_path):
    model, _, model_class = own
    baseline = build_model("CoOccurrence", n_items=data.n_items).fit(data.train, data.popularity)
    ensemble, path = Ensemble([model, baseline], [0.5, 0.5]), tmp_path / "ensemble.safetensors"
    save_checkpoint(path, ensemble, data, compact=compact)
    loaded = load_checkpoint(path, model_class=model_class)
    assert [type(member) for member in loaded.model.members] == [type(model), type(baseline)]
    want, got = (rank_labels(m, data.test) for m in (ensemble, loaded.model))
    if compact:
        assert np.mean(abs(want - got) <= 2) > 0.9
    else:
        assert got.tolist() == want.tolist()
    with pytest.raises(CheckpointError, match=f"holds a {model.name} that was defined .*model_class={model.name}"):
        load_checkpoint(path)


def test_an_ensemble_of_two_new_classes_needs_both(data, tmp_path):
    models = [MeanOfItems(n_items=data.n_items), Positional(data.n_items, 8)]
    ensemble, path = Ensemble(models, [0.5, 0.5]), tmp_path / "two.safetensors"
    save_checkpoint(path, ensemble, data)
    loaded = load_checkpoint(path, model_class=[Positional, MeanOfItems])
    assert rank_labels(loaded.model, data.test).tolist() == rank_labels(ensemble, data.test).tolist()
    with pytest.raises(CheckpointError, match="holds a Positional"):
        load_checkpoint(path, model_class=MeanOfItems)


def test_a_misspelt_argument_is_an_error():
    with pytest.raises(TypeError, match="hiden"):
        RNN(n_items=3, hiden=4)
    with pytest.raises(TypeError, match="dropout"):
        MeanOfItems(n_items=3, dropout=0.1)


def test_an_interrupted_new_model_continues_from_its_resume_file(data, tmp_path):
    def press(history):
        if len(history.rows) == 2:
            raise KeyboardInterrupt

    models = []
    for _ in range(3):
        torch.manual_seed(len(models))
        models.append(wrapped_net(data.n_items))
    models[1].load_state_dict(models[0].state_dict())
    whole = train(models[0], data)
    file = tmp_path / "x.safetensors"
    assert train(models[1], data, resume_file=file, callbacks=[press]).interrupted
    resumed = train(models[2], data, resume_file=file)
    assert [row["loss"] for row in resumed.rows] == [row["loss"] for row in whole.rows]
    assert_same_bits(weights_of(models[2]), weights_of(models[0]))
