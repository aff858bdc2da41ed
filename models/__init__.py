"""MODELS by name; `build_model` makes one and remembers what it was made from."""

from __future__ import annotations

import inspect

from models.base import SessionModel
from models.GGNNwATT import GGNNwATT
from models.GRU4REC import GRU4REC
from models.GRUwATT import GRUwATT
from models.NARM import NARM
from models.SASRec import SASRec
from models.SRGNN import SRGNN

MODELS: dict[str, type[SessionModel]] = {
    model.__name__: model for model in (GRU4REC, SRGNN, NARM, GRUwATT, GGNNwATT, SASRec)
}


def build_model(name: str, **arguments) -> SessionModel:
    """A new model; `model.name` and `model.arguments` (defaults included) rebuild it.

    Raises ValueError for an unknown name or argument, with those that exist.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are {', '.join(MODELS)}")
    signature = inspect.signature(MODELS[name])
    unknown = set(arguments) - set(signature.parameters)
    if unknown:
        raise ValueError(
            f"{name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(signature.parameters)}"
        )
    bound = signature.bind(**arguments)
    bound.apply_defaults()
    model = MODELS[name](**bound.arguments)
    model.name, model.arguments = name, dict(bound.arguments)
    return model
