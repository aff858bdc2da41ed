"""What the models that only count share: sparse matrices in buffers, and scores without ties.

Shapes: S training sessions of N items in all, C queries in a chunk, L steps, n items (ids 1..n, 0 pads).
A matrix (rows, n + 1) has an empty column 0. Everything is scipy's CSR and float64 while it computes, so
that sums which are equal on paper are equal once they are rounded to float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from process_data import LONGEST_SESSION, PADDING, Sessions, maximal_sessions

# Beyond, the places in the order of popularity are no longer distinct in float32.
MOST_ITEMS = 2**24 - 2
_SMALLEST = float(np.finfo(np.float32).tiny)
# Share of probability that marks an item of which nothing is known.
_TAIL = 1e-9


class CatalogueTooLarge(ValueError):
    """A model that cannot take so many items; an ensemble goes without it."""


class CountModel(nn.Module, ABC):
    """Learns by one pass over the training sessions: a subclass implements `learn` and `scorer`.

    What it learned lies in buffers, whose sizes a checkpoint brings along. It stays on the CPU, where
    scipy's matrices are, in the types that it chose: `to`, `half` and the like change nothing.
    """

    recipe_section = "counted"

    def __init__(self, *, n_items: int):
        super().__init__()
        if n_items < 1:
            raise ValueError(f"n_items={n_items}: must be at least 1")
        if n_items > MOST_ITEMS:
            raise CatalogueTooLarge(f"{n_items} items: a model that counts takes {MOST_ITEMS} at most")
        self.n_items = n_items
        self.register_buffer("place", torch.as_tensor(popularity_places(np.zeros(n_items + 1))))

    @abstractmethod
    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        """Count whole training sessions, each user's once, their labels included."""

    @abstractmethod
    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(x (C, L), out (C, n + 1)) -> scores without ties, written to `out`, as `SessionModel.scorer`."""

    def count(self, sessions: Sessions, popularity: np.ndarray) -> CountModel:
        """Learn from encoded training rows; prefix rows of a user are folded first. Returns self."""
        self.place = torch.as_tensor(popularity_places(popularity))
        self.learn(maximal_sessions(sessions)[0], popularity)
        return self

    def without_ties(self, score: Callable[[np.ndarray], csr_array]) -> Callable[[Tensor, Tensor], Tensor]:
        """A scorer of x (C, L) -> raw scores (C, n + 1), positive where there is something to say."""
        place = self.place.numpy()
        return lambda x, out: write_scores(score(x.numpy()), place, out)

    def probabilities(self) -> Callable[[Tensor, Tensor], Tensor]:
        """As `scorer`, the positive scores divided by their sum; 0 for the padding.

        The others follow in their order, together next to nothing.
        """
        score = self.scorer()

        def probabilities(x: Tensor, out: Tensor) -> Tensor:
            score(x, out)[:, PADDING] = 0
            positive = out.clamp(min=0)
            total = positive.sum(1, keepdim=True).clamp(min=_SMALLEST)
            tail = (out + (self.n_items + 1)) * (_TAIL / self.n_items)  # from _TAIL down to above 0
            torch.where(out > 0, positive.div_(total).add_(_TAIL), tail, out=out)
            out[:, PADDING] = 0
            return out

        return probabilities

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def _apply(self, fn, recurse=True):
        return self

    def register_matrix(self, name: str, *, rows: int = 0, values: torch.dtype | None = None) -> None:
        """Buffers of a CSR matrix (rows, n + 1); without `values` its entries are ones."""
        self.register_buffer(f"{name}_offsets", torch.zeros(rows + 1, dtype=torch.int64))
        self.register_buffer(f"{name}_items", torch.zeros(0, dtype=torch.int32))
        if values is not None:
            self.register_buffer(f"{name}_values", torch.zeros(0, dtype=values))

    def set_matrix(self, name: str, offsets: np.ndarray, items: np.ndarray, values=None) -> None:
        parts = {"offsets": offsets, "items": items} | ({} if values is None else {"values": values})
        for part, array in parts.items():
            old = getattr(self, f"{name}_{part}")
            setattr(self, f"{name}_{part}", torch.as_tensor(array).to(old.dtype, copy=True))

    def matrix(self, name: str) -> csr_array:
        """The CSR matrix, in the order it was stored in; entries may repeat."""
        offsets, items = (getattr(self, f"{name}_{part}").numpy() for part in ("offsets", "items"))
        values = self._buffers.get(f"{name}_values")
        data = np.ones(len(items)) if values is None else values.double().numpy()
        return csr_array((data, items, offsets), shape=(len(offsets) - 1, self.n_items + 1))

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        for name, buffer in self._buffers.items():
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        errors += [f"{name} is damaged" for name in self._buffers if not self._is_sound(name)]

    def _is_sound(self, name: str) -> bool:
        """Whether a buffer can be used: scipy does not check what it is given, and would crash."""
        array = self._buffers[name].numpy()
        if array.ndim != 1:
            return False
        if name == "place":
            return np.array_equal(np.sort(array), np.arange(self.n_items + 1))
        matrix, _, part = name.rpartition("_")
        if part == "offsets":
            ends = array[:1].tolist() + array[-1:].tolist()
            return ends == [0, len(self._buffers[f"{matrix}_items"])] and bool((np.diff(array) >= 0).all())
        if part == "items":
            return bool(((array > PADDING) & (array <= self.n_items)).all())
        same = len(array) == len(self._buffers.get(f"{matrix}_items", array))
        return same and bool((np.isfinite(array) & (array >= 0)).all())


# --------------------------------------------------------------------------------------------------
# Scores without ties


def popularity_places(popularity: np.ndarray) -> np.ndarray:
    """Counts (n + 1,) -> (n + 1,) int32: 0 the most popular item, equals by the lower id, n the padding."""
    n = len(popularity) - 1
    place = np.full(n + 1, n, np.int32)
    place[1 + np.argsort(-np.asarray(popularity[1:], np.float64), kind="stable")] = np.arange(n)
    return place


def write_scores(raw: csr_array, place: np.ndarray, out: Tensor) -> Tensor:
    """Raw scores (C, n + 1) -> distinct float32 scores in `out` (C, n + 1).

    Equal raw scores are told apart by popularity (place (n + 1,)), by a step to the next larger float32
    each; items without a score follow, from -1 downwards in the order of popularity. No order changes.
    """
    C, n = raw.shape[0], raw.shape[1] - 1
    shift = n.bit_length()
    if C << shift > 2**32:
        raise ValueError(f"{C} sessions at once are too many for {n} items; score them in chunks")
    out[:] = torch.as_tensor(-1.0 - place)
    some = raw.data > 0
    row = np.repeat(np.arange(C), np.diff(raw.indptr))[some]
    # Positive floats are ordered as their bits are. One integer holds row, score and place, so that one
    # sort does it all, and gives back what it sorted.
    bits = np.maximum(raw.data[some], _SMALLEST).astype(np.float32).view(np.int32)
    key = ((row << 31 | bits) << shift) | (n - place[raw.indices[some]])
    key.sort()
    row, bits, late = key >> (shift + 31), (key >> shift) & (2**31 - 1), key & ((1 << shift) - 1)
    # Each at least one above the one before it: bits_i = max over j <= i of bits_j + (i - j), row by row.
    i = np.arange(len(key))
    bits = np.maximum.accumulate((row << 32) + bits - i) - (row << 32) + i
    order = np.empty(n + 1, np.int64)
    order[place] = np.arange(n + 1)
    out.numpy()[row, order[n - late]] = bits.astype(np.int32).view(np.float32)
    return out


# --------------------------------------------------------------------------------------------------
# Sessions and queries as sparse matrices


def steps_back(x: np.ndarray) -> np.ndarray:
    """(C, L) how many steps each item is before its session's last; negative on the padding."""
    return (x > PADDING).sum(1, keepdims=True) - 1 - np.arange(x.shape[1])


def last_occurrences(x: np.ndarray) -> np.ndarray:
    """(C, L) True where an item does not come again in its session."""
    last = x > PADDING
    for t in range(x.shape[1] - 1):
        last[:, t] &= (x[:, t + 1 :] != x[:, t : t + 1]).all(1)
    return last


def scale_rows(matrix: csr_array, factors: np.ndarray) -> csr_array:
    """Each row times its factor (rows,)."""
    scaled = matrix.copy()
    scaled.data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return scaled


def query_matrix(x: np.ndarray, weights: np.ndarray, inside: np.ndarray, n_items: int) -> csr_array:
    """x, weights (C, L) -> (C, n + 1) with the weight of each item that lies inside (C, L)."""
    offsets = np.concatenate([[0], np.cumsum(inside.sum(1))])
    return csr_array((weights[inside], x[inside], offsets), shape=(len(x), n_items + 1))


def following_items(sessions: Sessions, weights: np.ndarray, n_items: int, *, first: int = 1) -> csr_array:
    """(N, n + 1): for each item of the sessions the later ones, weights[0] for the one `first` steps on."""
    N = len(sessions.items)
    rest = np.repeat(sessions.offsets[1:], sessions.lengths) - np.arange(N)  # items from here to the end
    rows, columns, values = [], [], []
    for distance, weight in enumerate(weights, first):
        here = np.flatnonzero(rest > distance)
        if not len(here):
            break
        rows.append(here)
        columns.append(sessions.items[here + distance])
        values.append(np.full(len(here), weight))
    flat = [np.concatenate([np.zeros(0, int), *parts]) for parts in (rows, columns)]
    data = np.concatenate([np.zeros(0), *values])
    return csr_array((data, tuple(flat)), shape=(N, n_items + 1))


def one_hot(sessions: Sessions, n_items: int) -> csr_array:
    """(N, n + 1) the item of each step."""
    return following_items(sessions, np.ones(1), n_items, first=0)


def cut_sessions(sessions: Sessions, longest: int = LONGEST_SESSION) -> Sessions:
    """Sessions of at most `longest` items: longer ones become several, cut from their end."""
    pieces = -(-sessions.lengths // longest)
    after = np.repeat(np.cumsum(pieces), pieces) - 1 - np.arange(pieces.sum())
    ends = np.repeat(sessions.offsets[1:], pieces) - longest * after
    return Sessions(sessions.items, np.concatenate([[0], ends]))
