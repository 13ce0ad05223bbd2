"""Repeated runs: equal bits, or what differs and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import cifarlab
from cifarlab import Recipe, Run
from cifarlab.errors import UsageError
from cifarlab.experiments.rerun import rerun
from conftest import Cli

NET = """from torch import nn
def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, {width}), nn.Linear({width}, classes))
"""


def test_a_repeated_run_matches(trained_run: Run, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(trained_run.path, tmp_path / "runs" / "a")
    result = json.loads(cli("rerun", "a", "--json").stdout)
    assert result["matches"] and result["differences"] == [] and result["reasons"] == []
    assert result["run"] == "runs/a-rerun"
    assert "run 'a-rerun' already exists" in cli("rerun", "a", status=2).stderr


@pytest.mark.slow
def test_differences_are_listed_with_their_possible_reasons(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.py"
    file.write_text(NET.format(width=8))
    recipe = small.changed({"model": f"{file}:net", "model_options": {}, "epochs": 1})
    run = cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True)
    file.write_text(NET.format(width=9))
    assert rerun("a", runs=tmp_path, name="as trained", quiet=True).matches
    monkeypatch.setenv("CIFARLAB_HOME", str(tmp_path / "home"))  # without the copy of the network's file
    shutil.rmtree(run.path / "network")
    cifarlab.trust(file)
    run.update(environment=run.record.environment.model_copy(update={"torch": "1.0"}))
    result = rerun("a", runs=tmp_path, name="b", quiet=True)
    assert not result.matches and result.run.name == "b"
    differences = "; ".join(result.differences)
    assert "metrics from epoch 1 on: train_loss " in differences and "weights in best.safetensors" in differences
    assert "predictions on the test images: accuracy " in differences
    assert result.reasons == (
        f"torch: {result.run.record.environment.items()['torch']} instead of 1.0",
        f"model ({file}:net) has changed since",
        f"network ({file}:net) has changed since",
    )


def test_only_finished_runs_are_repeated(copied_run: Run) -> None:
    copied_run.update(status="interrupted")
    with pytest.raises(UsageError, match="the run 'copied' is interrupted, but only a finished run"):
        rerun(copied_run)
    copied_run.update(status="finished", data=copied_run.record.data.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(UsageError, match="is not what the run was trained on"):
        rerun(copied_run)
