"""V-SKNN: Ludewig & Jannach 2018, "Evaluation of Session-based Recommendation Algorithms".

S-KNN with more weight on recent items: the similarity is the product of the session's position weights and a
training session's item set. A neighbour counts more if the last item that it shares with the session is recent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from dataset.options import NonNegative
from models.baselines.base import last_occurrences, query_matrix, steps_back, strongest
from models.baselines.SKNN import SKNN

# Weight of a session's item, by its steps back (0 for the last item) and the session length.
POSITION = {
    "same": lambda back, length: np.ones(back.shape),
    "div": lambda back, length: (length - back) / length,
    "log": lambda back, length: 1 / np.log10(back.clip(0) + 1.7),
    "quadratic": lambda back, length: ((length - back) / length) ** 2,
}
# Weight of a neighbour, by the steps back of the most recent shared item.
SHARED = {
    "same": lambda back: np.ones(back.shape),
    "div": lambda back: 1 / (back + 1),
    "log": lambda back: 1 / np.log10(back + 2.7),
    "quadratic": lambda back: 1 / (back + 1) ** 2,
}


Weighting = Literal["same", "div", "log", "quadratic"]


class VSKNN(SKNN):
    """weighting: a key of POSITION; weighting_score: a key of SHARED; idf: how much more rare items count."""

    def __init__(
        self,
        *,
        n_items: int,
        k: int = 100,
        weighting: Weighting = "div",
        weighting_score: Weighting = "div",
        idf: NonNegative = 0.0,
    ):
        super().__init__(n_items=n_items, k=k)
        self.weighting, self.weighting_score, self.idf = weighting, weighting_score, idf

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        sets = self.session_sets()
        by_item = sets.T.tocsr()  # (n + 1, S)
        if self.idf:
            frequency = np.diff(by_item.indptr).clip(1)  # (n + 1,) number of sessions with the item
            sets.data = 1 + self.idf * np.log(sets.shape[0] / frequency)[sets.indices]

        def score(x: np.ndarray) -> csr_array:
            inside, back = last_occurrences(x), steps_back(x)
            length = (x > 0).sum(1, keepdims=True).clip(1)
            weights = POSITION[self.weighting](back, length)
            similarity = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            # An item adds 2^-(steps back), so the exponent of the sum is that of the most recent shared item.
            shared = query_matrix(x, 0.5 ** back.clip(0), inside, self.n_items) @ by_item
            recent = 1 - np.frexp(shared.data)[1]
            offsets, chosen = strongest(similarity, self.k)
            values = similarity.data[chosen] * SHARED[self.weighting_score](recent[chosen])
            return csr_array((values, similarity.indices[chosen], offsets), shape=similarity.shape) @ sets

        return self.without_ties(score)
