"""Read a pickle file that holds nothing but lists, tuples and integers, as the public session datasets do.

Unpickling may run any code. Here the file's opcodes are checked first: those that import, call or build anything
other than lists, tuples and integers are refused, so nothing that the file names is ever imported or called.
"""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

from dataset.sessions import DataError

_ALLOWED = {
    "PROTO", "FRAME", "STOP", "MARK",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
}  # fmt: skip
_STORES = {"PUT", "BINPUT", "LONG_BINPUT"}
_LARGEST_ID = 10**18 - 1
LARGEST = 1 << 26  # bytes of a file


def read_pickled_lists(path: str | Path) -> list | tuple:
    """The list or tuple in a pickle file, of lists, tuples and integers. Raises DataError for anything else.

    A list that stands in several places of the file is the same object there, so do not change the result.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(path, None, f"is larger than {LARGEST:,} bytes; the public files are far smaller")
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(path, None, f"cannot be read ({error.strerror})") from None
    try:
        _check_opcodes(path, raw)
        value = pickle.loads(raw)  # these opcodes import and call nothing
    except DataError:
        raise
    except Exception as error:  # pickle raises almost anything for a damaged file
        raise DataError(path, None, f"is no pickle file, or is damaged ({error or type(error).__name__})") from None
    if not isinstance(value, (list, tuple)):
        raise DataError(path, None, f"holds {type(value).__name__} where lists are expected")
    return value


def _check_opcodes(path: Path, raw: bytes) -> None:
    """Raise DataError for the first opcode that is not one of lists, tuples and small integers."""
    for opcode, argument, position in pickletools.genops(raw):
        if opcode.name not in _ALLOWED:
            reason = f"has the opcode {opcode.name} at byte {position}; only lists, tuples and integers are read"
            raise DataError(path, None, f"{reason}, since others may run code")
        # The unpickler takes memory for as many entries as the largest number says.
        if opcode.name in _STORES and argument > len(raw):
            raise DataError(path, None, f"numbers an object {argument} at byte {position}; the file is damaged")
        if isinstance(argument, int) and abs(argument) > _LARGEST_ID:
            raise DataError(path, None, f"has a number of more than 18 digits at byte {position}")
