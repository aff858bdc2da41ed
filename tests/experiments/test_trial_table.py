"""The table of trials: cut off, damaged, on a full disk, and with two studies at once."""

import os
import subprocess
import sys

import pytest

from dataset.files import ROOT
from dataset.parts import lock_file
from experiments import tune
from experiments.trial_table import COLUMNS, TRIALS_FOLDER, append_row, read_trials

HEADER = ",".join(COLUMNS)
ROW = 'trial,SKNN,1,complete,0,0.25,0.5,1,0.1,True,abc,[0.25],"{""model.k"": 100}"'


@pytest.mark.parametrize("dataset", ["beauty", "cell"])
def test_a_committed_table_is_written_as_it_was_read(dataset, tmp_path):
    committed = (TRIALS_FOLDER / f"{dataset}.csv").read_bytes()
    *rows, last = read_trials(dataset).to_dict("records")
    lines = committed.decode().splitlines(keepends=True)
    (tmp_path / f"{dataset}.csv").write_text("".join(lines[:-1]))
    append_row(dataset, last, folder=tmp_path)
    assert (tmp_path / f"{dataset}.csv").read_bytes() == committed and len(rows) == len(lines) - 2


@pytest.mark.parametrize("cut", [1, 10, 40, len(ROW) - 1])
def test_a_last_line_that_is_cut_off_is_left_out_and_repaired(cut, tmp_path):
    file, second = tmp_path / "shop.csv", ROW.replace("SKNN,1", "SKNN,2")
    file.write_text(f"{HEADER}\n{ROW}\n{second[:cut]}")
    with pytest.warns(UserWarning, match="shop.csv, line 3: the last line is cut off and is left out"):
        table = read_trials("shop", folder=tmp_path)
    assert table["number"].tolist() == [1]
    with pytest.warns(UserWarning):
        append_row("shop", table.iloc[0].to_dict() | {"number": 2}, folder=tmp_path)
    assert file.read_text() == f"{HEADER}\n{ROW}\n{second}\n"


def test_only_the_last_line_end_may_be_missing(tmp_path):
    (tmp_path / "shop.csv").write_text(f"{HEADER}\n{ROW}")
    assert read_trials("shop", folder=tmp_path)["number"].tolist() == [1]


@pytest.mark.parametrize("text", [b"", b"a,b\n1,2\n", b"\xff\xfe", HEADER.encode()])
def test_another_file_is_refused(text, tmp_path):
    (tmp_path / "shop.csv").write_bytes(text)
    with pytest.raises(ValueError, match=r"shop\.csv is not a table of trials .*; delete it to start again"):
        read_trials("shop", folder=tmp_path)
    assert (tmp_path / "shop.csv").read_bytes() == text


DAMAGED = [
    ROW[:40], ROW + ",1", ROW.replace("trial", "test"), ROW.replace("complete", "running"), ROW.replace("True", "1"),
    ROW.replace("0.25,0.5", "nan,0.5"), ROW.replace("[0.25]", "[null]"), ROW.replace("[0.25]", "0.25"),
    ROW.replace("[0.25]", "[" * 100_000), ROW.replace("100}", "true}"), ROW.replace("100}", "9999}"),
    ROW.replace("model.k", "model.x"), ROW.replace('"{""model.k"": 100}"', "[]"), ROW.replace("SKNN,1", "SKNN,x"), "\0",
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_row_is_named(line, tmp_path):
    (tmp_path / "shop.csv").write_text(f"{HEADER}\n{ROW}\n{line}\n{ROW}\n")
    with pytest.raises(ValueError, match=r"shop\.csv, line 3: is not a row of a table of trials \(.*; remove the"):
        read_trials("shop", folder=tmp_path)


# ------------------------------------------------------------------------------------------------------------
# Real faults

COMMAND = ["-m", "experiments.tune", "--dataset", "Demo", "--model", "STAN", "SKNN", "--trials", "3", "--folder"]
LIMITED = """
import resource, sys
from experiments import tune
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(tune.main(sys.argv[2:]))
"""


def run_python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
def test_a_full_disk_keeps_the_table_and_names_it(tmp_path):
    tune.main([*COMMAND[2:-3], "--trials", "2", "--folder", str(tmp_path)])
    before = (tmp_path / "demo.csv").read_bytes()
    full = run_python("-c", LIMITED, len(before) + 100, *COMMAND[2:], tmp_path)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1] == f"experiments.tune: {tmp_path}/demo.csv cannot be written (File too large)"
    assert "Traceback" not in full.stderr and os.listdir(tmp_path) == ["demo.csv"]
    assert (tmp_path / "demo.csv").read_bytes() == before
    assert tune.main([*COMMAND[2:], str(tmp_path)]) == 0
    assert read_trials("demo", folder=tmp_path)["number"].tolist() == [1, 2, 1, 2, 3, 3]
    assert (tmp_path / "demo.csv").read_bytes().startswith(before)


@pytest.mark.timeout(1200)  # on a machine that is busy, starting two studies takes minutes
def test_two_studies_at_once_lose_no_row(tmp_path):
    studies = [
        subprocess.Popen([sys.executable, *COMMAND, tmp_path], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    refused = f"experiments.tune: {tmp_path}/demo.csv is in use by another process; wait until that process ends"
    for study in studies:
        error = study.communicate()[1]
        assert study.returncode == 0 or (study.returncode == 1 and error.splitlines()[-1] == refused), error
    assert tune.main([*COMMAND[2:], str(tmp_path)]) == 0
    table = read_trials("demo", folder=tmp_path)
    for model in ("STAN", "SKNN"):
        assert table.loc[table["model"] == model, "number"].tolist() == [1, 2, 3]


HOLD = "import sys; from pathlib import Path; from dataset.parts import lock_file\n"
HOLD += "with lock_file(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX")
def test_a_lock_refuses_others_and_dies_with_its_process(tmp_path, capsys):
    file = tmp_path / "demo.csv"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, file], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert tune.main([*COMMAND[2:], str(tmp_path)]) == 1
        message = f"experiments.tune: {file} is in use by another process; wait until that process ends\n"
        assert capsys.readouterr().err.endswith(message) and not file.exists()
    finally:
        holder.kill()
        holder.communicate()
    assert os.listdir(tmp_path) == [".demo.csv.lock"]  # left by the killed process; it locks nothing
    with lock_file(file):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_named(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert tune.main([*COMMAND[2:], str(tmp_path)]) == 1
    assert "demo.csv cannot be written (Permission denied)" in capsys.readouterr().err
