"""The explorer without a browser: what its controls change, and what it says to bad input."""

import numpy as np
import pytest
import torch

from checkpoint import Checkpoint, load_checkpoint
from explorer import explore, last_attention, nearest_sessions, show_session
from models import NEURAL_MODELS, build_model
from process_data import ROOT, Sessions, Vocabulary
from recommend import recommend

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
    assert weights[1] == 0  # nobody knows 99
    assert weights[[0, 2]].tolist() == last_attention(saved, [10, 30]).tolist()
    assert (weights[[0, 2]] != 0).all()
    assert last_attention(saved, [99]).tolist() == [0]


def test_attention_is_what_the_state_is_made_of():
    """NARM's local encoder is the weighted sum of the states: put together here, and as the model has it."""
    saved = made("NARM")
    x = torch.tensor([[1, 3, 2]])
    with torch.inference_mode():
        h, _ = saved.model.gru(saved.model.embed(x))
        weights = torch.as_tensor(last_attention(saved, [10, 30, 20]), dtype=torch.float)
        want = saved.model.decoder(torch.cat([h[0, -1], weights @ h[0]]))
        assert torch.allclose(want, saved.model.last_state(x)[0], atol=1e-6)


def test_boxes_change_what_is_shown():
    box = explore({"a": made("NARM"), "b": made("GRU4REC")}, SESSIONS, [[10, 20], [60]], k=3)
    model, typed, picture, message = box.children
    assert model.options == ("a", "b") and typed.options == ("10, 20", "60")
    assert (model.placeholder, typed.placeholder) == ("a", "10, 20")
    shown = [bytes(picture.value)]
    assert shown[0].startswith(b"\x89PNG")
    for control, text in ((model, "b"), (typed, "60"), (typed, "[60, 70]")):
        control.value = text
        assert (control.value, control.placeholder) == ("", text)  # it offers all its choices again
        shown.append(bytes(picture.value))
    assert len(set(shown)) == 4
    assert "60, 70" in message.value
    model.value = "c"
    assert model.placeholder == "b" and bytes(picture.value) == shown[-1]


@pytest.mark.parametrize("text", ["ten", "-1", "1.5", "<script>", "9" * 30])
def test_what_is_no_session_is_said(text):
    box = explore({"a": made("NARM")}, SESSIONS, [[10, 20]], k=3)
    _, typed, picture, message = box.children
    before = bytes(picture.value)
    typed.value = text
    assert "non-negative integers" in message.value and "<script>" not in message.value
    assert bytes(picture.value) == before  # what was there stays
    assert (typed.value, typed.placeholder) == (text, "10, 20")  # to be corrected
    typed.value = "60"
    assert "non-negative integers" not in message.value and bytes(picture.value) != before


def test_more_than_the_catalogue_is_said():
    box = explore({"a": made("NARM")}, SESSIONS, [[10, 20]], k=50)
    assert "this checkpoint can recommend" in box.children[-1].value


def test_the_picture_shows_what_recommend_gives():
    path = ROOT / "pretrained_model" / "Beauty" / "GRUwATT.safetensors"
    saved = load_checkpoint(path)
    session = saved.vocabulary.item_ids[[3, 500]].tolist()
    figure = show_session("GRUwATT", saved, session)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"item {item}" for item in recommend(saved, [session]).items[0]]
    assert len(figure.axes) == 2  # with attention
