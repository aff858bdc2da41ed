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
    items: Sequence[int | str],
    scores: Sequence[float],
    session: Sequence[int | str],
    attention: np.ndarray | None = None,
    *,
    title: str = "",
    popular: bool = False,
) -> Figure:
    """Plot the k recommended items (k,) with their scores (k,), best first, and the attention if given.

    items, session (L,): ids or names; long names are shortened in the middle. attention (A,): the weights of the
    session's last A items.
    popular: the items are the most popular ones, because no item of the session is known. Their scores are then the
    numbers of times that they occur in training.
    """
    panels = {"scores": (list(map(_label, items)), scores, "occurrences in training" if popular else "score")}
    if attention is not None:
        first = len(session) - len(attention)
        steps = [f"{t}. {_label(item)}" for t, item in enumerate(session[first:], first + 1)]
        panels["attention"] = (steps, attention, "attention weight")
    # The panel with fewer rows ends above the other one's last row, so that all bars are equally thick.
    few, most = min(panels, key=lambda p: len(panels[p][0])), max(panels, key=lambda p: len(panels[p][0]))
    heights = [len(panels[few][0]), len(panels[most][0]) - len(panels[few][0])]
    rows = [list(panels), [name if name == most else "." for name in panels]]
    if heights[1] == 0:
        rows, heights = rows[:1], heights[:1]
    widths = [2.5 + 0.06 * max(map(len, names)) for names, *_ in panels.values()]
    text = _recommendation_title(session, len(items), title, popular, width=int(13 * sum(widths)))
    size = (sum(widths), 0.2 * sum(heights) + 0.8 + 0.18 * text.count("\n"))
    figure, axes = style.mosaic(rows, figsize=size, height_ratios=heights, width_ratios=widths)
    for (panel, (names, values, label)), colour in zip(panels.items(), style.COLOURS, strict=False):
        axis = axes[panel]
        bars = axis.barh(np.arange(len(names))[::-1], values, color=colour)
        axis.set_yticks(np.arange(len(names))[::-1], map(style.escape_math, names), fontsize=8)
        axis.set(xlabel=label, ylim=(-0.6, len(names) - 0.4))
        axis.locator_params(axis="x", nbins=4)
        axis.grid(axis="y", visible=False)
        # The scale is above, where the best items are.
        axis.xaxis.set_label_position("top")
        axis.tick_params(axis="x", bottom=False, labelbottom=False, top=True, labeltop=True)
        axis.spines["top"].set_visible(True)
        axis.spines["bottom"].set_visible(False)
        if panel == "attention":
            axis.bar_label(bars, fmt="%.2f", fontsize=8, padding=3)
            axis.margins(x=0.25)
    figure.suptitle(style.escape_math(text), fontsize=10)
    return figure


def _label(item: int | str) -> str:
    """An id as "item 7", a name as it is, both on one line and short."""
    text = " ".join(str(item).split())
    return style.shorten(f"item {text}" if text.isdecimal() else text)


def _recommendation_title(session: Sequence[int | str], k: int, title: str, popular: bool, width: int) -> str:
    """At most three lines; of a session that is too long for them, only its last items are named."""
    names = [style.shorten(" ".join(str(item).split())) for item in session[-100:]]
    what = f"the {k} most popular items, because these are unknown:" if popular else f"the top {k} after"
    for start in range(len(names)):
        left_out = len(session) - len(names) + start
        earlier = f"{left_out} earlier item{'s' * (left_out > 1)} and " if left_out else ""
        text = textwrap.wrap(f"{title}: {what} {earlier}{', '.join(names[start:])}", width)
        if len(text) <= 3:
            break
    return "\n".join(text)


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
