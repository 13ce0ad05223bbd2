"""The house rules that no linter knows: sizes, docs that are generated, a test file for each source file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "cifarlab").rglob("*.py"))
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines, docstring included
EXCEPTIONS: dict[str, str] = {}  # name of a file or function: why it may be longer


def test_there_are_sources() -> None:
    assert len(SOURCES) > 25


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    if path.name not in EXCEPTIONS:
        assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in EXCEPTIONS:
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


TESTED_ELSEWHERE = {"__init__": "test_api", "__main__": "test_cli", "checkpoint": "test_training", "files": "test_run"}
TESTED_ELSEWHERE |= {"batchnorm": "test_distributed", "search": "test_tuning"}
TESTED_ELSEWHERE |= {"guards": "test_training", "figures": "test_report", "mosaics": "test_report"}
TESTED_ELSEWHERE |= dict.fromkeys(("local", "child", "jobs", "display"), "test_sweep") | {"pictures": "test_outcome"}
TESTED_AS_ONE = ("models", "recipes", "cli", "board", "keras_graph", "results")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_source_has_its_tests(path: Path) -> None:
    folder = path.parent.name
    if path.name == "__init__.py" and folder == "data":
        return  # holds nothing
    name = f"test_{folder}" if folder in TESTED_AS_ONE else TESTED_ELSEWHERE.get(path.stem, f"test_{path.stem}")
    assert (ROOT / "tests" / f"{name}.py").exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_module_and_public_function_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the file has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
