"""How a command line ends with an error: one line that names the file."""

from __future__ import annotations

import errno
import os
import sys

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


def report(command: str, error: Exception) -> int:
    """Print an error as one line, and return the exit code 1."""
    print(f"{command}: {describe(error)}", file=sys.stderr)
    return 1


def describe(error: Exception) -> str:
    """An error as one line that names the file.

    Files are written by `dataset.files.replacing`, which names them. An error without a name is therefore one of
    `print`; what was printed is then discarded, so that Python does not try to write it again when it ends.
    """
    if not isinstance(error, OSError) or not error.strerror:
        text = str(error)
    elif error.filename is None and error.errno in _WRITING:
        text = f"the standard output cannot be written ({error.strerror})"
        if sys.stdout is sys.__stdout__:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        text = f"{error.filename or 'a file'}: {error.strerror}"
    return " ".join(text.split("\n"))
