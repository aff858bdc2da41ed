"""Several processes train what one trains, measure what one measures, and end together."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from checkpoint import load_checkpoint, read_tensors
from losses import pick_precision
from process_data import ROOT, TrainDataset, get_dataloader, load_dataset, prepare

pytestmark = pytest.mark.timeout(300)

DEMO = prepare(load_dataset("Demo"), split="user").train
BF16 = pick_precision("auto", torch.device("cpu")) == torch.bfloat16


def command(program, *arguments, processes=1):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*start, str(ROOT / program), *map(str, arguments)]


def run(*arguments, processes=1):
    found = subprocess.run(
        command(*arguments, processes=processes), capture_output=True, text=True, timeout=240
    )
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
    whole = [set(rows.tolist()) for rows in get_dataloader(TrainDataset(DEMO)).batch_sampler]
    loaders = [get_dataloader(TrainDataset(DEMO), deal=(rank, processes)) for rank in range(processes)]
    for batch, *shares in zip(whole, *(loader.batch_sampler for loader in loaders), strict=True):
        assert sum(map(len, shares)) == len(batch)
        assert set().union(*(share.tolist() for share in shares)) == batch
        assert min(map(len, shares)) >= len(batch) // processes


def test_more_processes_than_rows_is_an_error():
    with pytest.raises(ValueError, match="too few for 3 processes; start fewer"):
        get_dataloader(TrainDataset(DEMO), batch_size=2, deal=(0, 3))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_train_what_one_trains(processes, alone, tmp_path):
    path = tmp_path / "together.safetensors"
    printed = train(path, "--json", tmp_path / "together.json", processes=processes)
    assert printed.count("SRGNN on Demo") == 1  # one of them speaks
    one, many = (read_tensors(file)[0] for file in (alone, path))
    for name, tensor in one.items():
        if BF16:  # logits are rounded, and Adam makes a step of whatever is left of a small gradient
            difference = many[name].double() - tensor.double()
            assert difference.norm() <= 2e-3 * tensor.double().norm(), name
        else:
            torch.testing.assert_close(many[name], tensor, atol=1e-5, rtol=1e-5)
    ours, theirs = (json.loads(file.with_suffix(".json").read_text()) for file in (path, alone))
    assert ours["table"]["loss"] == pytest.approx(theirs["table"]["loss"], abs=1e-3 if BF16 else 1e-5)
    assert ours["queries"] == theirs["queries"]


def test_a_run_that_is_done_does_not_fail_while_its_processes_end(tmp_path, monkeypatch):
    """Gloo's threads may abort a Python that shuts down; here every one of the processes would."""
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
    data = load_dataset("Demo").train  # 5,354 rows: several chunks
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
        printed, errors = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode != 0
    assert f"Should one fail, all stop: --resume goes on from {state}" in printed
    assert "SIGKILL" in errors or "-9" in errors
    assert not path.exists()
    done = len(read_tensors(state)[1]["rows"])
    assert 1 <= done < 200
    # Resumed as it was begun, by two, it ends as if nothing had happened.
    more = ["--epochs", done + 1]
    run("train.py", *fixed, "--output", path, *more, "--resume", processes=2)
    whole = tmp_path / "whole.safetensors"
    run("train.py", *fixed, "--output", whole, *more, processes=2)
    resumed, uninterrupted = (load_checkpoint(file) for file in (path, whole))
    assert resumed.header == uninterrupted.header
    for ours, theirs in zip(resumed.model.parameters(), uninterrupted.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


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
