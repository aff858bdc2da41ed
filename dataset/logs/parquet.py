"""The memory that a Parquet file needs, from its page headers. A file of 13 kB can hold a string of 400 MB.

Only the metadata are read here (Apache Thrift's compact protocol); polars reads the columns.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"PAR1"
_DEEPEST = 32  # metadata are nested 6 deep
_VALUE, _PAGE = 8, 64  # bytes that a value takes at least, and the overhead of a page


def needs_more_memory(path: Path, limit: int) -> bool:
    """Whether the columns of a Parquet file take more than `limit` bytes. Raises ValueError for damaged metadata."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        total = 0
        try:
            for size in _sizes(content):
                total += size
                if total > limit:
                    return True
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("the metadata are damaged") from error
    return False


def _sizes(content: mmap.mmap) -> Iterator[int]:
    """The sizes of all pages, and of all rows."""
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    if content[-4:] != _MAGIC or start < 4:
        raise ValueError("the metadata are missing")
    footer, _ = _read_struct(content, start)
    for group in footer[4]:
        yield _VALUE * max(group[3], 0)
        for column in group[1]:
            yield from _page_sizes(content, column[3])


def _page_sizes(content: mmap.mmap, column: dict) -> Iterator[int]:
    position = min(column.get(11, column[9]), column[9])  # the dictionary is before the data
    end = position + column[7]
    if not 4 <= position <= end <= len(content):
        raise ValueError("a column is outside of the file")
    while position < end:
        page, position = _read_struct(content, position)
        values = sum(page.get(kind, {}).get(1, 0) for kind in (5, 7, 8))  # in data, in a dictionary, in data (v2)
        unpacked, packed = page[2], page[3]
        if min(unpacked, packed, values) < 0:
            raise ValueError("a page has a negative size")
        yield _PAGE + max(unpacked, _VALUE * values)
        position += packed


def _read_struct(content: mmap.mmap, position: int, depth: int = 0) -> tuple[dict, int]:
    """Field number -> value of a Thrift struct, and the position behind it. Texts and maps are skipped: None."""
    fields, number = {}, 0
    while head := content[position]:
        position += 1
        kind, delta = head & 15, head >> 4
        if delta:
            number += delta
        else:
            number, position = _read_integer(content, position)
        if kind in (1, 2):  # the type is the value
            fields[number] = kind == 1
        else:
            fields[number], position = _read_value(content, position, kind, depth + 1)
    return fields, position + 1


def _read_value(content: mmap.mmap, position: int, kind: int, depth: int) -> tuple[object, int]:
    if depth > _DEEPEST:
        raise ValueError("the metadata are nested too deeply")
    if kind in (1, 2, 3):  # a byte; in a list also a bool
        return content[position], position + 1
    if kind in (4, 5, 6):
        return _read_integer(content, position)
    if kind == 7:  # a double
        return None, position + 8
    if kind == 8:
        length, position = _read_unsigned(content, position)
        return None, position + length
    if kind in (9, 10):
        return _read_list(content, position, depth)
    if kind == 11:
        return _skip_map(content, position, depth)
    if kind == 12:
        return _read_struct(content, position, depth)
    raise ValueError("the metadata have a type that does not exist")


def _read_list(content: mmap.mmap, position: int, depth: int) -> tuple[list, int]:
    head = content[position]
    position, length, kind = position + 1, head >> 4, head & 15
    if length == 15:
        length, position = _read_unsigned(content, position)
    values = []
    for _ in range(length):
        value, position = _read_value(content, position, kind, depth + 1)
        values.append(value)
    return values, position


def _skip_map(content: mmap.mmap, position: int, depth: int) -> tuple[None, int]:
    length, position = _read_unsigned(content, position)
    if length:
        kinds, position = content[position], position + 1
        for _ in range(length):
            for kind in (kinds >> 4, kinds & 15):
                _, position = _read_value(content, position, kind, depth + 1)
    return None, position


def _read_integer(content: mmap.mmap, position: int) -> tuple[int, int]:
    value, position = _read_unsigned(content, position)
    return (value >> 1) ^ -(value & 1), position


def _read_unsigned(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value, shift, position = value | (byte & 127) << shift, shift + 7, position + 1
        if byte < 128:
            return value, position
        if shift > 63:
            raise ValueError("a number in the metadata is too long")
