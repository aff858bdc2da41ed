"""Figures of speed against other libraries, and of cost against size."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from plots import style


def plot_speed(comparisons: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Plot validation MRR@20 against the seconds of training and validation, one panel per comparison.

    comparisons: title -> library -> epochs, each with `seconds`, `valid_seconds` and `MRR@20`.
    """
    size = (4 * len(comparisons), 3.4)
    figure, axes = style.subplots(1, len(comparisons), figsize=size, sharey=True, squeeze=False)
    libraries = dict.fromkeys(name for curves in comparisons.values() for name in curves)
    colours = dict(zip(libraries, cycle(style.COLOURS), strict=False))
    for axis, (title, curves) in zip(axes[0], comparisons.items(), strict=True):
        ends = []
        for name, epochs in curves.items():
            seconds = np.cumsum([epoch["seconds"] + epoch["valid_seconds"] for epoch in epochs])
            values = [epoch["MRR@20"] for epoch in epochs]
            axis.plot(seconds, values, color=colours[name], marker=".")
            end = (seconds[-1], values[-1], name, colours[name])
            if name.startswith("ours"):  # these lines end early, at similar heights: label above
                above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "right", "fontsize": 9}
                axis.annotate(style.escape_math(name), end[:2], color=colours[name], **above)
            else:
                ends.append(end)
        axis.set_xscale("log")
        axis.margins(y=0.12)
        axis.set(title=style.escape_math(title), xlabel="seconds of training and validation")
        style.label_line_ends(axis, ends)
    axes[0, 0].set_ylabel("validation MRR@20")
    return figure


def plot_scaling(curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float]]]) -> Figure:
    """Plot cost against size on logarithmic axes, one panel per title and one line per task.

    curves: title -> task -> (sizes, costs, fitted exponent). A title such as "seconds against sessions" names
    the y axis and the x axis.
    """
    figure, axes = style.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), squeeze=False)
    for axis, (title, tasks) in zip(axes[0], curves.items(), strict=True):
        ends = []
        for line_style, (task, curve) in zip(style.LINE_STYLES, tasks.items(), strict=False):
            sizes, costs, exponent = curve
            axis.loglog(sizes, costs, **line_style, marker=".")
            ends.append((sizes[-1], costs[-1], f"{task} ({exponent:.2f})", line_style["color"]))
        cost, size = title.split(" against ")
        axis.set(xlabel=style.escape_math(size), ylabel=style.escape_math(cost))
        style.label_line_ends(axis, ends)
    return figure
