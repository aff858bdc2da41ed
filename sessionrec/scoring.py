"""The one place where a model's states become scores, ranks and a top list (for the loss see losses.py).

Shapes: D width, Q queries (sessions), C of them in a chunk, n items; scores have n + 1 columns, 0 is padding.
Padding is always masked; the session's own items if `queries.mask_seen`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from metrics import check_finite, ranks_of_targets
from models import Model
from models.baselines.base import popularity_ranks
from process_data import LONGEST_SESSION, PADDING, Queries
from sessionrec import distributed
from sessionrec.progress import progress_bar

# Score entries (fp32: 256 MiB) and sessions held at once; a matrix product of few sessions is slow.
_CHUNK_ENTRIES = 64 * 2**20
_CHUNK_SESSIONS = 1024


def popularity_scores(popularity: np.ndarray) -> Tensor:
    """Counts (n + 1,) -> float32 scores (n + 1,) without ties: by count, then the lower id first."""
    return torch.as_tensor(len(popularity) - popularity_ranks(popularity), dtype=torch.float)


@torch.inference_mode()
def score_sessions(
    model: Model, queries: Queries, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Masked float32 scores, chunk by chunk: (rows (C,), scores (C, n + 1)).

    A chunk's sessions are of similar length, so the rows come in no particular order. An empty session (no item
    of it is known) is scored by popularity. Memory is bounded by the chunk, which the next one overwrites.
    rank, world_size: every world_size-th chunk, from the rank-th on.
    Raises ValueError for scores that are not finite, before anything is masked.
    """
    was_training = model.training
    model.eval()
    device = model.device
    score = model.scorer()
    fallback = popularity_scores(queries.popularity).to(device)
    size = max(1, min(_CHUNK_SESSIONS, _CHUNK_ENTRIES // (model.n_items + 1)))
    # One buffer: fresh pages for every chunk would cost as much as the product.
    buffer = torch.empty(min(size, len(queries)), model.n_items + 1, device=device)
    by_length = queries.lengths.argsort(kind="stable")
    try:
        for start in range(rank * size, len(queries), world_size * size):
            rows = by_length[start : start + size]
            chunk = queries.take(rows)
            x = torch.as_tensor(chunk.padded(LONGEST_SESSION), device=device)
            scores = score(x, buffer[: len(x)])
            check_finite(scores)
            scores[torch.as_tensor(chunk.lengths == 0, device=device)] = fallback
            scores[:, PADDING] = -torch.inf
            if queries.mask_seen:
                seen = (chunk.row_of_item, chunk.items)
                scores[tuple(torch.as_tensor(a, device=device) for a in seen)] = -torch.inf
            yield rows, scores
    finally:
        model.train(was_training)


def rank_labels(model: Model, queries: Queries) -> np.ndarray:
    """(Q,) int64 pessimistic rank of each query's label among all items; n + 1 if the label is unknown.

    Several processes (distributed.py) share the chunks, and each gets all ranks: the same ones for any number
    of processes, since the chunks are the same.
    """
    device = model.device
    ranks = torch.zeros(len(queries), dtype=torch.long, device=device)
    share = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    for rows, scores in score_sessions(model, queries, **share):
        targets = torch.as_tensor(queries.labels[rows], device=device)
        ranks[torch.as_tensor(rows, device=device)] = ranks_of_targets(scores, targets)
    return distributed.all_reduce(ranks).cpu().numpy()


def top_k(scores: Tensor, k: int, *, block: int = 64) -> tuple[Tensor, Tensor]:
    """`scores.topk(k, dim=1)`: values and columns (C, k), best first, without sorting more than needed.

    The k best lie in the k blocks of columns with the highest maxima (or are equal to entries there).
    """
    blocks = scores.shape[1] // block
    if blocks < 4 * k:
        return scores.topk(k, dim=1)
    head, tail = scores.tensor_split([blocks * block], dim=1)
    head = head.unflatten(1, (blocks, block))  # (C, blocks, block)
    best = head.amax(2).topk(k, dim=1, sorted=False).indices  # (C, k) blocks
    row = torch.arange(len(scores), device=scores.device)[:, None]
    values, column = torch.cat([head[row, best].flatten(1), tail], 1).topk(k, dim=1)
    inside = column.clamp(max=k * block - 1)
    in_head = best.gather(1, inside // block) * block + inside % block
    return values, torch.where(column < k * block, in_head, column + (blocks - k) * block)


def top_items(model: Model, queries: Queries, *, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best encoded ids of each session, best first, and their scores: (Q, k) int64, (Q, k) float32."""
    ids = np.empty((len(queries), k), np.int64)
    best = np.empty((len(queries), k), np.float32)
    with progress_bar(total=len(queries), desc="Recommending", unit=" sessions", delay=1) as bar:
        for rows, scores in score_sessions(model, queries):
            values, columns = top_k(scores, k)
            ids[rows], best[rows] = columns.cpu().numpy(), values.cpu().numpy()
            bar.update(len(rows))
    return ids, best
