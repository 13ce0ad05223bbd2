"""Runs that version 0.1.0 made on the digits still open: `evaluate`, `report`, `resume` and `compare` work on them.

The folder `old` holds a finished run and one that was interrupted after two of four epochs, without figures and pages.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import cifarlab
from cifarlab.api import write_report

RESUMED_TEST_ACCURACY = 0.9498607242339833  # of the interrupted run when version 0.1.0 resumed it
RESUMED_VALIDATION_LOSS = 0.2256708237256014


@pytest.fixture
def old_runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / "old", tmp_path / "runs"))


def test_an_old_finished_run_is_evaluated_and_reported(old_runs: Path) -> None:
    run = cifarlab.Run(old_runs / "finished")
    assert cifarlab.evaluate("finished", runs=old_runs).accuracy == run.results["test_accuracy"]
    assert len(run.history) == len(run.confusion) == run.results["epochs"] == 3
    page = write_report(["finished"], runs=old_runs)
    assert f"{run.results['test_accuracy']:.2%}".removesuffix("%") in page.read_text(encoding="utf-8")


def test_an_old_interrupted_run_is_resumed_and_compared(old_runs: Path) -> None:
    run = cifarlab.resume("interrupted", runs=old_runs, quiet=True)
    assert run.status == "finished" and len(run.history) == 4
    assert run.results["test_accuracy"] == pytest.approx(RESUMED_TEST_ACCURACY, abs=0.006)  # two images of 359
    assert run.history[-1].validation_loss == pytest.approx(RESUMED_VALIDATION_LOSS, rel=1e-2)
    groups = cifarlab.compare(["finished", "interrupted"], runs=old_runs).groups
    accuracies = {name: group.accuracy.mean for group in groups for name in group.runs}
    assert accuracies == {
        name: pytest.approx(cifarlab.Run(old_runs / name).results["test_accuracy"])
        for name in ("finished", "interrupted")
    }
