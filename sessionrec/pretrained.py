"""Models trained on all rows: the committed checkpoints, or those that were trained here before."""

from __future__ import annotations

from pathlib import Path

from dataset.files import ROOT, SessionDataset
from models import BASELINES
from sessionrec.checkpoint import read_header, read_names
from sessionrec.recipes import load_recipe
from sessionrec.run import recipes_of, train_on_all_rows


def find_pretrained(dataset: SessionDataset, model: str, epochs: int | None = None) -> Path | None:
    """The checkpoint of a model trained on all rows of exactly this data: committed, or trained here before.

    One trained here counts only if its recipe is the present one and allowed as many epochs (None: the recipe's), and
    its items have the names that they have in the dataset.
    """
    committed = ROOT / "pretrained_model" / dataset.name.removeprefix("Amazon_") / f"{model}.safetensors"
    local = ROOT / "checkpoints" / dataset.short_name / f"{model}.safetensors"
    recipe = load_recipe("best", model, dataset.short_name)
    epochs = None if model in BASELINES else epochs or recipe.fit.get("epochs")
    for path in (committed, local):
        header = read_header(path) if path.exists() else {}
        allowed = header.get("recipe_values", {}).get("fit", {}).get("epochs")
        if header.get("sha256") != dataset.sha256:
            continue
        if path == committed:
            return path
        if allowed == epochs and header.get("recipes") == recipes_of(recipe, dataset) and _has_names_of(path, dataset):
            return path
    return None


def _has_names_of(path: Path, dataset: SessionDataset) -> bool:
    """Whether each item of a checkpoint has the name that it has in the dataset."""
    names = read_names(path)
    if names is None or dataset.names is None:
        return names is dataset.names
    return names.items() <= dataset.names.items()


def get_pretrained(dataset: SessionDataset, model: str, epochs: int | None = None) -> Path:
    """`find_pretrained`; if there is none, train it now and keep it in the ignored folder `checkpoints/`.

    Raises KeyboardInterrupt if training is interrupted.
    """
    path = find_pretrained(dataset, model, epochs)
    if path is None:
        path = ROOT / "checkpoints" / dataset.short_name / f"{model}.safetensors"
        print(
            f"{dataset.name}: no {model} for exactly these files yet, so it is trained now: "
            "a held-out run on 80 % of the users finds the number of epochs, then all rows train."
        )
        recipe = load_recipe("best", model, dataset.short_name)
        if epochs and model not in BASELINES:
            recipe = recipe.with_changes({"fit": {"epochs": epochs}})
        run = train_on_all_rows(recipe, dataset)
        if run.interrupted:
            raise KeyboardInterrupt
        run.save(path)
    return path
