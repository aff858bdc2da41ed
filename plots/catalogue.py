"""Figures of the items: how recommendations spread over the catalogue, and a map of the embeddings."""

import numpy as np
from matplotlib.figure import Figure

from plots import style


def plot_concentration(items: np.ndarray, popularity: np.ndarray, *, title: str = "") -> Figure:
    """Plot how often each item is recommended against how often it occurs in the training data.

    items (Q, k): recommended items as encoded ids. popularity (n + 1,): occurrences of each encoded id.
    """
    occurrences = popularity[1:]
    recommended = np.bincount(items.ravel(), minlength=len(popularity))[1:]
    figure, axes = style.subplots(1, 2, figsize=(11, 3.2), title=title)
    axes[0].scatter(occurrences, recommended, s=5, alpha=0.4, color=style.COLOURS[0], edgecolors="none")
    axes[0].set(xscale="symlog", yscale="symlog")
    axes[0].set(xlabel="times in the training data", ylabel=f"times in a top {items.shape[1]}")
    lines = []
    for counts, name, colour in (
        (recommended, "recommended", style.COLOURS[0]),
        (occurrences, "in the training data", style.COLOURS[1]),
    ):
        share = np.sort(counts)[::-1].cumsum() / max(1, counts.sum())
        axes[1].plot(np.arange(1, len(share) + 1) / len(share), share, color=colour)
        lines.append((share[int(0.3 * len(share))], name, colour))
    # The name of the lower line is below it, that of the upper line above it.
    sides = (((8, -14), "left"), ((-8, 6), "right"))
    for (height, name, colour), (offset, align) in zip(sorted(lines), sides, strict=True):
        options = {"xytext": offset, "textcoords": "offset points", "ha": align}
        axes[1].annotate(name, (0.3, height), color=colour, **options)
    axes[1].set(xlabel="share of the items, most frequent first", ylabel="share of all occurrences")
    return figure


def plot_map(vectors: np.ndarray, popularity: np.ndarray, *, title: str = "") -> Figure:
    """Plot items along their first two principal components, coloured by popularity.

    vectors (n, D): item embeddings. popularity (n,): occurrences in the training data.
    """
    centred = vectors - vectors.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    variance = lengths**2 / (lengths**2).sum()
    figure, axis = style.subplots(figsize=(6.5, 5), title=title)
    order = np.argsort(popularity)  # popular items are drawn last, on top
    colours = np.log10(popularity[order] + 1)
    points = axis.scatter(*(centred[order] @ directions[:2].T).T, c=colours, s=4, cmap="cividis")
    bar = figure.colorbar(points, ax=axis, label="times in the training data")
    ticks = 10 ** np.arange(0, np.floor(colours.max()) + 1)
    bar.set_ticks(np.log10(ticks + 1), labels=[f"{tick:,.0f}" for tick in ticks])
    axis.set(xlabel=f"first principal component ({variance[0]:.1%} of the variance)")
    axis.set(ylabel=f"second ({variance[1]:.1%})")
    return figure
