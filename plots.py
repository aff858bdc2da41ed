"""Every figure that a notebook shows, in one style: colour-blind safe, labelled axes, direct labels.

Each function draws and returns a matplotlib figure; in a notebook, end the cell with a semicolon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from metrics import confidence_interval

# Okabe & Ito's palette, told apart by colour-blind readers and, by lightness, in grey print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
STYLE = {
    "figure.dpi": 90,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}


def _subplots(*args, **options):
    with plt.rc_context(STYLE):
        return plt.subplots(*args, layout="constrained", **options)


def _label_line_ends(axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name beside its end (x, y, name, colour), pushed apart where they would overlap."""
    is_log = axes.get_yscale() == "log"
    low, high = np.log(axes.get_ylim()) if is_log else axes.get_ylim()
    gap = (high - low) * 0.065
    place = -np.inf
    for n, (x, y, name, colour) in enumerate(sorted(ends, key=lambda end: end[1])):
        # Leave room for the labels still to come, so that the last does not leave the axes.
        place = max(min(np.log(y) if is_log else y, high - gap * (len(ends) - n)), place + gap)
        axes.text(x, np.exp(place) if is_log else place, name, color=colour, va="center", fontsize=9)


def plot_training(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Train loss and validation MRR@20, HR@20 and accuracy by epoch; one line a table of `train.fit`."""
    panels = {"loss": "train loss (nats)", "MRR@20": "validation MRR@20", "HR@20": "validation HR@20"}
    panels |= {"accuracy": "validation accuracy"}
    figure, axes = _subplots(1, 4, figsize=(13, 3.2))
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        ends = []
        for (name, table), colour in zip(tables.items(), _cycle(COLOURS), strict=False):
            axis.plot(table["epoch"], table[column], color=colour, marker="." if len(table) < 3 else None)
            ends.append((table["epoch"].iloc[-1], table[column].iloc[-1], f" {name}", colour))
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if column == "loss" and len(tables) > 1:
            _label_line_ends(axis, ends)
    figure.suptitle(title)
    return figure


def _cycle(values: Sequence[str]):
    while True:
        yield from values


def plot_by_length(ranks: Mapping[str, np.ndarray], lengths: np.ndarray, users: np.ndarray) -> Figure:
    """HR@20 by session length, with 95 % bootstrap intervals over users. ranks: seed -> (Q,), averaged."""
    hits = np.mean([values <= 20 for values in ranks.values()], 0)  # (Q,)
    figure, axis = _subplots(figsize=(6, 3.2))
    for length in np.unique(lengths):
        rows = lengths == length
        low, high = confidence_interval(hits[rows], users[rows])
        mean = hits[rows].mean()
        axis.bar(length, mean, color=COLOURS[0], yerr=[[mean - low], [high - mean]], capsize=3)
        axis.annotate(
            f"{rows.sum():,}",
            (length, 0),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="white",
        )
    axis.set(xlabel="session length (items; in the bars: queries)", ylabel="HR@20", xticks=np.unique(lengths))
    axis.grid(axis="x", visible=False)
    return figure


def plot_attention(weights: np.ndarray, items: Sequence[int], *, step_names: Sequence[str]) -> Figure:
    """Attention weights (T, L): a row a step t, a column an item of the session."""
    weights = np.atleast_2d(weights)
    figure, axis = _subplots(figsize=(1.2 * len(items) + 2, 0.55 * len(weights) + 1.4))
    bound = np.abs(weights).max() or 1.0
    image = axis.imshow(weights, cmap="PuOr", vmin=-bound, vmax=bound, aspect="auto")
    for (t, j), value in np.ndenumerate(weights):
        if j <= t or len(weights) == 1:
            dark = abs(value) > 0.6 * bound
            axis.text(j, t, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(len(items)), [f"item {item}" for item in items])
    axis.set_yticks(range(len(weights)), step_names)
    axis.grid(False)
    figure.colorbar(image, ax=axis, label="attention weight")
    return figure


def plot_session_graph(items: Sequence[int], A: np.ndarray, alias_inputs: Sequence[int]) -> Figure:
    """One session's graph: a node an item, an arrow for "was followed by", its out-weight beside it.

    items (L,) node ids with zeros for padding, A (L, 2L) = [A_in | A_out], alias_inputs (L,).
    """
    A_out = A[:, A.shape[0] :]
    nodes = list(dict.fromkeys(alias_inputs))  # in the order of the session
    figure, axis = _subplots(figsize=(1.7 * len(nodes) + 1, 2.2))
    # Alternate the height, so that arrows that skip a node do not cross it.
    where = {node: (i, 0.28 * (-1) ** i) for i, node in enumerate(nodes)}
    for u, v in zip(*np.nonzero(A_out), strict=True):
        if u not in where or v not in where:
            continue
        (x0, y0), (x1, y1) = where[u], where[v]
        axis.annotate(
            "",
            (x1, y1),
            (x0, y0),
            arrowprops={
                "arrowstyle": "-|>",
                "color": COLOURS[1],
                "lw": 1.5,
                "shrinkA": 24,
                "shrinkB": 24,
                "connectionstyle": "arc3,rad=0.15",
            },
        )
        axis.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.16, f"{A_out[u, v]:.2g}", ha="center", color=COLOURS[1])
    for node, (x, y) in where.items():
        axis.scatter(x, y, s=1900, color=COLOURS[5], edgecolor=COLOURS[0], zorder=2)
        axis.text(x, y, f"item\n{items[node]}", ha="center", va="center", fontsize=9, zorder=3)
    axis.set(xlim=(-0.6, len(nodes) - 0.4), ylim=(-0.9, 0.9))
    axis.axis("off")
    return figure


def draw_model(title: str, blocks: Sequence[str], notes: Mapping[int, str] | None = None) -> Figure:
    """A model as a row of boxes from the session to the scores; notes: index of a box -> what it does."""
    figure, axis = _subplots(figsize=(min(13, 2.3 * len(blocks)), 1.9))
    for i, block in enumerate(blocks):
        ends = i in (0, len(blocks) - 1)
        axis.add_patch(
            FancyBboxPatch(
                (i + 0.08, 0.3),
                0.74,
                0.42,
                boxstyle="round,pad=0.03",
                facecolor="#EEEEEE" if ends else "#D6EAF8",
                edgecolor=COLOURS[0],
            )
        )
        axis.text(i + 0.45, 0.51, block, ha="center", va="center", fontsize=9)
        if i:
            axis.annotate("", (i + 0.05, 0.51), (i - 0.14, 0.51), arrowprops={"arrowstyle": "-|>", "lw": 1.2})
        if notes and i in notes:
            axis.text(i + 0.45, 0.16, notes[i], ha="center", va="center", fontsize=8, style="italic")
    axis.set(xlim=(0, len(blocks)), ylim=(0, 0.95), title=title)
    axis.axis("off")
    return figure


def plot_trials(tables: Mapping[str, pd.DataFrame], report: Mapping[int, tuple] | None = None) -> Figure:
    """Validation HR@20 and MRR@20 of trials by epoch, and the report's printed points as crosses."""
    figure, axes = _subplots(1, 2, figsize=(12, 3.6))
    for axis, metric, place in zip(axes, ("HR@20", "MRR@20"), (1, 0), strict=True):
        ends = []
        last = max(table["epoch"].iloc[-1] for table in tables.values())  # labels beside the lines
        for (name, table), colour in zip(tables.items(), _cycle(COLOURS), strict=False):
            axis.plot(table["epoch"], table[metric], color=colour, marker="." if len(table) < 3 else None)
            ends.append((last, table[metric].iloc[-1], f" {name}", colour))
        for epoch, values in (report or {}).items():
            axis.scatter(epoch, values[place], marker="x", s=60, color="black", zorder=3)
        if report:
            epoch, values = next(iter(report.items()))
            axis.annotate("report", (epoch, values[place]), (0, -14), textcoords="offset points", ha="center")
        axis.set(xlabel="epoch", ylabel=f"validation {metric}, row split", ylim=(0, None))
        _label_line_ends(axis, ends)
    return figure


def plot_heldout(metrics: Mapping[str, Mapping[str, float]]) -> Figure:
    """HR and MRR at 5 and 20 of several models as grouped bars: model -> metric -> value."""
    names = ["HR@5", "HR@20", "MRR@5", "MRR@20"]
    figure, axis = _subplots(figsize=(7.5, 3.2))
    width = 0.8 / len(metrics)
    for m, ((model, values), colour) in enumerate(zip(metrics.items(), _cycle(COLOURS), strict=False)):
        places = np.arange(len(names)) + (m - (len(metrics) - 1) / 2) * width
        bars = axis.bar(places, [values[name] for name in names], width, color=colour, label=model)
        axis.bar_label(bars, fmt="%.3f", fontsize=7, padding=2)
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("held-out users")
    axis.grid(axis="x", visible=False)
    axis.legend(frameon=False, ncols=2)
    return figure


def plot_concentration(items: np.ndarray, popularity: np.ndarray, *, title: str = "") -> Figure:
    """How often each item is recommended against how often it was bought: items (Q, k) encoded ids."""
    counts = np.bincount(items.ravel(), minlength=len(popularity))[1:]
    bought = popularity[1:]
    figure, axes = _subplots(1, 2, figsize=(11, 3.2))
    axes[0].scatter(bought, counts, s=5, alpha=0.4, color=COLOURS[0], edgecolors="none")
    axes[0].set(
        xscale="symlog",
        yscale="symlog",
        xlabel="times in the training data",
        ylabel=f"times in a top {items.shape[1]}",
    )
    lines = []
    for values, name, colour in (
        (counts, "recommended", COLOURS[0]),
        (bought, "in the training data", COLOURS[1]),
    ):
        share = np.sort(values)[::-1].cumsum() / max(1, values.sum())
        axes[1].plot(np.arange(1, len(share) + 1) / len(share), share, color=colour)
        lines.append((share[int(0.3 * len(share))], name, colour))
    # Beside the lines, not between them: the lower one's name below it, the upper one's above.
    for (height, name, colour), offset, side in zip(
        sorted(lines), ((8, -14), (-8, 6)), ("left", "right"), strict=True
    ):
        place = {"xytext": offset, "textcoords": "offset points", "ha": side}
        axes[1].annotate(name, (0.3, height), color=colour, **place)
    axes[1].set(xlabel="share of the items, most frequent first", ylabel="share of all occurrences")
    figure.suptitle(title)
    return figure


def plot_speed(contests: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Validation MRR@20 against the seconds of training and validation so far, a panel a contest.

    contests: name -> contestant -> epochs, each with `seconds`, `valid_seconds`, `MRR@20`.
    """
    figure, axes = _subplots(1, len(contests), figsize=(4 * len(contests), 3.4), sharey=True, squeeze=False)
    for axis, (name, contestants) in zip(axes[0], contests.items(), strict=True):
        ends = []
        for (who, epochs), colour in zip(contestants.items(), _cycle(COLOURS), strict=False):
            seconds = np.cumsum([row["seconds"] + row["valid_seconds"] for row in epochs])
            reached = [row["MRR@20"] for row in epochs]
            axis.plot(seconds, reached, color=colour, marker=".")
            if who.startswith("ours"):  # they end early and at like heights: above the line
                place = {"xytext": (0, 6), "textcoords": "offset points", "ha": "right"}
                axis.annotate(who, (seconds[-1], reached[-1]), color=colour, fontsize=9, **place)
            else:
                ends.append((seconds[-1], reached[-1], f" {who}", colour))
        axis.set_xscale("log")
        axis.margins(y=0.12)
        axis.set(title=name, xlabel="seconds of training and validation")
        _label_line_ends(axis, ends)
    axes[0, 0].set_ylabel("validation MRR@20")
    return figure


def plot_scaling(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]],
) -> Figure:
    """Costs against size, log-log, a panel a title; a line a task: (sizes, costs, fitted exponent).

    A title reads "seconds against sessions": what is drawn up and what along.
    """
    figure, axes = _subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), squeeze=False)
    for axis, (title, tasks) in zip(axes[0], curves.items(), strict=True):
        ends = []
        for (task, (sizes, costs, exponent)), colour in zip(tasks.items(), _cycle(COLOURS), strict=False):
            axis.loglog(sizes, costs, color=colour, marker=".")
            ends.append((sizes[-1], costs[-1], f" {task} ({exponent:.2f})", colour))
        cost, size = title.split(" against ")
        axis.set(xlabel=size, ylabel=cost)
        _label_line_ends(axis, ends)
    return figure
