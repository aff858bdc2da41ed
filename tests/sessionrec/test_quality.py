"""The quality of the models on the real data. These tests take minutes and are run by `make test-long`."""

import papermill
import pytest

from dataset.find import load_dataset
from sessionrec.recipes import load_recipe
from sessionrec.run import Split, run_recipe

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

OTHERS = ["SRGNN", "NARM", "GRUwATT", "GGNNwATT"]
FLOORS = {"Amazon_Beauty": (0.21, 0.095), "Amazon_Cell": (0.165, 0.064)}  # HR@20, MRR@20


def train(folder, model, recipe="best", *, split="user", **fit):
    dataset = load_dataset(folder)
    changed = load_recipe(recipe, model, dataset.short_name).with_changes({"fit": fit})
    return run_recipe(changed, dataset, split=Split(split))


@pytest.fixture(scope="module")
def test_metrics(real_data):
    """(dataset, model) -> metrics on the test split by user; each model is trained once."""
    known = {}

    def of(dataset, model):
        if (dataset, model) not in known:
            known[dataset, model] = train(real_data / dataset, model).metrics["test"]
        return known[dataset, model]

    return of


@pytest.mark.parametrize("dataset", FLOORS)
def test_gru4rec_by_user(dataset, test_metrics):
    hit_rate, mrr = FLOORS[dataset]
    metrics = test_metrics(dataset, "GRU4REC")
    assert metrics["HR@20"] >= hit_rate and metrics["MRR@20"] >= mrr


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("dataset", FLOORS)
def test_no_model_collapses(dataset, model, test_metrics):
    assert test_metrics(dataset, model)["MRR@20"] >= 0.8 * test_metrics(dataset, "GRU4REC")["MRR@20"]


def test_the_leak_reproduces_the_reports_result(real_data):
    options = {"recipe": "report", "epochs": 30}
    by_row = train(real_data / "Amazon_Beauty", "GRU4REC", split="row", **options).metrics["valid"]
    assert by_row["HR@20"] >= 0.48 and by_row["MRR@20"] >= 0.42
    by_user = train(real_data / "Amazon_Beauty", "GRU4REC", split="user", **options).metrics["test"]
    assert by_user["HR@20"] < 0.3


@pytest.mark.parametrize("model", ["0_GRU4REC", "1_SRGNN", "2_NARM", "3_GRUwATT", "4_GGNNwATT"])
def test_notebook_runs_on_cell(model, real_data, project_copy):
    papermill.execute_notebook(
        project_copy / "notebooks" / f"{model}.ipynb",
        None,
        parameters={"DATASET": "Amazon_Cell", "EPOCHS": 1, "SEEDS": [0], "TRIAL_EPOCHS": 1},
        cwd=project_copy / "notebooks",
        progress_bar=False,
    )
