"""Recipes: merging of tables, refused keys, and the contents of recipes.toml."""

import math
import re
import tomllib

import pytest
import torch
from planted import TRAIN

from dataset.files import ROOT
from models import BASELINES, MODELS, NEURAL_MODELS, build_model
from process_data import MyDataset, Sessions, load_dataset
from sessionrec.fit import Schedule
from sessionrec.recipes import OPTIONS, Recipe, load_recipe, parse_changes
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


WRONG_VALUES = [
    ({"fit": {"lr": "x"}}, "fit.lr='x': must be a number above 0"),
    ({"fit": {"lr": float("nan")}}, "fit.lr=nan: must be a number above 0"),
    ({"fit": {"batch_size": 1.5}}, "fit.batch_size=1.5: must be a whole number of at least 1"),
    ({"fit": {"batch_size": True}}, "fit.batch_size=True: must be a whole number"),
    ({"fit": {"epochs": 0}}, "fit.epochs=0: must be a whole number of at least 1"),
    ({"fit": {"epochs": [1]}}, "fit.epochs=[1]: must be a whole number"),
    ({"fit": {"patience": "x"}}, "fit.patience='x': must be a whole number of at least 0"),
    ({"fit": {"schedule": 3}}, "fit.schedule=3: choose 'constant', 'onecycle' or 'cosine'"),
    ({"fit": {"weight_decay": float("nan")}}, "fit.weight_decay=nan: must be a number of at least 0"),
    ({"fit": {"graph_smoothing": "x"}}, "fit.graph_smoothing='x': must be a number of at least 0"),
    ({"fit": {"negatives": 2.5}}, "fit.negatives=2.5: must be a whole number of at least 0"),
    ({"fit": {"lazy": "yes"}}, "fit.lazy='yes': must be true or false"),
    ({"fit": {"precision": 16}}, "fit.precision=16: choose 'auto', 'fp32' or 'bf16'"),
    ({"data": {"dataset": []}}, "data.dataset=[]: choose 'TrainDataset' or 'MyDataset'"),
    ({"data": {"fold": 1}}, "data.fold=1: must be true or false"),
    ({"data": {"weights": True}}, "data.weights=True: choose 'rows' or 'once'"),
    ({"data": {"min_item_count": "2"}}, "data.min_item_count='2': must be a whole number of at least 0"),
    ({"data": {"min_session_length": float("inf")}}, "data.min_session_length=inf: must be a whole number"),
    ({"data": {"fit_on": "test"}}, "data.fit_on='test': choose 'train' or 'all'"),
    ({"ensemble": {"members": "NARM"}}, "ensemble.members='NARM': must be a list"),
    ({"ensemble": {"members": ["NARM", "Ensemble"]}}, "ensemble.members[1]='Ensemble': choose 'GRU4REC'"),
    ({"ensemble": {"members": ["NARM", 3]}}, "ensemble.members[1]=3: choose"),
    ({"ensemble": {"members": ["NARM"] * 101}}, "an Ensemble has at most 100, not 101"),
    ({"ensemble": {"members": ["NARM"], "weights": [1.0, 2.0]}}, "ensemble.weights has 2 entries for 1 members"),
    ({"ensemble": {"members": ["NARM"], "weights": [float("nan")]}}, "ensemble.weights[0]=nan: must be a number"),
    ({"ensemble": {"members": ["NARM"], "seeds": [-1]}}, "ensemble.seeds[0]=-1: must be a whole number"),
    ({"ensemble": {"members": ["NARM"], "epochs": ["x"]}}, "ensemble.epochs[0]='x': must be a whole number"),
    ({"ensemble": {"start": 10**9}}, "ensemble.start=1000000000: must be a whole number from 0 to 100"),
    ({"model": [1]}, "no settings 'model'"),
]


@pytest.mark.parametrize(("changes", "reason"), WRONG_VALUES)
def test_a_value_of_the_wrong_type_or_range_is_refused(changes, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        Recipe("mine", "NARM").with_changes(changes)


def test_a_wrong_value_in_a_file_is_named_with_its_section(tmp_path):
    file = tmp_path / "recipes.toml"
    file.write_text("[mine.default.NARM]\nfit = { lr = 'x' }")
    with pytest.raises(ValueError, match=re.escape(f"{file}: [mine.default.NARM]: fit.lr='x': must be a number")):
        load_recipe("mine", "NARM", "demo", file=file)


WRONG_ARGUMENTS = [
    ("SASRec", {"heads": 3, "width": 8}, "heads=3: must divide the width 8"),
    ("SASRec", {"longest": 0}, "longest=0: must be a whole number from 1 to 65536"),
    ("SASRec", {"inner": "x"}, "inner='x': must be a whole number from 1 to 65536"),
    ("NARM", {"width": 1.0}, "width=1.0: must be a whole number from 1 to 65536"),
    ("NARM", {"hidden": None}, "hidden=None: must be a whole number from 1 to 65536"),
    ("NARM", {"dropout": "x"}, "dropout='x': must be a number from 0 to 1"),
    ("NARM", {"scale": math.nan}, "scale=nan: must be a number above 0"),
    ("SRGNN", {"graph_steps": 10**9}, "graph_steps=1000000000: must be a whole number from 0 to 100"),
    ("GRUwATT", {"causal": "false"}, "causal='false': must be true or false"),
    ("SKNN", {"k": math.nan}, "k=nan: must be a whole number of at least 1"),
    ("SKNN", {"k": "x"}, "k='x': must be a whole number of at least 1"),
    ("VSKNN", {"idf": math.nan}, "idf=nan: must be a number of at least 0"),
    ("VSKNN", {"idf": math.inf}, "idf=inf: must be a number of at least 0"),
    ("VSKNN", {"weighting": ["div"]}, "weighting=['div']: choose 'same', 'div', 'log' or 'quadratic'"),
    ("STAN", {"lambda_spw": math.nan}, "lambda_spw=nan: must be a number of at least 0.1"),
    ("SLIST", {"reg": math.nan}, "reg=nan: must be a number above 0"),
    ("SLIST", {"alpha": math.nan}, "alpha=nan: must be a number from 0 to 1"),
    ("SLIST", {"keep": 1.5}, "keep=1.5: must be a whole number of at least 1"),
    ("CoOccurrence", {"memory": math.nan}, "memory=nan: must be a number above 0 and at most 1"),
    ("RandomWalk", {"walk": "x"}, "walk='x': must be a number of at least 0"),
    ("RandomWalk", {"norm": True}, "norm=True: must be a number from 0 to 1"),
]


@pytest.mark.parametrize(("name", "arguments", "reason"), WRONG_ARGUMENTS)
def test_an_argument_of_the_wrong_type_or_range_is_refused(name, arguments, reason):
    for make in (lambda **a: build_model(name, **a), MODELS[name]):  # by name, and by its class as in a notebook
        with pytest.raises(ValueError, match=re.escape(reason)):
            make(n_items=9, **arguments)


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
    assert set(found.fit) <= OPTIONS["fit"].keys()
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


# ------------------------------------------------------------------------------------------------------------
# Values from the command line


def test_settings_have_the_types_of_toml():
    settings = ["fit.lr=0.01", "model.width = 64", "fit.schedule=cosine", 'data.weights="once"', "data.fold=false"]
    settings += ["ensemble.members=['NARM', 'STAN']", "fit.epochs=1_000", "fit.weight_decay=1e-6"]
    assert parse_changes(settings) == {
        "fit": {"lr": 0.01, "schedule": "cosine", "epochs": 1000, "weight_decay": 1e-6},
        "model": {"width": 64},
        "data": {"weights": "once", "fold": False},
        "ensemble": {"members": ["NARM", "STAN"]},
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lr=0.01"], "'lr=0.01' sets nothing: write SECTION.KEY=VALUE"),
        (["fit.lr"], "'fit.lr' sets nothing"),
        (["fit.lr.x=1"], "'fit.lr.x=1' sets nothing"),
        (["fits.lr=1"], "there is no section fits; there are model, fit, data, ensemble"),
        (["fit.lr="], "'fit.lr=': the value cannot be read; write it as in recipes.toml"),
        (["fit.lr=0.01 0.02"], "the value cannot be read"),
        (["fit.lr=1\nepochs=2"], "the value cannot be read"),
        (["fit.lr=" + "[" * 5000], "the value cannot be read"),
        (["fit.lr=1", "fit.lr=2"], "fit.lr is set twice"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, message):
    with pytest.raises(ValueError, match="^[^\\n]*$") as error:
        parse_changes(settings)
    assert message in str(error.value) and len(str(error.value)) < 200
