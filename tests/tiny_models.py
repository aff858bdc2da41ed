"""Models that are small enough to compute their scores by hand."""

import numpy as np
import torch

from models import build_model
from models.base import SessionModel
from process_data import Queries, Sessions

N_ITEMS = 12
POPULARITY = np.array([0, 5, 1, 5, 0, 9, 2, 2, 2, 0, 3, 1, 1])


def as_queries(lists, labels=None, *, mask_seen=True):
    """Lists of encoded items as queries; without labels every label is unknown."""
    labels = [0] * len(lists) if labels is None else labels
    return Queries.of(Sessions.from_lists(lists, labels, n_items=N_ITEMS), POPULARITY, mask_seen)


class LastItem(SessionModel):
    """The state after a step is the embedding of its item, times `factor`."""

    def __init__(self, item_vectors, factor=1.0, **arguments):
        vectors = torch.tensor(item_vectors, dtype=torch.float)
        sizes = {"n_items": len(vectors), "width": vectors.shape[1]}
        super().__init__(**sizes, **({"score": "dot", "scale": 1.0} | arguments))
        self.factor = factor
        with torch.no_grad():
            self.embedding.weight[1:] = vectors

    def forward(self, x):
        return self.embed(x) * self.factor


def random_model(seed=0, **arguments):
    return LastItem(np.random.default_rng(seed).normal(size=(N_ITEMS, 4)), **arguments)


def small_model(name, **arguments):
    torch.manual_seed(3)
    return build_model(name, **({"n_items": N_ITEMS, "width": 8, "score": "dot"} | arguments))
