"""The one place where a model's states become scores, a loss, ranks and a top list.

Shapes: B batch, L steps, D width, Q queries (sessions), n items; scores have n + 1 columns, 0 is padding.
Padding is masked always; the session's own items where `mask_seen`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from metrics import check_finite, ranks_of_targets
from models import SessionModel
from process_data import LONGEST_SESSION, PADDING, Batch, Sessions

# Score entries held at once (fp32: 64 MiB).
_CHUNK_ENTRIES = 16 * 2**20


def next_item_loss(model: SessionModel, batch: Batch) -> Tensor:
    """Weighted sum of the cross-entropies of the batch's steps, over the full catalogue.

    Steps without a target (padding among them) never reach the softmax, the padding item has no share
    in it. Divide by a constant, not by the batch's own weight, and an epoch's gradients add up to
    those of the same steps in any other batches.
    """
    wanted = batch.y != PADDING
    queries = model.query(model(batch.x)[wanted])  # (P, D)
    bias = queries.new_zeros(model.n_items + 1)
    bias[PADDING] = -torch.inf
    logits = F.linear(queries, model.item_matrix(), bias)  # (P, n + 1)
    losses = F.cross_entropy(logits, batch.y[wanted], reduction="none")
    return losses @ batch.w[wanted]


def popularity_scores(popularity: Tensor) -> Tensor:
    """Counts (n + 1,) -> scores (n + 1,) without ties: by count, then the lower id first."""
    order = popularity.argsort(descending=True, stable=True)
    scores = torch.empty(len(popularity), device=popularity.device)
    scores[order] = torch.arange(len(popularity), 0, -1, dtype=torch.float, device=popularity.device)
    return scores


@torch.inference_mode()
def score_sessions(
    model: SessionModel, sessions: Sessions, popularity: np.ndarray, *, mask_seen: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Masked float32 scores of encoded sessions, chunk by chunk: (rows, (C, n + 1)).

    An empty session (nothing of it is known) is scored by popularity (n + 1,). Memory is bounded by
    the chunk. Raises ValueError for scores that are not finite, before anything is masked.
    """
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    items = model.item_matrix().float()
    fallback = popularity_scores(torch.as_tensor(popularity, device=device))
    size = max(1, min(4096, _CHUNK_ENTRIES // (model.n_items + 1)))
    try:
        for start in range(0, len(sessions), size):
            rows = slice(start, min(start + size, len(sessions)))
            chunk = sessions.take(np.arange(rows.start, rows.stop))
            x = torch.as_tensor(chunk.padded(LONGEST_SESSION), device=device)
            scores = model.query(model.last_state(x)).float() @ items.T
            check_finite(scores)
            scores[torch.as_tensor(chunk.lengths == 0, device=device)] = fallback
            scores[:, PADDING] = -torch.inf
            if mask_seen:
                seen = (chunk.row_of_item, chunk.items)
                scores[tuple(torch.as_tensor(a, device=device) for a in seen)] = -torch.inf
            yield rows, scores
    finally:
        model.train(was_training)


def rank_labels(
    model: SessionModel, sessions: Sessions, popularity: np.ndarray, *, mask_seen: bool
) -> np.ndarray:
    """(Q,) int64 pessimistic rank of each session's label among all items; n + 1 where it is unknown."""
    ranks = np.empty(len(sessions), np.int64)
    for rows, scores in score_sessions(model, sessions, popularity, mask_seen=mask_seen):
        targets = torch.as_tensor(sessions.labels[rows], device=scores.device)
        ranks[rows] = ranks_of_targets(scores, targets).cpu().numpy()
    return ranks


def top_items(
    model: SessionModel,
    sessions: Sessions,
    popularity: np.ndarray,
    *,
    k: int,
    mask_seen: bool,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best encoded ids of each session, best first, and their scores: (Q, k) int64, (Q, k) float32."""
    ids = np.empty((len(sessions), k), np.int64)
    best = np.empty((len(sessions), k), np.float32)
    with tqdm(total=len(sessions), desc="Recommending", unit=" sessions", disable=not progress) as bar:
        for rows, scores in score_sessions(model, sessions, popularity, mask_seen=mask_seen):
            values, places = scores.topk(k, dim=1)
            ids[rows], best[rows] = places.cpu().numpy(), values.cpu().numpy()
            bar.update(rows.stop - rows.start)
    return ids, best
