"""The graph of items that training sessions hold together, and embeddings smoothed over it.

Two items that were never in one session, but both beside a third one, are related all the same: on Beauty
a quarter of the targets were together with an item of the query in training, another quarter with such a
neighbour (Cell: a fifth and a third).
`RandomWalk` takes the second step by counting, `smoothed` lends it to every neural model.

Shapes: n items (ids 1..n, 0 pads), D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.counted import following_items, one_hot
from process_data import Sessions

# Items further apart in a session are no edge.
REACH = 5


def item_graph(sessions: Sessions, n_items: int) -> csr_array:
    """Whole sessions -> the normalised adjacency D^-1/2 A D^-1/2, (n + 1, n + 1), symmetric.

    A_ij adds up one over their distance for every two places that hold i and j, D has its row sums (the
    normalisation of Kipf & Welling 2017, without their self-loops). No edge touches the padding.
    """
    weights = 1 / np.arange(1, REACH + 1)
    later = one_hot(sessions, n_items).T @ following_items(sessions, weights, n_items)
    adjacency = csr_array(later + later.T)
    adjacency.setdiag(0)
    adjacency.eliminate_zeros()
    degree = adjacency.sum(1)
    scale = diags_array(np.divide(1, np.sqrt(degree), out=np.zeros(n_items + 1), where=degree > 0))
    return csr_array(scale @ adjacency @ scale)


@contextmanager
def smoothed(embedding: nn.Embedding, graph: csr_array | None, share: float) -> Iterator[None]:
    """Within the block the embedding is E + share * graph E, and E is what is trained. No graph: just E.

    At the end the smoothed embedding itself takes E's place, so that whoever uses the model afterwards needs
    no graph. One propagation of LightGCN (He et al. 2020, eq. 7) over items alone; like the global graph of
    GCE-GNN (Wang et al. 2020) it brings what other sessions know into this one.
    """
    if graph is None:
        yield
        return
    parametrize.register_parametrization(
        embedding, "weight", _Smoothing(graph, share, embedding.weight.device)
    )
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
            matrix = torch.sparse_csr_tensor(
                crow, columns, values.float(), graph.shape, check_invariants=True
            )
        # No buffer: it comes from the training data, so that the state of a run need not hold it. MPS has no
        # sparse matrices; there the product is the CPU's.
        self.matrix = matrix.to("cpu" if device.type == "mps" else device)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + _SymmetricProduct.apply(self.matrix, weight)


class _SymmetricProduct(torch.autograd.Function):
    """M E of a constant symmetric sparse M: its gradient needs no transpose, which takes twice as long."""

    @staticmethod
    def forward(ctx, matrix: Tensor, weight: Tensor) -> Tensor:
        ctx.matrix = matrix
        return (matrix @ weight.to(matrix.device)).to(weight.device)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, (ctx.matrix @ grad.to(ctx.matrix.device)).to(grad.device)
