"""GGNNwATT: a model of the report. SR-GNN's gated graph, with attention that gates each step without a sum.

causal=True (default): the state after step t is W3 [v_t; c_t] with c_t = alpha_tt v_t and v_t from the graph of
the prefix 1..t. The sum of alpha_ti v_i over i <= t would be SR-GNN. causal=False is the report's form: one graph
of the whole session, with the last step as the query. Through outgoing edges, step t then depends on item t + 1,
which is its own target. This form exists only to reproduce the report's numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, last_step, take_step
from models.SRGNN import GatedGraph, GraphSessionModel


class GGNNwATT(GraphSessionModel):
    def __init__(self, *, n_items: int, graph_steps: int = 1, causal: bool = True, **shared):
        super().__init__(n_items=n_items, **shared)
        self.causal = causal
        self.graph = GatedGraph(self.width, steps=graph_steps)
        self.attention = AdditiveAttention(self.width, bias=True)
        self.W3 = nn.Linear(2 * self.width, self.width, bias=False)
        self.reset_parameters()

    def gated(self, query: Tensor, v: Tensor) -> Tensor:
        """query and v (..., D) -> W3 [v; alpha v] (..., D)."""
        c = self.attention(query, v)[..., None] * v
        return self.W3(self.hidden_dropout(torch.cat([v, c], -1)))

    def last_attention(self, x: Tensor) -> Tensor:
        """The gate on each step, from the graph of the whole session: (1, L) -> (1, L)."""
        v = self.step_nodes(x)
        return self.attention(v, v)

    def last_state(self, x: Tensor) -> Tensor:
        v = take_step(self.step_nodes(x), last_step(x))  # (P, D)
        return self.gated(v, v)

    def forward(self, x: Tensor) -> Tensor:
        if self.causal:
            return super().forward(x)
        v = self.step_nodes(x)  # (B, L, D)
        return self.gated(take_step(v, last_step(x))[:, None], v)
