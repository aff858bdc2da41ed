"""Figures of the hyperparameter search."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from plots import style


def plot_studies(values: Mapping[str, Sequence[float]], *, groups: style.Groups = None, title: str = "") -> Figure:
    """Plot the best validation MRR@20 so far after each trial of each study.

    values: model -> the value of each trial, NaN for a pruned one. groups: group -> models.
    """
    panels = style.split_into_panels(list(values), groups)
    figure, axes = style.panel_grid(1, panels, title=title)
    best = {name: np.fmax.accumulate(np.array(trials, float)) for name, trials in values.items()}
    curves = {name: (np.arange(1, len(y) + 1), y) for name, y in best.items()}
    style.draw_curves(axes[0], panels, curves, drawstyle="steps-post")
    for axis in axes[0]:
        axis.set_xlabel("trials")
    axes[0, 0].set_ylabel("best validation MRR@20 so far")
    return figure


def plot_importance(table: pd.DataFrame, *, title: str = "") -> Figure:
    """Plot how much each hyperparameter matters as a heatmap of shares; table: rows are models."""
    size = (1.1 * len(table.columns) + 2.5, 0.4 * len(table) + 1.6)
    figure, axis = style.subplots(figsize=size, title=title)
    axis.imshow(table.fillna(0), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    style.write_cells(axis, table.to_numpy(float), 1)
    columns = [style.escape_math(column).replace("_", "\n") for column in table.columns]
    axis.set_xticks(range(len(columns)), columns, fontsize=9)
    axis.set_yticks(range(len(table)), map(style.escape_math, table.index))
    axis.grid(False)
    return figure


def plot_slices(
    trials: Mapping[str, pd.DataFrame], parameters: Sequence[str], *, log: Sequence[str] = (), title: str = ""
) -> Figure:
    """Plot the validation MRR@20 of completed trials, relative to the study's best, by hyperparameter.

    trials: model -> one row per trial, with the columns `value`, `is_recipe` and the parameters. A trial
    of the recipe's values is a cross. log: the parameters to show on a logarithmic axis.
    """
    size = (3 * len(parameters), 3.8)
    figure, axes = style.subplots(1, len(parameters), figsize=size, sharey=True, squeeze=False, title=title)
    for axis, parameter in zip(axes[0], parameters, strict=True):
        handles = []
        for n, (table, colour) in enumerate(zip(trials.values(), cycle(style.COLOURS), strict=False)):
            x, share = table[parameter], table["value"] / table["value"].max()
            is_recipe = table["is_recipe"].astype(bool)
            marker = style.MARKERS[n // len(style.COLOURS)]
            dots = axis.scatter(x[~is_recipe], share[~is_recipe], s=14, color=colour, marker=marker)
            axis.scatter(x[is_recipe], share[is_recipe], s=45, marker="x", color=colour)
            handles.append(dots)
        axis.set_xlabel(style.escape_math(parameter))
        values = pd.concat([table[parameter] for table in trials.values()])
        # A logarithmic axis of a narrower range has no round labels.
        if parameter in log and values.max() > 3 * values.min():
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
            if values.max() < 100 * values.min():
                axis.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=4))
        else:
            axis.locator_params(axis="x", nbins=4)
    axes[0, 0].set_ylabel("share of the study's best MRR@20")
    style.add_legend(figure, handles, list(trials))
    return figure
