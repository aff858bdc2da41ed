"""SLIST: Choi et al. 2021, "Session-aware Linear Item-Item Models for Session-based Recommendation".

An item-item matrix B fitted by least squares, in closed form. SLIS predicts the items of a session from the same
items, SLIT predicts later items from earlier ones, and alpha weighs the two. With the inputs Z (each row divided by
its sum) and targets Y of both, B = (Z'Z + reg)^-1 Z'Y. Two parts of the paper are left out: the age of a session,
which is not in the data, and the bound on B's diagonal, which applies to alpha = 1 only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array, eye_array, vstack
from torch import Tensor

from dataset.options import Positive, Range, Share, Size
from dataset.sessions import LONGEST_SESSION, Sessions
from models.baselines.base import (
    Baseline,
    CatalogueTooLarge,
    Decay,
    binary,
    cut_sessions,
    following_items,
    one_hot,
    query_matrix,
    scale_rows,
    session_matrix,
    steps_back,
)

# The dense float32 matrix takes 4 n^2 bytes and n^3 operations: 3.6 GB and several minutes for 30,000 items.
LARGEST_CATALOGUE = 30_000
_BLOCK = 512  # rows that are computed at once
# Weights are between 0 and the longest session. Scaled by this, values from 1e-7 on are normal numbers in float16.
_SCALE = 512
_LARGEST = float(np.finfo(np.float16).max)


class SLIST(Baseline):
    """direction: SLIT predicts from the previous item ("sr") or from all earlier items ("part").

    train_weight, predict_weight: decay of an item's weight, in steps. keep: number of entries that are stored for
    each row of the matrix, in half precision: the largest ones, and none below `smallest`. Items without an entry
    are ranked by popularity.
    """

    def __init__(
        self,
        *,
        n_items: int,
        alpha: Share = 0.5,
        direction: Literal["sr", "part"] = "part",
        reg: Annotated[float, Range(0, 1e9, above=True)] = 10.0,
        train_weight: Decay = 1.0,
        predict_weight: Decay = 1.0,
        keep: Size = 100,
        smallest: Positive = 1e-7,
    ):
        super().__init__(n_items=n_items)
        if n_items > LARGEST_CATALOGUE:
            raise CatalogueTooLarge(
                f"SLIST inverts a dense item-item matrix: {n_items} items would take {4 * n_items**2 / 2**30:.0f} "
                f"GiB, and the limit is {LARGEST_CATALOGUE} items; use CoOccurrence or VSKNN instead"
            )
        self.alpha, self.direction, self.reg = alpha, direction, reg
        self.keep, self.smallest = keep, smallest
        self.train_weight, self.predict_weight = train_weight, predict_weight
        self.register_matrix("weights", rows=n_items + 1, values=torch.float16)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        inputs, targets = self.training_pairs(sessions)
        gram = (inputs.T @ inputs + self.reg * eye_array(self.n_items + 1)).tocsc()
        dense = np.asfortranarray(gram.astype(np.float32).toarray(order="F"))
        cross = (targets.T @ inputs).tocsr().astype(np.float32)  # (n + 1, n + 1), Y'Z
        factor, info = spotrf(dense, lower=1, overwrite_a=1)
        inverse, info = spotri(factor, lower=1, overwrite_c=1) if not info else (None, info)
        if info:
            raise ValueError(f"SLIST's matrix cannot be inverted with reg={self.reg}; use a larger reg")
        items, values = [], []
        for start in range(0, self.n_items + 1, _BLOCK):
            # Only the lower triangle of `inverse` is valid: complete the rows of this block.
            rows = slice(start, start + _BLOCK)
            complete = np.concatenate([inverse[rows, :start], inverse[start:, rows].T], 1)
            lower = np.tril(inverse[rows, rows])
            complete[:, rows] = lower + np.tril(lower, -1).T
            block = (cross @ complete.T).T  # (block, n + 1)
            k = min(self.keep, self.n_items)
            best = np.sort(np.argpartition(-block, k, axis=1)[:, :k], axis=1)
            items.append(best)
            values.append(np.take_along_axis(block, best, 1))
        items, values = np.concatenate(items), np.concatenate(values)
        is_stored = values >= self.smallest
        offsets = np.concatenate([[0], np.cumsum(is_stored.sum(1))])
        stored = (np.minimum(values[is_stored] * _SCALE, _LARGEST), items[is_stored], offsets)
        self.set_matrix("weights", csr_array(stored, shape=cross.shape))

    def training_pairs(self, sessions: Sessions) -> tuple[csr_array, csr_array]:
        """Inputs and targets (rows, n + 1) of the least squares: SLIS first, then SLIT."""
        whole = binary(session_matrix(cut_sessions(sessions), self.n_items))
        decay = np.exp(-np.arange(LONGEST_SESSION) / self.train_weight)
        later = following_items(sessions, decay, self.n_items)  # (N, n + 1)
        if self.direction == "sr":
            earlier = one_hot(sessions, self.n_items)
        else:
            earlier = following_items(sessions, decay, self.n_items, first=0, backward=True)
        has_target = np.diff(later.indptr) > 0  # all steps but a session's last
        losses = [(whole, whole, self.alpha), (earlier[has_target], later[has_target], 1 - self.alpha)]
        inputs = [np.sqrt(share) * scale_rows(z, 1 / z.sum(1)) for z, _, share in losses]
        targets = [np.sqrt(share) * y for _, y, share in losses]
        return vstack(inputs, format="csr"), vstack(targets, format="csr")

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        weights = self.matrix("weights")

        def score(x: np.ndarray) -> csr_array:
            back = steps_back(x)
            decay = np.exp(-back.clip(0) / self.predict_weight) / _SCALE
            return query_matrix(x, decay, x > 0, self.n_items) @ weights

        return self.without_ties(score)
