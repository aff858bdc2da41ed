"""The widget of get_final_result.ipynb: choose or type a session, choose a model, see its recommendations."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

import plots
from process_data import LONGEST_SESSION, SessionDataset, Sessions, maximal_sessions
from sessionrec.checkpoint import Checkpoint
from sessionrec.recommend import recommend

# `choose_examples` computes the attention of at most so many sessions.
_MOST_COMPARED = 500
_MOST_EXAMPLES = 10
_MOST_NAMED = 5  # unknown items in a message
_LINES = "line-height: 1.4"


# --------------------------------------------------------------------------------------------------
# Sessions as text


def format_session(names: Sequence[str]) -> str:
    """A session as text that `parse_session` reads back: names with commas between, or a JSON list.

    It is a JSON list if a name contains a comma or would not be the same after reading.
    """
    plain = all(n.isprintable() and n and n == n.strip() and "," not in n for n in names)
    if plain and names and not names[0].startswith("["):
        return ", ".join(names)
    return json.dumps(list(names), ensure_ascii=False)


def parse_session(text: str) -> list[str]:
    """The names or ids of the items in a typed session. Raises ValueError with a sentence on how to write it."""
    text = text.strip()
    if not text.startswith("["):
        names = [name.strip() for name in text.split(",")]
        if not all(names):
            raise ValueError("Type one or more items with one comma between two of them, for example 12, 7.")
        return names
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not items or not all(isinstance(i, str) or type(i) is int for i in items):
        raise ValueError('A session in brackets is a JSON list of names or ids, for example ["red, small", "blue"].')
    return [str(item) for item in items]


# --------------------------------------------------------------------------------------------------
# Answers


def nearest_sessions(sessions: Sessions, session: Sequence[int], n: int = 5) -> list[list[int]]:
    """The n sessions that share the most with this one: cosine of their sets of items, earlier ones first."""
    shared = np.isin(sessions.items, session).astype(float)
    counts = np.bincount(sessions.row_of_item, shared, minlength=len(sessions))
    likeness = counts / np.sqrt(np.maximum(sessions.lengths, 1) * max(len(set(session)), 1))
    best = np.argsort(-likeness, kind="stable")[:n]
    return [sessions[row] for row in best if likeness[row] > 0]


def last_attention(checkpoint: Checkpoint, session: Sequence[int]) -> np.ndarray | None:
    """The attention weights (L,) of a session's items for its last step; None for a model without attention.

    The weight is 0 for items that the model does not read: those that the checkpoint does not know, and those before
    the last 50.
    """
    model = checkpoint.model
    if not hasattr(model, "last_attention"):
        return None
    encoded = checkpoint.vocabulary.encode(np.asarray(session, np.int64))
    weights = np.zeros(len(session))
    read = np.flatnonzero(encoded > 0)[-LONGEST_SESSION:]
    if len(read):
        x = torch.as_tensor(encoded[read], device=model.device)[None]
        with torch.inference_mode():
            weights[read] = model.eval().last_attention(x)[0].cpu().numpy()
    return weights


def choose_examples(checkpoints: Mapping[str, Checkpoint], sessions: Sessions) -> list[list[int]]:
    """Sessions to show: first the one whose attention differs most between its items, then one of each length (of
    the 10 shortest lengths).

    The first one is that with the largest difference between two attention weights, divided by its largest absolute
    weight, in the first model with an attention. Compared are the first 500 sessions of 4 to 10 items, or of all
    sessions if none has so many. Without such a model the longest example is first.
    """
    lengths = sessions.lengths
    one_of_each = [sessions[row] for row in np.unique(lengths, return_index=True)[1] if lengths[row]]
    one_of_each = one_of_each[:_MOST_EXAMPLES]
    name = _first_with_attention(checkpoints)
    if name is None or not one_of_each:
        return one_of_each[::-1]
    rows = np.flatnonzero((lengths >= 4) & (lengths <= 10))
    if not len(rows):
        rows = np.flatnonzero(lengths)

    def spread(session: list[int]) -> float:
        weights = last_attention(checkpoints[name], session)
        return np.ptp(weights) / (np.abs(weights).max() or 1.0)

    best = max((sessions[row] for row in rows[:_MOST_COMPARED]), key=spread)
    return [best, *(session for session in one_of_each if session != best)]


def _first_with_attention(checkpoints: Mapping[str, Checkpoint]) -> str | None:
    return next((name for name, c in checkpoints.items() if hasattr(c.model, "last_attention")), None)


@dataclass(frozen=True, eq=False)
class Answer:
    """The recommendations for one session of names or ids.

    names (k,): the recommended items. unknown: the session's items that the checkpoint does not know. ids: the ids of
    the others. popular: whether the most popular items are recommended, because no item is known.
    """

    names: list[str]
    unknown: list[str]
    ids: list[int]
    popular: bool
    figure: Figure


def answer_session(title: str, checkpoint: Checkpoint, session: Sequence[str], k: int = 20) -> Answer:
    """Recommend for a session of names (of ids, as text, where the dataset has no names), and draw the picture.

    Raises ValueError if the session leaves no item to recommend.
    """
    vocabulary = checkpoint.vocabulary
    ids = vocabulary.ids_of(session)
    is_known = vocabulary.encode(ids) > 0
    known = ids[is_known].tolist()
    unknown = [name for name, flag in zip(session, is_known, strict=True) if not flag]
    found = recommend(checkpoint, [known], k)
    items = np.array(found.lists[0], np.int64)
    if not len(items):
        raise ValueError("The session holds every item, so none is left to recommend.")
    scores, popular, attention = found.scores[0, : len(items)], not known, None
    if popular:
        scores = checkpoint.popularity[vocabulary.encode(items)]
    else:
        attention = last_attention(checkpoint, ids)
        attention = None if attention is None else attention[-LONGEST_SESSION:]
    names = vocabulary.names_of(items)
    figure = plots.plot_recommendations(names, scores, session, attention, title=title, popular=popular)
    return Answer(names, unknown, known, popular, figure)


# --------------------------------------------------------------------------------------------------
# The widget


@dataclass(frozen=True, eq=False)
class Explorable:
    """What `explore` shows of one dataset.

    checkpoints: by the name to show. sessions: the training sessions to search for the nearest ones, raw ids.
    examples: the sessions to choose from, raw ids, the first of which is shown first.
    """

    checkpoints: Mapping[str, Checkpoint]
    sessions: Sessions
    examples: Sequence[Sequence[int]]

    @classmethod
    def of(cls, checkpoints: Mapping[str, Checkpoint], dataset: SessionDataset) -> Explorable:
        """The training sessions of a dataset, and examples among its test sessions."""
        return cls(checkpoints, maximal_sessions(dataset.train)[0], choose_examples(checkpoints, dataset.test))


def explore(datasets: Mapping[str, Explorable], k: int = 20) -> Explorer:
    """Boxes to choose a dataset, a model and a session of items, and the recommendations below them.

    datasets: by the name to show. The first model with an attention is shown first. A session can be extended by one
    item or shortened by one. What is typed is answered below its box.
    Raises ValueError for no dataset, no checkpoint or no example.
    """
    if not datasets:
        raise ValueError("explore needs at least one dataset")
    for name, dataset in datasets.items():
        if not dataset.checkpoints or not len(dataset.examples):
            raise ValueError(f"{name}: explore needs at least one checkpoint and one example")
    return Explorer(datasets, k)


class _Box(widgets.VBox):
    """A box to type in or choose from, and below it the answer to what was typed.

    The box is empty except for a grey text: so it offers all choices, and Jupyter leaves it every key (in a plain
    drop-down list the arrow keys would move to another cell). Enter, or leaving the box, takes the text.
    take: called with the text; if it raises ValueError, the sentence is shown and the text stays, to be corrected.
    widths: the largest widths of the box and of the answer, in pixels.
    """

    def __init__(self, description: str, tooltip: str, take: Callable[[str], None], widths: tuple[int, int]):
        self.take = take
        self.text = widgets.Combobox(
            description=description,
            tooltip=tooltip,
            continuous_update=False,
            layout=widgets.Layout(width="calc(100% - 4px)", max_width=f"{widths[0]}px"),  # less its margins
            style={"description_width": "70px"},
        )
        self.message = widgets.HTML()
        self.text.observe(self._changed, "value")
        super().__init__([self.text, self.message], layout=widgets.Layout(width="100%", max_width=f"{widths[1]}px"))

    def _changed(self, change: dict) -> None:
        self.say("")
        if text := change["new"].strip():
            self.attempt(self.take, text)

    def attempt(self, action: Callable, *arguments) -> None:
        """Call `action`; if it raises ValueError, show the sentence below the box."""
        try:
            action(*arguments)
        except ValueError as error:
            self.say(str(error), alert=True)

    def offer(self, current: str, options: Sequence[str], *, keep: bool = False) -> None:
        """Empty the box, unless the text is to stay, and show the current choice in grey."""
        self.text.placeholder, self.text.options = current, tuple(dict.fromkeys(options))
        if not keep:
            self.text.value = ""

    def say(self, sentence: str, *, alert: bool = False) -> None:
        """Show a sentence below the box; screen readers read it out."""
        style, role = ("color: #b00020; font-weight: bold", "alert") if alert else ("", "status")
        text = html.escape(sentence)
        self.message.value = (
            f'<div role="{role}" style="margin-left: 78px; {_LINES}; {style}">{text}</div>' if sentence else ""
        )


class Explorer(widgets.VBox):
    """The widget of `explore`: a dataset, a model and a session, which are those of the picture."""

    def __init__(self, datasets: Mapping[str, Explorable], k: int):
        self.datasets, self.k = datasets, k
        self.dataset_box = _Box("dataset", "Type or choose a dataset, then press Enter", self._take_dataset, (420, 840))
        self.model_box = _Box("model", "Type or choose a model, then press Enter", self._take_model, (420, 840))
        how = "Type items with commas between, or a JSON list, or choose an example; then press Enter"
        self.session_box = _Box("session", how, self._take_session, (840, 840))
        how = "Choose a recommended item or type another one, then press Enter: it becomes the session's last item"
        self.append_box = _Box("append", how, self._take_item, (560, 560))
        self.remove = widgets.Button(description="remove last", tooltip="Remove the last item of the session")
        self.remove.on_click(lambda _: self.append_box.attempt(self._remove_last))
        self.shown, self.picture, self.nearest = widgets.HTML(), widgets.HTML(), widgets.HTML()
        boxes = [self.model_box, self.session_box, widgets.HBox([self.append_box, self.remove])]
        super().__init__([self.dataset_box] * (len(datasets) > 1) + [*boxes, self.shown, self.picture, self.nearest])
        self._take_dataset(next(iter(datasets)))

    def _repr_mimebundle_(self, **options) -> dict:
        text = "The explorer needs a running kernel: run this cell in Jupyter. The picture above is an example."
        return super()._repr_mimebundle_(**options) | {"text/plain": text}

    def _take_dataset(self, name: str) -> None:
        _check_choice("dataset", name, self.datasets)
        checkpoints = self.datasets[name].checkpoints
        model = _first_with_attention(checkpoints) or next(iter(checkpoints))
        example = checkpoints[model].vocabulary.names_of(self.datasets[name].examples[0])
        self._show(dataset=name, model=model, session=example)

    def _take_model(self, name: str) -> None:
        _check_choice("model", name, self.datasets[self.dataset].checkpoints)
        self._show(model=name)

    def _take_session(self, text: str) -> None:
        self._show(session=parse_session(text), is_typed=True)

    def _take_item(self, text: str) -> None:
        name = self.offered.get(text, text)
        vocabulary = self.checkpoint.vocabulary
        if not vocabulary.encode(vocabulary.ids_of([name]))[0]:
            raise ValueError(f"{self.model} knows no item {name!r}: correct it, or choose one.")
        self._show(session=[*self.session, name])

    def _remove_last(self) -> None:
        self._show(session=self.session[:-1])

    def draw(self) -> Figure:
        """The picture that the widget shows, as a figure, which stays in a notebook when no kernel runs."""
        return answer_session(f"{self.dataset}, {self.model}", self.checkpoint, self.session, self.k).figure

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint of the chosen model."""
        return self.datasets[self.dataset].checkpoints[self.model]

    def _show(self, *, dataset=None, model=None, session=None, is_typed: bool = False) -> None:
        """Answer for another dataset, model or session, and offer the next choices. On ValueError nothing changes."""
        dataset, model = dataset or self.dataset, model or self.model
        session = self.session if session is None else session
        checkpoint = self.datasets[dataset].checkpoints[model]
        answer = answer_session(f"{dataset}, {model}", checkpoint, session, self.k)
        self.dataset, self.model, self.session = dataset, model, session
        image = _png(answer.figure)
        self._offer_choices(answer, is_typed)
        self._write(answer, image)

    def _offer_choices(self, answer: Answer, is_typed: bool) -> None:
        explored, vocabulary = self.datasets[self.dataset], self.checkpoint.vocabulary
        self.dataset_box.offer(self.dataset, list(self.datasets))
        self.model_box.offer(self.model, list(explored.checkpoints))
        examples = [format_session(vocabulary.names_of(example)) for example in explored.examples]
        self.session_box.offer(format_session(self.session), examples, keep=is_typed and bool(answer.unknown))
        # An option cannot hold a line end.
        self.offered = {" ".join(name.split()): name for name in answer.names}
        self.append_box.offer("choose or type an item", list(self.offered))
        self.remove.disabled = len(self.session) == 1
        for box in (self.dataset_box, self.model_box, self.append_box):
            box.say("")
        self.session_box.say(_on_unknown(self.model, answer), alert=bool(answer.unknown))

    def _write(self, answer: Answer, image: str) -> None:
        session, vocabulary = html.escape(format_session(self.session)), self.checkpoint.vocabulary
        what = html.escape(f"{self.dataset}, {self.model}, {len(self.session)} item{'s' * (len(self.session) > 1)}:")
        self.shown.value = f'<div style="{_LINES}">{what} <code>{session}</code></div>'
        top = html.escape(format_session(answer.names[:5]), quote=True)
        kind = "Most popular items" if answer.popular else "Recommended items and their scores"
        alt = f"{kind}, best first: {top} and so on"
        self.picture.value = f'<img alt="{alt}" src="data:image/png;base64,{image}" style="max-width: 100%">'
        near = nearest_sessions(self.datasets[self.dataset].sessions, answer.ids)
        items = "".join(f"<li>{html.escape(format_session(vocabulary.names_of(s)))}</li>" for s in near)
        self.nearest.value = (
            f'Training sessions nearest to it:<ol style="{_LINES}">{items}</ol>'
            if near
            else "No training session shares an item."
        )


def _check_choice(what: str, text: str, choices: Sequence[str] | Mapping[str, object]) -> None:
    if text in choices:
        return
    alike = [name for name in choices if name.lower().startswith(text.lower())] or list(choices)
    raise ValueError(f"There is no {what} {text!r}: choose {' or '.join(alike)}.")


def _on_unknown(model: str, answer: Answer) -> str:
    """A sentence on the items that a model does not know; empty if it knows all."""
    names = ", ".join(map(repr, answer.unknown[:_MOST_NAMED]))
    if len(answer.unknown) > _MOST_NAMED:
        names += f" and {len(answer.unknown) - _MOST_NAMED} more"
    if answer.popular:
        return f"{model} knows none of these items ({names}), so the most popular items are shown."
    return f"{model} does not know {names} and reads the other items only." if names else ""


def _png(figure: Figure) -> str:
    """The figure as base64 text; it is closed."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    plots.plt.close(figure)
    return base64.b64encode(image.getvalue()).decode()
