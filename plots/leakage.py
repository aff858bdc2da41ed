"""Figure of the leakage of a row split."""

import numpy as np
from matplotlib.figure import Figure

from plots import style


def plot_leak(leaked: np.ndarray, lengths: np.ndarray, *, title: str = "") -> Figure:
    """Plot the share of validation rows that the training data also contains, in total and by length.

    leaked (Q,): whether the pair (session, next item) is in the training data. lengths (Q,): session lengths.
    The total is shown as the number of filled squares out of a hundred.
    """
    figure, axes = style.subplots(1, 2, figsize=(9, 3.2), width_ratios=[1, 1.6], title=title)
    filled = round(100 * leaked.mean())
    index = np.arange(100)
    colours = np.where(index < filled, style.COLOURS[1], "#DDDDDD")
    axes[0].scatter(index % 10, -(index // 10), s=130, marker="s", color=colours)
    axes[0].set_title(f"{filled} of 100 validation rows\nare also training rows", fontsize=10)
    axes[0].axis("off")
    axes[0].set_aspect("equal")
    values = np.unique(lengths)
    bars = axes[1].bar(values, [leaked[lengths == n].mean() for n in values], color=style.COLOURS[1])
    axes[1].bar_label(bars, fmt="%.2f", padding=2, fontsize=9)
    axes[1].set(xlabel="session length (items)", ylabel="share in the training rows")
    axes[1].set(xticks=values, ylim=(0, 1))
    axes[1].grid(axis="x", visible=False)
    return figure
