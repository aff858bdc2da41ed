"""MODELS by name, and `build_model`, which makes one from its name and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from dataset.options import Size, check
from models.base import SessionModel, constructor_parameters
from models.baselines.base import Baseline
from models.Ensemble import MOST_MEMBERS, Ensemble


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

    classes: name -> class, or a function that makes the model. Raises ValueError for an unknown name or argument, for
    a value of the wrong type or range, and for a model that does not fit into memory.
    """
    check("model", name, str)
    if name not in classes:
        raise ValueError(f"no model {name!r}; there are {', '.join(classes)}")
    if name == "Ensemble":
        members = [build_model(member, classes=classes, **own) for member, own in member_arguments(arguments)]
        return Ensemble(members, arguments["weights"])
    if isinstance(classes[name], type):
        known = constructor_parameters(classes[name])
        if unknown := arguments.keys() - known.keys():
            raise ValueError(f"{name} takes no {', '.join(sorted(unknown))}; it takes {', '.join(known)}")
    try:
        return classes[name](**arguments)
    except RuntimeError as error:  # how torch reports a size that it cannot allocate
        raise ValueError(f"{name} cannot be made with these sizes: {error}") from error


def member_arguments(arguments: dict) -> list[tuple[str, dict]]:
    """The recorded arguments of an Ensemble -> class name and arguments of each member. Raises ValueError."""
    if arguments.keys() != {"n_items", "members", "weights"}:
        raise ValueError(f"an Ensemble takes n_items, members and weights, not {', '.join(arguments)}")
    n_items, members = arguments["n_items"], arguments["members"]
    check("n_items", n_items, Size)
    check("members", members, list[dict])
    check("weights", arguments["weights"], list[float])
    if len(members) > MOST_MEMBERS:
        raise ValueError(f"{len(members)} members: an Ensemble has at most {MOST_MEMBERS}")
    for i, member in enumerate(members):
        check(f"members[{i}].model", member.get("model"), str)
        check(f"members[{i}].arguments", member.get("arguments"), dict)
        if member["model"] == "Ensemble":
            raise ValueError(f"members[{i}] is an Ensemble: the members of an Ensemble are single models")
    return [(member["model"], member["arguments"] | {"n_items": n_items}) for member in members]
