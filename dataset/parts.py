"""Temporary files beside the file that they will replace, and locks. Both end with their process.

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
except ImportError:  # Windows has no such locks: leftovers stay there, and `lock_file` locks nothing
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
        if handle is not None:
            os.close(handle)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the lock of `path`: a file `.NAME.lock` beside it, which is removed at the end.

    The lock ends with its process, so the file of a killed run locks nothing. Raises OSError if another process holds
    the lock. Where there are no locks (Windows, some network folders) nothing is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = None if fcntl is None else _open_lock(path, lock)
    try:
        yield
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)
            os.close(handle)


def _open_lock(path: Path, lock: Path) -> int:
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise OSError(f"{path} cannot be written ({error.strerror})") from None
        is_locked = _lock(handle)
        # The process that held the lock may have removed the file in the meantime; then there is a new one.
        if is_locked is not False and os.path.exists(lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
            return handle
        os.close(handle)
        if is_locked is False:
            raise OSError(f"{path} is in use by another process; wait until that process ends")


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
        if handle is not None and _lock(handle) is False:
            print(waiting, flush=True)
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _make_locked(path: Path) -> tuple[int | None, Path]:
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        if fcntl is None:  # Windows does not rename or remove an open file
            os.close(handle)
            return None, Path(name)
        # Another run may have taken the file for a leftover before it was locked.
        if _lock(handle) is not False and os.path.exists(name):
            return handle, Path(name)
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open file. False if another process has locked it, None if its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
