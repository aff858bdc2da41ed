"""Shared base class of the non-neural baselines: sparse matrices in buffers, and scores without ties.

Shapes: S training sessions with N items in total, C queries in a chunk, L steps, n items (ids 1..n, 0 is padding).
Column 0 of a matrix (rows, n + 1) is empty. All computations use scipy's CSR matrices and float64, so that sums
that are mathematically equal are also equal after rounding to float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dataset.options import Range, Size, checked
from dataset.sessions import LONGEST_SESSION, PADDING, Sessions, check_popularity, maximal_sessions
from models.base import RecordedModule

# With more items, popularity ranks would not be distinct in float32.
MOST_ITEMS = 2**24 - 2
# Queries that are scored at once. The sparse products of more queries do not fit into the processor's cache.
_BLOCK = 32
_SMALLEST = float(np.finfo(np.float32).tiny)
# Largest probability of an item for which the model has no evidence.
_TAIL = 1e-9

Decay = Annotated[float, Range(0.1, 1e9)]  # in steps


class CatalogueTooLarge(ValueError):
    """The catalogue has more items than the model can handle. An ensemble omits such a member."""


class Baseline(RecordedModule, ABC):
    """A model that is fitted in one pass over the training sessions: a subclass implements `learn` and `scorer`.

    The learned matrices are buffers, whose sizes are read from a checkpoint. They stay on the CPU, where scipy
    computes, and keep their types: `to`, `half` and similar methods have no effect.
    """

    recipe_section = "baseline"

    def __init__(self, *, n_items: Size):
        super().__init__()
        if n_items > MOST_ITEMS:
            raise CatalogueTooLarge(f"n_items={n_items}: a baseline takes at most {MOST_ITEMS} items")
        self.n_items = n_items
        self._rows: dict[str, int] = {}  # matrix -> number of its rows, if that is fixed
        self._longest: dict[str, int] = {}  # matrix -> largest number of entries in a row, if that is bounded
        self.register_buffer("popularity_rank", torch.as_tensor(popularity_ranks(np.zeros(n_items + 1))))

    @abstractmethod
    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        """Learn from whole training sessions (labels included), one per user."""

    @abstractmethod
    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """As `SessionModel.scorer`: a function of x (C, L) and out (C, n + 1) that writes scores without ties."""

    @checked
    def fit(self, sessions: Sessions, popularity: np.ndarray) -> Baseline:
        """Learn from encoded training rows. Prefix rows are folded first. Returns self.

        Raises ValueError for sessions or a popularity (n + 1,) of another number of items.
        """
        if sessions.n_items != self.n_items:
            counts = f"the model has {self.n_items} items and the sessions {sessions.n_items}"
            raise ValueError(f"{counts}: n_items=data.n_items")
        check_popularity(popularity, self.n_items)
        self.popularity_rank = torch.as_tensor(popularity_ranks(popularity))
        self.learn(maximal_sessions(sessions)[0], popularity)
        return self

    def without_ties(self, score: Callable[[np.ndarray], csr_array]) -> Callable[[Tensor, Tensor], Tensor]:
        """Make a scorer from a function x (C, L) -> raw scores (C, n + 1), positive for items with evidence."""
        rank = self.popularity_rank.numpy()

        def scorer(x: Tensor, out: Tensor) -> Tensor:
            for start in range(0, len(x), _BLOCK):
                rows = slice(start, start + _BLOCK)
                write_scores(score(x[rows].numpy()), rank, out[rows])
            return out

        return scorer

    def probabilities(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Like `scorer`, but the positive scores divided by their sum; 0 for the padding.

        The other items keep their order and get negligible probabilities.
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

    def register_matrix(
        self, name: str, *, rows: int = 0, values: torch.dtype | None = None, longest: int | None = None
    ) -> None:
        """Add buffers for a CSR matrix (rows, n + 1). Without a type for `values`, all entries are ones.

        rows=0: the number of rows is learned. longest: how many entries a row may have.
        """
        if rows:
            self._rows[name] = rows
        if longest:
            self._longest[name] = longest
        self.register_buffer(f"{name}_offsets", torch.zeros(rows + 1, dtype=torch.int64))
        self.register_buffer(f"{name}_items", torch.zeros(0, dtype=torch.int32))
        if values is not None:
            self.register_buffer(f"{name}_values", torch.zeros(0, dtype=values))

    def set_matrix(self, name: str, matrix: csr_array) -> None:
        """Store a matrix in the buffers that `register_matrix` added, in their types."""
        arrays = {"offsets": matrix.indptr, "items": matrix.indices, "values": matrix.data}
        for suffix, array in arrays.items():
            if (buffer := self._buffers.get(f"{name}_{suffix}")) is not None:
                setattr(self, f"{name}_{suffix}", torch.as_tensor(array).to(buffer.dtype, copy=True))

    def matrix(self, name: str) -> csr_array:
        """The stored matrix. A row's entries keep their order, and an item may occur several times."""
        offsets, items = (self._buffers[f"{name}_{suffix}"].numpy() for suffix in ("offsets", "items"))
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
        """Whether a buffer is valid. scipy does not check its input, and invalid indices would crash it."""
        array = self._buffers[name].numpy()
        if array.ndim != 1:
            return False
        if name == "popularity_rank":
            return np.array_equal(np.sort(array), np.arange(self.n_items + 1))
        matrix, _, suffix = name.rpartition("_")
        if suffix == "offsets":
            ends, lengths = array[:1].tolist() + array[-1:].tolist(), np.diff(array)
            has_rows = len(lengths) == self._rows.get(matrix, len(lengths))
            fits = ends == [0, self._buffers[f"{matrix}_items"].numel()] and bool((lengths >= 0).all())
            return has_rows and fits and lengths.max(initial=0) <= self._longest.get(matrix, np.inf)
        if suffix == "items":
            return bool(((array > PADDING) & (array <= self.n_items)).all())
        length = self._buffers[f"{matrix}_items"].numel() if suffix == "values" else self.n_items + 1
        return len(array) == length and bool((np.isfinite(array) & (array >= 0)).all())


# --------------------------------------------------------------------------------------------------
# Scores without ties


def popularity_ranks(popularity: np.ndarray) -> np.ndarray:
    """Counts (n + 1,) -> (n + 1,) int32: 0 for the most popular item, ties by the lower id, n for the padding."""
    n = len(popularity) - 1
    rank = np.full(n + 1, n, np.int32)
    rank[1 + np.argsort(-np.asarray(popularity[1:], np.float64), kind="stable")] = np.arange(n)
    return rank


def write_scores(raw: csr_array, rank: np.ndarray, out: Tensor) -> Tensor:
    """Raw scores (C, n + 1) -> distinct float32 scores in `out` (C, n + 1).

    Equal scores are ordered by popularity rank (n + 1,) and raised to the next larger float32. The order of
    different scores never changes. Items without a positive score get -1 and less, in the order of popularity.
    """
    C, n = raw.shape[0], raw.shape[1] - 1
    shift = n.bit_length()
    if C << shift > 2**32:
        raise ValueError(f"{C} sessions at once are too many for {n} items; score them in chunks")
    out[:] = torch.as_tensor(-1.0 - rank)
    is_positive = raw.data > 0
    row = np.repeat(np.arange(C), np.diff(raw.indptr))[is_positive]
    # Positive floats have the same order as their bits. Packing row, score and popularity rank into one integer
    # allows a single sort, after which they are unpacked again.
    bits = np.maximum(raw.data[is_positive], _SMALLEST).astype(np.float32).view(np.int32)
    key = ((row << 31 | bits) << shift) | (n - rank[raw.indices[is_positive]])
    key.sort()
    row, bits, from_last = key >> (shift + 31), (key >> shift) & (2**31 - 1), key & ((1 << shift) - 1)
    # Raise each score above the previous one of its row: bits_i = max over j <= i of bits_j + (i - j).
    i = np.arange(len(key))
    bits = np.maximum.accumulate((row << 32) + bits - i) - (row << 32) + i
    order = np.empty(n + 1, np.int64)
    order[rank] = np.arange(n + 1)
    out.numpy()[row, order[n - from_last]] = bits.astype(np.int32).view(np.float32)
    return out


# --------------------------------------------------------------------------------------------------
# Sessions and queries as sparse matrices


def steps_back(x: np.ndarray) -> np.ndarray:
    """(C, L) number of steps from each item to its session's last item; negative for the padding."""
    return (x > PADDING).sum(1, keepdims=True) - 1 - np.arange(x.shape[1])


def last_occurrences(x: np.ndarray) -> np.ndarray:
    """(C, L) True where an item does not occur again in its session."""
    last = x > PADDING
    for t in range(x.shape[1] - 1):
        last[:, t] &= (x[:, t + 1 :] != x[:, t : t + 1]).all(1)
    return last


def scale_rows(matrix: csr_array, factors: np.ndarray) -> csr_array:
    """Multiply each row by its factor (rows,)."""
    scaled = matrix.copy()
    scaled.data = matrix.data * np.repeat(factors, np.diff(matrix.indptr))
    return scaled


def strongest(matrix: csr_array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest entries of each row, ties by the lower column: offsets (C + 1,), indices into `data`, ascending."""
    counts = np.diff(matrix.indptr)
    is_chosen = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(counts > k):  # faster than to sort all entries
        entries = slice(*matrix.indptr[row : row + 2])
        values = matrix.data[entries]
        smallest = np.partition(values, -k)[-k]
        chosen, equal = values > smallest, np.flatnonzero(values == smallest)
        by_column = matrix.indices[entries][equal].argsort()
        chosen[equal[by_column[: k - chosen.sum()]]] = True
        is_chosen[entries] = chosen
    return np.concatenate([[0], np.cumsum(np.minimum(counts, k))]), np.flatnonzero(is_chosen)


def keep_strongest(matrix: csr_array, k: int) -> csr_array:
    """The matrix with only the k largest entries of each row, ties by the lower column."""
    offsets, chosen = strongest(matrix, k)
    return csr_array((matrix.data[chosen], matrix.indices[chosen], offsets), shape=matrix.shape)


def query_matrix(x: np.ndarray, weights: np.ndarray, inside: np.ndarray, n_items: int) -> csr_array:
    """x, weights (C, L) -> (C, n + 1): the weight of each item where inside (C, L) is True."""
    offsets = np.concatenate([[0], np.cumsum(inside.sum(1))])
    return csr_array((weights[inside], x[inside], offsets), shape=(len(x), n_items + 1))


def session_matrix(sessions: Sessions, n_items: int) -> csr_array:
    """(S, n + 1): an entry 1 for each step, in order; an item may occur several times."""
    entries = (np.ones(len(sessions.items)), sessions.items, sessions.offsets)
    return csr_array(entries, shape=(len(sessions), n_items + 1))


def binary(matrix: csr_array) -> csr_array:
    """Merge an item's several entries of a row, and set all entries to 1."""
    merged = matrix.copy()  # `sum_duplicates` sorts in place
    merged.sum_duplicates()
    merged.data[:] = 1
    return merged


def following_items(
    sessions: Sessions, weights: np.ndarray, n_items: int, *, first: int = 1, backward: bool = False
) -> csr_array:
    """(N, n + 1): the weights of the later items of each step, weights[0] for the item `first` steps later.

    backward: the earlier items of each step instead.
    """
    N = len(sessions.items)
    to_end = np.repeat(sessions.offsets[1:], sessions.lengths) - np.arange(N)  # items from a step to the end
    rows, columns, values = [np.zeros(0, int)], [np.zeros(0, int)], [np.zeros(0)]
    for distance, weight in enumerate(weights, first):
        step = np.flatnonzero(to_end > distance)
        if not len(step):
            break
        rows.append(step + distance if backward else step)
        columns.append(sessions.items[step if backward else step + distance])
        values.append(np.full(len(step), weight))
    indices = (np.concatenate(rows), np.concatenate(columns))
    return csr_array((np.concatenate(values), indices), shape=(N, n_items + 1))


def one_hot(sessions: Sessions, n_items: int) -> csr_array:
    """(N, n + 1): a 1 for the item of each step."""
    return following_items(sessions, np.ones(1), n_items, first=0)


def cut_sessions(sessions: Sessions, longest: int = LONGEST_SESSION) -> Sessions:
    """Cut each session that has more than `longest` items into several, starting from its end."""
    pieces = -(-sessions.lengths // longest)
    pieces_after = np.repeat(np.cumsum(pieces), pieces) - 1 - np.arange(pieces.sum())
    ends = np.repeat(sessions.offsets[1:], pieces) - longest * pieces_after
    return Sessions(sessions.items, np.concatenate([[0], ends]))
