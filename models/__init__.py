"""MODELS by name, and `build_model`, which makes one from its name and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from models.base import SessionModel, constructor_parameters
from models.baselines.base import Baseline
from models.Ensemble import Ensemble


def _classes(package: str, *names: str) -> dict[str, type]:
    """Name -> class, imported from the file of the same name."""
    return {name: getattr(import_module(f"{package}.{name}"), name) for name in names}


# To add a model, add its file to this folder and its name here. Tables show the models in this order.
NEURAL_MODELS: dict[str, type[SessionModel]] = _classes(
    "models", "GRU4REC", "SRGNN", "NARM", "GRUwATT", "GGNNwATT", "SASRec"
)
BASELINES: dict[str, type[Baseline]] = _classes(
    "models.baselines", "Popularity", "CoOccurrence", "RandomWalk", "SKNN", "VSKNN", "STAN", "SLIST"
)
# `sessionrec.fit.fit` trains a neural model, a baseline has its own `fit`, and an ensemble averages trained models.
# All of them have the same methods for scoring.
Model = SessionModel | Baseline | Ensemble
MODELS: dict[str, type[Model]] = NEURAL_MODELS | BASELINES | {"Ensemble": Ensemble}


def build_model(name: str, *, classes: Mapping[str, type] = MODELS, **arguments) -> Model:
    """Make a model from its class name and constructor arguments, or an Ensemble from its recorded `arguments`.

    classes: name -> class, or a function that makes the model. Raises ValueError for an unknown name or argument.
    """
    if name not in classes:
        raise ValueError(f"no model {name!r}; there are {', '.join(classes)}")
    if name == "Ensemble":
        n_items, weights = arguments["n_items"], arguments["weights"]
        members = [
            build_model(m["model"], classes=classes, **{**m["arguments"], "n_items": n_items})
            for m in arguments["members"]
        ]
        return Ensemble(members, weights)
    if isinstance(classes[name], type):
        known = constructor_parameters(classes[name])
        if unknown := arguments.keys() - known.keys():
            raise ValueError(f"{name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(known)}")
    return classes[name](**arguments)
