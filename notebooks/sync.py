"""Copy what the notebooks share: `make sync`.

A cell tagged `shared` is a copy of the cell with the same id in 0_GRU4REC.ipynb. A cell tagged `model` is a copy of
the file in models/ with the notebook's name. Cells whose source is unchanged keep their outputs.
"""

import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dataset.files import replacing  # noqa: E402


def differing_cells(path: Path, notebook, shared: dict[str, str]) -> dict[str, str]:
    """Cell id -> the source that it should have, for each shared or model cell that has another one."""
    sources = {}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "shared" in tags:
            sources[cell.id] = shared[cell.id]
        elif "model" in tags:
            file = HERE.parent / "models" / f"{path.stem.split('_')[1]}.py"
            sources[cell.id] = file.read_text(encoding="utf-8").rstrip("\n")
    return {cell.id: sources[cell.id] for cell in notebook.cells if cell.source != sources.get(cell.id, cell.source)}


def notebooks() -> dict[Path, object]:
    """Every notebook of this folder, by path; the first one is the source of the shared cells."""
    return {path: nbformat.read(path, as_version=4) for path in sorted(HERE.glob("[0-9]_*.ipynb"))}


def shared_cells(first) -> dict[str, str]:
    """Cell id -> source of the cells tagged `shared`."""
    return {cell.id: cell.source for cell in first.cells if "shared" in cell.metadata.get("tags", [])}


def main() -> None:
    found = notebooks()
    shared = shared_cells(next(iter(found.values())))
    for path, notebook in found.items():
        differing = differing_cells(path, notebook, shared)
        for cell in (cell for cell in notebook.cells if cell.id in differing):
            cell.source = differing[cell.id]
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        if differing:
            with replacing(path) as part:  # a full disk keeps the notebook as it was
                nbformat.write(notebook, part)
            print(f"{path.name}: {', '.join(differing)}")


if __name__ == "__main__":
    main()
