"""The shared style of all figures: colours, axes, direct labels, and panels for many lines."""

import unicodedata
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The palette of Okabe and Ito, whose colours colour-blind readers can distinguish.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
GREY = "#CCCCCC"
MARKERS = "osD^v"
# 35 combinations of a colour and a marker, both of which change from one to the next.
MARKS = list(zip(COLOURS * 5, MARKERS * 7, strict=True))
# 21 combinations of a colour and a dash pattern, for figures without panels.
LINE_STYLES = [{"color": colour, "linestyle": dash} for dash in ("-", "--", ":") for colour in COLOURS]
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

Panels = list[tuple[str, list[str]]]  # (title, names of the lines) for each panel
Groups = Mapping[str, Sequence[str]] | None  # group name -> names of models


def subplots(*args, title: str = "", **options) -> tuple[Figure, Axes | np.ndarray]:
    """Call `plt.subplots` with the shared style and, if given, a title above all panels."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*args, layout="constrained", **options)
    if title:
        figure.suptitle(escape_math(title))
    return figure, axes


def mosaic(layout: Sequence[Sequence[str]], **options) -> tuple[Figure, dict[str, Axes]]:
    """Call `plt.subplot_mosaic` with the shared style; rows follow one another without a space."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplot_mosaic(layout, layout="constrained", **options)
    figure.get_layout_engine().set(hspace=0, wspace=0.04)
    return figure, axes


def shorten(text: str, width: int = 42) -> str:
    """Replace the middle of a longer text by an ellipsis: the ends of names are what tells variants apart."""
    if len(text) <= width:
        return text
    end = width // 3
    return f"{text[: width - end - 1]}…{text[-end:]}"


def escape_math(text: object) -> str:
    """Escape `$`, so that matplotlib shows the text as written and does not read it as mathematics.

    Control characters, which no font has, become U+FFFD; line ends stay.
    """
    shown = [c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in str(text)]
    return "".join(shown).replace("$", r"\$")


def add_legend(figure: Figure, handles: Sequence, names: Sequence[str]) -> None:
    """Add one legend for all panels below the figure."""
    columns = min(len(names), max(1, int(figure.get_figwidth() / 1.5)))
    names = [escape_math(name) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)


def write_cells(axis: Axes, values: np.ndarray, highest: float) -> None:
    """Write each finite value of a heatmap (R, C) into its cell, in white where the cell is dark."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * highest else "black"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)


def label_line_ends(axis: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line beside its end (x, y, name, colour). Move overlapping labels apart."""
    is_log = axis.get_yscale() == "log"
    low, high = np.log(axis.get_ylim()) if is_log else axis.get_ylim()
    gap = (high - low) * 0.065
    height = -np.inf
    for n, (x, y, name, colour) in enumerate(sorted(ends, key=lambda end: end[1])):
        # Leave room above for the remaining labels, so that the highest stays inside the axes.
        height = max(min(np.log(y) if is_log else y, high - gap * (len(ends) - n)), height + gap)
        y = np.exp(height) if is_log else height
        axis.text(x, y, f" {escape_math(name)}", color=colour, va="center", fontsize=9)


def split_into_panels(names: Sequence[str], groups: Groups = None) -> Panels:
    """Distribute lines over panels of at most seven lines. Seven lines or fewer share one panel.

    Names that are in no group form the group "other". A group of more than seven is split evenly.
    """
    if len(names) <= len(COLOURS):
        return [("", list(names))]
    members = {title: [name for name in names if name in group] for title, group in (groups or {}).items()}
    others = [name for name in names if not any(name in group for group in members.values())]
    rest = "other" if groups else ""
    members[rest] = members.get(rest, []) + others
    return [
        (title, list(panel))
        for title, group in members.items()
        if group
        for panel in np.array_split(np.array(group, object), -(-len(group) // len(COLOURS)))
    ]


def panel_grid(charts: int, panels: Panels, *, title: str = "") -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (charts, panels), with one row per chart. Panels of one chart share the y axis.

    With one panel, the charts are side by side instead.
    """
    if len(panels) == 1:
        figure, axes = subplots(1, charts, figsize=(3 + 4 * charts, 4), squeeze=False, title=title)
        return figure, axes.T
    size = (1 + 4 * len(panels), 0.4 + 3.3 * charts)
    return subplots(charts, len(panels), figsize=size, sharey="row", squeeze=False, title=title)


def draw_curves(
    axes: Sequence[Axes],
    panels: Panels,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    bottom: float | None = None,
    **line_options,
) -> None:
    """Draw curves (name -> x, y): those of a panel in colour, those of the other panels in grey behind them."""
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in (name for name in curves if name not in names):
            axis.plot(*curves[name], color=GREY, lw=0.8, zorder=1, **line_options | {"marker": None})
        for name, colour in zip(names, COLOURS, strict=False):
            axis.plot(*curves[name], color=colour, lw=1.3, **line_options)
        axis.set_title(escape_math(title), fontsize=10)
    axes[0].set_ylim(bottom=bottom)
    # All labels start at the end of the longest curve, where no curve crosses them.
    end = max(x[-1] for x, _ in curves.values())
    for axis, (_, names) in zip(axes, panels, strict=True):
        lines = zip(names, COLOURS, strict=False)
        label_line_ends(axis, [(end, curves[name][1][-1], name, colour) for name, colour in lines])
