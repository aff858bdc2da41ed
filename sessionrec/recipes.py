"""Recipes: the hyperparameters of recipes.toml, merged for one model and one dataset."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from dataset.files import ROOT
from dataset.options import Count, NonNegative, Positive, Precision, Range, Seed, Size, check, checked
from models import BASELINES, MODELS, NEURAL_MODELS
from models.Ensemble import MOST_MEMBERS

# What a recipe may set besides a model's own arguments, which its constructor checks.
OPTIONS: dict[str, dict[str, object]] = {
    "fit": {
        "epochs": Size,
        "batch_size": Size,
        "lr": Positive,
        "schedule": Literal["constant", "onecycle", "cosine"],
        "weight_decay": NonNegative,
        "patience": Count | None,
        "graph_smoothing": NonNegative,
        "negatives": Count,
        "lazy": bool,
        "precision": Precision,
    },
    "data": {
        "dataset": Literal["TrainDataset", "MyDataset"],
        "fold": bool,
        "weights": Literal["rows", "once"],
        "min_item_count": Count,
        "min_session_length": Count,
        "fit_on": Literal["train", "all"],
    },
    "ensemble": {
        "members": list[Literal[*NEURAL_MODELS, *BASELINES]],
        "start": Annotated[int, Range(0, 100)],
        "queries": Size,
        "seeds": list[Seed],
        "epochs": list[Size],
        "weights": list[NonNegative],
    },
}
SECTIONS = ("model", *OPTIONS)
_SETTING = re.compile(r"\s*([A-Za-z_]+)\.([A-Za-z_0-9]+)\s*=\s*(.*?)\s*", re.DOTALL)
_WORD = re.compile(r"(?!(?:true|false|inf|nan)$)[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: constructor arguments, and options for training, data and ensemble.

    Raises ValueError for an option that does not exist, and for a value of the wrong type or range.
    """

    made_by: ClassVar[str] = 'load_recipe("best", "NARM", dataset.short_name)'

    name: str
    model_name: str
    model: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    ensemble: dict = field(default_factory=dict)

    def __post_init__(self):
        for kind, values in self.values.items():
            check(kind, values, dict)
            options = OPTIONS.get(kind, values)
            if unknown := values.keys() - options.keys():
                raise ValueError(f"{kind} takes no {min(unknown, key=str)}; it takes {', '.join(sorted(options))}")
            for key in values if kind in OPTIONS else ():
                check(f"{kind}.{key}", values[key], options[key])
        members = self.ensemble.get("members", ())
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"ensemble.members: an Ensemble has at most {MOST_MEMBERS}, not {len(members)}")
        for key in ("seeds", "epochs", "weights"):
            if self.ensemble.get(key) and len(self.ensemble[key]) != len(members):
                raise ValueError(f"ensemble.{key} has {len(self.ensemble[key])} entries for {len(members)} members")

    @property
    def values(self) -> dict[str, dict]:
        """All of it as {"model": ..., "fit": ..., "data": ..., "ensemble": ...}, as a checkpoint stores it."""
        return {"model": self.model, "fit": self.fit, "data": self.data, "ensemble": self.ensemble}

    def with_changes(self, changes: dict[str, dict]) -> Recipe:
        """A copy with other values, e.g. {"fit": {"lr": 0.01}}. Raises ValueError for a key that does not exist."""
        check("changes", changes, dict)
        merged = {}
        for kind, new in changes.items():
            if kind not in self.values or not isinstance(new, dict):
                raise ValueError(f"no settings {kind!r}; there are {', '.join(self.values)}, each a table")
            merged[kind] = self.values[kind] | new
        return replace(self, **merged)


def parse_changes(settings: Sequence[str]) -> dict[str, dict]:
    """["fit.lr=0.01", "model.width=64"] -> {"fit": {"lr": 0.01}, "model": {"width": 64}}, for `Recipe.with_changes`.

    A value is written as in TOML; a single word needs no quotes. Raises ValueError for anything else, and for a key
    that is set twice.
    """
    changes: dict[str, dict] = {}
    for setting in settings:
        match = _SETTING.fullmatch(setting)
        if not match:
            raise ValueError(f"{_short(setting)} sets nothing: write SECTION.KEY=VALUE, for example fit.lr=0.01")
        section, key, text = match.groups()
        if section not in SECTIONS:
            raise ValueError(f"{_short(setting)}: there is no section {section}; there are {', '.join(SECTIONS)}")
        if key in changes.setdefault(section, {}):
            raise ValueError(f"{section}.{key} is set twice")
        try:
            changes[section][key] = text if _WORD.fullmatch(text) else _parse_value(text)
        except (ValueError, RecursionError):
            example = 'as in recipes.toml: 0.01, true, "text" or [1, 2]'
            raise ValueError(f"{_short(setting)}: the value cannot be read; write it {example}") from None
    return changes


def _parse_value(text: str) -> object:
    values = tomllib.loads(f"value = {text}")
    if [*values] != ["value"]:  # the text has a line end and another key
        raise ValueError
    return values["value"]


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "...")


@checked
def load_recipe(name: str, model: str, dataset: str, *, file: Path = ROOT / "recipes.toml") -> Recipe:
    """The recipe of a model on a dataset (its short name).

    Later tables override earlier ones: `<recipe>.default`, then `<recipe>.<dataset>`; in each first the section
    of the model's kind (`common` for neural models, `baseline` for the others), then the model's own.
    Raises ValueError for an unknown recipe or model, and for a file that holds anything else than recipes.
    """
    try:
        recipes = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    if name not in recipes:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(recipes)}")
    if model not in MODELS:
        raise ValueError(f"no model {model!r}; there are {', '.join(MODELS)}")
    _check_sections(recipes[name], f"{file}: [{name}")
    recipe = Recipe(name, model)
    for source in ("default", dataset):
        tables = recipes[name].get(source, {})
        for section in (MODELS[model].recipe_section, model):
            try:
                recipe = recipe.with_changes(tables.get(section, {}))
            except ValueError as error:
                raise ValueError(f"{file}: [{name}.{source}.{section}]: {error}") from None
    return recipe


def has_recipes(name: str, dataset: str, *, file: Path = ROOT / "recipes.toml") -> bool:
    """Whether the file has hyperparameters of this recipe for a dataset (its short name)."""
    return dataset != "default" and dataset in tomllib.loads(file.read_text(encoding="utf-8")).get(name, {})


def _check_sections(tables: object, where: str) -> None:
    """Raise ValueError for a table of one recipe that no model reads."""
    sections = {cls.recipe_section for cls in MODELS.values()} | MODELS.keys()
    for source, sections_of_source in _tables(tables, f"{where}]").items():
        for section in _tables(sections_of_source, f"{where}.{source}]"):
            if section not in sections:
                raise ValueError(
                    f"{where}.{source}.{section}] names no model; there are {', '.join(MODELS)}, and "
                    f"{', '.join(sorted(sections - MODELS.keys()))} for many"
                )
        if source != source.lower():
            raise ValueError(f"{where}.{source}] is never read; datasets are in small letters")


def _tables(values: object, where: str) -> dict[str, dict]:
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise ValueError(f"{where} holds something else than tables such as [best.default.NARM]")
    return values
