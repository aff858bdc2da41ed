"""MODELS by name; `build_model` makes one and remembers what it was made from."""

from __future__ import annotations

import inspect

from models.base import SessionModel
from models.CoOccurrence import CoOccurrence
from models.counted import CountModel
from models.Ensemble import Ensemble
from models.GGNNwATT import GGNNwATT
from models.GRU4REC import GRU4REC
from models.GRUwATT import GRUwATT
from models.NARM import NARM
from models.Popularity import Popularity
from models.SASRec import SASRec
from models.SKNN import SKNN
from models.SLIST import SLIST
from models.SRGNN import SRGNN
from models.STAN import STAN
from models.VSKNN import VSKNN

# A model is trained by gradient (`train.fit`), only counts (`train.count`), or averages others
# (`ensemble.py`); all are scored alike.
Model = SessionModel | CountModel | Ensemble
NEURAL_MODELS: dict[str, type[SessionModel]] = {
    model.__name__: model for model in (GRU4REC, SRGNN, NARM, GRUwATT, GGNNwATT, SASRec)
}
COUNT_MODELS: dict[str, type[CountModel]] = {
    model.__name__: model for model in (Popularity, CoOccurrence, SKNN, VSKNN, STAN, SLIST)
}
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
