"""Figures of single sessions (attention, graph, recommendations) and of results by session length."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from metrics import confidence_interval, per_query_metric
from plots import style


def plot_by_length(
    ranks: Mapping[str, np.ndarray], lengths: np.ndarray, users: np.ndarray, *, title: str = ""
) -> Figure:
    """Plot HR@20 by session length, with 95 % bootstrap intervals over users.

    ranks: seed -> ranks (Q,), over whose hits the mean is taken. lengths (Q,), users (Q,).
    """
    hits = np.mean([per_query_metric(values, "HR", 20) for values in ranks.values()], 0)  # (Q,)
    figure, axis = style.subplots(figsize=(6, 3.2), title=title)
    for length in np.unique(lengths):
        rows = lengths == length
        low, high = confidence_interval(hits[rows], users[rows])
        mean = hits[rows].mean()
        axis.bar(length, mean, color=style.COLOURS[0], yerr=[[mean - low], [high - mean]], capsize=3)
    values, counts = np.unique(lengths, return_counts=True)
    labels = [f"{value}\n({count:,})" for value, count in zip(values, counts, strict=True)]
    axis.set_xticks(values, labels)
    axis.set(xlabel="session length in items (queries)", ylabel="HR@20")
    axis.grid(axis="x", visible=False)
    return figure


def plot_attention(weights: np.ndarray, items: Sequence[int], *, step_names: Sequence[str], title: str = "") -> Figure:
    """Plot attention weights as a heatmap, with one row per step and one column per item of the session.

    weights (T, L), or (L,) for one step. With several steps, step t sees items 0..t only.
    """
    weights = np.atleast_2d(weights)
    if len(weights) > 1:
        weights = np.where(np.tri(*weights.shape, dtype=bool), weights, np.nan)
    size = (1.2 * len(items) + 2, 0.55 * len(weights) + 1.4)
    figure, axis = style.subplots(figsize=size, title=title)
    highest = np.nanmax(np.abs(weights)) or 1.0
    image = axis.imshow(weights, cmap="PuOr", vmin=-highest, vmax=highest, aspect="auto")
    style.write_cells(axis, weights, highest)
    axis.set_xticks(range(len(items)), [f"item {style.escape_math(item)}" for item in items])
    axis.set_yticks(range(len(weights)), map(style.escape_math, step_names))
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="attention weight")
    return figure


def plot_recommendations(
    items: Sequence[int],
    scores: Sequence[float],
    session: Sequence[int],
    attention: np.ndarray | None = None,
    *,
    title: str = "",
) -> Figure:
    """Plot the k recommended items (k,) with their scores (k,), best first, and the attention (L,) if given.

    session (L,): the items that the recommendations follow.
    """
    panels = [([f"item {item}" for item in items], scores, "score")]
    if attention is not None:
        steps = [f"{t}. item {item}" for t, item in enumerate(session, 1)]
        panels.append((steps, attention, "attention weight"))
    most_rows = max(len(names) for names, *_ in panels)
    size = (0.5 + 4 * len(panels), 0.22 * most_rows + 1.2)
    figure, axes = style.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, (names, values, label), colour in zip(axes[0], panels, style.COLOURS, strict=False):
        rows = np.arange(len(names))[::-1]
        axis.barh(rows, values, color=colour)
        axis.set_yticks(rows, map(style.escape_math, names), fontsize=8)
        axis.set(xlabel=label, ylim=(-0.7, len(names) - 0.3))
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="y", visible=False)
    text = f"{title}: the top {len(items)} after {', '.join(map(str, session))}"
    figure.suptitle(style.escape_math(textwrap.fill(text, int(13 * size[0]))), fontsize=10)
    return figure


def plot_session_graph(items: Sequence[int], A: np.ndarray, alias_inputs: Sequence[int]) -> Figure:
    """Plot one session's graph, with an arrow from each item to its successors and its outgoing weight.

    items (L,) ids of the nodes, padded with zeros; A (L, 2L) = [A_in | A_out]; alias_inputs (L,), the node of
    each step.
    """
    A_out = A[:, A.shape[0] :]
    nodes = list(dict.fromkeys(alias_inputs))  # in the order of the session
    figure, axis = style.subplots(figsize=(1.7 * len(nodes) + 1, 2.6))
    # Heights alternate, so that an arrow that skips a node does not cross it.
    positions = {node: np.array([i, 0.28 * (-1) ** i]) for i, node in enumerate(nodes)}
    arrow = {"arrowstyle": "-|>", "color": style.COLOURS[1], "lw": 1.5, "shrinkA": 24, "shrinkB": 24}
    inches = np.array([1.7, 1.4])  # one unit of each axis
    for u, v in zip(*np.nonzero(A_out), strict=True):
        if u not in positions or v not in positions:
            continue
        start, end = positions[u], positions[v]
        text = f"{A_out[u, v]:.2g}"
        if u == v:
            axis.text(*start + [0, 0.34], f"↻ {text}", ha="center", va="center", color=style.COLOURS[1])
            continue
        axis.annotate("", end, start, arrowprops=arrow | {"connectionstyle": "arc3,rad=-0.2"})
        # The arc bends to the left by a tenth of its length; the weight stands just outside it.
        (x, y), length = (end - start) * inches, np.linalg.norm((end - start) * inches)
        at = (start + end) / 2 + (0.1 + 0.13 / length) * np.array([-y, x]) / inches
        axis.text(*at, text, ha="center", va="center", color=style.COLOURS[1])
    for node, (x, y) in positions.items():
        axis.scatter(x, y, s=1900, color=style.COLOURS[5], edgecolor=style.COLOURS[0], zorder=2)
        name = f"item\n{style.escape_math(items[node])}"
        axis.text(x, y, name, ha="center", va="center", fontsize=9, zorder=3)
    axis.set(xlim=(-0.6, len(nodes) - 0.4), ylim=(-0.9, 0.9))
    axis.axis("off")
    return figure
