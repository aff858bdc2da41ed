"""SASRec: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation".

Item and learned position embeddings, then blocks of causal self-attention and a point-wise feed-forward
network, each with layer normalisation before it and a residual connection (their section III). It serves as a
reference and has no notebook.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.options import Range
from models.base import SessionModel
from process_data import LONGEST_SESSION


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); step t attends to steps <= t."""

    def __init__(self, *, width: int, heads: int, inner: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        B, L, D = x.shape
        heads = self.project_in(self.norm1(x)).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*heads, is_causal=True)  # (B, heads, L, D / heads)
        x = x + self.dropout(self.project_out(out.transpose(1, 2).reshape(B, L, D)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class SASRec(SessionModel):
    def __init__(
        self,
        *,
        n_items: int,
        layers: int = 1,
        heads: Annotated[int, Range(1, 1000)] = 2,
        inner: Annotated[int, Range(1, 2**16)] = 256,
        longest: Annotated[int, Range(1, 2**16)] = LONGEST_SESSION,
        **shared,
    ):
        super().__init__(n_items=n_items, **shared)
        if self.width % heads:
            raise ValueError(f"heads={heads}: must divide the width {self.width}")
        self.position = nn.Embedding(longest, self.width)
        self.blocks = nn.ModuleList(
            Block(width=self.width, heads=heads, inner=inner, dropout=self.hidden_dropout.p) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(self.width)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.position.num_embeddings:
            raise ValueError(f"{x.shape[1]} items in a session; this SASRec takes {self.position.num_embeddings}")
        position = self.position(torch.arange(x.shape[1], device=x.device))
        # sqrt(D), as in the authors' code: Xavier initialisation makes the embeddings of a large catalogue much
        # smaller than those of the positions.
        h = self.dropout(self.embedding(x) * self.width**0.5 + position)  # (B, L, D)
        for block in self.blocks:
            h = block(h)
        return self.norm(h)  # (B, L, D)
