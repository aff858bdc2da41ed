"""Popularity: every session gets the items that occur most often in the training sessions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from dataset.sessions import Sessions
from models.baselines.base import Baseline, write_scores


class Popularity(Baseline):
    def __init__(self, *, n_items: int):
        super().__init__(n_items=n_items)
        self.register_buffer("occurrences", torch.zeros(n_items + 1, dtype=torch.int64))

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        self.occurrences = torch.tensor(popularity, dtype=torch.int64)

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        raw = csr_array(self.occurrences.double().numpy()[None])
        row = write_scores(raw, self.popularity_rank.numpy(), torch.empty(1, self.n_items + 1))
        return lambda x, out: out.copy_(row.expand_as(out))
