"""Shared by all tests: fixtures, and the settings of the property tests."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# With tiny tensors, a second thread makes tests slower, also in the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No progress bars. tqdm reads this variable when it is imported, so it must be set before test modules are.
os.environ["TQDM_DISABLE"] = "1"

# A shell lets what it starts in the background ignore Ctrl-C, which some tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NO_REAL_DATA = "real data: DATASET_ROOT is not set"
REAL_FILES = [f"{name}/{part}_sessions.csv" for name in ("Amazon_Beauty", "Amazon_Cell") for part in ("train", "test")]

# No deadline, because the duration of an example depends on the load of the machine.
settings.register_profile("collection", deadline=None)
settings.load_profile("collection")


@pytest.fixture(scope="session")
def real_data():
    """The folder with Amazon_Beauty and Amazon_Cell. Skips the test only if DATASET_ROOT is not set."""
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
    """A copy of the project, so that runs do not write files into the checkout."""
    root = Path(__file__).resolve().parent.parent
    copy = tmp_path_factory.mktemp("project")
    for pattern in ("*.py", "*.toml", "*.txt", "*.ipynb", "README.md", "Makefile"):
        for file in root.glob(pattern):
            shutil.copy(file, copy)
    for folder in ("dataset", "experiments", "models", "notebooks", "plots", "pretrained_model", "sessionrec"):
        if (root / folder).is_dir():
            ignored = shutil.ignore_patterns("Amazon_*", "__pycache__", ".*")
            shutil.copytree(root / folder, copy / folder, ignore=ignored)
    return copy


# Parameters of a notebook on Demo with few epochs, by the file's stem. All other notebooks use TRAINED_ON_DEMO.
ON_DEMO = {
    "5_comparison": {"DATASETS": ["Demo"], "EPOCHS": 1, "SEEDS": [0], "SPLIT_SEEDS": [0]},
    "6_tuning": {},
    "8_your_own_model": {"DATASET": "Demo", "EPOCHS": 2},
    "get_final_result": {"DATASETS": ["Demo"], "EPOCHS": 1},
}
TRAINED_ON_DEMO = {"DATASET": "Demo", "EPOCHS": 1, "SEEDS": [0]}
