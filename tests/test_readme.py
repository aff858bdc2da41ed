"""The commands and snippets of the README and docs/ run, their links exist, their tables match the saved runs."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.fetch import AMAZON
from experiments.compare import honest_plans, results_table
from experiments.saved_runs import load_results

ROOT = Path(__file__).resolve().parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, CHINESE, *DOCS, ROOT / "dataset" / "README.md", ROOT / "benchmarks" / "README.md"]
# These commands create the environment in which the tests run.
SETUP_COMMANDS = [
    "python3 -m venv .venv",
    ".venv/bin/pip install -r requirements.txt -c constraints.txt",
    ".venv/bin/jupyter lab",
]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page):
    """The commands of a page, in order: the lines of its bash blocks, and inline commands that run a script."""
    text, found = page.read_text(encoding="utf-8"), []
    for block, inline in re.findall(r"```bash\n(.*?)```|`(\.venv/bin/python [^`\n]+)`", text, re.DOTALL):
        found += block.splitlines() or [inline]
    return [command for command in found if command]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the project, so that the commands do not write files into the working tree."""
    copy = tmp_path_factory.mktemp("checkout") / "project"
    ignored = shutil.ignore_patterns(".*", "Amazon_*", "checkpoints", "__pycache__", "*.csv.gz")
    shutil.copytree(ROOT, copy, ignore=ignored)
    with open(copy / "recipes.toml", "a", encoding="utf-8") as file:
        file.writelines("\n" + block for page in DOCS for block in blocks(page, "toml"))
    return copy


def run(words, folder):
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_command(command, folder):
    program, *words = shlex.split(command)
    if program == "make":  # other tests run the targets; this test is run by one of them
        done = subprocess.run([program, *words, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif command not in SETUP_COMMANDS:
        assert program in (".venv/bin/python", ".venv/bin/torchrun"), command
        launcher = ["-m", "torch.distributed.run"] if program.endswith("torchrun") else []
        run([*launcher, *words, *["--epochs", "1"] * ("train.py" in words)], folder)


def run_page(page, folder):
    for command in commands(page):
        run_command(command, folder)
    if snippets := blocks(page, "python"):
        run(["-c", "\n".join(snippets)], folder)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_commands_and_snippets_of_docs_run(page, checkout):
    run_page(page, checkout)


def test_commands_of_the_data_page_run(checkout):
    """They write the Demo anew, and read back its export: as many sessions, whose items have other numbers."""
    files = [f"{part}_sessions.csv" for part in ("train", "test")]
    before = [(checkout / "dataset" / "Demo" / file).read_bytes() for file in files]
    run_page(ROOT / "dataset" / "README.md", checkout)
    assert [(checkout / "dataset" / "Demo" / file).read_bytes() for file in files] == before
    again = [(checkout / "saved" / "Same" / file).read_bytes() for file in files]
    assert [text.count(b"\n") for text in again] == [text.count(b"\n") for text in before] == [5355, 601]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_command_needs_a_python_that_may_not_be_there(page):
    """Commands use the environment of `make`: a system may have no `python`, or one without the packages."""
    assert not re.findall(r"^(?:    )?python .*|`python [^`]*`", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_readme_commands_turn_a_log_into_recommendations_with_names(checkout):
    run_page(README, checkout)
    with open(checkout / "results" / "shop.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["session", "predict"] and len(rows) == 360
    assert all(len(json.loads(predict)) == 20 for _, predict in rows)
    assert all(name.startswith("category-") for row in rows for cell in row for name in json.loads(cell))


def test_the_chinese_readme_has_the_same_commands_and_numbers():
    for language in ("bash", "python"):
        assert blocks(CHINESE, language) == blocks(README, language)
    assert commands(CHINESE) == commands(README)
    numbers = [re.findall(r"0\.\d{4}", page.read_text(encoding="utf-8")) for page in (README, CHINESE)]
    assert numbers[0] == numbers[1]


def test_a_model_can_be_added_as_described(checkout, tmp_path):
    """The class in docs/adding_a_model.md, as a file in models/, can be trained, tuned and compared, and recommends."""
    copy = tmp_path / "project"
    shutil.copytree(checkout, copy)
    (copy / "models" / "MeanOfItems.py").write_text(blocks(ROOT / "docs" / "adding_a_model.md", "python")[0])
    names = copy / "models" / "__init__.py"
    names.write_text(names.read_text().replace('"SASRec"', '"SASRec", "MeanOfItems"'))
    program = """
from experiments.compare import honest_plans
from experiments.search_spaces import SPACES
from process_data import load_dataset
from sessionrec.recipes import load_recipe
from sessionrec.run import run_recipe
dataset = load_dataset("Demo")
recipe = load_recipe("best", "MeanOfItems", "demo").with_changes({"fit": {"epochs": 4}})
run = run_recipe(recipe, dataset)
popularity = run_recipe(load_recipe("best", "Popularity", "demo"), dataset)
assert run.metrics["test"]["MRR@20"] > 2 * popularity.metrics["test"]["MRR@20"]
run.save("checkpoints/mean.safetensors")
assert "MeanOfItems" in SPACES
assert [plan for plan in honest_plans("demo") if plan.model == "MeanOfItems"]
"""
    run(["-c", program], copy)
    run(["-m", "pytest", "-q", "tests/models", "-k", "MeanOfItems"], copy)
    evaluation = ["--evaluate", "dataset/Demo/test_sessions.csv", "--json"]
    result = run(["recommend.py", "--checkpoint", "checkpoints/mean.safetensors", *evaluation], copy)
    assert json.loads(result)["model"] == "MeanOfItems"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", [README, CHINESE], ids=lambda page: page.name)
def test_every_colab_badge_opens_a_notebook(page):
    text = page.read_text(encoding="utf-8")
    addresses = dict(re.findall(r"^\[(\d)\]: (\S+)$", text, re.MULTILINE))
    rows = re.findall(r"\]\((\S+\.ipynb)\) \|.*\[!\[Colab\]\[c\]\]\[(\d)\]", text)
    assert rows and {number for _, number in rows} == set(addresses)
    repository = re.search(r"repository-code: https://github.com/(\S+)", (ROOT / "CITATION.cff").read_text())[1]
    for notebook, number in rows:
        assert addresses[number] == f"https://colab.research.google.com/github/{repository}/blob/main/{notebook}"


def test_every_file_of_the_layout_exists():
    layout = README.read_text(encoding="utf-8").split("## Layout")[1].split("## References")[0]
    paths = re.findall(r"`([\w./]+)`", layout)
    assert len(paths) > 10
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_image_is_used_described_and_small():
    shown = set()
    for page in PAGES:
        for text, path in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text(encoding="utf-8")):
            picture = (page.parent / path).resolve()
            assert len(text) > 20 and picture.read_bytes().startswith(b"\x89PNG")
            assert picture.stat().st_size < 400_000
            shown.add(picture)
    assert set((ROOT / "images").iterdir()) <= shown


@pytest.mark.parametrize(("dataset", "name"), AMAZON.items())
def test_tables_match_the_saved_runs(dataset, name):
    plans = list(honest_plans(dataset))
    runs = load_results(plans)
    assert len(runs) == len(plans)
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert results_table(runs) in page.split(f"**{name}**")[1]
    table = README.read_text(encoding="utf-8").split(f"| {name} |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\w+) \| \**([\d.]+)\** \| \**([\d.]+)\** \|$", table, re.MULTILINE)
    means = runs[runs["split_seed"] == 0].groupby("model")[["HR@20", "MRR@20"]].mean()
    assert len(rows) == 11
    assert rows == [(model, *map("{:.4f}".format, means.loc[model])) for model, *_ in rows]


def test_every_test_that_the_table_of_faults_names_exists():
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    missing, file = [], None
    for path, name in re.findall(r"`([\w/]+\.py|\.\.\.)(?:::(\w+))?`", text.partition("\n## ")[2]):
        file = file if path == "..." else path
        source = ROOT / "tests" / file
        if "test_" in file and (not source.is_file() or f"def {name}" not in source.read_text(encoding="utf-8")):
            missing.append((file, name))
    assert not missing
