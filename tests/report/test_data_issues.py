"""A checkup of a run's data: what is found is drawn, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import cifarlab
from cifarlab import Recipe
from cifarlab.errors import UsageError
from cifarlab.report.data_issues import find_data_issues


def test_a_finished_run_tells_what_is_odd(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cifarlab.train(small, runs=tmp_path, name="a", quiet=True)
    found = find_data_issues(run, tmp_path / "issues", quiet=True)
    monkeypatch.setattr("cifarlab.report.data_issues.HIGH_ERROR_RATE", 0.0)
    find_data_issues(run, tmp_path / "again")
    assert "of the test images, so most suspicious labels are its own mistakes" in capsys.readouterr().err
    assert len(found.outliers) == 24 and found.test_labels and found.validation_labels
    assert run.predictions is not None
    for suspect in found.test_labels:
        assert suspect.label == run.predictions[1][suspect.image] != suspect.likely
    for path in found.pictures:
        with Image.open(path) as image:
            assert image.width > 500
    with pytest.raises(UsageError, match=r"already has duplicates.png. Replace it with --force."):
        find_data_issues(run, tmp_path / "issues", quiet=True)


def test_an_unfinished_run_is_refused(small: Recipe, tmp_path: Path) -> None:
    run = cifarlab.train(small, runs=tmp_path, name="a", quiet=True)
    (run.path / "predictions.npz").unlink()
    with pytest.raises(UsageError, match=r"predictions\.npz is missing"):
        find_data_issues(run, tmp_path / "issues")
    run.update(status="interrupted")
    with pytest.raises(UsageError, match="only finished runs"):
        find_data_issues(run, tmp_path / "issues")
