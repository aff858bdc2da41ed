"""The training loss: cross-entropy of every step over the catalogue, exact or over sampled negatives.

A loss is a function of queries (P, D), items (n + 1, D), targets (P,) and weights (P,), and returns the weighted
sum over the P steps; row 0 of `items` is the padding. Yours can be `lambda q, e, y, w: ...` in a notebook cell.
Soft targets (sessionrec/distillation.py) are M targets a step: targets and weights are then (P, M).

Shapes: B batch, L steps, P steps with a target, M targets a step, D width, n items, K negatives, C steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dataset.options import NonNegative, Precision, Size, checked
from dataset.sessions import check_popularity
from models.base import SessionModel
from process_data import PADDING, Batch

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Entries that a chunk of logits may hold (fp32: 256 MiB), and on a CPU its number of steps: the passes over a
# chunk then find it in the cache, and the system need not provide fresh pages at every batch.
_CHUNK_ENTRIES = 2**26
_CHUNK_STEPS = {"cpu": 128}


def batch_loss(model: SessionModel, batch: Batch, loss: Loss) -> Tensor:
    """The loss of a batch, summed over its steps and their weights.

    Steps without a target (padding among them) never reach the loss. Divide by a constant, not by the batch's
    own weight: then an epoch's gradients add up to those of the same steps in any other batches.
    A loss with `looks_up_items = True` gets `model.item_matrix` in place of the matrix, and calls it with ids.
    """
    has_target = batch.y != PADDING
    has_target = has_target.any(-1) if batch.y.dim() == 3 else has_target  # (B, L)
    queries = model.query(model(batch.x)[has_target])  # (P, D)
    items = model.item_matrix if getattr(loss, "looks_up_items", False) else model.item_matrix()
    return loss(queries, items, batch.y[has_target], batch.w[has_target])


@checked
def pick_precision(name: Precision, device: torch.device) -> torch.dtype:
    """The type of the logits: "fp32", "bf16", or "auto": bf16 if the hardware multiplies it faster.

    A GPU with bf16 does, and a CPU with AVX512-BF16 or AMX. Raises ValueError for another name.
    """
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
            fast = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def full_softmax(
    queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, *, precision: str = "auto"
) -> Tensor:
    """sum_p w_p (log sum_i exp(q_p e_i) - q_p e_y) over the whole catalogue; the padding has no share in it.

    queries (P, D), items (n + 1, D), targets (P,) ids 1..n, weights (P,). Or targets (P, M) and weights (P, M): then
    the sum is also over the M targets of a step, and 0 is no target. precision: see `pick_precision`.
    """
    if targets.dim() == 1:
        targets, weights = targets[:, None], weights[:, None]  # (P, M)
    return _FullSoftmax.apply(queries, items, targets, weights, pick_precision(precision, queries.device))


class _FullSoftmax(torch.autograd.Function):
    """sum_pm w_pm (log sum_i exp(q_p e_i) - q_p e_y), i over 1..n, and its gradients, chunk by chunk.

    The gradient of a step's logits is softmax minus targets, times the sum of its weights. So a chunk's logits become
    its gradients in place, and the (P, n + 1) matrix never exists: memory is bounded by the chunk.
    `F.linear_cross_entropy` in chunks took four times as long (benchmarks/README.md) and has no weight per step.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, items: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype):
        size = max(1, min(_CHUNK_STEPS.get(queries.device.type, 2**16), _CHUNK_ENTRIES // len(items)))
        q, e = queries.to(dtype), items.to(dtype)
        buffer = q.new_empty(min(size, len(q)), len(e))  # (C, n + 1)
        grad_queries, grad_items = torch.empty_like(queries), torch.zeros_like(items)
        loss = queries.new_zeros(())
        totals = weights.sum(1, keepdim=True)  # (P, 1)
        shares = weights / totals.clamp(min=torch.finfo(weights.dtype).tiny)  # (P, M)
        for start in range(0, len(q), size):
            rows = slice(start, start + size)
            y, total = targets[rows], totals[rows]  # (C, M), (C, 1)
            logits = torch.mm(q[rows], e.T, out=buffer[: len(y)])
            logits[:, PADDING] = -torch.inf
            p = torch.softmax(logits, 1, out=logits)
            # A probability below 1e-38 underflows to 0: its loss is reported as 87, its gradient is right.
            p_target = p.gather(1, y).float().clamp(min=torch.finfo(torch.float32).tiny)
            loss -= (p_target.log() * weights[rows]).sum()
            p.scatter_add_(1, y, -shares[rows].to(dtype))
            grad_queries[rows] = (p @ e).float() * total
            weighted = q[rows] * total.to(dtype)
            if dtype == grad_items.dtype:
                grad_items.addmm_(p.T, weighted)
            else:
                grad_items += p.T @ weighted  # summed in float32
        ctx.save_for_backward(grad_queries, grad_items)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        grad_queries, grad_items = ctx.saved_tensors
        return grad_queries.mul_(grad), grad_items.mul_(grad), None, None, None


class SampledSoftmax:
    """Softmax over sampled negatives with the logQ correction, for large catalogues.

    The sum over the other items, sum_i exp(s_i), is estimated without bias by sum_k exp(s_k) / (K Q_k) over the
    K drawn ones (Bengio & Senecal 2008; Jean et al. 2015, section 3). All steps of a batch share the K items,
    drawn with probability Q proportional to (count + 1) ** power. It looks up only the items that it needs.
    popularity (n + 1,): counts of the training split, `data.popularity`.
    """

    looks_up_items = True

    @checked
    def __init__(
        self,
        popularity: np.ndarray,
        negatives: Size = 2048,
        *,
        power: NonNegative = 0.75,
        precision: Precision = "auto",
    ):
        check_popularity(popularity)
        weights = (torch.as_tensor(popularity).double() + 1) ** power
        weights[PADDING] = 0
        self.negatives, self.power, self.precision = negatives, power, precision
        self.cumulative = weights.cumsum(0)
        self.log_expected = (weights / self.cumulative[-1] * negatives).log().float()  # (n + 1,) log(K Q)

    def __repr__(self) -> str:
        return f"SampledSoftmax(negatives={self.negatives}, power={self.power}, precision={self.precision})"

    def draw(self) -> tuple[Tensor, Tensor]:
        """(K,) item ids, with replacement, and log(K Q) of each. On the CPU, so the same for any device."""
        point = torch.rand(self.negatives, dtype=torch.double) * self.cumulative[-1]
        items = torch.searchsorted(self.cumulative, point, right=True).clamp(max=len(self.cumulative) - 1)
        return items, self.log_expected[items]

    def __call__(self, queries: Tensor, items: Callable[[Tensor], Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        """queries (P, D), items: ids (K,) -> vectors (K, D), targets (P,), weights (P,) -> scalar."""
        dtype = pick_precision(self.precision, queries.device)
        drawn, log_expected = (values.to(queries.device) for values in self.draw())  # (K,) each
        vectors = items(torch.cat([targets, drawn]))  # (P + K, D): one lookup, one gradient
        positive = (queries * vectors[: len(targets)]).sum(1, keepdim=True)  # (P, 1)
        negative = (queries.to(dtype) @ vectors[len(targets) :].to(dtype).T).float()  # (P, K)
        negative = negative - log_expected
        negative = negative.masked_fill(targets[:, None] == drawn, -torch.inf)  # the target is no negative
        return (torch.cat([positive, negative], 1).logsumexp(1) - positive[:, 0]) @ weights
