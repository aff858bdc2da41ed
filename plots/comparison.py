"""Figures that compare models, or variants of one model."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from metrics import confidence_interval, per_query_metric
from plots import style


def plot_ablation(table: pd.DataFrame, *, metrics: Sequence[str] = ("HR@20", "MRR@20"), title: str = "") -> Figure:
    """Plot the mean of each variant over its seeds as a dot, and each seed as a short vertical line.

    table: one row per run. Its index is the name of the variant, repeated for every seed; its columns include
    `metrics`. A variant without a value is marked "not measured".
    """
    variants = list(dict.fromkeys(table.index))
    size = (2 + 2.5 * len(metrics), 0.4 * len(variants) + 1)
    figure, axes = style.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False, title=title)
    rows = np.arange(len(variants))[::-1]
    for axis, metric in zip(axes[0], metrics, strict=True):
        for row, variant in zip(rows, variants, strict=True):
            values = table.loc[[variant], metric].dropna()
            if values.empty:
                where = {"transform": axis.get_yaxis_transform(), "ha": "center", "va": "center"}
                axis.text(0.5, row, "not measured", fontsize=8, color="grey", **where)
                continue
            axis.plot([values.min(), values.max()], [row, row], color=style.COLOURS[0], lw=1)
            axis.scatter(values, [row] * len(values), marker="|", s=50, color=style.COLOURS[0])
            axis.scatter(values.mean(), row, s=28, color=style.COLOURS[0], zorder=3)
            above = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            axis.annotate(f"{values.mean():.4f}".lstrip("0"), (values.mean(), row), (0, 6), **above)
        axis.set(xlabel=metric, ylim=(-0.5, len(variants) - 0.3))
        axis.set_yticks(rows, map(style.escape_math, variants))
        axis.margins(x=0.15)
        axis.locator_params(axis="x", nbins=4)
    return figure


def plot_heldout(metrics: Mapping[str, Mapping[str, float] | None], *, title: str = "") -> Figure:
    """Plot HR and MRR at 5 and 20 of several models; metrics: model -> metric -> value, or None."""
    names = ["HR@5", "HR@20", "MRR@5", "MRR@20"]
    table = pd.DataFrame([values or {} for values in metrics.values()], index=list(metrics), columns=names)
    return plot_ablation(table.astype(float), metrics=names, title=title)


def plot_pairs(table: pd.DataFrame, *, xlabel: str, title: str = "") -> Figure:
    """Plot two or more values of each model as dots on one line; table: one row per model."""
    figure, axis = style.subplots(figsize=(8, 0.42 * len(table) + 1.3), title=title)
    rows = np.arange(len(table))[::-1]
    axis.hlines(rows, table.min(axis=1), table.max(axis=1), color=style.GREY, zorder=1)
    handles = []
    for column, (colour, marker) in zip(table.columns, style.MARKS, strict=False):
        # Only circles are filled, so that a circle remains visible below another marker.
        face = colour if marker == "o" else "none"
        dots = {"s": 34, "edgecolors": colour, "facecolors": face, "marker": marker, "zorder": 2}
        handles.append(axis.scatter(table[column], rows, **dots))
    axis.set_yticks(rows, map(style.escape_math, table.index))
    axis.set_xlabel(style.escape_math(xlabel))
    axis.set_xlim(left=0)
    style.add_legend(figure, handles, list(table.columns))
    return figure


def plot_at_k(
    ranks: Mapping[str, list[np.ndarray]], *, groups: style.Groups = None, title: str = "", max_k: int = 20
) -> Figure:
    """Plot HR@K and MRR@K for K = 1..max_k, as the mean over a model's runs.

    ranks: model -> the ranks (Q,) of each run. groups: group -> models, for more than seven models.
    """
    k = np.arange(1, max_k + 1)
    panels = style.split_into_panels(list(ranks), groups)
    figure, axes = style.panel_grid(2, panels, title=title)
    for row, metric in zip(axes, ("HR", "MRR"), strict=True):
        # A query of rank r contributes its value at K = r to every K from r on.
        at_rank = per_query_metric(k, metric, max_k)  # (max_k,)
        curves = {}
        for name, runs in ranks.items():
            shares = [np.bincount(r[r <= max_k], minlength=max_k + 1)[1:] / len(r) for r in runs]
            curves[name] = k, (np.mean(shares, 0) * at_rank).cumsum()
        style.draw_curves(row, panels, curves)
        for axis in row:
            axis.set(xlabel="K", xlim=(1, max_k), xticks=[1, *range(5, max_k + 1, 5)])
        row[0].set_ylabel(f"{metric}@K")
    return figure


def plot_by_group(
    ranks: Mapping[str, Sequence[np.ndarray]],
    query_groups: np.ndarray,
    group_names: Sequence[str],
    users: np.ndarray,
    *,
    xlabel: str,
    title: str = "",
) -> Figure:
    """Plot HR@20 and MRR@20 by group of queries, with 95 % bootstrap intervals over users.

    ranks: model -> the ranks (Q,) of each run. query_groups (Q,): indices into group_names. users (Q,).
    """
    figure, axes = style.subplots(1, 2, figsize=(11, 4), title=title)
    in_group = {name: query_groups == g for g, name in enumerate(group_names) if (query_groups == g).any()}
    step = min(0.13, 0.8 / len(ranks))
    for axis, metric in zip(axes, ("HR", "MRR"), strict=True):
        handles = []
        for m, (runs, (colour, marker)) in enumerate(zip(ranks.values(), style.MARKS, strict=False)):
            values = np.mean([per_query_metric(r, metric, 20) for r in runs], 0)  # (Q,)
            means = np.array([values[rows].mean() for rows in in_group.values()])
            bounds = [confidence_interval(values[rows], users[rows]) for rows in in_group.values()]
            x = np.arange(len(in_group)) + step * (m - (len(ranks) - 1) / 2)
            bars = {"fmt": marker, "color": colour, "ms": 5, "lw": 1}
            handles.append(axis.errorbar(x, means, np.abs(np.transpose(bounds) - means), **bars))
        labels = [f"{style.escape_math(name)}\n({rows.sum():,})" for name, rows in in_group.items()]
        axis.set_xticks(range(len(in_group)), labels)
        axis.set(xlabel=f"{style.escape_math(xlabel)} (queries)", ylabel=f"{metric}@20", ylim=(0, None))
        axis.grid(axis="x", visible=False)
    style.add_legend(figure, handles, list(ranks))
    return figure


def plot_named_points(
    points: Mapping[str, tuple], *, xlabel: str, ylabel: str, groups: style.Groups = None, title: str = ""
) -> Figure:
    """Plot one point (x, y) per model, joined by a thin line to its name on the right.

    groups: group -> models; with more than seven models, each group has its own marker.
    """
    figure, axis = style.subplots(figsize=(8, 4.5), title=title)
    colours = {}
    panels = style.split_into_panels(list(points), groups)
    for (_, names), marker in zip(panels, style.MARKERS, strict=False):
        for name, colour in zip(names, style.COLOURS, strict=False):
            axis.scatter(*points[name], color=colour, marker=marker, zorder=3)
            colours[name] = colour
    axis.margins(0.06, 0.1)
    edge = axis.get_xlim()[1]
    axis.set_xlim(right=edge)
    ordered = sorted(points.items(), key=lambda point: point[1][1])
    style.label_line_ends(axis, [(edge, y, f" {name}", colours[name]) for name, (_, y) in ordered])
    for (_, (x, y)), text in zip(ordered, axis.texts, strict=True):  # same order as the points
        axis.plot([x, edge], [y, text.get_position()[1]], color=text.get_color(), lw=0.5, alpha=0.6)
    axis.set(xlabel=style.escape_math(xlabel), ylabel=style.escape_math(ylabel))
    return figure
