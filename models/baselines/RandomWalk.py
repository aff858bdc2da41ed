"""RandomWalk: co-occurrence over two steps, after Cooper et al. 2014, "Random Walks in Recommender Systems".

A walk goes from an item of the session to an item that followed it in training, either directly or after a first
step to an item that shared a training session with it. The first step reaches items for which CoOccurrence has
little or no evidence. (Their P3, section 3, walks from user to item to user to item. Here sessions replace users,
and the last step has a direction.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dataset.options import NonNegative
from dataset.sessions import Sessions
from models.baselines.CoOccurrence import CoOccurrence
from models.item_graph import item_graph


class RandomWalk(CoOccurrence):
    """Scores q (I + walk S) W: q the session's item weights, S the normalised item graph, W CoOccurrence's pairs.

    walk: weight of walks with two steps. See `CoOccurrence` for the other arguments.
    """

    def __init__(self, *, n_items: int, walk: NonNegative = 1.0, **shared):
        super().__init__(n_items=n_items, **shared)
        self.walk = walk
        self.register_matrix("neighbours", rows=n_items + 1, values=torch.float16)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        super().learn(sessions, popularity)
        self.set_matrix("neighbours", item_graph(sessions))

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        pairs, neighbours = self.matrix("pairs"), self.walk * self.matrix("neighbours")

        def score(x: np.ndarray) -> csr_array:
            q = self.item_weights(x)
            return (q + q @ neighbours) @ pairs

        return self.without_ties(score)
