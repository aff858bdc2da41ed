"""Open a log by its content, not by its name, and give it out in blocks of whole lines.

A small compressed file may unpack to any size, so a line and the ratio of sizes are bounded: memory stays below a few
blocks whatever the file holds.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from dataset.logs.parquet import needs_more_memory

BLOCK = 1 << 24
LONGEST_LINE = 1 << 20  # bytes
# Logs become 3 to 20 times smaller. The ratio counts only for files that unpack to much more than memory holds easily.
LARGEST_RATIO, LARGE = 200, 1 << 28
_BOM = b"\xef\xbb\xbf"
_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The first bytes of files that are no text, and the remedy.
OTHER_FILES = {
    b"BZh": "the file is compressed with bzip2; unpack it, or use gzip",
    b"\xfd7zXZ": "the file is compressed with xz; unpack it, or use gzip",
    b"\x28\xb5\x2f\xfd": "the file is compressed with zstd; unpack it, or use gzip",
    b"7z\xbc\xaf": "the file is a 7z archive; unpack it, and name the file in it",
    b"Rar!": "the file is a rar archive; unpack it, and name the file in it",
    b"SQLite format 3": "the file is an SQLite database; save the table as CSV",
    b"\xd0\xcf\x11\xe0": "the file is an Excel workbook; save the sheet as CSV",
    b"\x89HDF": "the file is in HDF5 format; save the table as CSV or Parquet",
    b"\xff\xfe": "the file is not UTF-8 text; save it as UTF-8",
    b"\xfe\xff": "the file is not UTF-8 text; save it as UTF-8",
}


class ConvertError(ValueError):
    """A log or an option cannot be used. The message gives the file, the line if possible, the reason and a remedy."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error raised while `path` is read into a ConvertError of one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise ConvertError(f"{path}: the file does not exist; check its name") from None
    except IsADirectoryError:
        raise ConvertError(f"{path}: the file cannot be read: it is a folder; name the log in it") from None
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error):
        reason = "its compressed data are damaged or incomplete; copy or download it again"
        raise ConvertError(f"{path}: the file cannot be read: {reason}") from None
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__}; check the file, its permissions and its disk"
        raise ConvertError(f"{path}: the file cannot be read: {reason}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        reason = "its Parquet data are damaged or of an unknown kind; write it again, or save it as CSV"
        raise ConvertError(f"{path}: the file cannot be read: {reason}") from None


def check_parquet_size(path: Path) -> None:
    """Raise ConvertError for a Parquet file that is made to fill memory, or whose metadata are damaged."""
    with reading(path):
        try:
            is_bomb = needs_more_memory(path, max(LARGE, LARGEST_RATIO * path.stat().st_size))
        except ValueError:
            raise pl.exceptions.ComputeError from None  # as if polars had read the metadata
    if is_bomb:
        raise ConvertError(
            f"{path}: the file unpacks to more than {LARGEST_RATIO} times its size, which no log does; look at its "
            "columns"
        )


def is_parquet(path: Path) -> bool:
    """Whether a file is in Parquet format, by its first bytes. Raises ConvertError if it cannot be read."""
    with reading(path):
        if path.is_dir():
            raise IsADirectoryError
        if path.exists() and not path.is_file():
            raise ConvertError(f"{path}: this is a pipe or a device; save the log as a file")
        with open(path, "rb") as file:
            return file.read(4) == b"PAR1"


@contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a text log. Gzip and zip files are unpacked."""
    with open(path, "rb") as packed:
        start = packed.read(16)
        packed.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=packed) as file:
                yield file
        elif start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(packed) as archive, archive.open(_only_member(path, archive)) as file:
                yield file
        else:
            for magic, reason in OTHER_FILES.items():
                if start.startswith(magic):
                    raise ConvertError(f"{path}: {reason}")
            yield packed


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    hidden = ("__MACOSX/", ".")  # what macOS adds to an archive
    members = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith(hidden)]
    names = [info.filename for info in members]
    if "[Content_Types].xml" in names:
        raise ConvertError(f"{path}: the file is an Excel workbook; save the sheet as CSV")
    if len(members) != 1:
        some = f" ({', '.join(names[:3])[:80]}, ...)" if names else ""
        raise ConvertError(f"{path}: the archive has {len(names)} files{some}; unpack it, and name the log in it")
    if members[0].flag_bits & 1:
        raise ConvertError(f"{path}: the archive is encrypted; unpack it")
    if members[0].compress_type not in _DEFLATED:
        raise ConvertError(f"{path}: the archive has a compression that is not read here; unpack it")
    return members[0]


def read_blocks(path: Path, size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole lines of about `size` bytes, each with the number of its first line.

    A last line without a line end is a block of its own, as it is.
    Raises ConvertError for a line that is too long, for text that is not UTF-8, and for the ratio of a file that is
    made to fill memory.
    """
    packed = path.stat().st_size
    rest, line, total = b"", 1, 0
    with open_log(path) as file:
        while block := file.read(size):
            block = block.removeprefix(_BOM) if total == 0 else block
            total += len(block)
            if total > max(LARGE, LARGEST_RATIO * packed):
                raise ConvertError(
                    f"{path}: the file unpacks to more than {LARGEST_RATIO} times its size, which no log does; unpack "
                    "it and look at it"
                )
            block = rest + block
            end = block.rfind(b"\n") + 1
            block, rest = block[:end], block[end:]
            _check_lines(path, line, block, rest)
            if block:
                yield line, block
                line += block.count(b"\n")
    if rest:
        _check_lines(path, line, rest + b"\n", b"")
        yield line, rest


def _check_lines(path: Path, first: int, block: bytes, rest: bytes) -> None:
    """Raise ConvertError for a line that is too long, `rest` being the beginning of the line behind, or no UTF-8."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    lengths = np.diff(ends, prepend=-1, append=len(block) + len(rest))
    if lengths.max() > LONGEST_LINE:
        number = first + int((lengths > LONGEST_LINE).argmax())
        reason = f"the line has more than {LONGEST_LINE:,} bytes; put each interaction on a line of its own"
        raise ConvertError(f"{path}, line {number}: {reason}")
    try:
        block.decode()
    except UnicodeDecodeError as error:
        number = first + block.count(b"\n", 0, error.start)
        raise ConvertError(f"{path}, line {number}: the file is not UTF-8 text; save it as UTF-8") from None


def read_sample(path: Path, rows: int, size: int = 1 << 20) -> list[str]:
    """The first lines of a log. Raises ConvertError if the first one is empty, and the errors of `read_blocks`."""
    with reading(path):
        _, block = next(read_blocks(path, size), (1, b""))
    if block[257:262] == b"ustar":
        raise ConvertError(f"{path}: the file is a tar archive; unpack it, and name the log in it")
    if b"\0" in block:
        raise ConvertError(f"{path}: the file is not UTF-8 text; save it as UTF-8")
    lines = block.decode().removesuffix("\n").split("\n") if block else []
    if not lines or not lines[0].strip():
        where = ", line 1: the line is empty; remove it" if lines else ": the file is empty; save the log again"
        raise ConvertError(f"{path}{where}")
    if "\r" in lines[0].rstrip("\r"):
        raise ConvertError(f"{path}, line 1: lines end with carriage returns; save the log with line feeds")
    if lines[0].lstrip().startswith(('{"', "{'", "[{")):
        raise ConvertError(f"{path}, line 1: the file is JSON; save it as CSV or Parquet")
    return lines[:rows]


def split_quoted(lines: list[str], separator: str) -> list[list[str]]:
    """Cells of comma- or semicolon-separated lines, as far as their quotes are right."""
    rows = []
    try:
        rows.extend(csv.reader([f"{line}\n" for line in lines], delimiter=separator, skipinitialspace=True))
    except csv.Error:  # found again, with its line, when the log is read
        pass
    return [[cell.strip(" ") for cell in row] for row in rows]
