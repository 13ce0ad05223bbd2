"""The benchmark scripts run, and what they compare is the same network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


def run(*arguments: str) -> str:
    command = [sys.executable, str(FOLDER / arguments[0]), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5


@pytest.mark.parametrize(
    "name", ["ablations.py", "study_overhead.py", "time_to_accuracy.py", "versus_keras.py", "versus_speedrun.py"]
)
def test_scripts_explain_themselves(name: str) -> None:
    assert "python benchmarks/" in run(name, "--help")


@pytest.mark.parametrize("model", ["lenet5-3x3", "keras4", "keras6"])
def test_a_plain_loop_is_compared_with_the_same_network(model: str) -> None:
    contestants = ["--contestants", "cifarlab fp32", "dataloader fp32"]
    few = ["--images-per-turn", "64", "--rounds", "1"]
    found = json.loads(run("versus_keras.py", "--models", model, *contestants, *few))
    assert found["model"] == model and found["batch"] == 32
    ours, theirs = found["images/s"]["cifarlab fp32"], found["images/s"]["dataloader fp32"]
    assert found["ratios"]["cifarlab fp32 / dataloader fp32"] == pytest.approx(ours / theirs, rel=0.1)
