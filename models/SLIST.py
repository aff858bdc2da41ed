"""SLIST: Choi et al. 2021, "Session-aware Linear Item-Item Models for Session-based Recommendation".

The least-squares item-item matrix, in closed form: SLIS predicts a whole session from itself, SLIT what
follows from what came before, and alpha weighs the two. With inputs Z and targets Y of both, each row of Z
divided by its sum, B = (Z'Z + reg)^-1 Z'Y. Session ages are left out, as these data do not tell them; so is
the paper's bound on B's diagonal, which only alpha = 1 has.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array, eye_array, vstack
from torch import Tensor

from models.counted import (
    CatalogueTooLarge,
    CountModel,
    cut_sessions,
    following_items,
    one_hot,
    query_matrix,
    scale_rows,
    steps_back,
)
from process_data import LONGEST_SESSION, Sessions

# One dense matrix of float32: 4 n^2 bytes, and n^3 operations. 30,000 items: 3.6 GB and several minutes.
LARGEST_CATALOGUE = 30_000
_BLOCK = 512
# Weights lie between 0 and the longest session; so scaled, half precision has all its digits from 1e-7 on.
_SCALE = 512
_LARGEST = float(np.finfo(np.float16).max)


class SLIST(CountModel):
    """direction: what SLIT predicts from, the item before ("sr") or all items before ("part").

    train_weight, predict_weight: decay of an item's weight, in steps. keep: how many entries of each row of
    the matrix are stored at most, the largest ones, in half precision; none below `smallest`, so that what
    is hardly related is left to popularity.
    """

    def __init__(
        self,
        *,
        n_items: int,
        alpha: float = 0.5,
        direction: str = "part",
        reg: float = 10.0,
        train_weight: float = 1.0,
        predict_weight: float = 1.0,
        keep: int = 100,
        smallest: float = 1e-7,
    ):
        super().__init__(n_items=n_items)
        if n_items > LARGEST_CATALOGUE:
            raise CatalogueTooLarge(
                f"SLIST inverts a dense matrix of items by items: {n_items} items would take "
                f"{4 * n_items**2 / 2**30:.0f} GiB, the limit is {LARGEST_CATALOGUE} items; "
                "use CoOccurrence or VSKNN instead"
            )
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}: must be from 0 (SLIT alone) to 1 (SLIS alone)")
        if direction not in ("sr", "part"):
            raise ValueError(f"direction={direction!r}: choose 'sr' or 'part'")
        for name, value in (("train_weight", train_weight), ("predict_weight", predict_weight)):
            if value < 0.1:
                raise ValueError(f"{name}={value}: must be at least 0.1")
        for name, value in (("reg", reg), ("smallest", smallest)):
            if value <= 0:
                raise ValueError(f"{name}={value}: must be above 0")
        if keep < 1:
            raise ValueError(f"keep={keep}: must be at least 1")
        self.alpha, self.direction, self.reg = alpha, direction, reg
        self.keep, self.smallest = keep, smallest
        self.train_weight, self.predict_weight = train_weight, predict_weight
        self.register_matrix("weights", rows=n_items + 1, values=torch.float16)

    def learn(self, sessions: Sessions, popularity: np.ndarray) -> None:
        inputs, targets = self.training_pairs(sessions)
        gram = (inputs.T @ inputs + self.reg * eye_array(self.n_items + 1)).tocsc()
        dense = np.asfortranarray(gram.astype(np.float32).toarray(order="F"))
        cross = (targets.T @ inputs).tocsr().astype(np.float32)  # transposed: its rows are the targets
        factor, info = spotrf(dense, lower=1, overwrite_a=1)
        inverse, info = spotri(factor, lower=1, overwrite_c=1) if not info else (None, info)
        if info:
            raise ValueError(f"SLIST's matrix of reg={self.reg} cannot be inverted; take a larger reg")
        items, values = [], []
        for start in range(0, self.n_items + 1, _BLOCK):
            rows = slice(start, start + _BLOCK)
            symmetric = np.concatenate([inverse[rows, :start], inverse[start:, rows].T], 1)
            square = np.s_[:, start : start + _BLOCK]
            lower = np.tril(inverse[rows, rows])
            symmetric[square] = lower + np.tril(lower, -1).T
            block = (cross @ symmetric.T).T  # (block, n + 1)
            k = min(self.keep, self.n_items)
            best = np.sort(np.argpartition(-block, k, axis=1)[:, :k], axis=1)
            items.append(best)
            values.append(np.take_along_axis(block, best, 1))
        items, values = np.concatenate(items), np.concatenate(values)
        kept = values >= self.smallest
        offsets = np.concatenate([[0], np.cumsum(kept.sum(1))])
        self.set_matrix("weights", offsets, items[kept], np.minimum(values[kept] * _SCALE, _LARGEST))

    def training_pairs(self, sessions: Sessions) -> tuple[csr_array, csr_array]:
        """Inputs and targets (rows, n + 1) of the least squares, both losses in one."""
        pieces = cut_sessions(sessions)
        shape = (len(pieces), self.n_items + 1)
        whole = csr_array((np.ones(len(pieces.items)), pieces.items, pieces.offsets), shape=shape, copy=True)
        whole.sum_duplicates()  # which sorts in place, hence the copy
        whole.data[:] = 1
        decay = np.exp(-np.arange(LONGEST_SESSION) / self.train_weight)
        after = following_items(sessions, decay, self.n_items)  # (N, n + 1)
        if self.direction == "sr":
            before = one_hot(sessions, self.n_items)
        else:
            mirror = sessions.mirrored()
            reversed_sessions = Sessions(sessions.items[mirror], sessions.offsets)
            before = following_items(reversed_sessions, decay, self.n_items, first=0)[mirror]
        some = np.diff(after.indptr) > 0  # a session's last step has nothing to predict
        parts = [(whole, whole, self.alpha), (before[some], after[some], 1 - self.alpha)]
        inputs = [np.sqrt(share) * scale_rows(given, 1 / given.sum(1)) for given, _, share in parts]
        targets = [np.sqrt(share) * wanted for _, wanted, share in parts]
        return vstack(inputs, format="csr"), vstack(targets, format="csr")

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        weights = self.matrix("weights")

        def score(x: np.ndarray) -> csr_array:
            back = steps_back(x)
            decay = np.exp(-back.clip(0) / self.predict_weight) / _SCALE
            return query_matrix(x, decay, x > 0, self.n_items) @ weights

        return self.without_ties(score)
