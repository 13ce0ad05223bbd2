"""Rules of the package's layout that no linter checks."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_ROOMS = 24  # files and folders at the top of the package
MOST_LAYERS = 10  # of imports


def test_the_package_has_few_rooms_and_few_layers() -> None:
    package = ROOT / "src" / "cifarlab"
    rooms = [path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    assert 10 < len(rooms) <= MOST_ROOMS
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("exhaustive"))
    assert 5 < len(layers) <= MOST_LAYERS
