"""Check options against their annotations, such as `k: Annotated[int, Range(1)]` or `score: Literal["dot", "cosine"]`.

`checked` decorates a function, the constructors of `models` call `check_arguments`, and recipes and the headers of
files call `check`. A value that does not fit is a ValueError of one sentence.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Union

import numpy as np

_MANY = 2**31 - 1
_LARGE = 1e9


class Range(NamedTuple):
    """A number from `low` to `high`; with `above`, `low` itself is excluded. Every number must be finite."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        has_top = self.high < _LARGE  # a larger one only keeps numbers from overflowing
        if self.above:
            return f" above {self.low:g}" + (f" and at most {self.high:g}" if has_top else "")
        if self.low == -math.inf:
            return ""
        return f" from {self.low:g} to {self.high:.10g}" if has_top else f" of at least {self.low:g}"


_ANY = Range()
Size = Annotated[int, Range(1, _MANY)]
Count = Annotated[int, Range(0, _MANY)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0, _LARGE)]
Share = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # torch and numpy take these, also once epoch and rank are mixed in
Precision = Literal["auto", "fp32", "bf16"]

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list: "a list",
    dict: "a table",
    Path: "a Path",
}
_ACCEPTED = {list: (list, tuple), int: Integral, float: Real, bool: (bool, np.bool_), Path: os.PathLike}


def check(name: str, value: object, hint: object) -> None:
    """Raise ValueError unless the value has the annotated type and range.

    hint: int, float, bool, str, Path, list, dict, None, Literal, Annotated[int or float, Range], list[...],
    dict[str, ...], a class with the attribute `made_by` (how to get an object of it), or a union of these. Any other
    annotation accepts everything.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        _check_union(name, value, parts)
    elif origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in parts):
            *most, last = map(repr, parts)
            raise ValueError(f"{name}={_short(value)}: choose {', '.join(most)} or {last}")
    elif origin is Annotated:
        limits = next((part for part in parts[1:] if isinstance(part, Range)), _ANY)
        _check_plain(name, value, parts[0], limits)
    elif origin in (list, dict):
        _check_plain(name, value, origin)
        for key, entry in value.items() if origin is dict else enumerate(value):
            check(f"{name}.{key}" if origin is dict else f"{name}[{key}]", entry, parts[-1])
    elif isinstance(hint, type) and hint in _KINDS:
        _check_plain(name, value, hint)
    elif hasattr(hint, "made_by") and not isinstance(value, hint):
        kind = type(value).__name__
        raise ValueError(f"{name}: must be {hint.__name__}, such as {hint.made_by}, and this is of the type {kind}")


def _check_union(name: str, value: object, hints: tuple) -> None:
    """One of several annotations must accept the value; the first one says what is expected."""
    if value is None and type(None) in hints:
        return
    problems = []
    for hint in hints:
        if hint is not type(None):
            try:
                return check(name, value, hint)
            except ValueError as error:
                problems.append(error)
    raise problems[0]


def _check_plain(name: str, value: object, kind: type, limits: Range = _ANY) -> None:
    fits = isinstance(value, _ACCEPTED.get(kind, kind)) and (kind is bool or not isinstance(value, bool))
    if fits and kind in (int, float):
        if limits.high >= _LARGE and limits.high < value < math.inf:
            raise ValueError(f"{name}={_short(value)}: must be {_KINDS[kind]} of at most {limits.high:.10g}")
        fits = limits.holds(value) and -math.inf < value < math.inf
    if not fits:
        raise ValueError(f"{name}={_short(value)}: must be {_KINDS[kind]}{limits}")


def _short(value: object) -> str:
    """The value in one short line."""
    return " ".join(reprlib.repr(value).split())


@functools.cache
def hints_of(function: Callable) -> dict[str, object]:
    """Parameter name -> annotation. Empty if an annotation names something that does not exist."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def check_arguments(parameters: list[inspect.Parameter], hints: dict[str, object], passed: dict[str, object]) -> None:
    """Check the passed arguments of a call. A value that is the parameter's default is always accepted."""
    for parameter in parameters:
        name = parameter.name
        if name in passed and name in hints and passed[name] is not parameter.default:
            check(name, passed[name], hints[name])


def checked(function: Callable) -> Callable:
    """A decorator: check the arguments of every call against the function's annotations."""
    parameters = list(inspect.signature(function).parameters.values())

    @functools.wraps(function)
    def call(*args, **kwargs):
        passed = dict(zip((p.name for p in parameters), args, strict=False)) | kwargs
        check_arguments(parameters, hints_of(function), passed)
        return function(*args, **kwargs)

    return call
