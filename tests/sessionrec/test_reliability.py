"""Reliability: killed processes, a full disk, concurrent writers, and equal results of two processes."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import papermill
import pytest
import torch
from jupyter_client.manager import start_new_kernel

from dataset.files import ROOT
from process_data import Sessions
from sessionrec.checkpoint import load_checkpoint, read_tensors
from sessionrec.recommend import recommend

COMMAND = ["--dataset", "Demo", "--model", "GRU4REC", "--epochs", "40", "--resume"]
PAUSE = 0.15  # seconds
# Each save logs its begin and end, and pauses when half of the file is written.
SLOW_SAVES = """
import os, sys, time
from sessionrec import checkpoint
from train import main
log = open({log!r}, "a", buffering=1)
whole = checkpoint.save_file
def save_slowly(tensors, path, metadata):
    log.write(f"begin {{time.time()}}\\n")
    whole(tensors, path, metadata=metadata)
    size = os.path.getsize(path)
    os.truncate(path, size // 2)
    time.sleep({seconds})
    whole(tensors, path, metadata=metadata)
    log.write(f"end {{time.time()}}\\n")
checkpoint.save_file = save_slowly
log.write(f"start {{time.time()}}\\n")
sys.exit(main({arguments!r}))
"""


def start(program, **options):
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, **(pipes | options))


def weights(path):
    return load_checkpoint(path).model.state_dict()


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    assert all(a[key].equal(b[key]) for key in a), "other weights"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_that_is_killed_twenty_times_gives_the_same_result(tmp_path):
    """SIGKILL at 20 moments of a run, at least five of them during a save."""
    output, log = tmp_path / "x.safetensors", tmp_path / "log"
    state = output.with_suffix(".state.safetensors")
    arguments = [*COMMAND, "--output", str(output)]
    whole = start(SLOW_SAVES.format(log=os.devnull, seconds=0, arguments=[*COMMAND, "--output", str(output)]))
    assert whole.wait(300) == 0
    want = weights(output)
    previous = output.read_bytes()

    generator = random.Random(3)
    program = SLOW_SAVES.format(log=str(log), seconds=PAUSE, arguments=arguments)
    inside = 0
    for _ in range(20):
        log.write_text("")
        run = start(program)
        # Before the first save, or near one of the next two. On average this waits as long as a save takes.
        saves = generator.randrange(3)
        while log.read_text().count("begin" if saves else "start") < max(saves, 1):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 2 * PAUSE))
        run.send_signal(signal.SIGKILL)
        run.wait()
        events = [line.split()[0] for line in log.read_text().splitlines()]
        inside += events[-1] == "begin"
        assert output.read_bytes() == previous  # the old file is unchanged
        if state.exists():
            tensors, header = read_tensors(state)
            assert header["rows"] and any(key.startswith("optimizer.") for key in tensors)
    assert inside >= 5, f"only {inside} kills hit a save"
    assert state.exists()
    last = start(program)
    assert last.wait(300) == 0, last.stderr.read()
    assert_same_bits(weights(output), want)
    assert not state.exists()


def test_a_full_disk_is_reported_in_one_line_and_keeps_old_files(tmp_path):
    """A limit on the file size acts like a full disk."""
    output = tmp_path / "x.safetensors"
    arguments = ["--dataset", "Demo", "--model", "GRU4REC", "--epochs", "1", "--output", str(output)]
    program = f"from train import main; import sys; sys.exit(main({arguments!r}))"
    whole = start(program)
    assert whole.wait(280) == 0
    before = output.read_bytes()

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = start(program, preexec_fn=small_disk)
    assert run.wait(280) == 1
    error = run.stderr.read().splitlines()[-1]
    assert error.startswith("train.py: ") and str(output.parent) in error, error
    assert output.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_concurrent_saves_leave_the_file_of_the_last_one(tmp_path):
    """Either run may end last. The file is the complete checkpoint of that run."""
    output = tmp_path / "x.safetensors"
    # Each run also saves to a separate file and records when it saved the shared one.
    program = """
import os, sys, time
from sessionrec import run
from train import main
write_checkpoint = run.write_checkpoint
def twice(path, *args, **options):
    write_checkpoint({own!r}, *args, **options)
    write_checkpoint(path, *args, **options)
    print(time.time())
run.write_checkpoint = twice
sys.exit(main({arguments!r}))
"""
    runs = []
    for seed in (0, 1):
        arguments = ["--dataset", "Demo", "--model", "GRU4REC", "--epochs", "1", "--seed", str(seed)]
        arguments += ["--output", str(output)]
        own = str(tmp_path / f"{seed}.safetensors")
        runs.append(start(program.format(own=own, arguments=arguments), stdout=subprocess.PIPE))
    saved = [float(run.communicate(timeout=280)[0].split()[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    last = int(saved[1] > saved[0])
    contents = output.read_bytes()
    assert contents == (tmp_path / f"{last}.safetensors").read_bytes()
    assert contents != (tmp_path / f"{1 - last}.safetensors").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["0.safetensors", "1.safetensors", "x.safetensors"]


@pytest.mark.parametrize("model", ["NARM", "SRGNN"])
def test_two_processes_train_identical_models(model, tmp_path):
    files = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for file in files:
        arguments = ["--dataset", "Demo", "--model", model, "--epochs", "2", "--output", str(file)]
        run = start(f"from train import main; import sys; sys.exit(main({arguments!r}))")
        assert run.wait(280) == 0
    assert_same_bits(*map(weights, files))


# A notebook cell that trains, and a callback that prints each epoch.
TRAINING_CELL = """
from models import build_model
from process_data import TrainDataset, get_dataloader, load_dataset, prepare
from sessionrec.fit import fit
data = prepare(load_dataset("Demo"))
model = build_model("GRU4REC", n_items=data.n_items)
loader = get_dataloader(TrainDataset(data.train), 256)
printing = lambda history: print("finished epoch", len(history.rows), flush=True)
history = fit(model, loader, data.valid, epochs=500, lr=4e-3, callbacks=[printing])
"""
NEXT_CELL = """
from metrics import summarize
from sessionrec.scoring import rank_labels
best = float(history.table["MRR@20"].max()), summarize(rank_labels(model, data.valid))["MRR@20"]
print("found", history.interrupted, len(history.rows), *best)
"""


def test_interrupting_a_notebook_keeps_the_history(project_copy):
    """The stop button while a cell trains: the cell ends normally, and the next ones continue with its history."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(project_copy))
    try:
        client.execute(TRAINING_CELL)
        printed = ""
        while "finished epoch 2" not in printed:
            printed += str(client.get_iopub_msg(timeout=280)["content"].get("text", ""))
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=280)["content"]["status"] == "ok"
        client.execute(NEXT_CELL)
        while "found" not in (text := str(client.get_iopub_msg(timeout=280)["content"].get("text", ""))):
            printed += text
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    _, interrupted, epochs, best, again = text.split()
    assert f"Interrupted after epoch {epochs}; run it again to start anew." in printed
    assert interrupted == "True" and int(epochs) >= 2 and float(again) == pytest.approx(float(best), abs=1e-9)


def test_the_final_notebook_writes_the_same_bytes_twice(project_copy):
    written = []
    for _ in range(2):
        papermill.execute_notebook(
            project_copy / "get_final_result.ipynb",
            None,
            parameters={"DATASETS": ["Demo"], "EPOCHS": 1},
            cwd=project_copy,
            progress_bar=False,
        )
        written.append((project_copy / "results" / "test_result_demo.csv").read_bytes())
    assert written[0] == written[1] and written[0].count(b"\n") == 601


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_million_sessions_in_one_call(real_data):
    """With Beauty's catalogue. The memory that is needed in addition to the result is limited."""
    program = """
import json, resource
import numpy as np
from process_data import Sessions
from sessionrec.checkpoint import load_checkpoint
from sessionrec.recommend import recommend
saved = load_checkpoint("pretrained_model/Beauty/GRU4REC.safetensors")
generator = np.random.default_rng(0)
lengths = generator.integers(1, 6, 1_000_000)
items = saved.vocabulary.item_ids[generator.integers(0, len(saved.vocabulary), lengths.sum())]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = recommend(saved, Sessions(items, np.r_[0, lengths.cumsum()]), k=20)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([found.items.shape, found.items.nbytes + found.scores.nbytes, (after - before) * 1024]))
"""
    shown = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
    run = start(program, stdout=subprocess.PIPE, env=shown)
    out, error = run.communicate(timeout=800)
    assert run.returncode == 0, error
    shape, answer, taken = json.loads(out)
    assert shape == [1_000_000, 20]
    assert taken < 2 * answer + 500 * 2**20
    assert "Recommending: 100%" in error


def test_shuffled_rows_get_the_same_recommendations():
    """The recommendations for a session do not depend on the other sessions of the call."""
    saved = ROOT / "pretrained_model" / "Beauty" / "GRU4REC.safetensors"
    vocabulary = load_checkpoint(saved).vocabulary
    generator = np.random.default_rng(1)
    lists = [
        vocabulary.decode(generator.integers(1, len(vocabulary), generator.integers(1, 6))).tolist() for _ in range(50)
    ]
    order = generator.permutation(50)
    whole = recommend(saved, Sessions.from_lists(lists))
    mixed = recommend(saved, Sessions.from_lists([lists[i] for i in order]))
    assert np.array_equal(whole.items[order], mixed.items)
    assert torch.allclose(torch.tensor(whole.scores[order]), torch.tensor(mixed.scores), atol=1e-4)
