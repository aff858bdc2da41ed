"""V-SKNN: Ludewig & Jannach 2018, "Evaluation of Session-based Recommendation Algorithms".

S-KNN that trusts recent items more: the session is a vector of weights by position, multiplied with the
training sessions' sets, and a neighbour recommends by how recent the last item is that it shares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from models.counted import last_occurrences, query_matrix, steps_back
from models.SKNN import SKNN, strongest

# By steps back (0 for the last item) and session length.
POSITION = {
    "same": lambda back, length: np.ones(back.shape),
    "div": lambda back, length: (length - back) / length,
    "log": lambda back, length: 1 / np.log10(back.clip(0) + 1.7),
    "quadratic": lambda back, length: ((length - back) / length) ** 2,
}
# By steps back of the most recent shared item.
SHARED = {
    "same": lambda back: np.ones(back.shape),
    "div": lambda back: 1 / (back + 1),
    "log": lambda back: 1 / np.log10(back + 2.7),
    "quadratic": lambda back: 1 / (back + 1) ** 2,
}


class VSKNN(SKNN):
    """weighting: of the session's items; weighting_score: of a neighbour; idf: what rarity adds."""

    def __init__(
        self,
        *,
        n_items: int,
        k: int = 100,
        weighting: str = "div",
        weighting_score: str = "div",
        idf: float = 0.0,
    ):
        super().__init__(n_items=n_items, k=k)
        for name, value in (("weighting", weighting), ("weighting_score", weighting_score)):
            if value not in POSITION:
                raise ValueError(f"{name}={value!r}: choose {', '.join(map(repr, POSITION))}")
        if idf < 0:
            raise ValueError(f"idf={idf}: must not be negative")
        self.weighting, self.weighting_score, self.idf = weighting, weighting_score, idf

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        sets = self.session_sets()
        by_item = sets.T.tocsr()  # (n + 1, S)
        if self.idf:
            held = np.diff(by_item.indptr).clip(1)  # (n + 1,) sessions that hold the item
            sets.data = 1 + self.idf * np.log(sets.shape[0] / held)[sets.indices]

        def score(x: np.ndarray) -> csr_array:
            inside, back = last_occurrences(x), steps_back(x)
            length = (x > 0).sum(1, keepdims=True).clip(1)
            weights = POSITION[self.weighting](back, length)
            likeness = query_matrix(x, weights, inside, self.n_items) @ by_item  # (C, S)
            # Steps back as bits: the lowest one of the sum is the most recent shared item.
            shared = query_matrix(x, 0.5 ** back.clip(0), inside, self.n_items) @ by_item
            recent = 1 - np.frexp(shared.data)[1]
            offsets, chosen = strongest(likeness, self.k)
            values = likeness.data[chosen] * SHARED[self.weighting_score](recent[chosen])
            return csr_array((values, likeness.indices[chosen], offsets), shape=likeness.shape) @ sets

        return self.without_ties(score)
