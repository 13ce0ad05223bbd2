"""Issues of a run's data: they are found and drawn, and no file is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cifarlab import Run
from cifarlab.errors import UsageError
from cifarlab.report.data_issues import find_data_issues


def test_issues_are_found_and_drawn(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    issues = find_data_issues(trained_run, tmp_path / "issues", quiet=True)
    monkeypatch.setattr("cifarlab.report.data_issues.HIGH_ERROR_RATE", 0.0)
    find_data_issues(trained_run, tmp_path / "again")
    assert "so most suspicious labels are its own mistakes" in capsys.readouterr().err
    assert len(issues.outliers) == 24 and issues.test_labels and issues.validation_labels
    assert trained_run.predictions is not None
    for suspect in issues.test_labels:
        assert suspect.label == trained_run.predictions[1][suspect.image] != suspect.likely
    for path in issues.pictures:
        with Image.open(path) as image:
            assert image.width > 500
    with pytest.raises(UsageError, match=r"already has duplicates.png. Replace it with --force."):
        find_data_issues(trained_run, tmp_path / "issues", quiet=True)


def test_an_unfinished_run_is_refused(copied_run: Run, tmp_path: Path) -> None:
    (copied_run.path / "predictions.npz").unlink()
    with pytest.raises(UsageError, match=r"predictions\.npz is missing"):
        find_data_issues(copied_run, tmp_path / "issues")
    copied_run.update(status="interrupted")
    with pytest.raises(UsageError, match="is interrupted, and only finished runs"):
        find_data_issues(copied_run, tmp_path / "issues")
