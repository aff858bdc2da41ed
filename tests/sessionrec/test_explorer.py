"""The explorer without a browser: its controls, and its messages for invalid input."""

import numpy as np
import pytest
import torch

from dataset.files import ROOT
from models import NEURAL_MODELS, build_model
from process_data import Sessions, Vocabulary
from sessionrec.checkpoint import Checkpoint, load_checkpoint
from sessionrec.explorer import explore, last_attention, nearest_sessions, show_session
from sessionrec.recommend import recommend

IDS = np.array([10, 20, 30, 40, 50, 60, 70, 80])
SESSIONS = Sessions.from_lists([[10, 20], [30, 40, 50], [20], [60, 70], [20, 10, 30]])
HEADER = {"mask_seen": True}


def made(name, **arguments):
    torch.manual_seed(0)
    model = build_model(name, n_items=len(IDS), width=8, **arguments)
    return Checkpoint(model.eval(), Vocabulary(IDS), np.arange(len(IDS) + 1), HEADER)


def test_nearest_sessions_by_hand():
    # [10, 20] shares 2 of 2; [20, 10, 30] 2 of 3; [20] 1 of 1, one over root two.
    assert nearest_sessions(SESSIONS, [10, 20]) == [[10, 20], [20, 10, 30], [20]]
    assert nearest_sessions(SESSIONS, [10, 20], n=1) == [[10, 20]]
    assert nearest_sessions(SESSIONS, [20, 20, 10]) == nearest_sessions(SESSIONS, [10, 20])
    assert nearest_sessions(SESSIONS, [99]) == []


@pytest.mark.parametrize("name", NEURAL_MODELS)
def test_attention_is_that_of_the_last_step(name):
    saved = made(name)
    weights = last_attention(saved, [10, 99, 30])
    if not hasattr(saved.model, "last_attention"):
        assert weights is None and name not in ("NARM", "SRGNN", "GRUwATT", "GGNNwATT")
        return
    assert weights[1] == 0  # item 99 is unknown
    assert weights[[0, 2]].tolist() == last_attention(saved, [10, 30]).tolist()
    assert (weights[[0, 2]] != 0).all()
    assert last_attention(saved, [99]).tolist() == [0]


def test_attention_weights_reproduce_the_state():
    """NARM's local encoder is the sum of the states with these weights."""
    saved = made("NARM")
    x = torch.tensor([[1, 3, 2]])
    with torch.inference_mode():
        h, _ = saved.model.gru(saved.model.embed(x))
        weights = torch.as_tensor(last_attention(saved, [10, 30, 20]), dtype=torch.float)
        want = saved.model.decoder(torch.cat([h[0, -1], weights @ h[0]]))
        assert torch.allclose(want, saved.model.last_state(x)[0], atol=1e-6)


def test_controls_change_the_figure():
    box = explore({"a": made("NARM"), "b": made("GRU4REC")}, SESSIONS, [[10, 20], [60]], k=3)
    model, typed, picture, message = box.children
    assert model.options == ("a", "b") and typed.options == ("10, 20", "60")
    assert (model.placeholder, typed.placeholder) == ("a", "10, 20")
    shown = [bytes(picture.value)]
    assert shown[0].startswith(b"\x89PNG")
    for control, text in ((model, "b"), (typed, "60"), (typed, "[60, 70]")):
        control.value = text
        assert (control.value, control.placeholder) == ("", text)  # all choices are offered again
        shown.append(bytes(picture.value))
    assert len(set(shown)) == 4
    assert "60, 70" in message.value
    model.value = "c"
    assert model.placeholder == "b" and bytes(picture.value) == shown[-1]


@pytest.mark.parametrize("text", ["ten", "-1", "1.5", "<script>", "9" * 30])
def test_invalid_sessions_are_reported(text):
    box = explore({"a": made("NARM")}, SESSIONS, [[10, 20]], k=3)
    _, typed, picture, message = box.children
    before = bytes(picture.value)
    typed.value = text
    assert "non-negative integers" in message.value and "<script>" not in message.value
    assert bytes(picture.value) == before  # the figure is unchanged
    assert (typed.value, typed.placeholder) == (text, "10, 20")  # the text can be corrected
    typed.value = "60"
    assert "non-negative integers" not in message.value and bytes(picture.value) != before


def test_a_k_above_the_catalogue_is_reported():
    box = explore({"a": made("NARM")}, SESSIONS, [[10, 20]], k=50)
    assert "this checkpoint can recommend" in box.children[-1].value


def test_the_figure_shows_the_recommendations():
    path = ROOT / "pretrained_model" / "Beauty" / "GRUwATT.safetensors"
    saved = load_checkpoint(path)
    session = saved.vocabulary.item_ids[[3, 500]].tolist()
    figure = show_session("GRUwATT", saved, session)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"item {item}" for item in recommend(saved, [session]).items[0]]
    assert len(figure.axes) == 2  # with attention
