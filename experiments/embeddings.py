"""Relation between the nearest neighbours in an item embedding and the sessions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from process_data import Sessions


def share_met(vectors: Tensor, sessions: Sessions, *, k: int = 10) -> tuple[float, float]:
    """Share of the pairs of an item and one of its k nearest items (by cosine) that some session contains.

    vectors (n, D) of the items 1..n; sessions: encoded. Also returns the share of all pairs of items that some
    session contains, for comparison.
    """
    n = len(vectors)
    indices = (sessions.row_of_item, sessions.items - 1)
    contains = csr_array((np.ones(len(sessions.items)), indices), shape=(len(sessions), n))
    together = (contains.T @ contains).tocsr()  # (n, n) number of sessions with both items
    together.setdiag(0)
    together.eliminate_zeros()
    unit = F.normalize(vectors.float(), dim=1)
    near = torch.empty(n, min(k, n - 1), dtype=torch.long)
    for rows in torch.arange(n).split(1024):
        cosine = unit[rows] @ unit.T  # (rows, n)
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        near[rows] = cosine.topk(near.shape[1]).indices
    met = together[np.repeat(np.arange(n), near.shape[1]), near.numpy().ravel()] > 0
    return float(met.mean()), together.nnz / (n * (n - 1))
