"""Base class of the neural models: item embedding, scores, and the state after a session's last item.

Shapes: B batch, L steps, D width, n items (ids 1..n, 0 is padding).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.options import Positive, Range, Share, Size, check_arguments, hints_of

# Sizes of the models whose classes the notebooks show: there they are annotated as plain `int`.
SIZES = {"hidden": Range(1, 2**16), "layers": Range(1, 100), "graph_steps": Range(0, 100)}

_FEW = 16  # queries


class RecordedModule(nn.Module):
    """A module that checks its constructor arguments and records them, so that a checkpoint can rebuild it.

    A value must fit its annotation: int, float, bool, str, Literal[...] or Annotated[int, Range(...)]; any other
    annotation, or none, accepts everything. SIZES bounds some plain ints by name. Raises ValueError.

    name: the name of the class. arguments: argument name -> value, including defaults. Arguments that a subclass
    sets itself when it calls `super().__init__` are not included.
    """

    name: str
    arguments: dict

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor: check its arguments and record them, then run it. Base classes add their defaults."""
    parameters = list(inspect.signature(init).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    @functools.wraps(init)
    def recording(self: RecordedModule, *args, **kwargs) -> None:
        passed = dict(zip((p.name for p in parameters), args, strict=False)) | kwargs
        hints = hints_of(init)
        sizes = {name: Annotated[int, SIZES[name]] for name in SIZES if hints.get(name) is int}
        check_arguments(parameters, hints | sizes, passed)
        if "arguments" not in vars(self):  # this is the outermost constructor
            self.name, self.arguments = type(self).__name__, passed
        left_out = constructor_parameters(type(self)).keys() - passed.keys()
        self.arguments = {k: v for k, v in defaults.items() if k in left_out} | self.arguments
        init(self, *args, **kwargs)

    return recording


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Name -> parameter of a constructor. `**shared` is replaced by the parameters of the base class."""
    found: dict[str, inspect.Parameter] = {}
    for owner in (owner for owner in cls.__mro__ if "__init__" in vars(owner)):
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        found |= {p.name: p for p in parameters if p.kind != p.VAR_KEYWORD and p.name not in found}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return found


class SessionModel(RecordedModule):
    """Base class of the neural models: a subclass implements `forward(x) -> (B, L, D)`, one state per step.

    x (B, L) contains encoded ids, with zeros to the right. The score of item i after step t is the cosine of state
    and embedding times `scale` (1 / temperature), or their dot product with score="dot". `dropout` is applied to
    the embeddings of the session's items, `hidden_dropout` to the states.

    A subclass passes the five shared arguments on: `def __init__(self, *, n_items, hidden=128, **shared)` and
    `super().__init__(n_items=n_items, **shared)`. An unknown argument raises TypeError.
    """

    recipe_section = "common"

    def __init__(
        self,
        *,
        n_items: Size,
        width: Annotated[int, Range(1, 2**16)] = 128,
        dropout: Share = 0.0,
        hidden_dropout: Share = 0.0,
        score: Literal["dot", "cosine"] = "cosine",
        scale: Positive = 12.0,
    ):
        super().__init__()
        self.n_items, self.width, self.score, self.scale = n_items, width, score, scale
        self.embedding = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.hidden_dropout = nn.Dropout(hidden_dropout)

    def reset_parameters(self) -> None:
        """Initialise matrices with Xavier and biases with zero, as in the report."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            elif "norm" not in name:
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    def embed(self, items: Tensor) -> Tensor:
        """Ids (...) -> embeddings (..., D), with dropout."""
        return self.dropout(self.embedding(items))

    def last_state(self, x: Tensor) -> Tensor:
        """The state after each session's last item: (B, L) -> (B, D)."""
        return take_step(self(x), last_step(x))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def item_matrix(self, ids: Tensor | None = None) -> Tensor:
        """Item vectors for scoring: (n + 1, D), where row 0 is the padding, or (K, D) for ids (K,)."""
        rows = self.embedding.weight if ids is None else self.embedding(ids)
        return rows if self.score == "dot" else F.normalize(rows, dim=1)

    def query(self, states: Tensor) -> Tensor:
        """States (..., D) -> queries (..., D). The product of a query and `item_matrix` is the score."""
        return states if self.score == "dot" else F.normalize(states, dim=-1) * self.scale

    def scorer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function of x (B, L) and out (B, n + 1) that writes the scores of all items to `out`.

        The scores are those after each session's last item. Terms that do not depend on x are computed only once.
        """
        items = self.item_matrix().float().T  # (D, n + 1)
        return lambda x, out: torch.mm(self.query(self.last_state(x)).float(), items, out=out)

    def scorer_for(self, n_queries: int) -> Callable[[Tensor, Tensor], Tensor]:
        """`scorer`, or for a few queries a function that writes the same scores, except for their last digits.

        To divide the scores of a few queries by the norms of the items costs less than to divide all item vectors.
        """
        is_overridden = (type(self).scorer, type(self).item_matrix) != (SessionModel.scorer, SessionModel.item_matrix)
        weight = self.embedding.weight
        if n_queries > _FEW or is_overridden or self.score == "dot" or weight.dtype != torch.float32:
            return self.scorer()
        norms = torch.linalg.vector_norm(weight, dim=1).clamp(min=1e-12)  # (n + 1,), as in `F.normalize`
        return lambda x, out: torch.mm(self.query(self.last_state(x)), weight.T, out=out).div_(norms)

    def probabilities(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Like `scorer`, but the softmax of the scores; 0 for the padding."""
        score = self.scorer()

        def probabilities(x: Tensor, out: Tensor) -> Tensor:
            score(x, out)[:, 0] = -torch.inf
            return torch.softmax(out, 1, out=out)

        return probabilities

    def extra_repr(self) -> str:
        return f"score={self.score}, scale={self.scale}"


class WrappedModule(SessionModel):
    """Turns any module x (B, L) -> (B, L, D) with an item embedding (n + 1, D) into a SessionModel.

    `model = WrappedModule(net, net.item_embedding)` can be used like any other model. To load its checkpoint,
    pass a function that builds it: `load_checkpoint(path, model_class=make)` calls `make(n_items=...)`.
    """

    def __init__(self, module: nn.Module, embedding: nn.Embedding, *, score: str = "cosine", scale: float = 12.0):
        n_items, width = embedding.num_embeddings - 1, embedding.embedding_dim
        super().__init__(n_items=n_items, width=width, score=score, scale=scale)
        self.module = module
        del self.embedding
        object.__setattr__(self, "embedding", embedding)  # not registered again: it belongs to `module`
        self.name, self.arguments = type(module).__name__, {"n_items": n_items}

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class AdditiveAttention(nn.Module):
    """a = v^T sigmoid(A1 query + A2 key [+ c]), not normalised (NARM eq. 8, SR-GNN eq. 6)."""

    def __init__(self, width: int, *, bias: bool):
        super().__init__()
        self.A1 = nn.Linear(width, width, bias=False)
        self.A2 = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """query and key (..., H), broadcast against each other -> weights (...)."""
        return self.v(torch.sigmoid(self.A1(query) + self.A2(key))).squeeze(-1)


def last_step(x: Tensor) -> Tensor:
    """Index of each session's last item, 0 for an empty session: (B, L) -> (B,)."""
    return ((x > 0).sum(1) - 1).clamp(min=0)


def take_step(states: Tensor, step: Tensor) -> Tensor:
    """The state of one step per row: states (B, L, D), step (B,) -> (B, D)."""
    return states[torch.arange(len(states), device=states.device), step]
