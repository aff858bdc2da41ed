"""GRUwATT: a model of the report. GRU4REC with NARM's attention, but without its sum over the session.

causal=True (default): c_t = a_tt h_t, so each step's state is gated by its own attention weight. The sum of
a_tj h_j over j <= t would be NARM. causal=False is the report's form: c_j = a_tj h_j, with the query h_t from
the session's last step. The output of step j then depends on later items, including its own target, so the
training loss is meaningless. This form exists only to reproduce the report's numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, SessionModel, last_step, take_step


class GRUwATT(SessionModel):
    def __init__(self, *, n_items: int, hidden: int = 128, causal: bool = True, **shared):
        super().__init__(n_items=n_items, **shared)
        self.causal = causal
        self.gru = nn.GRU(self.width, hidden, batch_first=True)
        self.attention = AdditiveAttention(hidden, bias=False)
        self.head = nn.Linear(2 * hidden, self.width)
        self.reset_parameters()

    def attention_weights(self, h: Tensor, x: Tensor) -> Tensor:
        """The gate on each step's state: h (B, L, H), x (B, L) -> (B, L)."""
        query = h if self.causal else take_step(h, last_step(x))[:, None]
        return self.attention(query, h)

    def last_attention(self, x: Tensor) -> Tensor:
        """The gate on each step of a session without padding: (1, L) -> (1, L)."""
        return self.attention_weights(self.gru(self.embed(x))[0], x)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        c = self.attention_weights(h, x)[..., None] * h  # (B, L, H)
        return self.head(self.hidden_dropout(torch.cat([h, c], -1)))  # (B, L, D)
