"""`make results` from start to end, each time in a copy of the committed files."""

import csv
import json
import os
import shutil
import subprocess
import sys
import threading

import nbformat
import numpy as np
import pytest
from papermill.exceptions import PapermillExecutionError
from test_fetch import Server, closed_port

from dataset.files import ROOT
from experiments import results

MODELS = ("GRU4REC", "GRUwATT", "Ensemble")


@pytest.fixture
def copy(tmp_path):
    """A copy of the code, the notebook and Demo, without other data, weights and results."""
    root = tmp_path / "copy"
    folders = ("dataset", "experiments", "models", "plots", "sessionrec")
    for pattern in ("*.py", "*.toml", "*.ipynb", *(f"{f}/**/*.py" for f in folders), "dataset/SHA256SUMS"):
        for path in ROOT.glob(pattern):
            target = root / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copytree(ROOT / "dataset" / "Demo", root / "dataset" / "Demo")
    return root


@pytest.fixture
def mirror():
    """Start a local server for {path: bytes}; every other path is a 404."""
    started = []

    def start(files):
        server = Server(files)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.over.set()
        server.shutdown()
        server.server_close()


def make_results(copy, *arguments, url, cwd=None):
    """Run it as `make results` does, with `url` for the server of the Amazon files."""
    environment = {key: value for key, value in os.environ.items() if key != "DATASET_ROOT"}
    environment |= {"AMAZON_SESSIONS_URL": url, "no_proxy": "127.0.0.1", "PYTHONPATH": str(copy)}
    command = [sys.executable, "-m", "experiments.results", *arguments]
    return subprocess.run(command, cwd=cwd or copy, env=environment, capture_output=True, text=True, timeout=240)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def weights_of(folder):
    """{model: (bytes, time of writing)}."""
    paths = {model: folder / f"{model}.safetensors" for model in MODELS}
    return {model: (path.read_bytes(), path.stat().st_mtime_ns) for model, path in paths.items()}


def check_results(copy, name, test_file):
    """Check one row per test session, in order, with 20 distinct items that are not in the session."""
    with open(copy / "results" / f"test_result_{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(test_file, newline="") as file:
        sessions = [json.loads(row["session"]) for row in csv.DictReader(file)]
    assert list(rows[0]) == ["session", "predict"]
    assert [json.loads(row["session"]) for row in rows] == sessions
    for row, session in zip(rows, sessions, strict=True):
        predicted = json.loads(row["predict"])
        assert len(predicted) == 20 == len({*predicted} - {*session})
    return rows


def check_notebook(copy):
    """Check that all cells ran in order and without errors or warnings; return all text outputs."""
    notebook = nbformat.read(copy / "results" / "get_final_result.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)


# --------------------------------------------------------------------------------------------------
# Without a network


def test_without_a_server_demo_is_used(copy):
    done = make_results(copy, "--epochs", "1", url=closed_port())
    assert done.returncode == 0, done.stderr
    said, *training, csv_name, notebook_name = done.stdout.splitlines()
    assert said.startswith("No answer for http://127.0.0.1")
    assert said.endswith("Using the included dataset Demo instead.")
    assert [line.split(" for exactly")[0] for line in training] == [f"Demo: no {model}" for model in MODELS]
    assert csv_name == "results/test_result_demo.csv"
    assert notebook_name == "results/get_final_result.ipynb"
    assert "Traceback" not in done.stderr
    assert "WARNING" not in done.stderr
    assert files_below(copy / "results") == {"test_result_demo.csv", "get_final_result.ipynb"}
    rows = check_results(copy, "demo", copy / "dataset" / "Demo" / "test_sessions.csv")
    assert len(rows) == 600
    assert "demo: 600 rows, in order, 20 distinct items each" in check_notebook(copy)
    assert not [path for path in copy.glob("dataset/Amazon_*/*") if path.is_file()]

    weights = weights_of(copy / "checkpoints" / "demo")
    result = (copy / "results" / "test_result_demo.csv").read_bytes()
    again = make_results(copy, "--epochs", "1", url=closed_port())
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == [said.replace(*ports(said, again.stdout)), csv_name, notebook_name]
    assert weights_of(copy / "checkpoints" / "demo") == weights
    assert (copy / "results" / "test_result_demo.csv").read_bytes() == result


def ports(*texts):
    """The host and port in each text."""
    return [text.split("http://")[1].split("/")[0] for text in texts]


def test_a_wrong_answer_is_an_error(copy, mirror):
    before = files_below(copy)
    server = mirror({})
    done = make_results(copy, "--epochs", "1", url=server.url)
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"results: {server.url}/Amazon_Beauty/")
    assert "404" in sentence
    assert {name for name in files_below(copy) - before if "__pycache__" not in name} == set()


# --------------------------------------------------------------------------------------------------
# A new dataset


def write_shop(folder, users=120, items=60):
    """Write sessions that follow a ring of raw ids 1000, 1003, ...; the test file has no labels."""
    generator = np.random.default_rng(0)
    rows = ["session,label"]
    for _ in range(users):
        walk = (generator.integers(items) + np.arange(generator.integers(2, 6))) % items * 3 + 1000
        rows += [f'"{walk[:t].tolist()}",{walk[t]}' for t in range(1, len(walk))]
    folder.mkdir(exist_ok=True)
    (folder / "train_sessions.csv").write_text("\n".join(rows) + "\n")
    (folder / "test_sessions.csv").write_text('session\n[1000]\n"[1003, 1006]"\n[1000]\n"[1, 1009]"\n')


def test_a_new_folder_and_a_change_of_its_files(copy, tmp_path):
    shop = tmp_path / "My_Shop"
    write_shop(shop)
    # The path is relative to the working directory, which is not the folder of the code.
    arguments = ("--dataset", "My_Shop", "--epochs", "1")
    done = make_results(copy, *arguments, url=closed_port(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "results/test_result_my_shop.csv" in done.stdout.splitlines()
    assert "No answer" not in done.stdout  # nothing was downloaded
    rows = check_results(copy, "my_shop", shop / "test_sessions.csv")
    assert rows[0] == rows[2]
    assert "my_shop: no labels in the test file" in check_notebook(copy)
    assert files_below(copy / "checkpoints") == {f"my_shop/{model}.safetensors" for model in MODELS}
    assert files_below(shop) == {"train_sessions.csv", "test_sessions.csv"}
    weights = weights_of(copy / "checkpoints" / "my_shop")

    with open(shop / "train_sessions.csv", "a") as file:
        file.write("[1000],5000\n")  # a new item
    with open(shop / "test_sessions.csv", "a") as file:
        file.write("[5000]\n")
    again = make_results(copy, *arguments, url=closed_port(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len([line for line in again.stdout.splitlines() if "for exactly these files yet" in line]) == 3
    for model, (raw, _) in weights_of(copy / "checkpoints" / "my_shop").items():
        assert raw != weights[model][0]
    assert len(check_results(copy, "my_shop", shop / "test_sessions.csv")) == 5
    # The vocabulary contains the items of the test file: the new id, and 1, which no training row contains.
    assert "5 sessions: 5 known, 0 partly known" in check_notebook(copy)


def test_errors_in_a_folder_are_reported_in_one_line(tmp_path, capsys):
    folder = tmp_path / "shop"
    write_shop(folder)
    train = folder / "train_sessions.csv"
    text = train.read_text()
    for new, words in (
        (text.replace("session,label\n", "session,label\n[],1\n"), f"{train}, line 2: the session is an empty"),
        (text[:40] + "\n", str(train)),
        (None, "does not exist"),
    ):
        train.write_text(new) if new else train.unlink()
        assert results.main(["--dataset", str(folder)]) == 1
        out, err = capsys.readouterr()
        assert words in err
        assert err.startswith("results: ")
        assert len(err.splitlines()) == 1
    assert results.main(["--dataset", "Amazon_Books"]) == 1
    assert "is not a dataset folder" in capsys.readouterr().err
    assert not (ROOT / "checkpoints" / "shop").exists()


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (
            PapermillExecutionError(20, 8, "recommend()", "ValueError", "k=20: too many", ["Traceback"]),
            1,
            "results: cell 8 of results/get_final_result.ipynb failed: ValueError: k=20: too many\n",
        ),
        (KeyboardInterrupt(), 130, "results: interrupted; the same command starts again\n"),
        (OSError(28, "No space left on device"), 1, "results: [Errno 28] No space left on device\n"),
    ],
)
def test_an_error_in_the_notebook_is_reported_in_one_line(raised, code, sentence, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise raised

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "get_pretrained", lambda *args, **kwargs: None)
    monkeypatch.setattr(results.papermill, "execute_notebook", stop)
    assert results.main(["--dataset", str(ROOT / "dataset" / "Demo")]) == code
    assert capsys.readouterr() == ("", sentence)


# --------------------------------------------------------------------------------------------------
# The real data


def test_committed_models_recommend_for_the_real_data(real_data, copy, mirror):
    committed = {f"pretrained_model/{folder}/{model}.safetensors" for folder in ("Beauty", "Cell") for model in MODELS}
    missing = {name for name in committed if not (ROOT / name).is_file()}
    assert not missing
    for name in committed:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    files = {
        f"/{path.relative_to(real_data).as_posix()}": path.read_bytes()
        for name in ("Amazon_Beauty", "Amazon_Cell")
        for path in (real_data / name).glob("*.csv")
    }
    server = mirror(files)
    done = make_results(copy, url=server.url)
    assert done.returncode == 0, done.stderr
    assert sorted(server.requests) == sorted(files)  # each file once, although the notebook also reads them
    assert done.stdout.splitlines() == [
        "results/test_result_beauty.csv",
        "results/test_result_cell.csv",
        "results/get_final_result.ipynb",
    ]
    for name, folder, rows in (("beauty", "Amazon_Beauty", 5393), ("cell", "Amazon_Cell", 3915)):
        assert len(check_results(copy, name, real_data / folder / "test_sessions.csv")) == rows
    shown = check_notebook(copy)
    for line in ("beauty: 5,393 rows, in order", "cell: 3,915 rows, in order"):
        assert line in shown
    assert not (copy / "checkpoints").exists()  # nothing was trained
