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
from matplotlib.ticker import LogLocator, NullFormatter

from metrics import confidence_interval, gains

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


def _lines():
    """(colour, style, what a label starts with) a line: with more lines than colours, another style tells."""
    for style, sample in _cycle([("-", " "), ("--", " - - "), (":", " ··· ")]):
        yield from ((colour, style, sample) for colour in COLOURS)


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


def plot_recommendations(
    items: Sequence[int],
    scores: Sequence[float],
    session: Sequence[int],
    attention: np.ndarray | None = None,
    *,
    title: str = "",
) -> Figure:
    """The top k (items, scores) as bars, best first; beside them the attention over the session, if any."""
    panels = 1 if attention is None else 2
    figure, axes = _subplots(
        1, panels, figsize=(4.5 + 4 * (panels - 1), 0.22 * len(items) + 1.2), squeeze=False
    )
    axis = axes[0, 0]
    places = np.arange(len(items))[::-1]
    axis.barh(places, scores, color=COLOURS[0])
    axis.set_yticks(places, [f"item {item}" for item in items], fontsize=8)
    axis.set(xlabel="score", ylim=(-0.7, len(items) - 0.3))
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="y", visible=False)
    if attention is not None:
        places = np.arange(len(session))[::-1]
        axes[0, 1].barh(places, attention, color=COLOURS[1])
        axes[0, 1].set_yticks(places, [f"{t}. item {item}" for t, item in enumerate(session, 1)], fontsize=8)
        axes[0, 1].set(xlabel="attention weight", ylim=(-0.7, len(session) - 0.3))
        axes[0, 1].locator_params(axis="x", nbins=5)
        axes[0, 1].grid(axis="y", visible=False)
    figure.suptitle(f"{title}: the top {len(items)} after {', '.join(map(str, session))}", fontsize=10)
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
    axis.set_ylabel("value for held-out users")
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


def plot_leak(leaked: np.ndarray, lengths: np.ndarray) -> Figure:
    """A split's validation rows as squares, those trained word for word filled: leaked (Q,), lengths (Q,).

    A hundred squares stand for the rows; beside them the leaked share by session length.
    """
    figure, axes = _subplots(1, 2, figsize=(9, 3.2), width_ratios=[1, 1.6])
    filled = round(100 * leaked.mean())
    place = np.arange(100)
    axes[0].scatter(
        place % 10,
        -(place // 10),
        s=130,
        marker="s",
        color=np.where(place < filled, COLOURS[1], "#DDDDDD"),
    )
    axes[0].set_title(f"{filled} of 100 validation rows\nare trained word for word", fontsize=10)
    axes[0].axis("off")
    axes[0].set_aspect("equal")
    values = np.unique(lengths)
    bars = axes[1].bar(values, [leaked[lengths == n].mean() for n in values], color=COLOURS[1])
    axes[1].bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
    axes[1].set(
        xlabel="session length (items)", ylabel="share trained word for word", xticks=values, ylim=(0, 1)
    )
    axes[1].grid(axis="x", visible=False)
    return figure


def plot_pairs(table: pd.DataFrame, *, xlabel: str) -> Figure:
    """Two or more values of each row as dots on one line: rows are models, columns what is compared."""
    figure, axis = _subplots(figsize=(8, 0.42 * len(table) + 1.3))
    rows = np.arange(len(table))[::-1]
    axis.hlines(rows, table.min(axis=1), table.max(axis=1), color="#BBBBBB", zorder=1)
    for column, colour, marker in zip(table.columns, _cycle(COLOURS), _cycle("osD^v"), strict=False):
        axis.scatter(
            table[column],
            rows,
            s=34,
            edgecolors=colour,
            marker=marker,
            label=column,
            zorder=2,
            facecolors=colour if marker == "o" else "none",  # what lies below another is seen
        )
    axis.set_yticks(rows, table.index)
    axis.set(xlabel=xlabel)
    axis.set_xlim(left=0)
    figure.legend(loc="outside upper center", ncols=len(table.columns), frameon=False)
    return figure


def plot_at_k(ranks: Mapping[str, Sequence[np.ndarray]], *, title: str = "", most: int = 20) -> Figure:
    """HR@K and MRR@K for K up to `most`, a line a model: model -> the ranks (Q,) of its runs, averaged."""
    figure, axes = _subplots(1, 2, figsize=(11, 4))
    k = np.arange(1, most + 1)
    for axis, metric in zip(axes, ("HR", "MRR"), strict=True):
        ends = []
        for (name, runs), (colour, style, sample) in zip(ranks.items(), _lines(), strict=False):
            # What a rank adds to every K from it on: 1, or its reciprocal.
            worth = np.ones(most) if metric == "HR" else 1 / k
            counts = np.mean([np.bincount(r[r <= most], minlength=most + 1)[1:] / len(r) for r in runs], 0)
            values = (counts * worth).cumsum()
            axis.plot(k, values, style, color=colour, lw=1.3)
            ends.append((most, values[-1], sample + name, colour))
        axis.set(xlabel="K", ylabel=f"{metric}@K", xlim=(1, most), xticks=[1, *range(5, most + 1, 5)])
        _label_line_ends(axis, ends)
    figure.suptitle(title)
    return figure


def plot_by_group(
    ranks: Mapping[str, Sequence[np.ndarray]],
    groups: np.ndarray,
    names: Sequence[str],
    users: np.ndarray,
    *,
    xlabel: str,
    title: str = "",
) -> Figure:
    """HR@20 and MRR@20 by group of queries, with 95 % bootstrap intervals over users: a mark a model.

    groups (Q,) are indices into `names`, users (Q,).
    """
    figure, axes = _subplots(1, 2, figsize=(11, 4))
    there = [g for g in range(len(names)) if (groups == g).any()]
    for axis, metric in zip(axes, ("HR@20", "MRR@20"), strict=True):
        marks = zip(ranks.items(), _cycle(COLOURS), _cycle("osD^v"), strict=False)
        for m, ((name, runs), colour, marker) in enumerate(marks):
            worth = np.mean([gains(r, metric.removesuffix("@20"), 20) for r in runs], 0)
            means = np.array([worth[groups == g].mean() for g in there])
            ends = np.array([confidence_interval(worth[groups == g], users[groups == g]) for g in there]).T
            places = np.arange(len(there)) + 0.13 * (m - (len(ranks) - 1) / 2)
            axis.errorbar(
                places, means, np.abs(ends - means), fmt=marker, color=colour, ms=5, lw=1, label=name
            )
        counts = [f"{names[g]}\n({(groups == g).sum():,})" for g in there]
        axis.set_xticks(range(len(there)), counts)
        axis.set(xlabel=f"{xlabel} (queries)", ylabel=metric)
        axis.set_ylim(bottom=0)
        axis.grid(axis="x", visible=False)
    figure.suptitle(title, x=0.02, ha="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def plot_learning_curves(tables: Mapping[str, Sequence[pd.DataFrame]], *, title: str = "") -> Figure:
    """Validation MRR@20 by epoch and by seconds of training, a line a model, the mean of its runs."""
    figure, axes = _subplots(1, 2, figsize=(11, 4))
    for axis, along in zip(axes, ("epoch", "seconds"), strict=True):
        ends = []
        for (name, runs), colour in zip(tables.items(), _cycle(COLOURS), strict=False):
            epochs = min(len(run) for run in runs)
            curve = np.mean([run["MRR@20"][:epochs] for run in runs], 0)
            x = np.arange(1, epochs + 1)
            if along == "seconds":
                x = np.mean([run["seconds"][:epochs].cumsum() for run in runs], 0)
            axis.plot(x, curve, color=colour, marker=".")
            ends.append((x[-1], curve[-1], f" {name}", colour))
        reached = [y for _, y, *_ in ends]
        axis.set_ylim(bottom=min(0.7 * max(reached), *reached))
        axis.set(xlabel=along if along == "epoch" else "seconds of training", ylabel="validation MRR@20")
        axis.xaxis.get_major_locator().set_params(integer=along == "epoch")
        last = max(x for x, *_ in ends)  # all names beside the longest line, else they lie on it
        _label_line_ends(axis, [(last, *end) for _, *end in ends])
    figure.suptitle(title)
    return figure


def plot_named_points(points: Mapping[str, tuple[float, float]], *, xlabel: str, ylabel: str) -> Figure:
    """One point a model, tied by a thin line to its name in a column to the right."""
    figure, axis = _subplots(figsize=(8, 4.5))
    styled = dict(zip(points, _lines(), strict=False))  # the colours of the same models' lines
    marker = {"-": "o", "--": "s", ":": "^"}
    ordered = sorted(points.items(), key=lambda point: point[1][1])
    for name, place in ordered:
        colour, style, _ = styled[name]
        axis.scatter(*place, color=colour, marker=marker[style], zorder=3)
    axis.margins(0.06, 0.1)
    edge = axis.get_xlim()[1]
    axis.set_xlim(right=edge)
    _label_line_ends(axis, [(edge, y, f"  {name}", styled[name][0]) for name, (_, y) in ordered])
    for (_, (x, y)), text in zip(ordered, axis.texts, strict=True):  # the names are in the points' order
        axis.plot([x, edge], [y, text.get_position()[1]], color=text.get_color(), lw=0.5, alpha=0.6)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def plot_map(vectors: np.ndarray, popularity: np.ndarray, *, title: str = "") -> Figure:
    """Items along their first two principal components, coloured by how often they were bought.

    vectors (n, D), popularity (n,).
    """
    centred = vectors - vectors.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    places, held = centred @ directions[:2].T, lengths[:2] ** 2 / (lengths**2).sum()
    figure, axis = _subplots(figsize=(6.5, 5))
    order = np.argsort(popularity)
    colours = np.log10(popularity[order] + 1)
    points = axis.scatter(*places[order].T, c=colours, s=4, cmap="cividis")
    bar = figure.colorbar(points, ax=axis, label="times in the training data")
    ticks = np.arange(0, np.floor(colours.max()) + 1)
    bar.set_ticks(np.log10(10**ticks + 1), labels=[f"{10**tick:,.0f}" for tick in ticks])
    axis.set(xlabel=f"first principal component ({held[0]:.1%} of the variance)", title=title)
    axis.set(ylabel=f"second ({held[1]:.1%})")
    return figure


def plot_studies(values: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """The best validation MRR@20 so far after each trial, a line a study; a pruned trial's is NaN."""
    figure, axis = _subplots(figsize=(8, 4))
    ends = []
    for (name, trials), (colour, style, sample) in zip(values.items(), _lines(), strict=False):
        best = np.fmax.accumulate(np.array(trials, float))
        axis.step(np.arange(1, len(best) + 1), best, style, color=colour, where="post")
        ends.append((len(best), best[-1], sample + name, colour))
    axis.set(xlabel="trials", ylabel="best validation MRR@20 so far", title=title)
    _label_line_ends(axis, ends)
    return figure


def plot_importance(table: pd.DataFrame, *, title: str = "") -> Figure:
    """How much each hyperparameter matters, as shares (`tune.importances`): rows models, columns them."""
    figure, axis = _subplots(figsize=(1.1 * len(table.columns) + 2.5, 0.4 * len(table) + 1.6))
    axis.imshow(table.fillna(0), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            axis.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if value > 0.6 else "black",
            )
    axis.set_xticks(range(len(table.columns)), [c.replace("_", "\n") for c in table.columns], fontsize=9)
    axis.set_yticks(range(len(table)), table.index)
    axis.grid(False)
    axis.set_title(title)
    return figure


def plot_slices(
    trials: Mapping[str, pd.DataFrame], parameters: Sequence[str], *, log: Sequence[str] = ()
) -> Figure:
    """Validation MRR@20 of complete trials, relative to their study's best, against each hyperparameter.

    trials: model -> a row a trial with `value`, the parameters, and `own`, which makes it a cross.
    """
    figure, axes = _subplots(
        1, len(parameters), figsize=(3 * len(parameters), 3.2), sharey=True, squeeze=False
    )
    for axis, parameter in zip(axes[0], parameters, strict=True):
        for (name, table), colour in zip(trials.items(), _cycle(COLOURS), strict=False):
            share, own = table["value"] / table["value"].max(), table["own"].to_numpy(bool)
            axis.scatter(table[parameter][~own], share[~own], s=14, color=colour, label=name)
            axis.scatter(table[parameter][own], share[own], s=45, marker="x", color=colour)
        axis.set(xlabel=parameter)
        values = pd.concat([table[parameter] for table in trials.values()])
        if parameter in log and values.max() > 3 * values.min():  # of less, a log scale has no round labels
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
        else:
            axis.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("share of the study's best MRR@20")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def plot_speed(contests: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Validation MRR@20 against the seconds of training and validation so far, a panel a contest.

    contests: name -> contestant -> epochs, each with `seconds`, `valid_seconds`, `MRR@20`.
    """
    figure, axes = _subplots(1, len(contests), figsize=(4 * len(contests), 3.4), sharey=True, squeeze=False)
    everybody = dict.fromkeys(who for contestants in contests.values() for who in contestants)
    colours = dict(zip(everybody, _cycle(COLOURS), strict=False))
    for axis, (name, contestants) in zip(axes[0], contests.items(), strict=True):
        ends = []
        for who, epochs in contestants.items():
            colour = colours[who]
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
