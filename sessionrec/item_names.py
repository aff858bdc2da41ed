"""The names of a checkpoint's items as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

# The names of the items, one after another in UTF-8, and the end of each.
NAME_TENSORS = ("item_names", "item_name_ends")


def names_to_tensors(names: Sequence[str] | None) -> dict[str, Tensor]:
    """n names as item_names (bytes,) uint8 and item_name_ends (n,) int64; nothing for None."""
    if names is None:
        return {}
    encoded = [name.encode() for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    text = np.frombuffer(bytearray(b"".join(encoded)), np.uint8)
    return dict(zip(NAME_TENSORS, map(torch.as_tensor, (text, ends)), strict=True))


def names_from_tensors(tensors: dict[str, Tensor], n_items: int) -> list[str] | None:
    """The names in a file, None if it has none. Raises ValueError for what `names_to_tensors` does not write.

    That no name occurs twice is checked by `Vocabulary`.
    """
    text, ends = map(tensors.get, NAME_TENSORS)
    if text is None and ends is None:
        return None
    problem = "its item names are not bytes and the end of each name"
    if text is None or ends is None or text.dim() != 1 or ends.dim() != 1:
        raise ValueError(problem)
    if text.dtype != torch.uint8 or ends.dtype != torch.int64 or not len(ends):
        raise ValueError(problem)
    if len(ends) != n_items:
        raise ValueError(f"{len(ends)} names do not fit {n_items} items")
    bounds = [0, *ends.tolist()]
    if bounds[-1] != len(text) or bounds[1] < 0 or (ends[1:] < ends[:-1]).any():
        raise ValueError(problem)
    content = text.numpy().tobytes()
    try:
        return [content[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError:
        raise ValueError("its item names are not UTF-8 text") from None
