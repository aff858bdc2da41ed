"""S-KNN: Jannach & Ludewig 2017, "When Recurrent Neural Networks meet the Neighborhood".

The k training sessions most like this one (cosine of the sets of items) recommend what they
hold, each with the weight of its likeness. Without timestamps no session is left out as too old.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.counted import CountModel, cut_sessions, last_occurrences, query_matrix, scale_rows
from process_data import Sessions


class SKNN(CountModel):
    """Keeps the training sessions, in pieces of at most LONGEST_SESSION items; each is a neighbour."""

    def __init__(self, *, n_items: int, k: int = 100):
        super().__init__(n_items=n_items)
        if k < 1:
            raise ValueError(f"k={k}: at least one neighbour is needed")
        self.k = k
        self.register_matrix("sessions")

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        pieces = cut_sessions(sessions)
        self.set_matrix("sessions", pieces.offsets, pieces.items)

    def session_sets(self) -> csr_array:
        """(S, n + 1): 1 for each item of a training session, however often it holds it."""
        sets = self.matrix("sessions").copy()
        sets.sum_duplicates()
        sets.data[:] = 1
        return sets

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        sets = self.session_sets()
        by_item = normalized(sets).T.tocsr()  # (n + 1, S)

        def score(x: np.ndarray) -> csr_array:
            inside = last_occurrences(x)
            weights = np.broadcast_to(inside.sum(1, keepdims=True).clip(1) ** -0.5, x.shape)
            likeness = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            offsets, chosen = strongest(likeness, self.k)
            near = (likeness.data[chosen], likeness.indices[chosen], offsets)
            return csr_array(near, shape=likeness.shape) @ sets

        return self.without_ties(score)


def normalized(sets: csr_array) -> csr_array:
    """Rows divided by the square root of how many items they hold."""
    return scale_rows(sets, np.diff(sets.indptr).clip(1) ** -0.5)


def strongest(likeness: csr_array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest entries of each row, equals by the lower column: offsets (C + 1,), places in `data`."""
    counts = np.diff(likeness.indptr)
    if counts.max(initial=0) <= k:
        return likeness.indptr, np.arange(likeness.nnz)
    row = np.repeat(np.arange(len(counts)), counts)
    full = np.flatnonzero(np.repeat(counts > k, counts))
    ordered = full[np.lexsort((likeness.indices[full], -likeness.data[full], row[full]))]
    place = np.arange(likeness.nnz)
    place[full] = ordered
    first_k = np.arange(likeness.nnz) - np.repeat(likeness.indptr[:-1], counts) < k
    return np.concatenate([[0], np.cumsum(np.minimum(counts, k))]), place[first_k]
