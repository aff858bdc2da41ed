"""Every command of the README runs, and its tables say what the notebooks and the saved runs say."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODELS = ["GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT"]
METRICS = ["HR@5", "HR@20", "MRR@5", "MRR@20", "accuracy"]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = list(dict.fromkeys(line for block in blocks("bash") for line in block.splitlines() if line))
PYTHON_COMMANDS = [c for c in COMMANDS if c.startswith((".venv/bin/python ", ".venv/bin/torchrun "))]
MAKE_COMMANDS = [c for c in COMMANDS if c.startswith("make ")]
SETUP_COMMANDS = [
    "python3 -m venv .venv",
    ".venv/bin/pip install -r requirements.txt -c constraints.txt",
    ".venv/bin/jupyter lab",
]


def test_no_command_goes_untested():
    assert sorted(COMMANDS) == sorted(PYTHON_COMMANDS + MAKE_COMMANDS + SETUP_COMMANDS)


def test_python_commands_run_in_their_order(project_copy):
    for command in PYTHON_COMMANDS:
        words = shlex.split(command)
        launcher = ["-m", "torch.distributed.run"] if words[0].endswith("torchrun") else []
        words[:1] = [sys.executable, *launcher]
        if "train.py" in words:
            words += ["--epochs", "1"]
        done = subprocess.run(words, cwd=project_copy, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if "--json" in words and "recommend.py" in words:
            assert json.loads(done.stdout)["queries"] == 600
    assert len((project_copy / "results" / "narm.csv").read_text().splitlines()) == 601
    with open(project_copy / "results" / "shop.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["session", "predict"] and len(rows) == 360
    assert all(len(json.loads(predict)) == 5 for _, predict in rows)
    assert all(name.startswith("category-") for row in rows for cell in row for name in json.loads(cell))
    assert (project_copy / "checkpoints" / "Again" / "items.csv").exists()
    assert (project_copy / "checkpoints" / "two.safetensors").exists()
    assert json.loads((project_copy / "checkpoints" / "narm.json").read_text())["model"] == "NARM"


@pytest.mark.parametrize("command", MAKE_COMMANDS)
def test_make_command_has_a_target(command):
    """What the targets run is tested on its own (this test is run by one of them)."""
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_setup_commands_name_what_exists():
    assert (ROOT / "requirements.txt").exists() and (ROOT / "constraints.txt").exists()
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "lab", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip()


def test_python_example_runs(project_copy):
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 5
    done = subprocess.run([sys.executable, "-c", example], cwd=project_copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 sessions: 2 known")


def test_a_model_is_added_by_a_file_and_its_name(project_copy, tmp_path):
    """The README's example, in a copy: trained, recommending, planned for tuning and comparison."""
    copy = tmp_path / "project"
    shutil.copytree(project_copy, copy)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (example,) = blocks("py")
    (copy / "models" / "MeanOfItems.py").write_text(example)
    names = copy / "models" / "__init__.py"
    names.write_text(names.read_text().replace('"SASRec"', '"SASRec", "MeanOfItems"'))
    program = """
import compare, tune
from models import NEURAL_MODELS, build_model
from train import train_model
run = train_model("Demo", "MeanOfItems", epochs=4, progress=False)
popularity = train_model("Demo", "Popularity", progress=False)
assert run.metrics["test"]["MRR@20"] > 2 * popularity.metrics["test"]["MRR@20"]
run.save("checkpoints/mean.safetensors")
assert "MeanOfItems" in tune.SPACES
assert [p for p in compare.honest_plans("demo") if p.model == "MeanOfItems"]
"""
    commands = [
        ["-m", "pytest", "-q", "tests/test_models.py", "tests/test_explorer.py", "-k", "MeanOfItems"],
        ["-c", program],
        ["recommend.py", "--checkpoint", "checkpoints/mean.safetensors"]
        + ["--evaluate", "dataset/Demo/test_sessions.csv", "--json"],
    ]
    for command in commands:
        done = subprocess.run([sys.executable, *command], cwd=copy, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["model"] == "MeanOfItems"


def test_every_file_of_the_layout_exists():
    names = re.findall(r"`([\w./]+)`", README.split("## Layout")[1].split("## Development")[0])
    paths = [name for name in names if "/" in name or "." in name]
    assert len(paths) > 10
    assert not [path for path in paths if not path.startswith(".") and not (ROOT / path).exists()]


def table_rows(heading):
    section = README.split(heading)[1].split("\n\n")[1]
    return {row.split("|")[1].strip(): row.strip() for row in section.splitlines()[2:]}


@pytest.mark.parametrize("model", MODELS)
def test_beauty_table_is_what_the_notebook_shows(model):
    (path,) = (ROOT / "notebooks").glob(f"?_{model}.ipynb")
    cells = nbformat.read(path, 4).cells
    shown = "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))
    row = table_rows("**Beauty**")[model]
    assert row in shown.splitlines()


@pytest.mark.parametrize("model", MODELS)
def test_cell_table_is_what_the_saved_runs_hold(model):
    files = (ROOT / "results" / "runs").glob(f"{model}_cell_user_best_0_*.json")
    runs = [json.loads(file.read_text()) for file in files]
    assert sorted(run["seed"] for run in runs) == [0, 1, 2]
    assert {(run["dataset"], run["split"], run["split_seed"], run["recipe"]) for run in runs} == {
        ("Amazon_Cell", "user", 0, "best")
    }
    values = np.array([[run["metrics"]["test"][name] for name in METRICS] for run in runs])
    cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(values.mean(0), values.std(0), strict=True)]
    assert table_rows("**Cell**")[model] == f"| {model} | " + " | ".join(cells) + " |"
