"""The one place where a model's states become scores, ranks and a top list (its loss: losses.py).

Shapes: D width, Q queries (sessions), C of them in a chunk, n items; scores have n + 1 columns, 0 is padding.
Padding is masked always; the session's own items where `mask_seen`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import distributed
from metrics import check_finite, ranks_of_targets
from models import Model
from models.counted import popularity_places
from process_data import LONGEST_SESSION, PADDING, Sessions

# Score entries (fp32: 256 MiB) and sessions held at once; a product of few sessions is a slow one.
_CHUNK_ENTRIES = 64 * 2**20
_CHUNK_SESSIONS = 1024


def popularity_scores(popularity: np.ndarray) -> Tensor:
    """Counts (n + 1,) -> float32 scores (n + 1,) without ties: by count, then the lower id first."""
    return torch.as_tensor(len(popularity) - popularity_places(popularity), dtype=torch.float)


@torch.inference_mode()
def score_sessions(
    model: Model,
    sessions: Sessions,
    popularity: np.ndarray,
    *,
    mask_seen: bool,
    deal: tuple[int, int] = (0, 1),
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Masked float32 scores of encoded sessions, chunk by chunk: (rows (C,), scores (C, n + 1)).

    A chunk's sessions are of similar length, so `rows` comes in no order. An empty session (nothing of it is
    known) is scored by popularity (n + 1,). Memory is bounded by the chunk; the next one overwrites it.
    deal=(r, n): every n-th chunk, from the r-th on.
    Raises ValueError for scores that are not finite, before anything is masked.
    """
    was_training = model.training
    model.eval()
    device = model.device
    score = model.scorer()
    fallback = popularity_scores(popularity).to(device)
    size = max(1, min(_CHUNK_SESSIONS, _CHUNK_ENTRIES // (model.n_items + 1)))
    # One buffer: fresh pages for every chunk would cost as much as the product.
    buffer = torch.empty(min(size, len(sessions)), model.n_items + 1, device=device)
    by_length = sessions.lengths.argsort(kind="stable")
    first, every = deal
    try:
        for start in range(first * size, len(sessions), every * size):
            rows = by_length[start : start + size]
            chunk = sessions.take(rows)
            x = torch.as_tensor(chunk.padded(LONGEST_SESSION), device=device)
            scores = score(x, buffer[: len(x)])
            check_finite(scores)
            scores[torch.as_tensor(chunk.lengths == 0, device=device)] = fallback
            scores[:, PADDING] = -torch.inf
            if mask_seen:
                seen = (chunk.row_of_item, chunk.items)
                scores[tuple(torch.as_tensor(a, device=device) for a in seen)] = -torch.inf
            yield rows, scores
    finally:
        model.train(was_training)


def rank_labels(model: Model, sessions: Sessions, popularity: np.ndarray, *, mask_seen: bool) -> np.ndarray:
    """(Q,) int64 pessimistic rank of each session's label among all items; n + 1 where it is unknown.

    Several processes (distributed.py) deal the chunks out among them, and all get all ranks: the same for
    any number of processes, since the chunks are.
    """
    device = model.device
    ranks = torch.zeros(len(sessions), dtype=torch.long, device=device)
    deal = distributed.rank(), distributed.processes()
    for rows, scores in score_sessions(model, sessions, popularity, mask_seen=mask_seen, deal=deal):
        targets = torch.as_tensor(sessions.labels[rows], device=device)
        ranks[torch.as_tensor(rows, device=device)] = ranks_of_targets(scores, targets)
    return distributed.add_up(ranks).cpu().numpy()


def top_k(scores: Tensor, k: int, *, block: int = 64) -> tuple[Tensor, Tensor]:
    """`scores.topk(k, dim=1)`: values and places (C, k), best first, without sorting more than it must.

    The k best lie in the k blocks of columns with the highest maxima (or are as good as what lies there).
    """
    blocks = scores.shape[1] // block
    if blocks < 4 * k:
        return scores.topk(k, dim=1)
    head, tail = scores.tensor_split([blocks * block], dim=1)
    head = head.unflatten(1, (blocks, block))  # (C, blocks, block)
    best = head.amax(2).topk(k, dim=1, sorted=False).indices  # (C, k) blocks
    row = torch.arange(len(scores), device=scores.device)[:, None]
    values, place = torch.cat([head[row, best].flatten(1), tail], 1).topk(k, dim=1)
    inside = place.clamp(max=k * block - 1)
    in_head = best.gather(1, inside // block) * block + inside % block
    return values, torch.where(place < k * block, in_head, place + (blocks - k) * block)


def top_items(
    model: Model,
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
            values, places = top_k(scores, k)
            ids[rows], best[rows] = places.cpu().numpy(), values.cpu().numpy()
            bar.update(len(rows))
    return ids, best
