"""The README and the executed notebooks as a small static site: `make site`, then open site/index.html.

Nothing in it is loaded from elsewhere, and no script runs: formulas are MathML.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import shutil
import sys
from pathlib import Path

import latex2mathml.converter
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from process_data import ROOT

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; }
pre, code { background: #f5f5f5; font-size: 0.9em; } pre { padding: 0.7rem; overflow-x: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.cards a { border: 1px solid #ccc; padding: 0.7rem; text-decoration: none; color: inherit; }
.cards img { width: 100%; height: 9rem; object-fit: contain; }
a { color: #0072B2; } .anchor-link { display: none; } p img { max-width: 100%; }
"""
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+?)\$(?!\w)", re.DOTALL)
CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def take_formulas(markdown: str, formulas: list[str]) -> str:
    """Markdown with a mark for every $formula$, whose MathML is appended to `formulas`; code stays as it is.

    The MathML itself would not survive nbconvert, which closes every HTML tag that it meets in Markdown.
    """

    def take(match: re.Match) -> str:
        display = "inline" if match[1] is None else "block"
        formulas.append(latex2mathml.converter.convert(match[1] or match[2], display=display))
        return f"{{formula {len(formulas) - 1}}}"

    parts = CODE.split(markdown)  # code has the odd places
    return "".join(part if i % 2 else FORMULA.sub(take, part) for i, part in enumerate(parts))


def put_formulas(page: str, formulas: list[str]) -> str:
    """HTML with the formulas where their marks are."""
    return re.sub(r"\{formula (\d+)\}", lambda match: formulas[int(match[1])], page)


def without_scripts(page: str) -> str:
    """HTML with no script, and nothing to be fetched from another place."""
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL | re.IGNORECASE)
    page = re.sub(r"<link\b[^>]*\bhref=[\"']?https?:[^>]*>", "", page, flags=re.IGNORECASE)
    return re.sub(r"@import\s+(url\()?[\"']?https?:[^;]*;", "", page)


def notebook_page(path: Path) -> str:
    """One executed notebook as HTML."""
    notebook = nbformat.read(path, 4)
    formulas: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = take_formulas(cell.source, formulas)
    exporter = HTMLExporter(embed_images=True)
    page, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    back = '<p style="margin: 1rem 2rem"><a href="index.html">All notebooks</a></p>'
    page = without_scripts(re.sub(r"(<body[^>]*>)", rf"\1{back}", page, count=1))
    return put_formulas(page, formulas)


def thumbnail(path: Path) -> bytes | None:
    """The last picture of a notebook: the first ones draw the model."""
    pictures = [
        output["data"]["image/png"]
        for cell in nbformat.read(path, 4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(pictures[-1]) if pictures else None


def page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def make_site(folder: Path) -> list[Path]:
    """Write the site; returns its pages. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    notebooks = [*sorted((ROOT / "notebooks").glob("[0-9]_*.ipynb")), ROOT / "get_final_result.ipynb"]
    written, cards = [], []
    for path in notebooks:
        target = folder / f"{path.stem}.html"
        target.write_text(notebook_page(path), encoding="utf-8")
        written.append(target)
        picture = thumbnail(path)
        image = ""
        if picture:
            (folder / f"{path.stem}.png").write_bytes(picture)
            image = f'<img src="{path.stem}.png" alt="a figure of {path.stem}">'
        cards.append(f'<a href="{target.name}">{image}<br>{html.escape(path.stem.replace("_", " "))}</a>')
    shutil.copytree(ROOT / "images", folder / "images", dirs_exist_ok=True)  # the README's
    for name in ("README.md", "README.zh-CN.md"):
        text = re.sub(r"\]\((README[\w.-]*)\.md\)", r"](\1.html)", (ROOT / name).read_text(encoding="utf-8"))
        target = folder / f"{Path(name).stem}.html"
        target.write_text(page(name, without_scripts(markdown2html(text))), encoding="utf-8")
        written.append(target)
    title = readme.splitlines()[0].lstrip("# ")
    results = readme.split("## Results")[1].split("## Two commands")[0]
    body = f"<h1>{html.escape(title)}</h1>"
    body += '<p><a href="README.html">README</a> · <a href="README.zh-CN.html">中文</a></p>'
    body += f'<div class="cards">{"".join(cards)}</div><h2>Results</h2>{markdown2html(results)}'
    index = folder / "index.html"
    index.write_text(page(title, body), encoding="utf-8")
    return [index, *written]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "site")
    args = parser.parse_args(argv)
    try:
        pages = make_site(args.output)
    except OSError as error:
        print(f"make_site.py: {error}", file=sys.stderr)
        return 1
    print(f"{pages[0]}: {len(pages)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
