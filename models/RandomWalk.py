"""RandomWalk: co-occurrence two steps on, as in Cooper et al. 2014, "Random Walks in Recommender Systems".

From an item of the session to what followed it in training, or first to an item that was together with it
and on from there: where CoOccurrence knows few items, the second step knows many. (Their P3, section 3, walks
from user to item to user to item; here sessions take the users' place, and the last step has a direction.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from models.CoOccurrence import CoOccurrence
from models.item_graph import item_graph
from process_data import Sessions


class RandomWalk(CoOccurrence):
    """Scores q (I + walk S) W: q the session's items, S the normalised item graph, W CoOccurrence's pairs.

    walk: how much the way over a neighbour counts. The others: see `CoOccurrence`.
    """

    def __init__(
        self,
        *,
        n_items: int,
        walk: float = 1.0,
        distance: str = "same",
        backward: float = 1.0,
        memory: float = 1.0,
        norm: float = 0.0,
    ):
        given = {"distance": distance, "backward": backward, "memory": memory, "norm": norm}
        super().__init__(n_items=n_items, **given)
        if not 0 <= walk < np.inf:
            raise ValueError(f"walk={walk}: must be 0 or more")
        self.walk = walk
        self.register_matrix("neighbours", rows=n_items + 1, values=torch.float16)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        super().learn(sessions, popularity)
        graph = item_graph(sessions, self.n_items)
        self.set_matrix("neighbours", graph.indptr, graph.indices, graph.data)

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        pairs, neighbours = self.matrix("pairs"), self.walk * self.matrix("neighbours")

        def score(x: np.ndarray) -> csr_array:
            q = self.remembered(x)
            return (q + q @ neighbours) @ pairs

        return self.without_ties(score)
