"""GRU4REC: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks".

Embedding, one GRU layer (their eq. 1-4), and the report's head: a linear layer back to the embedding's
width, scored against the embedding itself (tied weights).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.base import SessionModel


class GRU4REC(SessionModel):
    def __init__(self, *, n_items: int, hidden: int = 128, layers: int = 1, **shared):
        super().__init__(n_items=n_items, **shared)
        self.gru = nn.GRU(self.width, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, self.width)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        return self.head(self.hidden_dropout(h))  # (B, L, D)
