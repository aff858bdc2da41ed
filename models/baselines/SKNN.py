"""S-KNN: Jannach & Ludewig 2017, "When Recurrent Neural Networks meet the Neighborhood".

The k training sessions most similar to the current one (cosine of the item sets) recommend their items, weighted
by similarity. The data have no timestamps, so old sessions are not excluded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from dataset.options import Size
from dataset.sessions import LONGEST_SESSION, Sessions
from models.baselines.base import (
    Baseline,
    binary,
    cut_sessions,
    keep_strongest,
    last_occurrences,
    query_matrix,
    scale_rows,
    session_matrix,
)


class SKNN(Baseline):
    """Stores the training sessions as neighbours. Sessions longer than LONGEST_SESSION items are cut into several."""

    def __init__(self, *, n_items: int, k: Size = 100):
        super().__init__(n_items=n_items)
        self.k = k
        self.register_matrix("sessions", longest=LONGEST_SESSION)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        self.set_matrix("sessions", session_matrix(cut_sessions(sessions), self.n_items))

    def session_sets(self) -> csr_array:
        """(S, n + 1): 1 for each item of a training session, even if it occurs several times."""
        return binary(self.matrix("sessions"))

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        sets = self.session_sets()
        by_item = normalized(sets).T.tocsr()  # (n + 1, S)

        def score(x: np.ndarray) -> csr_array:
            inside = last_occurrences(x)
            weights = np.broadcast_to(inside.sum(1, keepdims=True).clip(1) ** -0.5, x.shape)
            similarity = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            return keep_strongest(similarity, self.k) @ sets

        return self.without_ties(score)


def normalized(sets: csr_array) -> csr_array:
    """Divide each row by the square root of its number of items."""
    return scale_rows(sets, np.diff(sets.indptr).clip(1) ** -0.5)
