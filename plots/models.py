"""Schematic drawings of the models."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from plots import style


def draw_model(title: str, blocks: Sequence[str], notes: Mapping[int, str] | None = None) -> Figure:
    """Draw a model as a row of boxes, from the session to the scores.

    notes: index of a box -> text below it. Blocks and notes may contain mathematics between dollar signs.
    """
    figure, axis = style.subplots(figsize=(min(13, 2.3 * len(blocks)), 1.9))
    for i, block in enumerate(blocks):
        is_end = i in (0, len(blocks) - 1)
        box = {"boxstyle": "round,pad=0.03", "facecolor": "#EEEEEE" if is_end else "#D6EAF8"}
        axis.add_patch(FancyBboxPatch((i + 0.08, 0.3), 0.74, 0.42, edgecolor=style.COLOURS[0], **box))
        axis.text(i + 0.45, 0.51, block, ha="center", va="center", fontsize=9)
        if i:
            axis.annotate("", (i + 0.05, 0.51), (i - 0.14, 0.51), arrowprops={"arrowstyle": "-|>", "lw": 1.2})
        if notes and i in notes:
            axis.text(i + 0.45, 0.16, notes[i], ha="center", va="center", fontsize=8, style="italic")
    axis.set(xlim=(0, len(blocks)), ylim=(0, 0.95), title=style.escape_math(title))
    axis.axis("off")
    return figure
