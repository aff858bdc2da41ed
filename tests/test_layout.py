"""Imports between packages point in one direction and are at the top of a file; the root has four modules."""

import ast

import pytest

from dataset.files import ROOT

# Each may import those to its left.
LAYERS = ["dataset", "process_data", "metrics", "models", "plots", "sessionrec", "experiments"]
NOTHING_OF_OURS = {"metrics"}
COMMAND_LINES = {"train", "recommend"}
FILES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "dataset/**/*.py", "models/**/*.py", "plots/*.py", "sessionrec/*.py", "experiments/*.py")
    for path in ROOT.glob(pattern)
)


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_in_one_direction(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    ours = {*LAYERS, *COMMAND_LINES}
    layer = file.parts[0].removesuffix(".py")
    allowed = {*LAYERS} if layer in COMMAND_LINES else {*LAYERS[: LAYERS.index(layer) + 1]}
    if layer in NOTHING_OF_OURS:
        allowed = set()
    assert ours & set(imports_of(tree)) <= allowed
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    assert not [name for f in functions for name in imports_of(f) if name in ours], "an import inside a function"


def test_the_root_has_two_modules_and_two_command_lines():
    assert {path.stem for path in ROOT.glob("*.py")} == {"process_data", "metrics", *COMMAND_LINES}
