"""MODELS by name; `build_model` makes one and remembers what it was made from."""

from __future__ import annotations

import inspect
from importlib import import_module

from models.base import SessionModel
from models.counted import CountModel
from models.Ensemble import Ensemble


def _classes(*names: str) -> dict[str, type]:
    """Each name's class, from the file of the same name."""
    return {name: getattr(import_module(f"models.{name}"), name) for name in names}


# A new model is a file in this folder and its name here. In the order of the tables that show them.
NEURAL_MODELS: dict[str, type[SessionModel]] = _classes(
    "GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT", "SASRec"
)
COUNT_MODELS: dict[str, type[CountModel]] = _classes(
    "Popularity", "CoOccurrence", "RandomWalk", "SKNN", "VSKNN", "STAN", "SLIST"
)
# A model is trained by gradient (`train.fit`), only counts (`train.count`), or averages others
# (`ensemble.py`); all are scored alike.
Model = SessionModel | CountModel | Ensemble
MODELS: dict[str, type[Model]] = NEURAL_MODELS | COUNT_MODELS | {"Ensemble": Ensemble}


def build_model(name: str, **arguments) -> Model:
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
