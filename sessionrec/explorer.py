"""The widget of get_final_result.ipynb: choose or type a session, choose a model, see its recommendations."""

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
from process_data import DataError, Sessions
from sessionrec.checkpoint import Checkpoint
from sessionrec.recommend import recommend


def nearest_sessions(sessions: Sessions, session: Sequence[int], n: int = 5) -> list[list[int]]:
    """The n sessions that share the most with this one: cosine of their sets of items, earlier ones first."""
    shared = np.isin(sessions.items, session).astype(float)
    counts = np.bincount(sessions.row_of_item, shared, minlength=len(sessions))
    likeness = counts / np.sqrt(np.maximum(sessions.lengths, 1) * max(len(set(session)), 1))
    best = np.argsort(-likeness, kind="stable")[:n]
    return [sessions[row] for row in best if likeness[row] > 0]


def last_attention(checkpoint: Checkpoint, session: Sequence[int]) -> np.ndarray | None:
    """The attention weights of a session's items for its last step; None for a model without attention.

    Items that the checkpoint does not know have weight 0.
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
    """Two boxes to type in or choose from, the model and the session, and the recommendations below them.

    A box is empty except for a grey text, the current choice: so it offers all choices, and Jupyter leaves it
    every key (in a plain drop-down list the arrow keys would move to another cell).
    checkpoints: by the name to show. sessions: the training sessions to search for the nearest ones.
    """
    wide = {"layout": widgets.Layout(width="420px"), "style": {"description_width": "70px"}}
    names, texts = list(checkpoints), [", ".join(map(str, session)) for session in examples]
    model = widgets.Combobox(options=names, placeholder=names[0], ensure_option=True, description="model", **wide)
    typed = widgets.Combobox(
        options=texts, placeholder=texts[0], continuous_update=False, description="session", **wide
    )
    message = widgets.HTML()
    # At its drawn size: a box would stretch and blur it.
    picture = widgets.Image(format="png", layout=widgets.Layout(align_self="flex-start", max_width="100%"))

    def show(name: str, text: str) -> bool:
        ids = re.findall(r"[^\s,\[\]]+", text)
        try:
            if not ids or not all(i.isascii() and i.isdecimal() and len(i) <= 18 for i in ids):
                raise ValueError("Type item ids, for example 12, 7: non-negative integers with commas between.")
            session = [int(i) for i in ids]
            figure = show_session(name, checkpoints[name], session, k)
        except (ValueError, DataError) as error:
            message.value = f"<b>{html.escape(str(error))}</b>"
            return False
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=90)
        plots.plt.close(figure)
        picture.value = image.getvalue()
        near = "".join(f"<li>{', '.join(map(str, s))}</li>" for s in nearest_sessions(sessions, session))
        message.value = (
            f"Training sessions nearest to it:<ol>{near}</ol>" if near else "No training session shares an item."
        )
        return True

    def update(change: dict) -> None:
        box, text = change["owner"], change["new"]
        if not text or (box is model and text not in checkpoints):
            return
        choice = (text, typed.placeholder) if box is model else (model.placeholder, text)
        if show(*choice):  # refused text stays in its box, to be corrected
            box.placeholder, box.value = text, ""

    model.observe(update, "value")
    typed.observe(update, "value")
    show(names[0], texts[0])
    return widgets.VBox([model, typed, picture, message])
