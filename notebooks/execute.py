"""Execute notebooks in place, from top to bottom: `make notebooks NOTEBOOK=2_NARM` (default: all of them).

Live progress bars, which are blank when nothing runs, and the marks of the run are not kept. Of a widget only its
text is kept.
"""

import sys
from pathlib import Path

import nbformat
import papermill

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dataset.files import replacing  # noqa: E402


def execute(path: Path, **parameters) -> None:
    """Run one notebook and keep its outputs. An error leaves the file as it was."""
    notebook = papermill.execute_notebook(path, None, parameters=parameters, cwd=path.parent)
    clean(notebook)
    with replacing(path) as part:  # a full disk keeps the notebook as it was
        nbformat.write(notebook, part)


def clean(notebook) -> None:
    """Remove run marks and widgets: of a cell's value the text stays, while progress bars are dropped."""
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    widget = "application/vnd.jupyter.widget-view+json"
    for cell in notebook.cells:
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.data.pop(widget, None)
            cell.outputs = [output for output in cell.outputs if widget not in output.get("data", {})]


def main(name: str) -> None:
    paths = [*sorted(ROOT.glob("notebooks/[0-9]_*.ipynb")), ROOT / "get_final_result.ipynb"]
    chosen = [path for path in paths if name in path.name]
    if not chosen:
        sys.exit(f"no notebook has {name!r} in its name; there are {', '.join(path.stem for path in paths)}")
    for path in chosen:
        print(path.relative_to(ROOT), flush=True)
        execute(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
