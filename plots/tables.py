"""Tables as plain HTML: bold cells stay bold in a notebook that is not trusted, where styles are removed.

Names of datasets, models and items may be anything. `escape_html` is the one place where text becomes HTML, and
`escape_markdown` where it becomes Markdown; `style.escape_math` does the same for figures.
"""

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Number

import numpy as np
import pandas as pd

# JupyterLab reads $...$ in a table as mathematics, unless the table has one of these classes. pandas adds them and
# escapes HTML itself.
_NO_MATHEMATICS = "tex2jax_ignore mathjax_ignore"
pd.set_option("display.html.use_mathjax", False)


def escape_html(text: object) -> str:
    """Text as HTML that shows it as it is. Mathematics is excluded by the class of the table."""
    return html.escape(str(text))


def escape_markdown(text: object) -> str:
    """Text as Markdown that shows it as it is, in one line. Anything but letters, digits and . , - becomes code."""
    line = " ".join(str(text).split())
    # A character reference has no meaning in Markdown, and JupyterLab reads no mathematics in <code>.
    escaped = re.sub(r"[^\w\s.,-]|_", lambda match: f"&#{ord(match[0])};", line)
    return line if escaped == line else f"<code>{escaped}</code>"


@dataclass(frozen=True)
class HtmlTable:
    """A table that a notebook shows as HTML; elsewhere it is printed as text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def _header_rows(labels: pd.Index) -> list[list[str]]:
    """Return the levels of each label as strings, empty where they repeat the label before."""
    rows, previous = [], ()
    for label in labels:
        levels = label if isinstance(label, tuple) else (label,)
        repeats = [levels[: i + 1] == previous[: i + 1] for i in range(len(levels) - 1)] + [False]
        rows.append(["" if repeat else str(level) for level, repeat in zip(levels, repeats, strict=True)])
        previous = levels
    return rows


def _format(value: object, template: str) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return ""
    is_number = isinstance(value, Number) and not isinstance(value, bool)
    text = template.format(value) if is_number else str(value)
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _row(headers: Iterable[str], cells: Iterable[str] = ()) -> str:
    """An HTML row. The headers are text; the cells are HTML already."""
    titles = "".join(f"<th>{escape_html(header)}</th>" for header in headers)
    return f"<tr>{titles}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def html_table(
    frame: pd.DataFrame,
    *,
    caption: str = "",
    bold: pd.DataFrame | None = None,
    formats: str | Mapping[str, str] | None = None,
) -> HtmlTable:
    """Return the frame as an HTML table without styles or scripts. All text is escaped.

    bold: boolean frame of the same shape, True for bold cells. formats: a format string such as "{:.4f}" for
    all numbers, or column -> format string. Missing values and a default index are left out.
    """
    is_bold = np.zeros(frame.shape, bool) if bold is None else np.asarray(bold, bool)
    if is_bold.shape != frame.shape:
        raise ValueError(f"bold has the shape {is_bold.shape}, but the table has the shape {frame.shape}")
    if not isinstance(formats, str):
        templates = [(formats or {}).get(column, "{}") for column in frame.columns]
    else:
        templates = [formats] * frame.shape[1]
    columns = [frame.iloc[:, j] for j in range(frame.shape[1])]
    texts = [[_format(v, template) for v in c] for c, template in zip(columns, templates, strict=True)]

    names = ["" if name is None else str(name) for name in frame.index.names]
    index = _header_rows(frame.index)
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        names, index = [], [[] for _ in index]
    lines = [f"<caption>{escape_html(caption)}</caption>"] if caption else []
    for level, titles in enumerate(zip(*_header_rows(frame.columns), strict=True), 1):
        is_last = level == frame.columns.nlevels  # the index names are in the last row of the header
        lines.append(_row([*(names if is_last else [""] * len(names)), *titles]))
    for row, headers in enumerate(index):
        cells = [escape_html(column[row]) for column in texts]
        cells = [f"<b>{cell}</b>" if b else cell for cell, b in zip(cells, is_bold[row], strict=True)]
        lines.append(_row(headers, cells))
    text = pd.DataFrame(dict(enumerate(texts)), index=frame.index).set_axis(frame.columns, axis=1).to_string()
    table = "\n".join([f'<table class="{_NO_MATHEMATICS}">', *lines, "</table>"])
    return HtmlTable(table, f"{caption}\n{text}".lstrip("\n"))
