"""The notebooks: generated from one source, committed with clean outputs, run from top to bottom on Demo."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ON_DEMO, TRAINED_ON_DEMO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
import make_notebooks  # noqa: E402

NOTEBOOKS = [
    "notebooks/0_GRU4REC.ipynb",
    "notebooks/1_SRGNN.ipynb",
    "notebooks/2_NARM.ipynb",
    "notebooks/3_GRUwATT.ipynb",
    "notebooks/4_GGNNwATT.ipynb",
    "notebooks/5_comparison.ipynb",
    "notebooks/6_tuning.ipynb",
    "get_final_result.ipynb",
]
MODEL_NOTEBOOKS = NOTEBOOKS[:5]


def read(name):
    return nbformat.read(ROOT / name, 4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_is_the_generated_one(name):
    generated = make_notebooks.notebooks()[ROOT / name]
    committed = read(name)
    assert [c.source for c in committed.cells] == [c.source for c in generated.cells]
    assert [c.metadata.get("tags") for c in committed.cells] == [
        c.metadata.get("tags") for c in generated.cells
    ]


def test_the_five_share_their_cells():
    sources = {name: [c.source for c in read(name).cells] for name in MODEL_NOTEBOOKS}
    shared = set.intersection(*(set(cells) for cells in sources.values()))
    headings = ("## Setup", "## Data", "## Model", "## Training", "## Evaluation", "## What it", "## Saving")
    for heading in headings:
        cells = {next(c for c in cells if c.startswith(heading)) for cells in sources.values()}
        after = {cells[[c.startswith(heading) for c in cells].index(True) + 1] for cells in sources.values()}
        assert len(cells) == 1 and len(after) == 1, heading
    assert all(len(shared) >= 0.6 * len(cells) for cells in sources.values())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_one_parameters_cell_and_short_cells(name):
    tagged = [c for c in code_cells(name) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and "DATASET" in tagged[0].source
    assert all(len(c.source.splitlines()) <= 15 for c in code_cells(name))
    wide = [line for c in code_cells(name) for line in c.source.splitlines() if len(line) > 104]
    assert not wide, "a reader would have to scroll sideways"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_opened_in_another_folder_it_says_so(name, tmp_path):
    first = code_cells(name)[0].source.replace("%matplotlib inline\n", "")
    here, elsewhere = (
        subprocess.run([sys.executable, "-c", first], cwd=folder, capture_output=True, text=True)
        for folder in ((ROOT / name).parent, tmp_path)
    )
    assert here.returncode == 0 and not here.stderr
    assert elsewhere.stderr.splitlines()[-1].startswith(
        "FileNotFoundError: Open this notebook where it lies, in the collection's folder"
    )


def texts_of(output):
    yield output.get("text", "")
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield value


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_are_of_one_clean_run(name):
    cells = code_cells(name)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    text = "\n".join(t for o in outputs for t in texts_of(o))
    assert not re.search(r"/(home|root|Users|tmp|work|opt|usr)/", text)
    assert (ROOT / name).stat().st_size < 2 << 20


GENERATED = sorted(path.relative_to(ROOT).as_posix() for path in make_notebooks.notebooks())


@pytest.mark.parametrize("name", GENERATED)
def test_notebook_runs_on_demo(name, project_copy):
    nbformat.write(make_notebooks.notebooks()[ROOT / name], project_copy / name)
    executed = papermill.execute_notebook(
        project_copy / name,
        project_copy / "executed.ipynb",
        parameters=ON_DEMO.get(Path(name).stem, TRAINED_ON_DEMO),
        cwd=(project_copy / name).parent,
        progress_bar=False,
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"], "a warning where a reader would see it"
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
    # Progress bars in a notebook are widgets; training shows them live.
    if name in MODEL_NOTEBOOKS:
        assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
