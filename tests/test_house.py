"""The house rules that no linter knows: sizes, docs that are generated, a test file for each source file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

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


def test_the_page_of_commands_is_up_to_date() -> None:
    script = ROOT / "docs" / "write_commands.py"
    fresh = subprocess.run([sys.executable, str(script), "--print"], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "commands.md").read_text() == fresh, "write it anew with: make docs"


def test_links_in_the_docs_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    assert len(links) > 3
    for page, link in links:
        if "://" not in link:
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_commands_in_the_readme_exist() -> None:
    from cifarlab.cli import app

    named = set(re.findall(r"^cifarlab ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert len(named) > 4
    assert named <= get_command(app).commands.keys()  # type: ignore[attr-defined]


def test_every_dependency_has_its_reason_in_the_readme() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text().lower()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert f"| {name} |" in readme, name


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^ \n]+)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_ci_installs_what_is_pinned_and_nothing_else() -> None:
    locked = pins(ROOT / ".ci" / "locked.txt")
    assert locked | {"torch": pins(ROOT / "constraints.txt")["torch"]} == pins(ROOT / "constraints.txt")
    for entry in re.split(r"\n(?=\w)", (ROOT / ".ci" / "locked.txt").read_text()):
        assert "--hash=sha256:" in entry


def test_pinned_versions_are_allowed_and_everything_is_pinned() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = pins(ROOT / "constraints.txt")
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    checked = 0
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name != "cifarlab":
            assert requirement.specifier.contains(pinned[name]), requirement
            checked += 1
    assert checked > 30
