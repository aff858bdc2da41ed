"""Graph smoothing: while a model trains, each item embedding takes over a share of its neighbours'.

    with smoothed(model.embedding, item_graph(data.train), share=1.0):
        history = fit(model, loader, data.valid, epochs=16, lr=4e-3)

Shapes: n items (ids 1..n, 0 pads), D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sessionrec.resume import checksum


@contextmanager
def smoothed(embedding: nn.Embedding, graph: csr_array, share: float) -> Iterator[None]:
    """Within the block the embedding is E + share * graph E, and E is what is trained. share=0: just E.

    graph: (n + 1, n + 1), from `item_graph`. At the end of the block the smoothed embedding replaces E, so the
    model needs no graph afterwards. This is one propagation step of LightGCN (He et al. 2020, eq. 7) over items
    alone; like the global graph of GCE-GNN (Wang et al. 2020) it brings other sessions' knowledge into this one.
    Raises ValueError for an embedding with sparse gradients: every row of E changes at every step.
    """
    if not share:
        yield
        return
    if embedding.sparse:
        raise ValueError("graph smoothing updates every embedding at every step: leave it out, or `lazy`")
    parametrize.register_parametrization(embedding, "weight", _Smoothing(graph, share, embedding.weight.device))
    try:
        yield
    finally:
        parametrize.remove_parametrizations(embedding, "weight", leave_parametrized=True)


class _Smoothing(nn.Module):
    """E (n + 1, D) -> E + share * graph E."""

    def __init__(self, graph: csr_array, share: float, device: torch.device):
        super().__init__()
        parts = (graph.indptr.astype(np.int64), graph.indices.astype(np.int64), graph.data * share)
        crow, columns, values = (torch.as_tensor(part) for part in parts)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            matrix = torch.sparse_csr_tensor(crow, columns, values.float(), graph.shape, check_invariants=True)
        # Not a buffer: it comes from the training data, so that a resume file need not hold it. MPS has no
        # sparse matrices; there the CPU computes the product.
        self.matrix = matrix.to("cpu" if device.type == "mps" else device)

        self.description = f"share={share}, edges={graph.nnz}, checksum={checksum(*parts)}"

    def extra_repr(self) -> str:
        return self.description

    def forward(self, weight: Tensor) -> Tensor:
        return weight + _SymmetricProduct.apply(self.matrix, weight)


class _SymmetricProduct(torch.autograd.Function):
    """M E of a constant symmetric sparse M. Its gradient needs no transpose, which would take twice as long."""

    @staticmethod
    def forward(ctx, matrix: Tensor, weight: Tensor) -> Tensor:
        ctx.matrix = matrix
        return (matrix @ weight.to(matrix.device)).to(weight.device)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, (ctx.matrix @ grad.to(ctx.matrix.device)).to(grad.device)
