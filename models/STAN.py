"""STAN: Garg et al. 2019, "Sequence and Time Aware Neighborhood for Session-based Recommendations".

S-KNN with two of the paper's three decays: items of the session count less the longer ago they are, and a
neighbour's items count less the farther they are from the last item that it shares. The third is by the
neighbour's age, which these data do not tell.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.counted import last_occurrences, query_matrix, steps_back
from models.SKNN import SKNN, normalized, strongest


class STAN(SKNN):
    """lambda_spw: decay of the session's items, in steps; lambda_inh: of a neighbour's items, in steps."""

    def __init__(self, *, n_items: int, k: int = 500, lambda_spw: float = 1.02, lambda_inh: float = 2.05):
        super().__init__(n_items=n_items, k=k)
        for name, value in (("lambda_spw", lambda_spw), ("lambda_inh", lambda_inh)):
            if value < 0.1:
                raise ValueError(f"{name}={value}: must be at least 0.1")
        self.lambda_spw, self.lambda_inh = lambda_spw, lambda_inh

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        ordered = self.matrix("sessions")  # (S, n + 1), items in the order of their steps
        by_item = normalized(self.session_sets()).T.tocsr()  # (n + 1, S)
        step = np.arange(ordered.nnz) - np.repeat(ordered.indptr[:-1], np.diff(ordered.indptr))
        bits = csr_array((2.0**step, ordered.indices, ordered.indptr), shape=ordered.shape)
        steps_of_item = bits.T.tocsr()  # (n + 1, S), a step as a bit
        from_step = self.items_by_distance(ordered)

        def score(x: np.ndarray) -> csr_array:
            inside = last_occurrences(x)
            weights = np.exp(-steps_back(x).clip(0) / self.lambda_spw)
            weights /= np.sqrt((weights**2 * inside).sum(1, keepdims=True)).clip(1e-9)
            likeness = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            # The highest bit of the sum is the last step of the neighbour whose item is shared.
            shared = query_matrix(x, np.ones(x.shape), inside, self.n_items) @ steps_of_item
            last = np.frexp(shared.data)[1] - 1
            offsets, chosen = strongest(likeness, self.k)
            place = ordered.indptr[likeness.indices[chosen]] + last[chosen]
            near = csr_array((likeness.data[chosen], place, offsets), shape=(len(x), ordered.nnz))
            return near @ from_step

        return self.without_ties(score)

    def items_by_distance(self, ordered: csr_array) -> csr_array:
        """(N, n + 1): for each step of the training sessions all items of its session, by distance.

        An item that a session holds several times counts by its last step.
        """
        lengths = np.diff(ordered.indptr)
        session = np.repeat(np.arange(len(lengths)), lengths)
        # Backwards, so that the first that `unique` meets is the last.
        name = (session * (self.n_items + 1) + ordered.indices)[::-1]
        counts = np.zeros(ordered.nnz, bool)
        counts[ordered.nnz - 1 - np.unique(name, return_index=True)[1]] = True
        per_step = lengths[session]
        step = np.repeat(np.arange(ordered.nnz), per_step)
        offsets = np.concatenate([[0], np.cumsum(per_step)])
        other = np.arange(offsets[-1]) + np.repeat(ordered.indptr[session] - offsets[:-1], per_step)
        kept = counts[other]
        step, other = step[kept], other[kept]
        values = np.exp(-np.abs(other - step) / self.lambda_inh)
        return csr_array((values, (step, ordered.indices[other])), shape=(ordered.nnz, self.n_items + 1))
