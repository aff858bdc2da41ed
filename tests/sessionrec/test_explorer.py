"""The explorer without a browser: its controls, and its answers to what is typed."""

import base64
import json
import re

import numpy as np
import pytest
import torch

from dataset.files import ROOT
from models import NEURAL_MODELS, build_model
from process_data import Sessions, Vocabulary, load_dataset
from sessionrec import explorer
from sessionrec.checkpoint import Checkpoint, load_checkpoint
from sessionrec.explorer import (
    Explorable,
    answer_session,
    choose_examples,
    explore,
    format_session,
    last_attention,
    nearest_sessions,
    parse_session,
)
from sessionrec.recommend import recommend

IDS = np.array([10, 20, 30, 40, 50, 60, 70, 80])
NAMES = ["a, b", '12" lamp', "<b>x</b>", "$5 off $6", "plain", "[set]", "two\nlines", "80"]
SESSIONS = Sessions.from_lists([[10, 20], [30, 40, 50], [20], [60, 70], [20, 10, 30]])
HEADER = {"mask_seen": True}


def made(name, names=None, **arguments):
    torch.manual_seed(0)
    model = build_model(name, n_items=len(IDS), width=8, **arguments)
    return Checkpoint(model.eval(), Vocabulary(IDS, names), np.arange(len(IDS) + 1) * 3, HEADER)


def explored(checkpoints, examples=([10, 20], [60]), k=3):
    return explore({"shop": Explorable(checkpoints, SESSIONS, examples)}, k)


def message(box):
    """The sentence below a box, as HTML."""
    return re.sub(r"^<div[^>]*>|</div>$", "", box.message.value)


def image(box):
    return base64.b64decode(re.search(r'base64,([^"]+)"', box.picture.value)[1])


# --------------------------------------------------------------------------------------------------
# Sessions as text


@pytest.mark.parametrize(
    "name", [*NAMES, " blank ", "", "\t", '"', "[", "]", "[1, 2]", "é", "\u2028", "a\\b", "'x'", "1"]
)
def test_a_session_that_is_shown_can_be_typed(name):
    for session in ([name], [name, "12"], ["12", name]):
        assert parse_session(format_session(session)) == session


def test_sessions_are_shown_with_commas_where_that_is_clear():
    assert format_session(["12", '12" lamp', "x [1]"]) == '12, 12" lamp, x [1]'
    assert format_session(["a, b", "c"]) == '["a, b", "c"]'
    assert format_session(["[set]"]) == '["[set]"]'
    assert format_session(["two\nlines"]) == '["two\\nlines"]'


def test_sessions_may_be_typed_as_a_list_of_ids():
    assert parse_session("[60, 70]") == parse_session(" 60,70 ") == parse_session('["60", 70]') == ["60", "70"]


@pytest.mark.parametrize("text", ["", ",", "1,,2", "1, ", ", 1", "[", "[]", "[1", "[1.5]", "[true]", "[[1]]", "[null]"])
def test_what_is_no_list_is_one_sentence(text):
    with pytest.raises(ValueError, match="^(Type one or more items|A session in brackets is a JSON list)"):
        parse_session(text)


def test_a_list_that_is_nested_deeply_is_the_same_sentence():
    with pytest.raises(ValueError, match="^A session in brackets"):
        parse_session("[" * 100_000)


# --------------------------------------------------------------------------------------------------
# Answers


def test_nearest_sessions_by_hand():
    # [10, 20] shares 2 of 2; [20, 10, 30] 2 of 3; [20] 1 of 1, one over root two.
    assert nearest_sessions(SESSIONS, [10, 20]) == [[10, 20], [20, 10, 30], [20]]
    assert nearest_sessions(SESSIONS, [10, 20], n=1) == [[10, 20]]
    assert nearest_sessions(SESSIONS, [20, 20, 10]) == nearest_sessions(SESSIONS, [10, 20])
    assert nearest_sessions(SESSIONS, [99]) == nearest_sessions(SESSIONS, []) == []


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


def test_attention_is_over_the_items_that_the_model_reads():
    saved = made("NARM")
    session = [10, 20] * 30
    weights = last_attention(saved, session)
    assert weights[:10].tolist() == [0] * 10
    assert weights[10:].tolist() == last_attention(saved, session[10:]).tolist() and (weights[10:] != 0).all()


def test_a_session_of_thousands_of_items_is_drawn():
    answer = answer_session("shop", made("NARM"), ["10", "20"] * 2000, k=3)
    attention = answer.figure.axes[1]
    labels = [label.get_text() for label in attention.get_yticklabels()]
    assert (len(labels), labels[0], labels[-1]) == (50, "3951. item 10", "4000. item 20")
    assert " earlier items and " in answer.figure.get_suptitle()


def test_attention_weights_reproduce_the_state():
    """NARM's local encoder is the sum of the states with these weights."""
    saved = made("NARM")
    x = torch.tensor([[1, 3, 2]])
    with torch.inference_mode():
        h, _ = saved.model.gru(saved.model.embed(x))
        weights = torch.as_tensor(last_attention(saved, [10, 30, 20]), dtype=torch.float)
        want = saved.model.decoder(torch.cat([h[0, -1], weights @ h[0]]))
        assert torch.allclose(want, saved.model.last_state(x)[0], atol=1e-6)


def test_the_first_example_has_the_attention_that_differs_most(monkeypatch):
    weights = {10: [1, 1, 1, 1], 20: [-0.5, -1, -0.9, -0.9], 30: [0, 1], 40: [2, 3, 2.5, 2.5]}
    sessions = Sessions.from_lists([[10] * 4, [20] * 4, [30] * 2, [40] * 4])
    monkeypatch.setattr(explorer, "last_attention", lambda checkpoint, session: np.array(weights[session[0]]))
    examples = choose_examples({"plain": made("GRU4REC"), "attentive": made("NARM")}, sessions)
    assert examples == [[20] * 4, [30] * 2, [10] * 4]  # .5 of 1, then the first of each length
    # No session of four items or more.
    assert choose_examples({"attentive": made("NARM")}, sessions.take([2])) == [[30] * 2]
    # No attention: the longest first.
    assert choose_examples({"plain": made("GRU4REC")}, sessions) == [[10] * 4, [30] * 2]
    assert choose_examples({"attentive": made("NARM")}, Sessions.from_lists([[]])) == []


def test_an_answer_names_items_and_unknown_items():
    saved = made("NARM", NAMES)
    answer = answer_session("shop", saved, ["a, b", "nothing", "plain"], k=4)
    assert (answer.ids, answer.unknown, answer.popular) == ([10, 50], ["nothing"], False)
    assert answer.names == saved.vocabulary.names_of(recommend(saved, [[10, 50]], k=4).items[0])


def test_popular_items_have_their_counts_and_no_scores():
    answer = answer_session("shop", made("NARM"), ["98", "99"], k=3)
    assert answer.popular and answer.unknown == ["98", "99"] and answer.names == ["80", "70", "60"]
    (axis,) = answer.figure.axes  # no attention either
    assert [bar.get_width() for bar in axis.patches] == [24, 21, 18]
    assert axis.get_xlabel() == "occurrences in training"
    assert "these are unknown: 98, 99" in answer.figure.get_suptitle().replace("\n", " ")


def test_a_k_above_the_catalogue_shows_all_that_is_left():
    answer = answer_session("shop", made("NARM"), ["10", "20"], k=50)
    assert {*answer.names} == {"30", "40", "50", "60", "70", "80"}
    with pytest.raises(ValueError, match=r"^The session holds every item, so none is left to recommend\.$"):
        answer_session("shop", made("NARM"), list(map(str, IDS)), k=3)


def test_the_figure_shows_the_recommendations():
    path = ROOT / "pretrained_model" / "Beauty" / "GRUwATT.safetensors"
    saved = load_checkpoint(path)
    session = saved.vocabulary.item_ids[[3, 500]].tolist()
    figure = answer_session("GRUwATT", saved, saved.vocabulary.names_of(session)).figure
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"item {item}" for item in recommend(saved, [session]).items[0]]
    assert len(figure.axes) == 2  # with attention


# --------------------------------------------------------------------------------------------------
# The widget


def test_controls_change_the_figure():
    box = explored({"a": made("GRU4REC"), "b": made("NARM")})
    model, session = box.model_box.text, box.session_box.text
    assert model.options == ("a", "b") and session.options == ("10, 20", "60")
    assert (model.placeholder, session.placeholder) == ("b", "10, 20")  # b has an attention
    pictures = [image(box)]
    assert pictures[0].startswith(b"\x89PNG")
    for control, text in ((model, "a"), (session, "60"), (session, "[60, 70]")):
        control.value = text
        assert control.value == ""  # all choices are offered again
        pictures.append(image(box))
    assert (model.placeholder, session.placeholder) == ("a", "60, 70")
    assert len(set(pictures)) == 4
    assert "<code>60, 70</code>" in box.shown.value and "shop, a, 2 items" in box.shown.value
    assert "<li>60, 70</li>" in box.nearest.value


@pytest.mark.parametrize(
    "text, says",
    [
        ("1,,2", "Type one or more items with one comma between two of them"),
        ("[10, 20", "A session in brackets is a JSON list"),
        ("[10, <b>]", "A session in brackets is a JSON list"),
    ],
)
def test_a_bad_list_is_answered_below_its_box(text, says):
    box = explored({"a": made("NARM")})
    before = image(box)
    box.session_box.text.value = text
    assert message(box.session_box).startswith(says) and 'role="alert"' in box.session_box.message.value
    assert box.children.index(box.session_box) < box.children.index(box.picture)
    assert image(box) == before and box.session == ["10", "20"]  # the picture is unchanged
    assert (box.session_box.text.value, box.session_box.text.placeholder) == (text, "10, 20")  # to be corrected
    box.session_box.text.value = "60"
    assert message(box.session_box) == "" and box.session_box.text.value == "" and image(box) != before


def test_a_refused_text_that_is_deleted_takes_its_message_along():
    box = explored({"a": made("NARM")})
    box.session_box.text.value = "1,,2"
    box.session_box.text.value = ""
    assert message(box.session_box) == "" and box.session == ["10", "20"]


def test_unknown_items_are_named_and_stay_to_be_corrected():
    box = explored({"a": made("NARM"), "b": made("GRU4REC")})
    box.session_box.text.value = "10, <script>, 99"
    want = "a does not know &#x27;&lt;script&gt;&#x27;, &#x27;99&#x27; and reads the other items only."
    assert message(box.session_box) == want
    assert box.session_box.text.value == "10, <script>, 99"
    assert "10, &lt;script&gt;, 99" in box.shown.value and "<script>" not in box.shown.value + box.picture.value
    box.model_box.text.value = "b"  # the session stays
    assert message(box.session_box) == want.replace("a does", "b does")
    assert (box.session_box.text.value, box.session_box.text.placeholder) == ("", "10, <script>, 99")


def test_unknown_items_only_are_answered_with_the_popular_ones():
    box = explored({"a": made("NARM")})
    box.session_box.text.value = ", ".join(f"x{i}" for i in range(7))
    listed = ", ".join(f"&#x27;x{i}&#x27;" for i in range(5))
    want = f"a knows none of these items ({listed} and 2 more), so the most popular items are shown."
    assert message(box.session_box) == want
    assert 'alt="Most popular items, best first: 80, 70, 60' in box.picture.value
    assert box.nearest.value == "No training session shares an item."


def test_a_half_typed_model_is_answered_below_its_box():
    box = explored({"GRU4REC": made("GRU4REC"), "GRUwATT": made("GRUwATT"), "NARM": made("NARM")})
    before = image(box)
    for text, says in (
        ("gru", "There is no model &#x27;gru&#x27;: choose GRU4REC or GRUwATT."),
        ("x", "There is no model &#x27;x&#x27;: choose GRU4REC or GRUwATT or NARM."),
    ):
        box.model_box.text.value = text
        assert message(box.model_box) == says and box.model_box.text.value == text
        assert image(box) == before and box.model_box.text.placeholder == "GRUwATT"
    box.model_box.text.value = "NARM"
    assert message(box.model_box) == "" and image(box) != before


def test_a_session_grows_and_shrinks_by_one_item():
    saved = made("NARM")
    box = explored({"a": saved})
    items = recommend(saved, [[10, 20]], k=3).items[0].tolist()
    assert box.append_box.text.options == tuple(map(str, items))
    box.append_box.text.value = str(items[1])
    assert box.session == ["10", "20", str(items[1])] and box.append_box.text.value == ""
    longer = recommend(saved, [[10, 20, items[1]]], k=3).items[0]
    assert box.append_box.text.options == tuple(map(str, longer))
    box.remove.click()
    box.remove.click()
    assert box.session == ["10"] and box.remove.disabled  # a session has at least one item
    box.append_box.text.value = "80"  # not among the recommended ones
    assert box.session == ["10", "80"] and not box.remove.disabled


def test_what_the_model_cannot_answer_is_said_below_the_box(monkeypatch):
    def refuse(*arguments):
        raise ValueError("k=3: too many")

    box = explored({"a": made("NARM")})
    monkeypatch.setattr(explorer, "recommend", refuse)
    for act, answering in (
        (lambda: setattr(box.session_box.text, "value", "60"), box.session_box),
        (box.remove.click, box.append_box),
    ):
        act()
        assert message(answering) == "k=3: too many" and box.session == ["10", "20"]


def test_an_unknown_item_is_not_appended():
    box = explored({"a": made("NARM")})
    before = image(box)
    box.append_box.text.value = "<99>"
    assert message(box.append_box).startswith("a knows no item &#x27;&lt;99&gt;&#x27;")
    assert box.append_box.text.value == "<99>" and box.session == ["10", "20"] and image(box) == before
    box.remove.click()
    assert message(box.append_box) == "" and box.append_box.text.value == ""


def test_a_dataset_can_be_chosen():
    first = Explorable({"a": made("NARM"), "b": made("GRU4REC")}, SESSIONS, [[10, 20]])
    second = Explorable({"c": made("GRU4REC")}, Sessions.from_lists([[70, 80]]), [[70], [80]])
    box = explore({"first": first, "second": second}, 3)
    assert box.children[0] is box.dataset_box and box.dataset_box.text.options == ("first", "second")
    box.model_box.text.value = "b"
    box.dataset_box.text.value = "sec"
    assert message(box.dataset_box) == "There is no dataset &#x27;sec&#x27;: choose second."
    box.dataset_box.text.value = "second"
    assert (box.dataset, box.model, box.session) == ("second", "c", ["70"])
    assert box.model_box.text.options == ("c",) and box.session_box.text.options == ("70", "80")
    assert "<li>70, 80</li>" in box.nearest.value and "second, c, 1 item:" in box.shown.value


def test_one_dataset_is_no_choice():
    box = explored({"a": made("NARM")})
    assert box.dataset_box not in box.children


def test_names_are_shown_typed_and_escaped():
    box = explored({"a": made("NARM", NAMES)}, examples=[[10, 30], [40]], k=5)
    assert box.session == ["a, b", "<b>x</b>"]
    assert box.session_box.text.options == ('["a, b", "<b>x</b>"]', "$5 off $6")
    assert "<code>[&quot;a, b&quot;, &quot;&lt;b&gt;x&lt;/b&gt;&quot;]</code>" in box.shown.value
    assert "<li>[&quot;a, b&quot;, 12&quot; lamp]</li>" not in box.nearest.value
    assert json.dumps(["a, b", NAMES[1]]).replace('"', "&quot;") in box.nearest.value
    assert "<b>x" not in box.shown.value + box.nearest.value + box.picture.value
    box.append_box.text.value = "two lines"  # a box holds no line end
    assert box.session == ["a, b", "<b>x</b>", "two\nlines"]
    box.session_box.text.value = '$5 off $6, 12" lamp, plain'
    assert box.session == ["$5 off $6", '12" lamp', "plain"] and message(box.session_box) == ""


def test_a_dataset_is_made_explorable():
    demo = load_dataset("Demo")
    ids = np.unique(demo.train.items)
    checkpoint = Checkpoint(
        build_model("NARM", n_items=len(ids), width=8), Vocabulary(ids), np.ones(len(ids) + 1, int), HEADER
    )
    dataset = Explorable.of({"NARM": checkpoint}, demo)
    assert len(dataset.sessions) == len(set(demo.train.users)) == 3000
    assert dataset.examples == choose_examples({"NARM": checkpoint}, demo.test)
    assert 4 <= len(dataset.examples[0]) <= 10
    assert all(example in list(demo.test) for example in dataset.examples)
    box = explore({"Demo": dataset}, 5)
    figure = box.draw()
    titles = [axis.get_xlabel() for axis in figure.axes]
    assert titles == ["score", "attention weight"] and len(figure.axes[0].patches) == 5
    assert figure.get_suptitle().startswith("Demo, NARM: the top 5 after ")


def test_the_output_without_a_kernel_says_what_it_needs():
    shown = explored({"a": made("NARM")})._repr_mimebundle_()
    assert shown["text/plain"].startswith("The explorer needs a running kernel")
    assert "application/vnd.jupyter.widget-view+json" in shown


@pytest.mark.parametrize(
    "datasets, says",
    [
        ({}, "at least one dataset"),
        ({"x": Explorable({}, SESSIONS, [[10]])}, "x: explore needs"),
        ({"x": Explorable({"a": made("NARM")}, SESSIONS, [])}, "x: explore needs"),
    ],
)
def test_nothing_to_explore_is_one_sentence(datasets, says):
    with pytest.raises(ValueError, match=says):
        explore(datasets)
