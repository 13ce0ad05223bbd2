"""Issues of a run's data: found among all images, named, ranked and drawn, and no file is overwritten."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarlab import Data, Run
from cifarlab import recipe as load_recipe
from cifarlab.errors import UsageError
from cifarlab.report.data_issues import find_data_issues
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import create_run
from cifarlab.training.preparation import new_record, prepare


def begun_run(recipe_data: str, path: Path) -> RunFolder:
    """Return a run that has not trained: `data issues` needs its recipe and data alone."""
    recipe = load_recipe("lenet5", dataset=recipe_data, epochs=12, batch_size=16, keep="last")
    return create_run(RunFolder, path, new_record(prepare(recipe)))


def test_wrong_labels_are_found_in_every_part_and_named(
    digits: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"train": (digits.train, 40), "test": (digits.test, 15)}
    for part, (images, count) in parts.items():
        for label in (0, 1):
            folder = tmp_path / "pictures" / part / str(label)
            folder.mkdir(parents=True)
            for number, pixels in enumerate(images.images[images.labels == label][:count]):
                Image.fromarray(pixels[0]).save(folder / f"{part}-{number}.png")
    wrong = []
    for part in parts:
        folder = tmp_path / "pictures" / part
        wrong.append((folder / "1" / f"{part}-7.png").rename(folder / "0" / f"{part}-wrong.png"))
    run = begun_run(f"folder:{tmp_path / 'pictures'}", tmp_path / "runs" / "a")
    issues = find_data_issues(run, tmp_path / "issues", folds=3)
    labels = [issue for issue in issues.issues if issue.kind == "label"]
    assert {issue.image for issue in labels} == set(map(str, wrong))
    assert labels[0].label == "0" and labels[0].reason.startswith("likely 1, with ")
    assert [len(issues.train_labels), len(issues.test_labels)] == [1, 1]
    assert (issues.images, len(issues.outliers) <= 1, issues.accuracy > 0.95) == (110, True, True)
    rows = list(csv.reader(issues.table.read_text().splitlines()))
    assert rows[0] == ["rank", "kind", "image", "label", "reason"] and len(rows) == 1 + len(issues.issues)
    assert rows[1][2] == issues.issues[0].image
    assert {path.stem for path in issues.pictures} == {path.stem for path in (tmp_path / "issues").glob("*.png")}
    for path in issues.pictures:
        with Image.open(path) as image:
            assert image.width >= 440
    assert "to judge all 110 images" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"already has .*\. Replace it with --force."):
        find_data_issues(run, tmp_path / "issues", quiet=True)


def test_nothing_is_drawn_where_nothing_was_found(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)

    def guess(_recipe: object, images: Data, folds: int, quiet: bool) -> tuple[np.ndarray, np.ndarray]:
        labels = np.array(images.labels)  # type: ignore[attr-defined]
        return np.eye(10, dtype=np.float32)[labels] * 9, generator.integers(0, folds, len(labels))

    (tmp_path / "issues").mkdir()
    (tmp_path / "issues" / "labels.png").write_bytes(b"of an earlier call")
    monkeypatch.setattr("cifarlab.report.data_issues.cross_validate", guess)
    monkeypatch.setattr("cifarlab.report.data_issues.HIGH_ERROR_RATE", -1.0)
    issues = find_data_issues(trained_run, tmp_path / "issues", force=True)
    assert "so most suspicious labels are their mistakes" in capsys.readouterr().err
    assert not issues.test_labels + issues.train_labels and not (tmp_path / "issues" / "labels.png").exists()
    assert len([issue for issue in issues.issues if issue.kind == "outlier"]) == 17  # a hundredth, not all of a part
    duplicate = next(issue for issue in issues.issues if issue.kind == "duplicate")
    assert duplicate.image.startswith("test image ") and "train image " in duplicate.reason
