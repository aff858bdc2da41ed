"""Every command of the README runs, and its tables say what the saved runs say."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import compare
from process_data import AMAZON

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def test_every_picture_exists_says_what_it_shows_and_is_small():
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    assert len(pictures) >= 2
    assert sorted(path for _, path in pictures) == sorted(
        path.relative_to(ROOT).as_posix() for path in (ROOT / "images").iterdir()
    )
    for text, path in pictures:
        assert len(text) > 20 and (ROOT / path).read_bytes().startswith(b"\x89PNG")
        assert (ROOT / path).stat().st_size < 400_000


@pytest.mark.parametrize(("dataset", "name"), AMAZON.items())
def test_results_table_is_what_the_saved_runs_hold(dataset, name):
    plans = list(compare.honest_plans(dataset))
    runs = compare.load_results(plans)
    assert len(runs) == len(plans)
    assert f"**{name}**" in README and compare.readme_table(runs) in README
