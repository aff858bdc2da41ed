"""The one place where a model's states become scores, ranks and a top list (for the loss see losses.py).

Shapes: D width, Q queries (sessions), C of them in a chunk, n items; scores have n + 1 columns, 0 is padding.
Padding is always masked; the session's own items if `queries.mask_seen`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dataset.options import Range, Size, check
from dataset.sessions import check_columns, check_popularity
from metrics import check_finite, ranks_of_targets
from models import Model, SessionModel
from models.baselines.base import popularity_ranks
from process_data import LONGEST_SESSION, PADDING, Queries
from sessionrec import distributed
from sessionrec.progress import progress_bar

# Score entries (fp32: 256 MiB) and sessions held at once; a matrix product of few sessions is slow.
_CHUNK_ENTRIES = 64 * 2**20
_CHUNK_SESSIONS = 1024


def check_queries(model: Model, queries: Queries) -> None:
    """Raise ValueError unless the model can score the queries."""
    if isinstance(model, type) or not hasattr(model, "scorer"):
        raise ValueError(f"model: must be a model such as build_model returns, not of the type {type(model).__name__}")
    check("queries", queries, Queries)
    if queries.n_items != model.n_items:
        counts = f"the model has {model.n_items} items and the queries {queries.n_items}"
        raise ValueError(f"{counts}: they must be from the same `data = prepare(dataset)`")


def popularity_scores(popularity: np.ndarray) -> Tensor:
    """Counts (n + 1,) -> float32 scores (n + 1,) without ties: by count, then the lower id first."""
    check_popularity(popularity)
    return torch.as_tensor(len(popularity) - popularity_ranks(popularity), dtype=torch.float)


@torch.inference_mode()
def score_sessions(
    model: Model, queries: Queries, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Masked float32 scores, chunk by chunk: (rows (C,), scores (C, n + 1)).

    A chunk's sessions are of similar length, so the rows come in no particular order. An empty session (no item
    of it is known) is scored by popularity. Memory is bounded by the chunk, which the next one overwrites.
    rank, world_size: every world_size-th chunk, from the rank-th on.
    Raises ValueError for anything else than queries of the model's items, and for scores that are not finite.
    """
    check_queries(model, queries)
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    device = model.device
    score = model.scorer_for(len(queries)) if isinstance(model, SessionModel) else model.scorer()
    size = chunk_size(model)
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
            if (is_empty := chunk.lengths == 0).any():
                fallback = popularity_scores(queries.popularity).to(device)
                scores[torch.as_tensor(is_empty, device=device)] = fallback
            scores[:, PADDING] = -torch.inf
            if queries.mask_seen:
                seen = (chunk.row_of_item, chunk.items)
                scores[tuple(torch.as_tensor(a, device=device) for a in seen)] = -torch.inf
            yield rows, scores
    finally:
        for module in training:
            module.training = True


def chunk_size(model: Model) -> int:
    """The number of sessions that are scored at once."""
    return max(1, min(_CHUNK_SESSIONS, _CHUNK_ENTRIES // (model.n_items + 1)))


def _with_bar(
    chunks: Iterator[tuple[np.ndarray, Tensor]], name: str, queries: Queries, model: Model, *, leave: bool = True
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """The chunks, with a bar of the first process that appears after a second. There is none for a single chunk."""
    if len(queries) <= chunk_size(model) or distributed.rank() > 0:
        yield from chunks
        return
    with progress_bar(total=len(queries), desc=name, unit=" sessions", delay=1, leave=leave) as bar:
        for rows, scores in chunks:
            yield rows, scores
            bar.update(min(len(rows) * distributed.world_size(), len(queries) - bar.n))


def rank_labels(model: Model, queries: Queries, *, progress: bool = True) -> np.ndarray:
    """(Q,) int64 pessimistic rank of each query's label among all items; n + 1 if the label is unknown.

    Several processes (distributed.py) share the chunks, and each gets all ranks: the same ones for any number
    of processes, since the chunks are the same. progress: show a bar if it takes longer than a second. Raises
    ValueError for queries without labels, and as `score_sessions`.
    """
    check_queries(model, queries)
    check_columns(queries, "labels")
    device = model.device
    ranks = torch.zeros(len(queries), dtype=torch.long, device=device)
    share = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    chunks = score_sessions(model, queries, **share)
    for rows, scores in _with_bar(chunks, "Ranking", queries, model, leave=False) if progress else chunks:
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


def top_items(model: Model, queries: Queries, *, k: Size) -> tuple[np.ndarray, np.ndarray]:
    """The k best encoded ids of each session, best first, and their scores: (Q, k) int64, (Q, k) float32.

    Raises ValueError for a k above the number of items, and as `score_sessions`.
    """
    check_queries(model, queries)
    check("k", k, Annotated[int, Range(1, model.n_items)])
    ids = np.empty((len(queries), k), np.int64)
    best = np.empty((len(queries), k), np.float32)
    for rows, scores in _with_bar(score_sessions(model, queries), "Recommending", queries, model):
        values, columns = top_k(scores, k)
        ids[rows], best[rows] = columns.cpu().numpy(), values.cpu().numpy()
    return ids, best
