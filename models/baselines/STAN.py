"""STAN: Garg et al. 2019, "Sequence and Time Aware Neighborhood for Session-based Recommendations".

S-KNN with two of the paper's three decays: older items of the session count less, and so do items of a neighbour
that are far from the last item that it shares with the session. The third decay depends on the neighbour's age,
which is not in the data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.baselines.base import Decay, last_occurrences, query_matrix, steps_back, strongest
from models.baselines.SKNN import SKNN, normalized


class STAN(SKNN):
    """lambda_spw: decay of the session's items in steps; lambda_inh: decay of a neighbour's items in steps."""

    def __init__(self, *, n_items: int, k: int = 500, lambda_spw: Decay = 1.02, lambda_inh: Decay = 2.05):
        super().__init__(n_items=n_items, k=k)
        self.lambda_spw, self.lambda_inh = lambda_spw, lambda_inh

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        ordered = self.matrix("sessions")  # (S, n + 1), items in the order of their steps
        by_item = normalized(self.session_sets()).T.tocsr()  # (n + 1, S)
        step = np.arange(ordered.nnz) - np.repeat(ordered.indptr[:-1], np.diff(ordered.indptr))
        bits = csr_array((2.0**step, ordered.indices, ordered.indptr), shape=ordered.shape)
        steps_of_item = bits.T.tocsr()  # (n + 1, S), 2^step
        from_step = self.items_by_distance(ordered)

        def score(x: np.ndarray) -> csr_array:
            inside = last_occurrences(x)
            weights = np.exp(-steps_back(x).clip(0) / self.lambda_spw)
            weights /= np.sqrt((weights**2 * inside).sum(1, keepdims=True)).clip(1e-9)
            similarity = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            # The exponent of the sum of 2^step is the neighbour's last step with a shared item.
            shared = query_matrix(x, np.ones(x.shape), inside, self.n_items) @ steps_of_item
            last = np.frexp(shared.data)[1] - 1
            offsets, chosen = strongest(similarity, self.k)
            step_index = ordered.indptr[similarity.indices[chosen]] + last[chosen]
            neighbours = csr_array((similarity.data[chosen], step_index, offsets), shape=(len(x), ordered.nnz))
            return neighbours @ from_step

        return self.without_ties(score)

    def items_by_distance(self, ordered: csr_array) -> csr_array:
        """(N, n + 1): for each step of the training sessions, the weight of each item of its session by distance.

        If a session contains an item several times, its last step counts.
        """
        lengths = np.diff(ordered.indptr)
        session = np.repeat(np.arange(len(lengths)), lengths)
        pairs = session * (self.n_items + 1) + ordered.indices
        is_last = np.zeros(ordered.nnz, bool)
        is_last[ordered.nnz - 1 - np.unique(pairs[::-1], return_index=True)[1]] = True
        # All pairs of steps of one session.
        per_step = lengths[session]
        step = np.repeat(np.arange(ordered.nnz), per_step)
        offsets = np.concatenate([[0], np.cumsum(per_step)])
        other = np.arange(offsets[-1]) + np.repeat(ordered.indptr[session] - offsets[:-1], per_step)
        step, other = step[is_last[other]], other[is_last[other]]
        values = np.exp(-np.abs(other - step) / self.lambda_inh)
        return csr_array((values, (step, ordered.indices[other])), shape=(ordered.nnz, self.n_items + 1))
