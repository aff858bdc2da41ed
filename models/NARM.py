"""NARM: Li et al. 2017, "Neural Attentive Session-based Recommendation".

Global encoder: the GRU's last state. Local encoder (eq. 7-8): the sum over the session of the states,
weighted by their match with the last one, c_l = sum_j a_tj h_j. Bilinear decoder
(eq. 10): emb_i^T B [c_g; c_l].

The sum for step t runs over j <= t only, so one pass gives the output after every step, each equal to
the model run on that prefix: shifted targets can train it, other than the report believed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, SessionModel, last_step, take_step


class NARM(SessionModel):
    def __init__(
        self,
        *,
        n_items: int,
        width: int = 128,
        hidden: int = 128,
        dropout: float = 0.25,
        hidden_dropout: float = 0.5,
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
        self.gru = nn.GRU(width, hidden, batch_first=True)
        self.attention = AdditiveAttention(hidden, bias=False)
        self.decoder = nn.Linear(2 * hidden, width, bias=False)  # B of eq. 10
        self.reset_parameters()

    def attention_weights(self, h: Tensor) -> Tensor:
        """a_tj of every step t (row) over the steps j <= t: h (B, L, H) -> (B, L, L), 0 for j > t."""
        return self.attention(h[:, :, None], h[:, None, :]).tril()

    def last_attention(self, x: Tensor) -> Tensor:
        """The weights of the last step over a session without padding: (1, L) -> (1, L)."""
        return self.attention_weights(self.gru(self.embed(x))[0])[:, -1]

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        return self.decode(h, self.attention_weights(h) @ h)

    def last_state(self, x: Tensor) -> Tensor:
        """Of the last step alone: (B, L) -> (B, D), in memory that grows with L, not with its square."""
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        last = take_step(h, last_step(x))  # (B, H)
        weights = self.attention(last[:, None], h) * (x > 0)  # (B, L)
        return self.decode(last, (weights[..., None] * h).sum(1))

    def decode(self, c_global: Tensor, c_local: Tensor) -> Tensor:
        """Eq. 9-10 up to the product with the embeddings: two (..., H) -> (..., D)."""
        return self.decoder(self.hidden_dropout(torch.cat([c_global, c_local], -1)))
