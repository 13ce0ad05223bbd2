"""Pinned versions: every requirement has a pin that it allows, and CI and benchmarks install the pins."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def pins(path: Path) -> dict[str, str]:
    """Return the pinned version of every package in a requirements file."""
    lines = re.findall(r"^([\w.-]+)==([^ \n]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def unpinned(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """Return the requirements that have no pin or forbid it."""
    parsed = [Requirement(text) for text in requirements]
    return [
        str(requirement)
        for requirement in parsed
        if requirement.name != "cifarlab"
        and not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"))
    ]


def test_every_requirement_is_pinned_at_an_allowed_version() -> None:
    extras = project()["optional-dependencies"].values()
    requirements = [*project()["dependencies"], *(text for extra in extras for text in extra)]
    assert len(requirements) > 30
    assert not unpinned(requirements, pins(ROOT / "constraints.txt"))


def test_ci_installs_what_is_pinned_and_nothing_else() -> None:
    locked = pins(ROOT / ".ci" / "locked.txt")
    pinned = pins(ROOT / "constraints.txt")
    assert locked | {"torch": pinned["torch"]} == pinned
    for entry in re.split(r"\n(?=\w)", (ROOT / ".ci" / "locked.txt").read_text()):
        assert "--hash=sha256:" in entry


def test_every_dependency_has_its_reason_in_the_docs() -> None:
    page = (ROOT / "docs" / "internals" / "dependencies.md").read_text().lower()
    names = [Requirement(text).name for text in project()["dependencies"]]
    assert len(names) > 10
    assert not [name for name in names if f"| {name} |" not in page]


def test_benchmarks_pin_what_they_require_and_share_our_pins_except_h5py() -> None:
    pinned = pins(BENCHMARKS / "constraints.txt")
    requirements = [line for line in (BENCHMARKS / "requirements.txt").read_text().splitlines() if line]
    assert not unpinned([*requirements, *project()["dependencies"]], pinned)
    ours = pins(ROOT / "constraints.txt")
    assert [name for name in pinned.keys() & ours.keys() if pinned[name] != ours[name]] == ["h5py"]


@pytest.mark.slow
def test_the_pins_of_benchmarks_can_be_resolved(tmp_path: Path) -> None:
    """Asks the package index, as `make benchmarks` does, and installs nothing."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", str(report), "-c", "constraints.txt", "-e", "..", "-r", "requirements.txt"]
    ended = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert report.exists()
