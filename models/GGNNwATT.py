"""GGNNwATT: the report's own. SR-GNN's gated graph, with attention that gates each step and sums nothing.

causal=True (default): after step t, c_t = alpha_tt v_t with v_t from the graph of the prefix 1..t, then
W3 [v_t; c_t]; summing alpha_ti v_i over i <= t instead would be SR-GNN. causal=False is the report's form:
one graph of the whole session, whose outgoing edges let step t see item t + 1, its own target, and
the last step as query. It is here to reproduce the report's numbers only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, last_step, take_step
from models.SRGNN import GatedGraph, GraphSessionModel


class GGNNwATT(GraphSessionModel):
    def __init__(
        self,
        *,
        n_items: int,
        width: int = 128,
        graph_steps: int = 1,
        causal: bool = True,
        dropout: float = 0.25,
        hidden_dropout: float = 0.0,
        score: str = "dot",
        scale: float = 12.0,
    ):
        super().__init__(
            n_items=n_items,
            width=width,
            dropout=dropout,
            hidden_dropout=hidden_dropout,
            score=score,
            scale=scale,
        )
        self.causal = causal
        self.graph = GatedGraph(width, steps=graph_steps)
        self.attention = AdditiveAttention(width, bias=True)
        self.W3 = nn.Linear(2 * width, width, bias=False)
        self.reset_parameters()

    def gated(self, query: Tensor, v: Tensor) -> Tensor:
        """query and v (..., D) -> W3 [v; alpha v] (..., D)."""
        c = self.attention(query, v)[..., None] * v
        return self.W3(self.hidden_dropout(torch.cat([v, c], -1)))

    def last_attention(self, x: Tensor) -> Tensor:
        """The gates of the steps of a session, in the graph of the whole of it: (1, L) -> (1, L)."""
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
