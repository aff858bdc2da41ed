"""Pick or type a session, pick a model, and see what it recommends: the widget of get_final_result.ipynb."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

import plots
from checkpoint import Checkpoint
from process_data import DataError, Sessions
from recommend import recommend


def nearest_sessions(sessions: Sessions, session: Sequence[int], n: int = 5) -> list[list[int]]:
    """The n sessions that share the most with this one: cosine of their sets of items, earlier ones first."""
    shared = np.isin(sessions.items, session).astype(float)
    counts = np.bincount(sessions.row_of_item, shared, minlength=len(sessions))
    likeness = counts / np.sqrt(np.maximum(sessions.lengths, 1) * max(len(set(session)), 1))
    best = np.argsort(-likeness, kind="stable")[:n]
    return [sessions[row] for row in best if likeness[row] > 0]


def last_attention(checkpoint: Checkpoint, session: Sequence[int]) -> np.ndarray | None:
    """How a model weighs the items of a session for its last step; None for one without attention.

    Items that the checkpoint does not know have no weight: 0.
    """
    model = checkpoint.model
    if not hasattr(model, "last_attention"):
        return None
    encoded = checkpoint.vocabulary.encode(np.asarray(session, np.int64))
    weights = np.zeros(len(session))
    if (encoded > 0).any():
        x = torch.as_tensor(encoded[encoded > 0], device=model.device)[None]
        with torch.inference_mode():
            weights[encoded > 0] = model.eval().last_attention(x)[0].cpu().numpy()
    return weights


def show_session(name: str, checkpoint: Checkpoint, session: Sequence[int], k: int = 20) -> Figure:
    """The top k of a session with their scores, and the attention over it where the model has one."""
    found = recommend(checkpoint, [list(session)], k)
    return plots.plot_recommendations(
        found.items[0], found.scores[0], session, last_attention(checkpoint, session), title=name
    )


def explore(
    checkpoints: Mapping[str, Checkpoint], sessions: Sessions, examples: Sequence[Sequence[int]], k: int = 20
) -> widgets.VBox:
    """Controls (all usable from the keyboard) and what they show.

    checkpoints: by the name to show. sessions: the training sessions among which the nearest are looked up.
    """
    wide = {"layout": widgets.Layout(width="420px"), "style": {"description_width": "90px"}}
    model = widgets.Dropdown(options=list(checkpoints), description="model", **wide)
    example = widgets.Dropdown(
        options=[(", ".join(map(str, session)), i) for i, session in enumerate(examples)],
        description="example",
        **wide,
    )
    typed = widgets.Text(description="session", continuous_update=False, **wide)
    message = widgets.HTML()
    picture = widgets.Image(format="png")

    def refresh(_=None) -> None:
        ids = re.findall(r"[^\s,\[\]]+", typed.value)
        try:
            if not ids or not all(i.isascii() and i.isdecimal() and len(i) <= 18 for i in ids):
                raise ValueError(
                    "Type item ids, for example 12, 7: non-negative integers with commas between."
                )
            session = [int(i) for i in ids]
            figure = show_session(model.value, checkpoints[model.value], session, k)
        except (ValueError, DataError) as error:
            message.value = f"<b>{html.escape(str(error))}</b>"
            return
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=90)
        plots.plt.close(figure)
        picture.value = image.getvalue()
        near = "".join(f"<li>{', '.join(map(str, s))}</li>" for s in nearest_sessions(sessions, session))
        message.value = (
            f"Training sessions nearest to it:<ol>{near}</ol>"
            if near
            else "No training session shares an item."
        )

    def take_example(_=None) -> None:
        typed.value = ", ".join(map(str, examples[example.value]))

    example.observe(take_example, "value")
    model.observe(refresh, "value")
    typed.observe(refresh, "value")
    take_example()
    return widgets.VBox([model, example, typed, picture, message])
