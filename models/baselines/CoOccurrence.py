"""Co-occurrence: items that occur in training sessions together with items of the current session.

The rules of Ludewig & Jannach 2018, "Evaluation of Session-based Recommendation Algorithms": association rules
(pairs of items in one session) and sequential rules (the later item of a pair; a pair weighs less the larger its
distance). The rules are summed over the items of the session, and its last items can weigh more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dataset.options import Range, Share
from dataset.sessions import LONGEST_SESSION, Sessions
from models.baselines.base import (
    Baseline,
    following_items,
    last_occurrences,
    one_hot,
    query_matrix,
    scale_rows,
    steps_back,
)

DISTANCE = {"same": lambda d: np.ones(len(d)), "div": lambda d: 1 / d}


class CoOccurrence(Baseline):
    """Score of j: sum over the session's items i of memory^(steps back) * weight(i, j) / occurrences(i)^norm.

    weight(i, j) is a sum over the occurrences of i and j in one training session: 1 each, or 1 / distance with
    distance="div", times `backward` if j comes before i. Pairs up to LONGEST_SESSION steps apart are counted.
    """

    def __init__(
        self,
        *,
        n_items: int,
        distance: Literal["same", "div"] = "same",
        backward: Share = 1.0,
        memory: Annotated[float, Range(0, 1, above=True)] = 1.0,
        norm: Share = 0.0,
    ):
        super().__init__(n_items=n_items)
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
        self.set_matrix("pairs", scale_rows(pairs, np.maximum(popularity, 1) ** -float(self.norm)))

    def item_weights(self, x: np.ndarray) -> csr_array:
        """Sessions (C, L) -> (C, n + 1), memory^(steps back) of each item."""
        weights = self.memory ** steps_back(x).astype(float)
        return query_matrix(x, weights, last_occurrences(x), self.n_items)

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        pairs = self.matrix("pairs")
        return self.without_ties(lambda x: self.item_weights(x) @ pairs)
