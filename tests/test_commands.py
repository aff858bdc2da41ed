"""Every command with a full disk and a full standard output: one line that names the file, and old files stay."""

import errno
import importlib.util
import json
import os
import subprocess
import sys

import nbformat
import pytest
from planted import write_planted

from dataset.commands import describe
from dataset.files import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and /dev/full are POSIX")

RUN = """
import contextlib, importlib, io, json, os, resource, signal, sys
kind, commands, results = sys.argv[1], json.loads(sys.argv[2]), []
sys.path.insert(0, os.getcwd())
if kind == "disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
for module, arguments in commands:
    main = importlib.import_module(module).main
    sys.argv = [module, *arguments]
    os.dup2(os.open("/dev/full" if kind == "stdout" else os.devnull, os.O_WRONLY), 1)
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = main(*[arguments] if module != "dataset.make_demo" else [])
        except SystemExit as end:
            code = int(not isinstance(end.code, int)) or end.code
            print(end.code, file=errors)
    results.append([code, errors.getvalue()])
print(json.dumps(results), file=sys.stderr)
"""


def run_commands(kind, commands):
    commands = [[module, list(map(str, arguments))] for module, arguments in commands]
    done = subprocess.run(
        [sys.executable, "-c", RUN, kind, json.dumps(commands)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a dataset, a log and a checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    write_planted(folder / "Planted")
    (folder / "log.csv").write_text("user,item,timestamp\nu,a,1\nu,b,2\nu,c,3\nv,a,1\nv,b,2\nv,c,3\n")
    train = ["--dataset", folder / "Planted", "--model", "Popularity", "--output", folder / "x.safetensors"]
    assert run_commands("", [("train", train)])[0][0] == 0
    return folder


def commands_of(folder, out):
    data, model = folder / "Planted", folder / "x.safetensors"
    test = data / "test_sessions.csv"
    return [
        ("train", ["--dataset", data, "--model", "Popularity", "--output", out / "y.safetensors"], "y.safetensors"),
        ("recommend", ["--checkpoint", model, "--sessions", test, "--output", out / "y.csv", "--k", 3], "y.csv"),
        ("dataset.convert", [folder / "log.csv", "--output", out / "shop", "--test-share", 0.5], "shop/"),
        ("dataset.convert", [data, "--to", "recbole", "--output", out / "bole"], "bole/bole.train.inter"),
        ("dataset.make_demo", [out / "Demo"], "Demo/train_sessions.csv"),
        ("dataset.make_demo", ["--log", out / "demo.csv"], "demo.csv"),
        ("experiments.tune", ["--dataset", data, "--model", "SKNN", "--trials", 1, "--folder", out], "planted.csv"),
    ]


def test_a_full_disk_is_one_line_with_the_file_and_old_files_stay(files, tmp_path):
    commands = commands_of(files, tmp_path)
    old = [tmp_path / name for name in ("y.safetensors", "y.csv", "demo.csv", "Demo/train_sessions.csv")]
    for path in old:
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    results = run_commands("disk", [command[:2] for command in commands])
    for (code, errors), (module, _, name) in zip(results, commands, strict=True):
        last = errors.splitlines()[-1]
        assert code == 1 and "Traceback" not in errors, (module, errors)
        assert f"{tmp_path}/{name}" in last and "cannot be written (File too large)" in last, (module, errors)
    assert all(path.read_text() == "old" for path in old)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.lock"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line(files, tmp_path):
    commands = [command for command in commands_of(files, tmp_path) if command[0] != "dataset.make_demo"]
    evaluate = ["--checkpoint", files / "x.safetensors", "--evaluate", files / "Planted" / "train_sessions.csv"]
    commands += [
        ("recommend", evaluate), ("recommend", [*evaluate, "--json"]),
        ("experiments.compare", ["--dataset", files / "Planted", "--list"]),
        ("experiments.compare", ["--dataset", files / "Planted", "--table"]),
    ]  # fmt: skip
    for (code, errors), (module, *_) in zip(run_commands("stdout", [c[:2] for c in commands]), commands, strict=True):
        last = errors.splitlines()[-1]
        assert code == 1 and "Traceback" not in errors, (module, errors)
        assert last.endswith(": the standard output cannot be written (No space left on device)"), (module, errors)


def test_a_reader_that_ends_early_is_one_line():
    """`python -m experiments.compare --list | head -1`"""
    command = [sys.executable, "-m", "experiments.compare", "--dataset", "Demo", "--list"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run.stdout.close()
    errors = run.stderr.read()
    assert run.wait() == 1 and errors == "compare: the standard output cannot be written (Broken pipe)\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("k=0: must be\nmore"), "k=0: must be more"),
        (OSError("x.csv is a folder; name a file"), "x.csv is a folder; name a file"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.csv"), "x.csv: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), "x.csv: No space left on device"),
    ],
)
def test_an_error_is_described_in_one_line(error, text):
    assert describe(error) == text


@pytest.mark.parametrize("name", ["execute", "sync"])
def test_a_full_disk_keeps_the_notebook(name, tmp_path, monkeypatch):
    tool = load_tool(name)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="a", metadata={"tags": ["shared"]})])
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "python3"}}
    path = tmp_path / "1_x.ipynb"
    nbformat.write(notebook, path)
    before = path.read_bytes()

    def fill_the_disk(notebook, path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tool.nbformat, "write", fill_the_disk)
    with pytest.raises(OSError, match="1_x.ipynb cannot be written"):
        if name == "execute":
            monkeypatch.setattr(tool.papermill, "execute_notebook", lambda *_, **__: notebook)
            tool.execute(path)
        else:
            other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("2", id="a")])
            other.cells[0].metadata["tags"] = ["shared"]
            monkeypatch.setattr(tool, "notebooks", lambda: {tmp_path / "0_x.ipynb": other, path: notebook})
            tool.main()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["1_x.ipynb"]


def load_tool(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "notebooks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
