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
from scipy.sparse import csr_array, eye_array, vstack
from torch import Tensor

from dataset.options import NonNegative
from dataset.sessions import Sessions
from models.baselines.base import keep_strongest
from models.baselines.CoOccurrence import CoOccurrence
from models.item_graph import item_graph

# Multiplications for the walks from one item of a session, on average. Beauty and Cell need 1,100 to 3,300.
_MOST_STEPS = 5_000
# If there are more, that many neighbours and that many ends of walks are kept for each item.
_KEEP = 100
_ROWS = 128  # items whose walks are computed at once


class RandomWalk(CoOccurrence):
    """Scores q (I + walk S) W: q the session's item weights, S the normalised item graph, W CoOccurrence's pairs.

    walk: weight of walks with two steps. See `CoOccurrence` for the other arguments.

    On a graph with many edges, `learn` computes W' = (I + walk S) W and keeps the largest entries of each row. Scores
    are then q W', and the memory is at most 800 bytes an item.
    """

    def __init__(self, *, n_items: int, walk: NonNegative = 1.0, **shared):
        super().__init__(n_items=n_items, **shared)
        self.walk = walk
        self.register_matrix("neighbours", rows=n_items + 1, values=torch.float16)  # empty if `pairs` holds W'

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        super().learn(sessions, popularity)
        graph, pairs = item_graph(sessions), self.matrix("pairs")
        if mean_steps(graph, pairs, popularity) > _MOST_STEPS:
            self.set_matrix("pairs", self.ends_of_walks(graph, pairs))
            graph = csr_array(graph.shape)
        self.set_matrix("neighbours", graph)

    def ends_of_walks(self, graph: csr_array, pairs: csr_array) -> csr_array:
        """(n + 1, n + 1): the largest entries of each row of (I + walk S) W."""
        walks = csr_array(eye_array(self.n_items + 1) + self.walk * keep_strongest(graph, _KEEP))
        blocks = range(0, self.n_items + 1, _ROWS)
        return vstack([keep_strongest(walks[start : start + _ROWS] @ pairs, _KEEP) for start in blocks], format="csr")

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        pairs, neighbours = self.matrix("pairs"), self.walk * self.matrix("neighbours")

        def score(x: np.ndarray) -> csr_array:
            q = self.item_weights(x)
            return (q + q @ neighbours) @ pairs

        return self.without_ties(score)


def mean_steps(graph: csr_array, pairs: csr_array, popularity: np.ndarray) -> float:
    """The number of walks from an item, averaged over all occurrences of items in training."""
    edges = csr_array((np.ones(graph.nnz), graph.indices, graph.indptr), shape=graph.shape)
    return float(popularity @ (edges @ np.diff(pairs.indptr)) / max(popularity.sum(), 1))
