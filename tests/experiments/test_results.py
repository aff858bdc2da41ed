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
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from test_fetch import Server, closed_port

from dataset.files import ROOT
from dataset.find import load_dataset
from experiments import results
from sessionrec import pretrained

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
    """{file: (bytes, time of writing)} of all checkpoints."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.safetensors")}


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
    said, csv_name, notebook_name = done.stdout.splitlines()
    assert said.startswith("No answer for http://127.0.0.1")
    assert said.endswith("Using the included dataset Demo instead.")
    assert done.stderr.startswith("Demo: 5,354 training rows, ")  # what the notebook prints
    assert "GRU4REC, 1 epochs, about " in done.stderr
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
    assert weights_of(copy / "checkpoints" / "demo") == weights and "epochs" not in again.stderr
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
    heldout = {f"my_shop/heldout/{model}.safetensors" for model in ("CoOccurrence", "RandomWalk", "SLIST", "GRU4REC")}
    assert files_below(copy / "checkpoints") == {"my_shop/dataset.json", "my_shop/chosen.safetensors"} | heldout
    assert files_below(shop) == {"train_sessions.csv", "test_sessions.csv"}
    weights = weights_of(copy / "checkpoints" / "my_shop")

    with open(shop / "train_sessions.csv", "a") as file:
        file.write("[1000],5000\n")  # a new item
    with open(shop / "test_sessions.csv", "a") as file:
        file.write("[5000]\n")
    again = make_results(copy, *arguments, url=closed_port(), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "No checkpoint is of exactly these files" in again.stderr
    for file, (raw, _) in weights_of(copy / "checkpoints" / "my_shop").items():
        assert raw != weights[file][0]
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


def test_a_catalogue_smaller_than_k_and_names_of_models(copy, tmp_path):
    """Six items: a list has those that the session does not hold. All runs are kept."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"[{i % 6 + 1}],{(i + 1) % 6 + 1}" for i in range(60)]
    (folder / "train_sessions.csv").write_text("\n".join(["session,label", *rows, ""]))
    (folder / "test_sessions.csv").write_text('session\n[1]\n"[2, 3, 4]"\n[99]\n')
    done = make_results(copy, "--dataset", str(folder), "--models", "CoOccurrence,Popularity", url=closed_port())
    assert done.returncode == 0, done.stderr
    with open(copy / "results" / "test_result_shop.csv", newline="") as file:
        lists = [json.loads(row["predict"]) for row in csv.DictReader(file)]
    # The test file's own item 99 is in the vocabulary, with no occurrence in the training rows.
    assert [sorted(row) for row in lists] == [[2, 3, 4, 5, 6, 99], [1, 5, 6, 99], [1, 2, 3, 4, 5, 6]]
    assert lists[0][0] == 2  # what follows 1 in training
    shown = check_notebook(copy)
    assert "shop: 3 rows, in order, 4 to 6 distinct items each" in shown
    assert "3 with fewer than 20 items, because there are no more to recommend" in shown
    models = {f"{name}.safetensors" for name in ("CoOccurrence", "Popularity")}
    runs = {f"shop/{name}" for name in models} | {f"shop/heldout/{name}" for name in models}
    assert files_below(copy / "checkpoints") == {"shop/dataset.json"} | runs


# --------------------------------------------------------------------------------------------------
# The command alone


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """The notebooks that would be executed, as (file, parameters), without executing them."""
    calls = []
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)

    def execute(notebook, target, *, parameters, **_):
        assert notebook == tmp_path / "get_final_result.ipynb"
        calls.append((target.relative_to(tmp_path).as_posix(), parameters))

    monkeypatch.setattr(results.papermill, "execute_notebook", execute)
    return calls


def test_the_command_passes_its_options_on(executed, tmp_path, capsys):
    demo = str(ROOT / "dataset" / "Demo")
    assert results.main(["--dataset", demo]) == 0
    assert results.main(["--dataset", demo, "--models", "NARM, STAN", "--k", "7", "--epochs", "3"]) == 0
    assert results.main(["--dataset", demo, "--thorough", "--budget-minutes", "2.5"]) == 0
    given = {"DATASETS": [demo], "MODELS": [], "K": 20, "EPOCHS": None, "THOROUGH": False, "BUDGET_MINUTES": None}
    file = "results/get_final_result.ipynb"
    assert executed == [
        (file, given),
        (file, given | {"MODELS": ["NARM", "STAN"], "K": 7, "EPOCHS": 3}),
        (file, given | {"THOROUGH": True, "BUDGET_MINUTES": 2.5}),
    ]
    assert capsys.readouterr().out.splitlines() == ["results/test_result_demo.csv", file] * 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--k", "0"], "--k 0: must be at least 1"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--models", "GRU"], "there is no model 'GRU'; there are GRU4REC, "),
        (["--budget-minutes", "0"], "--budget-minutes 0.0: must be above 0"),
        (["--budget-minutes", "nan"], "--budget-minutes nan: must be above 0"),
        (["--models", "STAN", "--thorough"], "--models names the models; --thorough and --budget-minutes choose them"),
        (["--models", "STAN", "--budget-minutes", "1"], "--models names the models"),
    ],
)
def test_a_wrong_option_is_a_usage_error(options, reason, executed, capsys):
    with pytest.raises(SystemExit) as raised:
        results.main(options)
    assert raised.value.code == 2 and reason in capsys.readouterr().err.splitlines()[-1]
    assert executed == []


def test_a_log_is_converted_once(executed, tmp_path, monkeypatch, capsys):
    log = tmp_path / "shop.v2.csv"
    log.write_text("user,item,time\n" + "".join(f"u{i % 40},sku-{i % 7},{i}\n" for i in range(200)))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert results.main(["--dataset", "shop.v2.csv"]) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[0].startswith(
            "shop.v2.csv: cells separated by `,`, line 1 is the header; user = user, item = item"
        )
        assert any(
            line.startswith("The sessions are in dataset/shop; for other options, convert it ") for line in shown
        )
        assert shown[-2:] == ["results/test_result_shop.csv", "results/get_final_result.ipynb"]
    folder = tmp_path / "dataset" / "shop"
    assert {path.name for path in folder.iterdir()} == {"train_sessions.csv", "test_sessions.csv", "items.csv"}
    assert [parameters["DATASETS"] for _, parameters in executed] == [[str(folder)]] * 2

    before = (folder / "train_sessions.csv").read_bytes()
    with open(log, "a") as file:
        file.write("u1,sku-8,999\n")
    assert results.main(["--dataset", "shop.v2.csv"]) == 1
    sentence = "results: dataset/shop exists and is of another log or other options; convert it yourself: dataset/conv"
    assert capsys.readouterr().err.splitlines()[-1].startswith(sentence)
    assert (folder / "train_sessions.csv").read_bytes() == before and len(executed) == 2


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("train_sessions.csv", "session,label\n[1],2\n", "is a file of a dataset; name its folder: DATASET="),
        (".csv", "user,item\n1,2\n", "this name gives no name for a dataset"),
        ("x.csv", "hello\n", "x.csv"),
    ],
)
def test_a_file_that_is_no_log_is_one_sentence(name, text, reason, executed, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    assert results.main(["--dataset", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err.splitlines()
    assert reason in error[-1] and error[-1].startswith("results: ")
    assert executed == [] and not (tmp_path / "dataset").exists()


def test_two_datasets_of_one_name_have_their_own_files(executed, tmp_path, capsys):
    for folder, items in (("a", 60), ("b", 50)):
        (tmp_path / folder).mkdir()
        write_shop(tmp_path / folder / "shop", items=items)
        assert results.main(["--dataset", str(tmp_path / folder / "shop")]) == 0
        pretrained.claim_name(load_dataset(tmp_path / folder / "shop"))  # as the notebook does
    name = f"shop-{load_dataset(tmp_path / 'b' / 'shop').sha256[:6]}"
    assert [file for file, _ in executed] == [
        "results/get_final_result.ipynb",
        f"results/get_final_result-{name[5:]}.ipynb",
    ]
    assert f"results/test_result_{name}.csv" in capsys.readouterr().out.splitlines()


def test_a_second_run_waits_for_the_first(tmp_path):
    """The first process holds the lock until it is killed; nothing of it is left."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom dataset.parts import alone_in\n"
        "with alone_in(Path(sys.argv[1]), 'waiting'):\n    print('in', flush=True)\n    time.sleep(float(sys.argv[2]))"
    )

    def start(seconds):
        command = [sys.executable, "-c", program, str(tmp_path / "results"), str(seconds)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    first = start(600)
    assert first.stdout.readline() == "in\n"
    second = start(0)
    assert second.stdout.readline() == "waiting\n" and second.poll() is None
    first.kill()
    assert second.communicate(timeout=280)[0] == "in\n" and second.returncode == 0
    first.wait()
    first.stdout.close()
    assert not files_below(tmp_path / "results")


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (
            PapermillExecutionError(20, 8, "recommend()", "ValueError", "k=20: too many", ["Traceback"]),
            1,
            "results: cell 8 of results/get_final_result.ipynb failed: ValueError: k=20: too many\n",
        ),
        (KeyboardInterrupt(), 130, "results: interrupted; the same command goes on with the models that are done\n"),
        (DeadKernelError(), 1, "results: the notebook's process ended, perhaps because memory ran out\n"),
        (OSError(28, "No space"), 1, "results: ROOT/results/get_final_result.ipynb: No space\n"),
    ],
)
def test_an_error_in_the_notebook_is_reported_in_one_line(raised, code, sentence, tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise raised

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    monkeypatch.setattr(results.papermill, "execute_notebook", stop)
    assert results.main(["--dataset", str(ROOT / "dataset" / "Demo")]) == code
    assert capsys.readouterr() == ("", sentence.replace("ROOT", str(tmp_path)))


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
