"""The training loss: cross-entropy of every step over the catalogue, exact or over sampled negatives.

Shapes: B batch, L steps, P steps with a target, D width, n items (row 0 of n + 1 is padding), K negatives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import SessionModel
from process_data import PADDING, Batch

# What a chunk of logits may hold (fp32: 256 MiB), and on a CPU how many steps: the passes over a chunk
# then find it in the cache, and its pages are not asked of the system anew at every batch.
_CHUNK_ENTRIES = 2**26
_CHUNK_STEPS = {"cpu": 128}


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The logits' type: "fp32", "bf16", or "auto": bf16 where the hardware multiplies it faster.

    That is a GPU that has it, and a CPU with AVX512-BF16 or AMX. Raises ValueError for another name.
    """
    if name not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision={name!r}: choose 'auto', 'fp32' or 'bf16'")
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
            fast = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def next_item_loss(
    model: SessionModel,
    batch: Batch,
    *,
    negatives: Negatives | None = None,
    precision: torch.dtype = torch.float32,
    smoothing: float = 0.0,
) -> Tensor:
    """Weighted sum of the cross-entropies of the batch's steps, over the catalogue or sampled negatives.

    Steps without a target (padding among them) never reach the softmax, the padding item has no share
    in it. Divide by a constant, not by the batch's own weight, and an epoch's gradients add up to
    those of the same steps in any other batches.
    smoothing: the share of the target's probability that is spread over all items (label smoothing,
    Szegedy et al. 2016, section 7); the full softmax only.
    """
    wanted = batch.y != PADDING
    queries = model.query(model(batch.x)[wanted])  # (P, D)
    targets, weights = batch.y[wanted], batch.w[wanted]
    if negatives is not None:
        return _sampled_loss(model, queries, targets, weights, negatives, precision)
    items = model.item_matrix()  # (n + 1, D)
    loss = FullSoftmaxLoss.apply(queries, items, targets, weights, precision)
    if smoothing:
        # Cross-entropy is linear in the target: what changes is s_y - mean_i s_i, with no (P, n) matrix.
        margin = (queries * (items[targets] - items[1:].mean(0))).sum(1)  # (P,)
        loss = loss + smoothing * (margin @ weights)
    return loss


class FullSoftmaxLoss(torch.autograd.Function):
    """sum_p w_p (log sum_i exp(q_p e_i) - q_p e_y), i over 1..n, gradients included, chunk by chunk.

    The gradient of the logits is softmax less one-hot, so a chunk's logits become its gradients in place and
    the (P, n + 1) matrix never exists: memory is bounded by the chunk. `F.linear_cross_entropy` in chunks
    took four times as long (benchmarks/README.md) and takes no weight per step.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype):
        size = max(1, min(_CHUNK_STEPS.get(queries.device.type, 2**16), _CHUNK_ENTRIES // len(items)))
        q, e = queries.to(dtype), items.to(dtype)
        buffer = q.new_empty(min(size, len(q)), len(e))  # (C, n + 1)
        grad_queries, grad_items = torch.empty_like(queries), torch.zeros_like(items)
        loss = queries.new_zeros(())
        minus_one = q.new_full((), -1)
        for start in range(0, len(q), size):
            rows = slice(start, start + size)
            y, w = targets[rows, None], weights[rows, None]  # (C, 1)
            logits = torch.mm(q[rows], e.T, out=buffer[: len(y)])
            logits[:, PADDING] = -torch.inf
            p = torch.softmax(logits, 1, out=logits)
            # A probability of 0 is one below 1e-38: its loss is shown as 87, its gradient is right.
            p_target = p.gather(1, y).float().clamp(min=torch.finfo(torch.float32).tiny)
            loss -= (p_target.log() * w).sum()
            p.scatter_add_(1, y, minus_one.expand(y.shape))
            grad_queries[rows] = (p @ e).float() * w
            weighted = q[rows] * w.to(dtype)
            if dtype == grad_items.dtype:
                grad_items.addmm_(p.T, weighted)
            else:
                grad_items += p.T @ weighted  # added up in float32
        ctx.save_for_backward(grad_queries, grad_items)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad_queries, grad_items = ctx.saved_tensors
        return grad_queries.mul_(grad), grad_items.mul_(grad), None, None, None


class Negatives:
    """Items drawn for a batch, shared by its steps, with probability proportional to (count + 1) ** power."""

    def __init__(self, popularity: np.ndarray, count: int, *, power: float = 0.75):
        if count < 1:
            raise ValueError(f"negatives={count}: must be at least 1")
        weights = (torch.as_tensor(popularity).double() + 1) ** power
        weights[PADDING] = 0
        self.count = count
        self.cumulative = weights.cumsum(0)
        self.log_expected = (weights / self.cumulative[-1] * count).log().float()  # (n + 1,) log(K Q)

    def draw(self) -> tuple[Tensor, Tensor]:
        """(K,) item ids, with replacement, and log(K Q) of each: on the CPU, the same for any device."""
        place = torch.rand(self.count, dtype=torch.double) * self.cumulative[-1]
        items = torch.searchsorted(self.cumulative, place, right=True).clamp(max=len(self.cumulative) - 1)
        return items, self.log_expected[items]


def _sampled_loss(
    model: SessionModel,
    queries: Tensor,
    targets: Tensor,
    weights: Tensor,
    negatives: Negatives,
    precision: torch.dtype,
) -> Tensor:
    """Sampled softmax with the logQ correction: sum_i exp(s_i) over the other items is estimated without bias
    by sum_k exp(s_k) / (K Q_k) over the drawn ones (Bengio & Senecal 2008; Jean et al. 2015, section 3).
    """
    drawn, log_expected = (values.to(queries.device) for values in negatives.draw())  # (K,) each
    both = model.item_matrix(torch.cat([targets, drawn]))  # (P + K, D): one lookup, one gradient
    own = (queries * both[: len(targets)]).sum(1, keepdim=True)  # (P, 1)
    others = (queries.to(precision) @ both[len(targets) :].to(precision).T).float()  # (P, K)
    others = others - log_expected
    others = others.masked_fill(targets[:, None] == drawn, -torch.inf)  # the target is no negative
    return (torch.cat([own, others], 1).logsumexp(1) - own[:, 0]) @ weights
