"""The notebooks: shared cells are in sync, committed outputs are clean, and all cells run on Demo."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ON_DEMO, TRAINED_ON_DEMO

from dataset.files import ROOT
from sessionrec.recipes import load_recipe

sys.path.insert(0, str(ROOT / "notebooks"))
import execute
import sync

REPORTED = ("GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT")
MODEL_NOTEBOOKS = [f"notebooks/{i}_{m}.ipynb" for i, m in enumerate(REPORTED)]
OTHERS = ["notebooks/5_comparison.ipynb", "notebooks/6_tuning.ipynb", "notebooks/8_your_own_model.ipynb"]
NOTEBOOKS = [*MODEL_NOTEBOOKS, *OTHERS, "get_final_result.ipynb"]


def read(name):
    return nbformat.read(ROOT / name, 4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def parameters_of(name):
    (cell,) = [cell for cell in code_cells(name) if "parameters" in cell.metadata.get("tags", [])]
    values = {}
    exec(cell.source, values)
    return values


def test_every_notebook_is_tested():
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/[0-9]_*.ipynb")}
    assert found | {"get_final_result.ipynb"} == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS[:-1])
def test_committed_shared_cells_are_in_sync(name):
    notebook, shared = read(name), sync.shared_cells(read(MODEL_NOTEBOOKS[0]))
    differing = sync.differing_cells(ROOT / name, notebook, shared)
    assert not differing, f"{name}, cell {min(differing)!r} differs: edit 0_GRU4REC.ipynb or models/, run `make sync`"
    ids = {cell.id for cell in notebook.cells}
    assert ids >= (shared.keys() | {"model"} if name in MODEL_NOTEBOOKS else {"setup"})


def test_sync_copies_shared_cells_and_the_class_and_keeps_other_outputs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(ROOT / "models", tmp_path / "models")
    monkeypatch.setattr(sync, "HERE", tmp_path / "notebooks")
    paths = list(sync.notebooks())
    before = [path.read_bytes() for path in paths]
    sync.main()
    assert [path.read_bytes() for path in paths] == before  # nothing differs, so no file is written
    first = nbformat.read(paths[0], 4)
    next(cell for cell in first.cells if cell.id == "training").source += "\n# a note"
    nbformat.write(first, paths[0])
    narm = tmp_path / "models" / "NARM.py"
    narm.write_text(narm.read_text() + "\n# another\n")
    sync.main()
    cells = {cell.id: cell for cell in nbformat.read(paths[2], 4).cells}
    assert cells["training"].source.endswith("\n# a note") and cells["training"].outputs == []
    assert cells["model"].source.endswith("\n# another")
    old = {cell.id: cell for cell in read(MODEL_NOTEBOOKS[2]).cells}
    assert cells["evaluation"] == old["evaluation"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_saving_a_notebook_unchanged_leaves_no_diff(name, tmp_path):
    nbformat.write(read(name), tmp_path / "saved.ipynb")
    assert (tmp_path / "saved.ipynb").read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.parametrize("name", MODEL_NOTEBOOKS)
def test_committed_hyperparameters_are_the_recipe_of_beauty(name):
    parameters, model = parameters_of(name), Path(name).stem.split("_")[1]
    recipe = load_recipe("best", model, "beauty")
    assert parameters["DATASET"] == "Amazon_Beauty" and parameters["NAME"] == model
    assert parameters["MODEL"] == recipe.model
    defaults = {"weight_decay": 0.0, "graph_smoothing": 0.0, "schedule": "onecycle"}
    options = {key: parameters.get(key.upper(), defaults.get(key)) for key in defaults | recipe.fit}
    assert options == defaults | recipe.fit
    assert recipe.data == {"dataset": "TrainDataset", "fold": True, "weights": "once"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_cells_are_short(name):
    for cell in code_cells(name):
        lines = cell.source.splitlines()
        if "model" not in cell.metadata.get("tags", []):
            assert len(lines) <= 17, (name, cell.id, len(lines))
            wide = [line for line in lines if len(line) > 124]
            assert not wide, "a reader would have to scroll sideways"


def test_committed_repository_is_named_the_same_everywhere():
    address = re.search(r"repository-code: (\S+)", (ROOT / "CITATION.cff").read_text())[1]
    named = {re.search(r'REPOSITORY = "(.*)"', code_cells(name)[0].source)[1] for name in NOTEBOOKS}
    assert named == {address}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_without_the_modules_says_how_to_get_them(name, tmp_path):
    first = code_cells(name)[0].source.replace("%matplotlib inline\n", "")
    first = re.sub(r"^    [!%].*\n", "    pass\n", first, flags=re.MULTILINE)
    here, elsewhere = (
        subprocess.run([sys.executable, "-c", first], cwd=folder, capture_output=True, text=True)
        for folder in ((ROOT / name).parent, tmp_path)
    )
    assert here.returncode == 0 and not here.stderr
    assert "FileNotFoundError: The modules of the collection are missing. Set BOOTSTRAP = True" in elsewhere.stderr
    assert "git clone https://" in elsewhere.stderr and "pip install -r" in elsewhere.stderr


def test_the_executed_copy_finds_the_collection(project_copy):
    """The setup cell, run again from results/ as in the executed copy, goes to the collection's folder."""
    notebook = read("get_final_result.ipynb")
    check = nbformat.v4.new_code_cell(
        "import process_data\nprint(Path.cwd().name, Path(process_data.__file__).parent.name)"
    )
    notebook.cells = [*(cell for cell in notebook.cells if cell.id == "setup"), check]
    (project_copy / "results").mkdir(exist_ok=True)
    path = project_copy / "results" / "copy.ipynb"
    nbformat.write(notebook, path)
    executed = papermill.execute_notebook(path, None, cwd=path.parent, progress_bar=False)
    (output,) = executed.cells[-1].outputs
    assert output["text"] == f"{project_copy.name} {project_copy.name}\n"


def test_bootstrap_installs_the_packages_that_a_hosted_runtime_lacks():
    """Colab has torch, numpy, pandas, matplotlib, scipy, requests, tqdm and Jupyter."""
    hosted = {"torch", "numpy", "pandas", "matplotlib", "scipy", "requests", "tqdm", "jupyter"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]} - hosted
    for name in NOTEBOOKS:
        assert set(re.search(r"%pip install --quiet (.*)", code_cells(name)[0].source)[1].split()) == needed


def texts_of(output):
    yield output.get("text", "")
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield value


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_outputs_come_from_one_clean_run(name):
    cells = code_cells(name)
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    text = "\n".join(t for o in outputs for t in texts_of(o))
    assert not re.search(r"/(home|root|Users|tmp|work|opt|usr)/", text)
    assert (ROOT / name).stat().st_size < 2 << 20


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_on_demo(name, project_copy):
    notebook = read(name)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, project_copy / name)
    executed = papermill.execute_notebook(
        project_copy / name,
        project_copy / f"executed-{Path(name).name}",
        parameters=ON_DEMO.get(Path(name).stem, TRAINED_ON_DEMO),
        cwd=(project_copy / name).parent,
        progress_bar=False,
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"], "a warning where a reader would see it"
    assert any("image/png" in o.get("data", {}) for o in outputs)
    execute.clean(executed)
    assert not [o for c in executed.cells for o in c.get("outputs", []) if "widget-view" in str(o.get("data", {}))]


def test_the_text_of_a_widget_stays_and_progress_bars_go():
    kernel = {"name": "python3", "display_name": "Python 3"}
    data = {"text/plain": "needs a kernel", "application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    outputs = [nbformat.v4.new_output(kind, data=data) for kind in ("display_data", "execute_result")]
    outputs.append(nbformat.v4.new_output("display_data", data={"text/plain": "a table"}))
    cell = nbformat.v4.new_code_cell("explorer", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    execute.clean(notebook)
    assert [output.data for output in cell.outputs] == [{"text/plain": "needs a kernel"}, {"text/plain": "a table"}]
    assert notebook.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}


def test_an_edited_class_is_trained_saved_and_used(project_copy):
    """The edit halves the output of NARM's local encoder. Nothing else in the notebook is changed."""
    notebook = read("notebooks/2_NARM.ipynb")
    (cell,) = [cell for cell in notebook.cells if cell.id == "model"]
    assert "self.decode(h, self.attention_weights(h) @ h)" in cell.source
    cell.source = cell.source.replace("self.attention_weights(h) @ h)", "0 * h)")
    cell.source = cell.source.replace("class NARM(SessionModel):", "class NARM(SessionModel):\n    edited = True\n")
    check = nbformat.v4.new_code_cell(
        "assert type(model).edited and type(loaded.model).edited and type(trained.model).edited\n"
        "x = torch.tensor([[1, 2, 3]])\n"
        "assert torch.equal(model.eval().last_state(x), model(x)[:, -1])\n"
        "try:\n    load_checkpoint(path)\nexcept ValueError as error:\n    print(error)"
    )
    notebook.cells.append(check)
    path = project_copy / "notebooks" / "edited.ipynb"
    nbformat.write(notebook, path)
    executed = papermill.execute_notebook(path, None, parameters=TRAINED_ON_DEMO, cwd=path.parent, progress_bar=False)
    assert "holds a NARM that was defined or changed outside of models/" in executed.cells[-1].outputs[0]["text"]


def test_the_stop_button_ends_the_loop_over_seeds_and_the_seed_is_ignored(project_copy):
    """The second seed is interrupted after its first epoch, as by the kernel's stop button."""
    notebook = read("notebooks/0_GRU4REC.ipynb")
    stop = (
        "import _thread\nfrom functools import partial\n\n"
        "def press_stop(history):\n    if seed == 1 and len(history.rows) == 1:\n        _thread.interrupt_main()\n\n"
        "fit = partial(fit, callbacks=[press_stop])"
    )
    index = [cell.id for cell in notebook.cells].index("training")
    notebook.cells.insert(index, nbformat.v4.new_code_cell(stop))
    notebook.cells.append(
        nbformat.v4.new_code_cell(
            "print(list(models), {s: (len(h.rows), h.interrupted) for s, h in histories.items()},"
            " list(results.loc['test'].index))"
        )
    )
    path = project_copy / "notebooks" / "stopped.ipynb"
    nbformat.write(notebook, path)
    parameters = TRAINED_ON_DEMO | {"SEEDS": [0, 1, 2], "EPOCHS": 2}
    executed = papermill.execute_notebook(path, None, parameters=parameters, cwd=path.parent, progress_bar=False)
    assert executed.cells[-1].outputs[0]["text"] == "[0] {0: (2, False), 1: (1, True)} [0]\n"
