"""What all tests share: the real data, and the settings of the property tests."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# Tiny tensors: a second thread costs more than it gives, in the processes that tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NO_REAL_DATA = "real data: DATASET_ROOT is not set"
REAL_FILES = [
    f"{name}/{part}_sessions.csv" for name in ("Amazon_Beauty", "Amazon_Cell") for part in ("train", "test")
]

# How long one example takes says more about what else the machine is doing than about the code.
settings.register_profile("collection", deadline=None)
settings.load_profile("collection")


@pytest.fixture(scope="session")
def real_data():
    """Folder that holds Amazon_Beauty and Amazon_Cell; skips only if DATASET_ROOT is not set."""
    root = os.environ.get("DATASET_ROOT")
    if not root:
        pytest.skip(NO_REAL_DATA)
    root = Path(root).resolve()
    missing = [file for file in REAL_FILES if not (root / file).is_file()]
    if missing:
        pytest.fail(f"DATASET_ROOT is set to {root}, where {', '.join(missing)} is missing")
    return root


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_REAL_DATA in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} real-data tests skipped (set DATASET_ROOT)")


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory):
    """A copy of the project's own files, so that what a run leaves behind stays out of the checkout."""
    root = Path(__file__).resolve().parent.parent
    copy = tmp_path_factory.mktemp("project")
    for pattern in ("*.py", "*.toml", "*.txt", "*.ipynb", "README.md", "Makefile"):
        for file in root.glob(pattern):
            shutil.copy(file, copy)
    for folder in ("dataset", "models", "notebooks", "pretrained_model"):
        if (root / folder).is_dir():
            ignored = shutil.ignore_patterns("Amazon_*", "__pycache__", ".*")
            shutil.copytree(root / folder, copy / folder, ignore=ignored)
    return copy


# A notebook's parameters on Demo, few epochs: by the file's stem; the others train one model.
ON_DEMO = {
    "5_comparison": {"DATASETS": ["Demo"], "EPOCHS": 1, "SEEDS": [0], "SPLIT_SEEDS": [0]},
    "6_tuning": {"DATASETS": ["Demo"], "EPOCHS": 3, "TRIALS": 3, "MODELS": ["GRU4REC", "STAN", "SKNN"]},
    "get_final_result": {"DATASETS": ["Demo"], "EPOCHS": 1},
}
TRAINED_ON_DEMO = {"DATASET": "Demo", "EPOCHS": 1, "SEEDS": [0], "TRIAL_EPOCHS": 1}
