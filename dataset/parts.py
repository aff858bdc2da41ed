"""Temporary files beside the file that they will replace, and a lock for a folder.

The temporary files of a killed run are removed at the next start.
"""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: leftovers stay there
    fcntl = None

# Errors that Python raises without the name of the file: the disk or the quota is full, the file is too large.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """An empty temporary file `.NAME.xxxx.part` in the folder of `path`. It is removed at the end, if it still exists.

    The file is locked as long as the block runs, and the lock ends with its process. So `remove_leftovers` can tell
    the file of a killed run from the file of a run that still writes. An OSError for a full disk gets the name `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    handle, part = _make_locked(path)
    try:
        yield part
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files for `path` that no process holds."""
    if fcntl is None:
        return
    for name in glob.glob(f"{glob.escape(str(path.parent))}/.{glob.escape(path.name)}.*.part"):
        try:
            handle = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # removed meanwhile, or not ours
            continue
        try:
            if _lock(handle):
                Path(name).unlink(missing_ok=True)
        except OSError:  # a folder in which nothing can be removed
            pass
        finally:
            os.close(handle)


@contextmanager
def alone_in(folder: Path, waiting: str) -> Iterator[None]:
    """Run the block while no other process runs such a block for this folder; if one does, print `waiting` and wait.

    The lock ends with its process. Where the file system has no locks, the block runs at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        if handle is not None and not _lock(handle):
            print(waiting, flush=True)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _make_locked(path: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        # Another run may have taken the file for a leftover before it was locked.
        if fcntl is None or (_lock(handle) and os.path.exists(name)):
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file. False if another process has locked it, or if its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
