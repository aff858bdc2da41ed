"""Read training runs back from results/runs/*.json, where experiments/compare.py writes one file per run.

A file holds the run's settings, metrics, one rank per query, and one table row per epoch. Its name is
`<model>_<dataset>_<split>_<recipe>[-<variant>]_<split seed>_<seed>.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dataset.files import ROOT
from dataset.options import check
from models import BASELINES, MODELS
from sessionrec.recipes import Recipe, load_recipe

RUNS = ROOT / "results" / "runs"
_LARGEST = 2**28  # bytes of a result file
# Keys of a result that are always there.
_RESULT = {
    "model": str,
    "sha256": str,
    "recipe_values": dict[str, dict],
    "metrics": dict[str, dict[str, float]],
    "ranks": dict,
    "table": dict[str, list],
    "train_seconds": float,
    "parameters": int,
}
SPLIT_SEEDS, SEEDS = (0, 1), (0, 1, 2)


@dataclass(frozen=True)
class Plan:
    """The settings of a training run. dataset: a short name. changes: changes to the recipe, see
    `Recipe.with_changes`. sha256: hash of the data, "" for any data."""

    model: str
    dataset: str
    split: str = "user"
    recipe: str = "best"
    split_seed: int = 0
    seed: int = 0
    variant: str = ""
    changes: dict = field(default_factory=dict)
    sha256: str = ""

    @property
    def name(self) -> str:
        recipe = f"{self.recipe}-{self.variant}" if self.variant else self.recipe
        return f"{self.model}_{self.dataset}_{self.split}_{recipe}_{self.split_seed}_{self.seed}"

    def load_recipe(self) -> Recipe:
        return load_recipe(self.recipe, self.model, self.dataset).with_changes(self.changes)

    def member_plans(self, names: Sequence[str]) -> list[Plan]:
        """The plans of an ensemble's members. Baselines have no seed; a repeated model uses the next seed."""
        return [
            replace(self, model=name, seed=0, changes={})
            if name in BASELINES
            else replace(self, model=name, seed=self.seed + names[:i].count(name))
            for i, name in enumerate(names)
        ]


def read_json(path: Path) -> dict:
    """Read a result file. Raises ValueError if it is damaged, or is no result of a run."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError(f"it is no file of at most {_LARGEST:,} bytes")
        result = json.loads(path.read_text(encoding="utf-8"))
        _check_result(result)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged ({reason}); delete it to repeat the run") from None
    return result


def _check_result(result: object) -> None:
    """Raise ValueError unless it has the structure that `summarize_run` writes."""
    check("the result", result, dict)
    for key, hint in _RESULT.items():
        if key not in result:
            raise ValueError(f"it lacks {key}")
        check(key, result[key], hint)
    if result["model"] == "Ensemble":
        check("members", result.get("members"), list[dict])
        for i, member in enumerate(result["members"]):
            check(f"members[{i}].model", member.get("model"), str)
            check(f"members[{i}].metrics", member.get("metrics"), dict)
    if "valid" not in result["metrics"] or result["metrics"].keys() - result["ranks"].keys():
        raise ValueError("its metrics and ranks are not of the same splits, or not of `valid`")
    for split, ranks in result["ranks"].items():
        is_array = isinstance(ranks, list) and {*map(type, ranks)} <= {int} and min(ranks, default=1) >= 1
        if not is_array or max(ranks, default=1) >= 2**63:
            raise ValueError(f"ranks.{split} are not whole numbers of at least 1")
    if len({len(column) for column in result["table"].values()}) > 1:
        raise ValueError("the columns of its table have different lengths")


def read_result(plan: Plan, folder: Path | None = None) -> dict | None:
    """The saved result of a run. None if it does not exist or is out of date.

    A result is out of date if its recipe, its data or a member of its ensemble has changed since.
    """
    path = (folder or RUNS) / f"{plan.name}.json"
    if not path.exists():
        return None
    result = read_json(path)
    if plan.sha256 and result["sha256"] != plan.sha256:
        return None
    values, expected = result["recipe_values"], plan.load_recipe().values
    if plan.model != "Ensemble":
        return result if values == expected else None
    names = [member["model"] for member in result["members"]]
    for member, member_plan in zip(result["members"], plan.member_plans(names), strict=True):
        saved = read_result(member_plan, folder)
        if saved is None or saved["metrics"] != member["metrics"]:
            return None
    # The run replaced the candidates in the recipe with the chosen members and their weights.
    candidates = {key: values["ensemble"][key] for key in expected["ensemble"]} | {"members": names}
    return result if candidates == expected["ensemble"] else None


def load_results(plans: Sequence[Plan], folder: Path | None = None) -> pd.DataFrame:
    """One row per finished run: its plan and the contents of its file.

    The metrics and ranks are those of the test split, or of the validation split if there is no test split.
    """
    rows = []
    for plan in plans:
        if (result := read_result(plan, folder)) is not None:
            split = "test" if "test" in result["metrics"] else "valid"
            valid = {f"valid {metric}": value for metric, value in result["metrics"]["valid"].items()}
            arrays = {"ranks": np.array(result["ranks"][split]), "table": pd.DataFrame(result["table"])}
            rows.append(result | vars(plan) | result["metrics"][split] | valid | arrays)
    return pd.DataFrame(rows)


def mean_and_spread(runs: pd.DataFrame, metrics: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables with one row per model: "mean ± standard deviation" over its runs as text, and bool: whether the
    mean is the best of its column."""
    by_model = runs.groupby("model")[list(metrics)]
    order = [model for model in MODELS if model in by_model.groups]
    mean, spread = by_model.mean().loc[order], by_model.std().loc[order]
    text = mean.map("{:.4f}".format) + spread.map(lambda s: "" if np.isnan(s) else f" ± {s:.4f}")
    return text, mean.eq(mean.max())


def headline(dataset: str, sha256: str = "", model: str | None = None) -> pd.DataFrame:
    """Each model's means over the seeds (recipe `best`, user split 0), sorted by validation MRR@20.

    model: show only this model, Popularity, CoOccurrence, the best baseline and the best model.
    The table is empty without saved runs.
    """
    names = {"HR@20": "test HR@20", "MRR@20": "test MRR@20", "valid MRR@20": "validation MRR@20"}
    runs = load_results([Plan(name, dataset, seed=s, sha256=sha256) for name in MODELS for s in SEEDS])
    means = runs.reindex(columns=["model", *names]).groupby("model").mean().rename(columns=names)
    means = means.sort_values("validation MRR@20", ascending=False)
    best_baseline = means.index[means.index.isin(BASELINES)][:1]
    shown = {model, "Popularity", "CoOccurrence", *best_baseline, *means.index[:1]}
    return means[means.index.isin(shown)] if model else means
