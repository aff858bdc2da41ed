"""Figures of training: one run by epoch, several runs, and all models."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from plots import style


def _draw_epochs(axis, tables: Mapping[str, pd.DataFrame], column: str) -> list[tuple]:
    """Draw one column of each history by epoch. Returns the line ends that `style.label_line_ends` takes."""
    ends = []
    last = max(table["epoch"].iloc[-1] for table in tables.values())
    for (name, table), line_style in zip(tables.items(), style.LINE_STYLES, strict=False):
        # A line through one or two epochs would hardly be visible.
        axis.plot(table["epoch"], table[column], **line_style, marker="." if len(table) < 3 else None)
        ends.append((last, table[column].iloc[-1], name, line_style["color"]))
    axis.set(xlabel="epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return ends


def plot_training(tables: Mapping[str, pd.DataFrame], title: str = "") -> Figure:
    """Plot training loss, validation MRR@20, HR@20 and accuracy by epoch; tables: name -> `History.table`."""
    figure, axes = style.subplots(1, 4, figsize=(13, 3.2), title=title if tables else "No epoch is finished")
    if not tables:
        return figure
    for axis, column in zip(axes, ("loss", "MRR@20", "HR@20", "accuracy"), strict=True):
        ends = _draw_epochs(axis, tables, column)
        axis.set_ylabel("training loss (nats)" if column == "loss" else f"validation {column}")
        if column == "loss" and len(tables) > 1:
            style.label_line_ends(axis, ends)
    return figure


def plot_trials(
    tables: Mapping[str, pd.DataFrame], reported: Mapping[int, Sequence[float]] | None = None, title: str = ""
) -> Figure:
    """Plot validation HR@20 and MRR@20 of a row split by epoch, with the report's values as crosses.

    tables: name -> `History.table`. reported: epoch -> (MRR@20, HR@20, ...).
    """
    figure, axes = style.subplots(1, 2, figsize=(12, 3.6), title=title)
    for axis, metric, index in zip(axes, ("HR@20", "MRR@20"), (1, 0), strict=True):
        ends = _draw_epochs(axis, tables, metric)
        points = [(epoch, row[index]) for epoch, row in (reported or {}).items()]
        for point in points:
            axis.scatter(*point, marker="x", s=60, color="black", zorder=3)
        for point in points[:1]:
            axis.annotate("report", point, (0, -14), textcoords="offset points", ha="center")
        axis.set(ylabel=f"validation {metric}, row split", ylim=(0, None))
        style.label_line_ends(axis, ends)
    return figure


def plot_learning_curves(
    tables: Mapping[str, Sequence[pd.DataFrame]], *, groups: style.Groups = None, title: str = ""
) -> Figure:
    """Plot validation MRR@20 by epoch and by seconds of training, as the mean over a model's runs.

    tables: model -> the `History.table` of each run. groups: group -> models, for more than seven models.
    """
    panels = style.split_into_panels(list(tables), groups)
    figure, axes = style.panel_grid(2, panels, title=title)
    for row, column in zip(axes, ("epoch", "seconds"), strict=True):
        curves = {}
        for name, runs in tables.items():
            epochs = min(len(run) for run in runs)
            x = np.arange(1, epochs + 1)
            if column == "seconds":
                x = np.mean([run["seconds"][:epochs].cumsum() for run in runs], 0)
            curves[name] = x, np.mean([run["MRR@20"][:epochs] for run in runs], 0)
        reached = [y[-1] for _, y in curves.values()]
        style.draw_curves(row, panels, curves, bottom=min(0.7 * max(reached), *reached), marker=".")
        for axis in row:
            axis.set_xlabel("epoch" if column == "epoch" else "seconds of training")
            axis.xaxis.get_major_locator().set_params(integer=column == "epoch")
        row[0].set_ylabel("validation MRR@20")
    return figure
