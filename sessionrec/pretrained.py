"""Models trained on all rows: the committed checkpoints, or those that were trained here before.

The ignored folder `checkpoints/<name>/` keeps the models of a dataset: `<model>.safetensors` of all rows, and in
`heldout/` the held-out runs, so that none is trained twice for the same files and recipe.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dataset.files import ROOT, replacing
from dataset.folders import SessionDataset
from dataset.options import Size, checked
from dataset.split import TooFewUsers
from models import BASELINES
from models.baselines.base import CatalogueTooLarge
from sessionrec.checkpoint import CheckpointError, load_checkpoint, read_header, read_names
from sessionrec.device import pick_device
from sessionrec.ensemble import MemberProgress, members_of
from sessionrec.fit import History
from sessionrec.recipes import Recipe, load_recipe
from sessionrec.run import Run, prepare_by_recipe, rank_splits, recipes_of, run_recipe, train_on_all_rows


@checked
def find_pretrained(dataset: SessionDataset, model: str, epochs: Size | None = None) -> Path | None:
    """The checkpoint of a model trained on all rows of exactly this data: committed, or trained here before.

    One trained here counts only if its recipe is the present one and allowed as many epochs (None: the recipe's), and
    its items have the names that they have in the dataset.
    """
    local = checkpoint_folder(dataset) / f"{model}.safetensors"
    recipe = load_recipe("best", model, dataset.short_name)
    epochs = None if model in BASELINES else epochs or recipe.fit.get("epochs")
    if path := find_committed(dataset, model):
        return path
    header = header_of(local)
    allowed = header.get("recipe_values", {}).get("fit", {}).get("epochs")
    is_same = header.get("sha256") == dataset.sha256 and header.get("recipes") == recipes_of(recipe, dataset)
    return local if is_same and allowed == epochs and has_names_of(local, dataset) else None


def find_committed(dataset: SessionDataset, model: str) -> Path | None:
    """The committed checkpoint of a model for exactly this data."""
    path = ROOT / "pretrained_model" / dataset.name.removeprefix("Amazon_") / f"{model}.safetensors"
    return path if path.exists() and read_header(path).get("sha256") == dataset.sha256 else None


def has_names_of(path: Path, dataset: SessionDataset) -> bool:
    """Whether each item of a checkpoint has the name that it has in the dataset."""
    names = read_names(path)
    if names is None or dataset.names is None:
        return names is dataset.names
    return names.items() <= dataset.names.items()


@checked
def get_pretrained(dataset: SessionDataset, model: str, epochs: Size | None = None) -> Path:
    """`find_pretrained`; if there is none, train it now and keep it in the ignored folder `checkpoints/`.

    Raises KeyboardInterrupt if training is interrupted.
    """
    path = find_pretrained(dataset, model, epochs)
    if path is None:
        path = checkpoint_folder(dataset) / f"{model}.safetensors"
        print(
            f"{dataset.name}: no {model} for exactly these files yet, so it is trained now: "
            "a held-out run on 80 % of the users finds the number of epochs, then all rows train.",
            flush=True,
        )
        recipe = load_recipe("best", model, dataset.short_name)
        if epochs and model not in BASELINES:
            recipe = recipe.with_changes({"fit": {"epochs": epochs}})
        try:
            heldout = heldout_run(recipe, dataset)
        except TooFewUsers:
            heldout = None  # `train_on_all_rows` says so
        run = train_on_all_rows(recipe, dataset, heldout_run=heldout)
        if run.interrupted:
            raise KeyboardInterrupt
        run.save(path)
    return path


# --------------------------------------------------------------------------------------------------
# Held-out runs


def heldout_run(recipe: Recipe, dataset: SessionDataset, *, seed: int = 0) -> Run:
    """The held-out run of a recipe, as `run_recipe` trains it: the one that is kept, or a new one, which is then kept.

    An Ensemble is made of its members' held-out runs. Raises TooFewUsers, and KeyboardInterrupt if training is
    interrupted.
    """
    if recipe.model_name == "Ensemble":
        return _heldout_ensemble(recipe, dataset)
    path = _heldout_file(recipe, dataset, seed)
    if is_kept(recipe, dataset, seed=seed):
        header, model = read_header(path), load_checkpoint(path, pick_device()).model
        data = prepare_by_recipe(recipe, dataset)
        info = {key: header[key] for key in ("recipe", "seed", "epochs", "recipe_values", "train_seconds")}
        history = History([{"epoch": 1, "seconds": header["train_seconds"]}])
        return Run(model, history, data, rank_splits(model, data), info)
    run = run_recipe(recipe, dataset, seed=seed)
    if run.interrupted:
        raise KeyboardInterrupt
    seconds = sum(row["seconds"] for row in run.history.rows)
    run = replace(run, info=run.info | {"train_seconds": seconds})
    run.save(path)
    return run


def is_kept(recipe: Recipe, dataset: SessionDataset, *, seed: int = 0) -> bool:
    """Whether `checkpoints/` has the held-out run of a recipe for exactly this data."""
    header = header_of(_heldout_file(recipe, dataset, seed))
    wanted = {"sha256": dataset.sha256, "split": "user", "split_seed": 0, "shares": [None, None], "seed": seed}
    return all(header.get(key) == value for key, value in (wanted | {"recipe_values": recipe.values}).items())


def _heldout_file(recipe: Recipe, dataset: SessionDataset, seed: int) -> Path:
    name = f"{recipe.model_name}-{seed}" if seed else recipe.model_name
    return checkpoint_folder(dataset) / "heldout" / f"{name}.safetensors"


def _heldout_ensemble(recipe: Recipe, dataset: SessionDataset) -> Run:
    members = members_of(recipe, dataset)
    progress, runs = MemberProgress([member.model_name for member, _ in members]), []
    for i, (member, seed) in enumerate(members):
        progress.start(i)
        try:
            runs.append(heldout_run(member, dataset, seed=seed))
        except CatalogueTooLarge as error:
            print(f"The ensemble goes without {member.model_name}: {error}")
    return ensemble_of(recipe, dataset, runs)


def ensemble_of(recipe: Recipe, dataset: SessionDataset, runs: list[Run]) -> Run:
    """The ensemble of held-out runs, or the best of them alone if validation says so."""
    seeds = [run.info["seed"] for run in runs]
    members = {"members": [run.model.name for run in runs], "seeds": seeds}
    return run_recipe(recipe.with_changes({"ensemble": members}), dataset, members=runs)


# --------------------------------------------------------------------------------------------------
# Files


def checkpoint_folder(dataset: SessionDataset) -> Path:
    """The ignored folder that keeps a dataset's checkpoints."""
    return ROOT / "checkpoints" / results_name(dataset)


def results_name(dataset: SessionDataset) -> str:
    """The name of a dataset's files in results/ and checkpoints/: its short name, or `<short name>-<hash>`.

    The hash keeps apart two different datasets whose folders have the same name. A folder keeps its name when its
    files change, and a copy of a dataset has the name of the first one. `checkpoints/*/dataset.json` says which
    dataset a name was given to by `claim_name`; the committed checkpoints own the names of their datasets.
    """
    short, owners = dataset.short_name, _owners(dataset)
    of_name = {name: owner for name, owner in owners.items() if name == short or name.startswith(f"{short}-")}
    for key, value in _owner(dataset).items():
        for name, owner in of_name.items():
            if owner.get(key) == value:
                return name
    return f"{short}-{dataset.sha256[:6]}" if short in owners else short


def claim_name(dataset: SessionDataset) -> str:
    """`results_name`, which is from now on the name of this dataset. A name with a hash is explained in one line."""
    name = results_name(dataset)
    if name != dataset.short_name:
        print(f"{dataset.name}: another dataset of this name was here before, so this one's files are called {name}")
    if _owners(dataset).get(name) not in (owner := _owner(dataset), {"sha256": dataset.sha256}):
        with replacing(ROOT / "checkpoints" / name / "dataset.json") as part:
            part.write_text(json.dumps(owner) + "\n", encoding="utf-8")
    return name


def _owner(dataset: SessionDataset) -> dict[str, str]:
    return {"sha256": dataset.sha256, "folder": str(dataset.folder.resolve())}


def _owners(dataset: SessionDataset) -> dict[str, dict]:
    """Name -> the dataset that it was given to."""
    owners = {}
    for path in sorted((ROOT / "checkpoints").glob("*/dataset.json")):
        try:
            owners[path.parent.name] = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):  # not written by us: nobody's
            continue
    committed = ROOT / "pretrained_model" / dataset.name.removeprefix("Amazon_")
    for path in sorted(committed.glob("*.safetensors"))[:1]:
        owners[dataset.short_name] = {"sha256": read_header(path).get("sha256")}
    return owners


def header_of(path: Path) -> dict:
    """The header of a checkpoint that was trained here; {} if it is missing or broken, so that it is trained again."""
    try:
        return read_header(path) if path.exists() else {}
    except CheckpointError:
        return {}
