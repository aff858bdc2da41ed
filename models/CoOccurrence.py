"""Co-occurrence: items that were together in training sessions with the items of this one.

The rules of Ludewig & Jannach 2018, "Evaluation of Session-based Recommendation Algorithms": association
rules (pairs in one session) and sequential rules (the later item of a pair, the nearer the more), summed over
the whole session, its last items weighing most.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from models.counted import (
    CountModel,
    following_items,
    last_occurrences,
    one_hot,
    query_matrix,
    scale_rows,
    steps_back,
)
from process_data import LONGEST_SESSION, Sessions

DISTANCE = {"same": lambda d: np.ones(len(d)), "div": lambda d: 1 / d}


class CoOccurrence(CountModel):
    """Score of j: sum over the session's items i of memory^(steps back) * weight(i, j) / occurrences(i)^norm.

    weight(i, j) adds up over the training sessions that hold both: 1, or with distance="div" one over their
    distance, times `backward` where j comes before i. Pairs are counted up to LONGEST_SESSION steps apart.
    """

    def __init__(
        self,
        *,
        n_items: int,
        distance: str = "same",
        backward: float = 1.0,
        memory: float = 1.0,
        norm: float = 0.0,
    ):
        super().__init__(n_items=n_items)
        if distance not in DISTANCE:
            raise ValueError(f"distance={distance!r}: choose 'same' or 'div'")
        for name, value in (("backward", backward), ("norm", norm)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: must be from 0 to 1")
        if not 0 < memory <= 1:
            raise ValueError(f"memory={memory}: must be above 0 and at most 1")
        self.distance, self.backward, self.memory, self.norm = distance, backward, memory, norm
        self.register_matrix("pairs", rows=n_items + 1, values=torch.float32)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        weights = DISTANCE[self.distance](np.arange(1, LONGEST_SESSION + 1))
        later = following_items(sessions, weights, self.n_items)
        pairs = (one_hot(sessions, self.n_items).T @ later).tocsr()  # (n + 1, n + 1)
        if self.backward:
            pairs = (pairs + self.backward * pairs.T).tocsr()
        pairs.setdiag(0)
        pairs.eliminate_zeros()
        scale = np.maximum(popularity, 1) ** -float(self.norm)
        pairs = scale_rows(pairs, scale)
        self.set_matrix("pairs", pairs.indptr, pairs.indices, pairs.data)

    def remembered(self, x: np.ndarray) -> csr_array:
        """Sessions (C, L) -> (C, n + 1), memory^(steps back) of each item."""
        weights = self.memory ** steps_back(x).astype(float)
        return query_matrix(x, weights, last_occurrences(x), self.n_items)

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        pairs = self.matrix("pairs")
        return self.without_ties(lambda x: self.remembered(x) @ pairs)
