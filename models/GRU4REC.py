"""GRU4REC: Hidasi et al. 2016, "Session-based Recommendations with Recurrent Neural Networks".

Embedding, one GRU layer (their eq. 1-4), and the report's head: a linear layer back to the embedding's
width, scored against the embedding itself (tied weights).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.base import SessionModel


class GRU4REC(SessionModel):
    def __init__(
        self,
        *,
        n_items: int,
        width: int = 128,
        hidden: int = 128,
        layers: int = 1,
        dropout: float = 0.0,
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
        self.gru = nn.GRU(width, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(hidden, width)
        self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.gru(self.embed(x))  # (B, L, H)
        return self.head(self.hidden_dropout(h))  # (B, L, D)
