"""What every model shares: the item embedding, scoring against it, and where a session ends.

Shapes: B batch, L steps, D width, n items (ids 1..n, 0 pads).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SessionModel(nn.Module):
    """Sequence in, hidden states out: a subclass implements `forward(x) -> (B, L, D)`.

    x (B, L) holds encoded ids, zeros to the right. The score of item i after step t is the dot product
    of state and embedding, with score="cosine" their cosine times `scale` (a number, 1 / temperature), and
    with score="learned" a cosine too, times a scale that starts there and is learned.
    Dropout is applied to the embeddings of the session's items, hidden_dropout to the states.
    """

    recipe_section = "common"

    def __init__(
        self,
        *,
        n_items: int,
        width: int,
        dropout: float,
        hidden_dropout: float,
        score: str,
        scale: float,
    ):
        super().__init__()
        if score not in ("dot", "cosine", "learned"):
            raise ValueError(f"score={score!r}: choose 'dot', 'cosine' or 'learned'")
        self.n_items, self.width, self.score, self.scale = n_items, width, score, scale
        self.embedding = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.hidden_dropout = nn.Dropout(hidden_dropout)
        if score == "learned":
            self.log_gain = nn.Parameter(torch.zeros(()))  # of the scale

    def reset_parameters(self) -> None:
        """Xavier for every matrix, zero for every bias (the report's initialisation)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    def embed(self, items: Tensor) -> Tensor:
        """Ids (...) -> embeddings (..., D), dropout applied."""
        return self.dropout(self.embedding(items))

    def last_state(self, x: Tensor) -> Tensor:
        """State after each session's last item: (B, L) -> (B, D)."""
        return take_step(self(x), last_step(x))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def item_matrix(self, ids: Tensor | None = None) -> Tensor:
        """(n + 1, D) what states are scored against, row 0 is the padding; or the rows of some ids (K,)."""
        rows = self.embedding.weight if ids is None else self.embedding(ids)
        return rows if self.score == "dot" else F.normalize(rows, dim=1)

    def query(self, states: Tensor) -> Tensor:
        """States (..., D) -> queries (..., D): their product with `item_matrix` is the score."""
        if self.score == "dot":
            return states
        scale = self.scale * self.log_gain.exp() if self.score == "learned" else self.scale
        return F.normalize(states, dim=-1) * scale

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """(x (B, L), out (B, n + 1)) -> the scores after each session's last item, written to `out`.

        What does not depend on the sessions is computed once, here.
        """
        items = self.item_matrix().float().T  # (D, n + 1)
        return lambda x, out: torch.mm(self.query(self.last_state(x)).float(), items, out=out)

    def probabilities(self) -> Callable[[Tensor, Tensor], Tensor]:
        """As `scorer`, the softmax of the scores; 0 for the padding."""
        score = self.scorer()

        def probabilities(x: Tensor, out: Tensor) -> Tensor:
            score(x, out)[:, 0] = -torch.inf
            return torch.softmax(out, 1, out=out)

        return probabilities


class AdditiveAttention(nn.Module):
    """a = v^T sigmoid(A1 query + A2 key [+ c]), not normalised: NARM eq. 8, SR-GNN eq. 6."""

    def __init__(self, width: int, *, bias: bool):
        super().__init__()
        self.A1 = nn.Linear(width, width, bias=False)
        self.A2 = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """query, key: any two shapes (..., H) that broadcast -> weights (...)."""
        return self.v(torch.sigmoid(self.A1(query) + self.A2(key))).squeeze(-1)


def last_step(x: Tensor) -> Tensor:
    """Index of each session's last item (0 for an empty one): (B, L) -> (B,)."""
    return ((x > 0).sum(1) - 1).clamp(min=0)


def take_step(states: Tensor, step: Tensor) -> Tensor:
    """states (B, L, D) at one step (B,) a row -> (B, D)."""
    return states[torch.arange(len(states), device=states.device), step]
