"""The worked examples of CONTRIBUTING.md work: a network, a data set and a command, added to a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SCRIPT = """
from cifarlab.cli import run
assert run(["train", "lenet5", "--model", "strided", "--data", "stripes", "--set", "epochs=1", "--name", "mine"]) == 0
assert run(["log", "mine"]) == 0
"""


def insert(file: Path, before: str, text: str) -> None:
    """Insert a text before a line of a file."""
    old = file.read_text()
    assert before in old, f"{file.name} has no {before!r}"
    file.write_text(old.replace(before, f"{text}\n{before}", 1))


@pytest.mark.slow
def test_a_network_a_data_set_and_a_command_can_be_added_as_the_page_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    package = tmp_path / "src" / "cifarlab"
    examples = re.findall(r'^```python title="(.+?)"\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    for name, code in examples:
        (tmp_path / name).write_text(code)
    (entry,) = re.findall(r'^ +("stripes": .+),$', TEXT, re.MULTILINE)
    with (package / "models" / "__init__.py").open("a") as file:
        file.write("\nfrom cifarlab.models import strided  # noqa\n")
    insert(package / "data" / "catalogue.py", "\nLoader", "from cifarlab.data.stripes import load_stripes")
    catalogue = package / "data" / "catalogue.py"
    catalogue.write_text(catalogue.read_text().replace('    "digits"', f'    {entry},\n    "digits"'))
    with (package / "cli" / "__init__.py").open("a") as file:
        file.write('\nfrom cifarlab.cli import log  # noqa\napp.command("log")(log.log)\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "CIFARLAB_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "strided on stripes" in ended.stdout


def test_the_map_and_the_architecture_name_files_and_folders_that_exist() -> None:
    architecture = (ROOT / "docs" / "internals" / "architecture.md").read_text()
    text = TEXT[: TEXT.index("## Add a network")] + architecture
    rooms = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", text)
    assert len(rooms) > 25
    for room in rooms:
        assert (ROOT / room).exists() or (ROOT / "src" / "cifarlab" / room).exists(), room
