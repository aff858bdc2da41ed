"""Recipes: merging of tables, refused keys, and the contents of recipes.toml."""

import re
import tomllib

import pytest
import torch
from planted import TRAIN

from dataset.files import ROOT
from models import BASELINES, MODELS, NEURAL_MODELS, build_model
from process_data import MyDataset, Sessions, load_dataset
from sessionrec.fit import Schedule
from sessionrec.recipes import KEYS, Recipe, load_recipe
from sessionrec.run import CLEANING, make_train_dataset, run_recipe


def test_specific_sections_override_general_ones(tmp_path):
    file = tmp_path / "recipes.toml"
    file.write_text(
        """
        [best.default.common]
        model = { width = 1, dropout = 0.1, scale = 5.0 }
        fit = { epochs = 1, lr = 0.1, batch_size = 9 }
        [best.default.baseline]
        data = { min_item_count = 2 }
        [best.default.NARM]
        model = { dropout = 0.2, hidden = 2 }
        fit = { lr = 0.2 }
        [best.demo.common]
        model = { hidden = 3, width = 3 }
        [best.demo.NARM]
        fit = { epochs = 4 }
        [best.demo.Ensemble]
        ensemble = { members = ["NARM", "SKNN"] }
        [fast.default.common]
        fit = { epochs = 7 }
        """
    )
    recipe = load_recipe("best", "NARM", "demo", file=file)
    assert (recipe.name, recipe.model_name) == ("best", "NARM")
    assert recipe.values == {
        "model": {"width": 3, "dropout": 0.2, "scale": 5.0, "hidden": 3},
        "fit": {"epochs": 4, "lr": 0.2, "batch_size": 9},
        "data": {},
        "ensemble": {},
    }
    assert load_recipe("best", "NARM", "elsewhere", file=file).values == {
        "model": {"width": 1, "dropout": 0.2, "scale": 5.0, "hidden": 2},
        "fit": {"epochs": 1, "lr": 0.2, "batch_size": 9},
        "data": {},
        "ensemble": {},
    }
    assert load_recipe("best", "SKNN", "demo", file=file) == Recipe("best", "SKNN", data={"min_item_count": 2})
    assert load_recipe("best", "Ensemble", "demo", file=file).ensemble == {"members": ["NARM", "SKNN"]}
    assert load_recipe("fast", "SRGNN", "demo", file=file).fit == {"epochs": 7}
    with pytest.raises(ValueError, match="no recipe 'slow'; there are best, fast"):
        load_recipe("slow", "NARM", "demo", file=file)
    with pytest.raises(ValueError, match="no model 'LSTM'; there are GRU4REC"):
        load_recipe("best", "LSTM", "demo", file=file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[mine.default.common]\nfit = { learning_rate = 1.0 }", "common]: fit takes no learning_rate; it takes"),
        ("[mine.default.common]\ndata = { folded = true }", "data takes no folded; it takes dataset, fit_on,"),
        ("[mine.default.NARM]\nfitt = { lr = 1.0 }", "NARM]: no settings 'fitt'; there are model, fit"),
        ("[mine.default.NARM]\nfit = 3", "no settings 'fit'; there are model, fit, data, ensemble, each a table"),
        ("[mine.demo.narm]\nfit = { lr = 1.0 }", "[mine.demo.narm] names no model; there are GRU4REC"),
        ("[mine.demo.counted]\nmodel = { k = 1 }", "[mine.demo.counted] names no model; there are GRU4REC"),
        ("[mine.default.common\nfit = 3", "Expected"),
        ("mine = 3", "[mine] holds something else than tables"),
        ("[mine]\nfit = { lr = 1.0 }", "[mine.fit] holds something else than tables"),
        ("[mine.default]\ncommon = 3", "[mine.default] holds something else than tables"),
        ("[mine.Demo.common]\nfit = { lr = 1.0 }", "[mine.Demo] is never read; datasets are in small"),
    ],
)
def test_a_recipe_with_an_unknown_key_is_refused(text, reason, tmp_path):
    file = tmp_path / "recipes.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        load_recipe("mine", "NARM", "demo", file=file)
    assert str(raised.value).startswith(f"{file}: ")


def test_changes_return_a_new_recipe():
    recipe = Recipe("best", "NARM", model={"width": 8}, fit={"lr": 0.1, "epochs": 2})
    changed = recipe.with_changes({"fit": {"lr": 0.5}, "data": {"fold": False}})
    assert changed == Recipe("best", "NARM", {"width": 8}, {"lr": 0.5, "epochs": 2}, {"fold": False})
    assert recipe == Recipe("best", "NARM", {"width": 8}, {"lr": 0.1, "epochs": 2})
    assert recipe.with_changes({}) == recipe
    with pytest.raises(ValueError, match="fit takes no learning_rate"):
        recipe.with_changes({"fit": {"learning_rate": 1}})
    with pytest.raises(ValueError, match="no settings 'name'; there are model, fit, data, ensemble"):
        recipe.with_changes({"name": {"a": 1}})


def test_a_recipe_without_epochs_is_refused():
    with pytest.raises(ValueError, match="does not say how many epochs"):
        run_recipe(Recipe("mine", "GRU4REC"), load_dataset("Demo"))


RECIPES = tomllib.loads((ROOT / "recipes.toml").read_text(encoding="utf-8"))
EACH = [(recipe, dataset) for recipe in RECIPES for dataset in RECIPES[recipe]]


def test_recipes_toml_has_no_unknown_keys():
    assert {"best", "fast", "report"} <= set(RECIPES)
    for recipe, datasets in RECIPES.items():
        assert "default" in datasets, recipe
        for dataset, sections in datasets.items():
            assert dataset == dataset.lower()
            assert set(sections) <= {"common", "baseline", *MODELS}, (recipe, dataset)
            for section in sections.values():
                assert set(section) <= {"model", "fit", "data", "ensemble"}, (recipe, dataset)


@pytest.mark.parametrize(("recipe", "dataset"), EACH)
def test_every_ensemble_names_members_that_exist(recipe, dataset):
    members = load_recipe(recipe, "Ensemble", dataset).ensemble["members"]
    assert len(members) > 1 and set(members) <= set(MODELS) - {"Ensemble"}


@pytest.mark.parametrize(("recipe", "dataset"), EACH)
@pytest.mark.parametrize("name", [*NEURAL_MODELS, *BASELINES])
def test_every_recipe_is_valid(recipe, dataset, name):
    found = load_recipe(recipe, name, dataset)
    model = build_model(name, n_items=5, **found.model)
    assert found.model.items() <= model.arguments.items()
    if name in BASELINES:
        assert set(found.data) <= set(CLEANING) and not found.fit
        return
    make_train_dataset(Sessions.from_lists([[1], [1, 2]], [2, 3], [0, 0], n_items=5), found)
    assert set(found.fit) <= KEYS["fit"]
    assert found.fit["epochs"] >= 1 and found.fit["batch_size"] >= 1 and found.fit["lr"] > 0
    adam = torch.optim.Adam(model.parameters())
    Schedule(found.fit["schedule"], found.fit["epochs"]).scheduler(adam, found.fit["lr"], 3)


def test_the_recipe_report_has_the_reports_values():
    recipes = {name: load_recipe("report", name, "beauty") for name in MODELS}
    for name in ("NARM", "SRGNN"):
        assert recipes[name].data["dataset"] == "MyDataset"
    for name in ("GRU4REC", "GRUwATT", "GGNNwATT"):
        assert recipes[name].data["dataset"] == "TrainDataset"
    for name in ("GRUwATT", "GGNNwATT"):
        assert recipes[name].model["causal"] is False
        assert recipes[name].data["fold"] is False  # folding would change a model that is not causal
    final = recipes["GRU4REC"]
    assert {k: final.fit[k] for k in ("epochs", "batch_size", "lr")} == {"epochs": 200, "batch_size": 256, "lr": 0.01}
    assert {k: final.model[k] for k in ("width", "hidden", "dropout")} == {"width": 128, "hidden": 128, "dropout": 0}


def test_make_train_dataset():
    def made(**data):
        return make_train_dataset(TRAIN, Recipe("mine", "GRU4REC", data=data))

    assert isinstance(made(dataset="MyDataset"), MyDataset)
    assert len(made(fold=False)) == len(TRAIN)
    assert len(made(weights="once")) == 150
    with pytest.raises(ValueError, match="dataset='All': choose 'TrainDataset' or 'MyDataset'"):
        made(dataset="All")
