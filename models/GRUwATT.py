"""GRUwATT: the report's own. GRU4REC plus attention without NARM's sum, so that every step has an output.

causal=True (default): c_t = a_tt h_t, each step's state gated by its own match; summing a_tj h_j over
j <= t instead would be NARM. causal=False is the report's form, c_j = a_tj h_j with the query h_t from
the session's last step: step j's output then sees the items after it, its own target among them, so
its training loss means nothing. It is here to reproduce the report's numbers only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, SessionModel, last_step, take_step


class GRUwATT(SessionModel):
    def __init__(
        self,
        *,
        n_items: int,
        width: int = 128,
        hidden: int = 128,
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
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.attention = AdditiveAttention(hidden, bias=False)
        self.head = nn.Linear(2 * hidden, width)
        self.reset_parameters()

    def attention_weights(self, h: Tensor, x: Tensor) -> Tensor:
        """The gate on each step's state: h (B, L, H), x (B, L) -> (B, L)."""
        query = h if self.causal else take_step(h, last_step(x))[:, None]
        return self.attention(query, h)

    def last_attention(self, x: Tensor) -> Tensor:
        """The gates of a session without padding, each step's own: (1, L) -> (1, L)."""
        return self.attention_weights(self.gru(self.embed(x))[0], x)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        c = self.attention_weights(h, x)[..., None] * h  # (B, L, H)
        return self.head(self.hidden_dropout(torch.cat([h, c], -1)))  # (B, L, D)
