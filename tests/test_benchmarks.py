"""The benchmark scripts run, and compare the same network."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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


@pytest.mark.parametrize(
    "model", ["lenet5-3x3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("keras4", "keras6"))]
)
def test_a_plain_loop_is_compared_with_the_same_network(model: str) -> None:
    contestants = ["--contestants", "cifarlab fp32", "dataloader fp32"]
    few = ["--images-per-turn", "64", "--rounds", "1"]
    result = json.loads(run("versus_keras.py", "--models", model, *contestants, *few))
    assert result["model"] == model and result["batch"] == 32
    ours, theirs = result["images/s"]["cifarlab fp32"], result["images/s"]["dataloader fp32"]
    assert result["ratios"]["cifarlab fp32 / dataloader fp32"] == pytest.approx(ours / theirs, rel=0.1)


@pytest.fixture(scope="module")
def scheduler() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scheduler", FOLDER / "scheduler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scheduler"] = module  # dataclasses look here
    spec.loader.exec_module(module)
    return module


def test_the_simulated_schedule_adds_up(scheduler: ModuleType) -> None:
    costs = scheduler.Costs(seconds=10.0, size=1e6, files=5)
    quiet = scheduler.Plan(
        runs=12,
        gpus=4,
        gpus_per_node=2,
        minutes=1.0,
        spread=0.0,
        checkpoint=20.0,
        dispatch=0.0,
        lost_after=1e9,
        replaced=1.0,
    )
    outcome = scheduler.simulate(quiet, costs)
    assert outcome.hours * 3600 == pytest.approx(3 * 70) and outcome.busy == pytest.approx(1) and outcome.losses == 0
    one_by_one = scheduler.simulate(replace(quiet, dispatch=70.0), costs)
    assert one_by_one.hours * 3600 == pytest.approx(12 * 70 + 70)  # GPUs wait for the scheduler
    uneven = replace(quiet, runs=400, spread=1.0)
    longest_first = scheduler.simulate(replace(uneven, longest_first=True), costs)
    assert longest_first.hours < scheduler.simulate(uneven, costs).hours
    lost = replace(quiet, runs=400, lost_after=0.5)
    with_checkpoints, without = (scheduler.simulate(replace(lost, checkpoint=every), costs) for every in (20.0, 0.0))
    assert with_checkpoints.losses > 5 and 0 < with_checkpoints.redone < without.redone
    assert without.hours > with_checkpoints.hours > scheduler.simulate(replace(quiet, runs=400), costs).hours
