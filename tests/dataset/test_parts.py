"""Temporary files and locks where there are no locks: on Windows, and on some network folders."""

import errno
import os
import subprocess
import sys

import pytest

from dataset import parts
from dataset.files import ROOT, replacing
from dataset.parts import lock_file, part_file

WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None  # importing it raises ImportError
import os
from pathlib import Path
from dataset import fetch, parts
from dataset.convert import main
folder = Path(sys.argv[1])
assert parts.fcntl is None
with parts.part_file(folder / "x.csv") as part:
    opened = [os.path.realpath(fd) for fd in Path("/proc/self/fd").glob("*")]
    assert str(part) not in opened, "Windows could not rename an open file"
    part.write_text("new")
    part.replace(folder / "x.csv")
with parts.lock_file(folder / "x.csv"), parts.lock_file(folder / "x.csv"):
    pass
(folder / "log.csv").write_text("user,item,timestamp\\nu,a,1\\nu,b,2\\nv,a,1\\nv,b,2\\n")
(folder / ".items.csv.abc.part").write_text("of a run that may still write")
sys.exit(main([str(folder / "log.csv"), "--output", str(folder), "--test-share", "0.5"]))
"""


def test_everything_is_written_without_the_module_fcntl(tmp_path):
    run = subprocess.run([sys.executable, "-c", WITHOUT_FCNTL, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "x.csv").read_text() == "new"
    names = [".items.csv.abc.part", "items.csv", "log.csv", "test_sessions.csv", "train_sessions.csv", "x.csv"]
    assert sorted(os.listdir(tmp_path)) == names
    assert (tmp_path / "items.csv").read_text() == "id,item\n1,a\n2,b\n"


@pytest.mark.skipif(parts.fcntl is None, reason="locks are POSIX")
def test_a_folder_without_locks_can_be_written(tmp_path, monkeypatch):
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(parts.fcntl, "flock", no_locks)
    (tmp_path / ".x.csv.abc.part").write_text("of a run that may still write")
    with replacing(tmp_path / "x.csv") as part, lock_file(tmp_path / "y.csv"):
        part.write_text("new")
    assert (tmp_path / "x.csv").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == [".x.csv.abc.part", "x.csv"]
    with pytest.raises(RuntimeError), part_file(tmp_path / "x.csv"):
        raise RuntimeError
    assert sorted(os.listdir(tmp_path)) == [".x.csv.abc.part", "x.csv"]
