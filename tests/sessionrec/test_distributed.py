"""Several processes give the same model and metrics as one process, and end together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from dataset.files import ROOT
from models import build_model
from process_data import TrainDataset, get_dataloader, load_dataset, prepare
from sessionrec.checkpoint import load_checkpoint, read_tensors
from sessionrec.fit import fit
from sessionrec.losses import pick_precision

pytestmark = pytest.mark.timeout(300)

DEMO = prepare(load_dataset("Demo"), split="user").train
BF16 = pick_precision("auto", torch.device("cpu")) == torch.bfloat16


def command(program, *arguments, processes=1):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*start, str(ROOT / program), *map(str, arguments)]


def run(*arguments, processes=1):
    found = subprocess.run(command(*arguments, processes=processes), capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    return found.stdout


def train(output, *options, processes=1, epochs=1):
    """The report's SRGNN: no dropout, so that the processes' own draws make no difference, and a rate (1e-3)
    at which Adam, which divides by the gradient's size, does not blow up the last bits of small gradients."""
    fixed = ["--dataset", "Demo", "--model", "SRGNN", "--recipe", "report", "--split", "user"]
    return run("train.py", *fixed, "--output", output, "--epochs", epochs, *options, processes=processes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "alone.safetensors"
    train(path, "--json", path.with_suffix(".json"))
    return path


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_every_batch(processes):
    rows = TrainDataset(DEMO)
    whole = [set(batch.tolist()) for batch in get_dataloader(rows).sampler]
    loaders = [get_dataloader(rows, rank=rank, world_size=processes) for rank in range(processes)]
    for batch, *shares in zip(whole, *(loader.sampler for loader in loaders), strict=True):
        assert sum(map(len, shares)) == len(batch)
        assert set().union(*(share.tolist() for share in shares)) == batch
        assert min(map(len, shares)) >= len(batch) // processes


def test_more_processes_than_rows_is_an_error():
    with pytest.raises(ValueError, match="too few for 3 processes; start fewer"):
        get_dataloader(TrainDataset(DEMO), batch_size=2, rank=0, world_size=3)


def test_a_loader_for_another_number_of_processes_is_refused():
    loader = get_dataloader(TrainDataset(DEMO), rank=0, world_size=2)
    model = build_model("GRU4REC", n_items=loader.dataset.n_items)
    with pytest.raises(ValueError, match="under torchrun each process needs its share"):
        fit(model, loader, None, epochs=1, lr=0.01)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_train_the_same_model_as_one(processes, alone, tmp_path):
    path = tmp_path / "together.safetensors"
    printed = train(path, "--json", tmp_path / "together.json", processes=processes)
    assert printed.count("SRGNN on Demo") == 1  # only rank 0 prints
    one, many = (read_tensors(file)[0] for file in (alone, path))
    for name, tensor in one.items():
        if BF16:  # Adam amplifies the rounding errors of small gradients
            difference = many[name].double() - tensor.double()
            assert difference.norm() <= 2e-3 * tensor.double().norm(), name
        else:
            torch.testing.assert_close(many[name], tensor, atol=1e-5, rtol=1e-5)
    computed, expected = (json.loads(file.with_suffix(".json").read_text()) for file in (path, alone))
    assert computed["table"]["loss"] == pytest.approx(expected["table"]["loss"], abs=1e-3 if BF16 else 1e-5)
    assert computed["queries"] == expected["queries"]


def test_a_finished_run_does_not_fail_when_its_processes_end(tmp_path, monkeypatch):
    """Threads of gloo can abort a process while Python shuts down. Here this is certain to happen in every process."""
    abort = "import atexit, os\nif 'LOCAL_RANK' in os.environ:\n    atexit.register(os.abort)\n"
    (tmp_path / "sitecustomize.py").write_text(abort)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "done.safetensors"
    printed = train(path, processes=2)
    assert printed.count("SRGNN on Demo") == 1
    rows = ROOT / "dataset" / "Demo" / "train_sessions.csv"
    evaluate = ["recommend.py", "--checkpoint", path, "--evaluate", rows, "--json"]
    assert json.loads(run(*evaluate, processes=2))["model"] == "SRGNN"


def test_metrics_of_a_checkpoint_are_the_same_for_any_number_of_processes(alone, tmp_path):
    rows = tmp_path / "rows.csv"
    data = load_dataset("Demo").train  # 5,354 rows are scored in several chunks
    lines = [f'"{data[row]}",{data.labels[row]}' for row in range(len(data))]
    rows.write_text("\n".join(["session,label", *lines, ""]))
    evaluate = ["recommend.py", "--checkpoint", alone, "--evaluate", rows, "--json"]
    printed = [run(*evaluate, processes=processes) for processes in (1, 2, 3)]
    assert json.loads(printed[0])["queries"] == len(data)
    assert printed[0] == printed[1] == printed[2]


def test_a_killed_process_ends_the_job_and_it_resumes(tmp_path):
    path = tmp_path / "killed.safetensors"
    state = path.with_suffix(".state.safetensors")
    fixed = ["--dataset", "Demo", "--model", "GRU4REC", "--recipe", "report", "--split", "user"]
    options = [*fixed, "--output", path, "--epochs", "200"]
    job = subprocess.Popen(
        command("train.py", *options, processes=2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(state.exists)
        os.kill(process_of_rank(1, path), signal.SIGKILL)
        printed, errors = job.communicate(timeout=280)
    finally:
        job.kill()
    assert job.returncode != 0
    assert f"If one fails, all stop: --resume continues from {state}" in printed
    assert "SIGKILL" in errors or "-9" in errors
    assert not path.exists()
    done = len(read_tensors(state)[1]["rows"])
    assert 1 <= done < 200
    # Resumed by two processes, it gives the same result as an uninterrupted run.
    more = ["--epochs", done + 1]
    run("train.py", *fixed, "--output", path, *more, "--resume", processes=2)
    whole = tmp_path / "whole.safetensors"
    run("train.py", *fixed, "--output", whole, *more, processes=2)
    resumed, uninterrupted = (load_checkpoint(file) for file in (path, whole))
    assert resumed.header == uninterrupted.header
    for computed, expected in zip(resumed.model.parameters(), uninterrupted.model.parameters(), strict=True):
        assert torch.equal(computed, expected)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def process_of_rank(rank, output):
    """The process id of one rank of the job that writes `output`."""
    for folder in os.listdir("/proc"):
        try:
            arguments = open(f"/proc/{folder}/cmdline", "rb").read().decode().split("\0")
            environment = open(f"/proc/{folder}/environ", "rb").read().decode().split("\0")
        except OSError:
            continue
        if str(output) in arguments and f"RANK={rank}" in environment:
            return int(folder)
    raise AssertionError(f"no process of rank {rank}")
