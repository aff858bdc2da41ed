"""Whether a model's code differs from the class of that name in `models`, as after an edit in a notebook."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

from models import MODELS


def is_custom(model: nn.Module) -> bool:
    """Whether a checkpoint of this model needs its class to be loaded: `load_checkpoint(path, model_class=...)`.

    A class that was copied from `models/` is compared with the original: its methods and attributes, and the
    functions, classes and constants of its module that they use.
    """
    registered = MODELS.get(model.name)
    if registered is type(model):
        return False
    if registered is None or model.name != type(model).__name__:
        return True
    # A notebook's classes: the model's, its bases and those of its parts, each against its namesake in the file.
    own = {c for part in model.modules() for c in type(part).__mro__ if c.__module__ == type(model).__module__}
    file = inspect.getmodule(registered)
    try:
        return any(not _is_same(c, getattr(file, c.__name__, None), type(model).__module__, set()) for c in own)
    except OSError:  # no source to compare: a plain Python console keeps none
        return True


def _is_same(ours: object, theirs: object, module: str, compared: set[int]) -> bool:
    """Whether two values, classes or functions are equal. Only what `module` defines is compared by its source."""
    if ours is theirs or id(ours) in compared:
        return True
    compared.add(id(ours))
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, property):
        return _is_same(ours.fget, theirs.fget, module, compared)
    if isinstance(ours, type) and ours.__module__ == module:
        mine, others = _attributes(ours), _attributes(theirs)
        return mine.keys() == others.keys() and all(_is_same(mine[k], others[k], module, compared) for k in mine)
    if isinstance(ours, FunctionType) and ours.__module__ == module:
        ours, theirs = inspect.unwrap(ours), inspect.unwrap(theirs)
        if inspect.getsource(ours) != inspect.getsource(theirs):
            return False
        return all(
            _is_same(ours.__globals__.get(name), theirs.__globals__.get(name), module, compared)
            for name in _globals_of(ours.__code__)
        )
    if isinstance(ours, (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, type(None))):
        return ours == theirs
    return False


def _attributes(cls: type) -> dict[str, object]:
    """What a class's body defines: its methods, and the attributes whose names are not Python's own."""
    found = {name: getattr(value, "__func__", value) for name, value in vars(cls).items()}  # of a static method, too
    return {k: v for k, v in found.items() if isinstance(v, FunctionType) or not k.startswith("__")}


def _globals_of(code: CodeType) -> Iterator[str]:
    """The names of the global variables that a function's code reads, also in functions inside of it."""
    yield from (line.argval for line in dis.get_instructions(code) if line.opname == "LOAD_GLOBAL")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)
