"""SRGNN: Wu et al. 2019, "Session-based Recommendation with Graph Neural Networks".

A gated graph network over the session's graph (eq. 1-5), soft attention with the last item as query
(eq. 6), and the hybrid embedding s_h = W3 [s_l; s_g] (eq. 7). The output after step t comes from the graph
of the prefix 1..t only: all prefixes of a batch are expanded, and one `get_slice` builds their graphs.

Shapes: B batch, P prefixes of a batch, L steps and at most L nodes per graph, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.base import AdditiveAttention, SessionModel, last_step, take_step
from process_data import expand_prefixes, get_slice

# Nodes that are processed at once; their messages take about 1 GiB at width 128.
MOST_NODES = 2**17


class GatedGraph(nn.Module):
    """Eq. 1-5: messages along in- and out-edges, then a GRU update of every node."""

    def __init__(self, width: int, *, steps: int = 1):
        super().__init__()
        self.steps = steps
        self.message_in = nn.Linear(width, width)
        self.message_out = nn.Linear(width, width)
        self.update = nn.GRUCell(2 * width, width)

    def forward(self, nodes: Tensor, A: Tensor) -> Tensor:
        """nodes (P, L, D), A (P, L, 2L) = [A_in | A_out] -> nodes (P, L, D)."""
        P, L, D = nodes.shape
        for _ in range(self.steps):
            a_in = A[:, :, :L] @ self.message_in(nodes)  # (P, L, D)
            a_out = A[:, :, L:] @ self.message_out(nodes)  # (P, L, D)
            a = torch.cat([a_in, a_out], 2)  # (P, L, 2D), eq. 1
            nodes = self.update(a.view(P * L, 2 * D), nodes.reshape(P * L, D)).view(P, L, D)
        return nodes


class GraphSessionModel(SessionModel):
    """Computes a node vector for each step; a subclass turns the vectors of a prefix into its `last_state`."""

    def step_nodes(self, x: Tensor) -> Tensor:
        """The node vector v_i of each step i, from the graph of the whole row: (P, L) -> (P, L, D)."""
        alias_inputs, A, items, _ = get_slice(x)
        nodes = self.graph(self.embed(items), A)  # (P, L, D)
        return nodes.gather(1, alias_inputs[..., None].expand(-1, -1, self.width))

    def forward(self, x: Tensor) -> Tensor:
        prefixes, mask = expand_prefixes(x)  # (P, L), (B, L)
        chunks = prefixes.split(max(1, MOST_NODES // prefixes.shape[1]))
        if len(chunks) == 1 or x.device.type == "mps":  # on MPS, `checkpoint` cannot repeat the dropout masks
            states = self.last_state(prefixes)  # (P, D)
        else:  # the backward pass computes each chunk again, so only one chunk's graphs are in memory
            states = torch.cat([checkpoint(self.last_state, chunk, use_reentrant=False) for chunk in chunks])
        return states.new_zeros(*x.shape, self.width).masked_scatter(mask[..., None], states)  # (B, L, D)


class SRGNN(GraphSessionModel):
    def __init__(self, *, n_items: int, graph_steps: int = 1, **shared):
        super().__init__(n_items=n_items, **shared)
        self.graph = GatedGraph(self.width, steps=graph_steps)
        self.attention = AdditiveAttention(self.width, bias=True)
        self.W3 = nn.Linear(2 * self.width, self.width, bias=False)
        self.reset_parameters()

    def attention_weights(self, v: Tensor, x: Tensor) -> Tensor:
        """Weights alpha_i of all steps for the last one as query: v (P, L, D), x (P, L) -> (P, L), 0 for padding."""
        return self.attention(take_step(v, last_step(x))[:, None], v) * (x > 0)

    def last_attention(self, x: Tensor) -> Tensor:
        """The weights of a session's steps for the last one as query: (1, L) -> (1, L)."""
        return self.attention_weights(self.step_nodes(x), x)

    def last_state(self, x: Tensor) -> Tensor:
        v = self.step_nodes(x)  # (P, L, D)
        s_local = take_step(v, last_step(x))  # (P, D)
        s_global = (self.attention_weights(v, x)[..., None] * v).sum(1)  # (P, D), eq. 6
        return self.W3(self.hidden_dropout(torch.cat([s_local, s_global], 1)))  # (P, D), eq. 7
