"""NARM: Li et al. 2017, "Neural Attentive Session-based Recommendation".

Global encoder: the GRU's last state. Local encoder (eq. 7-8): the sum of all states, each weighted by its
match with the last state, c_l = sum_j a_tj h_j. Bilinear decoder (eq. 10): emb_i^T B [c_g; c_l].

The sum for step t runs over j <= t only. One pass therefore gives the output after every step, equal to
the output of the model on that prefix, and NARM can be trained on shifted targets. The report says it cannot.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.base import AdditiveAttention, SessionModel

# Pairs of steps whose attention is held at once outside of training: 32 MiB at hidden size 128.
MAX_PAIRS = 2**16


class NARM(SessionModel):
    def __init__(self, *, n_items: int, hidden: int = 128, **shared):
        super().__init__(n_items=n_items, **shared)
        self.gru = nn.GRU(self.width, hidden, batch_first=True)
        self.attention = AdditiveAttention(hidden, bias=False)
        self.decoder = nn.Linear(2 * hidden, self.width, bias=False)  # B of eq. 10
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
        """The last step of `forward`, for a part of the batch at a time: its memory grows with L squared."""
        parts = x.split(max(1, MAX_PAIRS // x.shape[1] ** 2))
        return torch.cat([SessionModel.last_state(self, part) for part in parts])

    def decode(self, c_global: Tensor, c_local: Tensor) -> Tensor:
        """Eq. 9-10 up to the product with the embeddings: two tensors (..., H) -> (..., D)."""
        return self.decoder(self.hidden_dropout(torch.cat([c_global, c_local], -1)))
