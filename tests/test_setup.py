"""Set-up: pinned packages, documented requirements and targets."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"([\w.-]+)==([\w.]+)")


def read_pins(file):
    """{package: version}. A line without a pinned version is an error."""
    pins = {}
    for line in (ROOT / file).read_text().splitlines():
        if not line.startswith(("#", "-r ")):
            name, version = PIN.match(line).groups()
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    return pins


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_each_requirement_has_a_version_and_a_comment(file):
    for line in (ROOT / file).read_text().splitlines():
        assert line.startswith("-r ") or re.fullmatch(rf"{PIN.pattern}\s+# \w.*", line), line


def test_constraints_agree_with_the_requirements():
    constraints = read_pins("constraints.txt")
    requirements = read_pins("requirements.txt") | read_pins("requirements-dev.txt")
    assert requirements["torch"] == "2.13.0"
    assert requirements.items() <= constraints.items()
    assert not any(name.startswith(("nvidia", "cuda", "triton")) for name in constraints)


def test_pyproject_lists_the_same_packages_with_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(line.split(">=") for line in project["dependencies"])
    pins = read_pins("requirements.txt")
    assert list(bounds) == list(pins)
    for name, bound in bounds.items():
        assert [*map(int, bound.split("."))] <= [*map(int, pins[name].split("."))], name


def test_an_unknown_make_variable_is_an_error():
    run = subprocess.run(["make", "-n", "results", "DATASTE=Demo"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "there is no variable DATASTE; the variables are" in run.stderr and " DATASET " in run.stderr


def test_make_passes_its_variables_on():
    command = ["make", "-n", "results", "DATASET=my shop", "K=10", "MODELS=GRU4REC,Ensemble"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '-m experiments.results --dataset "my shop" --k "10" --models "GRU4REC,Ensemble"' in printed
    command = ["make", "-n", "results", "EPOCHS=3", "THOROUGH=1", "BUDGET_MINUTES=2.5"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '-m experiments.results --epochs "3" --thorough --budget-minutes "2.5"' in printed
    command = ["make", "-n", "results", "THOROUGH=0"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m experiments.results \n" in printed
    lab = subprocess.run(
        ["make", "-n", "lab", "ARGS=--port 9000"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--port 9000" in lab.stdout


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    listed = [line for line in listed if not line.startswith("make[")]
    assert [line.split()[1] for line in listed] == targets
    assert all(len(line.split()) > 3 for line in listed)
    assert {"results", "test", "test-long", "lint", "lab", "notebooks", "data"} <= set(targets)


@pytest.mark.parametrize(("python", "reason"), [("no-such-python", "is not installed"), ("{old}", "is older")])
def test_unusable_python_is_reported_in_one_line(tmp_path, python, reason):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what the version check of an older Python returns
    old.chmod(0o755)
    for file in ("Makefile", "requirements.txt", "constraints.txt"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    run = subprocess.run(
        ["make", "results", f"PYTHON={python.format(old=old)}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert reason in run.stdout
    assert not (tmp_path / ".venv").exists()


def test_two_installations_at_once(tmp_path):
    """The second one waits. A stand-in for Python makes an environment whose pip takes a second."""
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for file in ("requirements.txt", "constraints.txt"):
        (tmp_path / file).write_text("")
    pip = f"#!/bin/sh\necho pip >> {tmp_path}/calls\nsleep 1\n"
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
[ "$1" = -m ] || exec {shlex.quote(sys.executable)} "$@"
mkdir -p "$3/bin"
cp {tmp_path}/pip "$3/bin/python"
"""
    )
    (tmp_path / "pip").write_text(pip)
    for file in (python, tmp_path / "pip"):
        file.chmod(0o755)
    command = ["make", f"PYTHON={python}", ".venv/.installed-run"]
    options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen(command, **options) for _ in range(2)]
    printed = [run.communicate(timeout=280)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert (tmp_path / "calls").read_text() == "pip\n"
    assert sum("is up to date" in text for text in printed) == 1
    assert not (tmp_path / ".venv" / ".installing").exists()


def test_git_ignores_only_data_and_local_results():
    ignored = [
        ".venv",  # also a link to an environment elsewhere, which git would otherwise track
        ".venv/bin/python",
        "dataset/Amazon_Beauty/train_sessions.csv",
        "dataset/shop/items.csv",
        "results/test_result_beauty.csv",
        "results/get_final_result.ipynb",
        "checkpoints/Demo/GRU4REC.safetensors",
        "run.state.safetensors",
    ]
    kept = [
        "dataset/Demo/train_sessions.csv",
        "pretrained_model/Beauty/GRU4REC.safetensors",
        "notebooks/0_GRU4REC.ipynb",
    ]
    # --no-index applies the rules also to tracked files.
    run = subprocess.run(
        ["git", "check-ignore", "--no-index", *ignored, *kept], cwd=ROOT, capture_output=True, text=True
    )
    if run.returncode > 1:
        pytest.skip("not a git checkout")
    assert run.stdout.splitlines() == ignored
