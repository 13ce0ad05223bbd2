"""Pictures of where a network looks, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cifarlab
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.heatmaps import names_of_pictures


def test_pictures_are_named_apart(tmp_path: Path) -> None:
    paths = [Path(name) for name in ("a.png", "x/a.jpg", "a-2.png", "b.png")]
    names = [path.name for path in names_of_pictures(paths, tmp_path, force=False)]
    assert names == ["a-explained.png", "a-2-explained.png", "a-2-2-explained.png", "b-explained.png"]


def test_predicting_with_explanations_draws_one_for_each_file(tmp_path: Path) -> None:
    classifier = make_classifier("lenet5-3x3", {}, tuple("abc"), 32, "unit")
    for name in ("one", "two"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    found = cifarlab.predict(classifier, files, explain_in=tmp_path / "why")
    assert found == cifarlab.predict(classifier, files)
    for name in ("one", "two"):
        with Image.open(tmp_path / "why" / f"{name}-explained.png") as picture:
            assert picture.width > 2 * picture.height > 200
    with pytest.raises(UsageError, match=r"there is already one-explained.png; replace it"):
        cifarlab.predict(classifier, files, explain_in=tmp_path / "why")
    cifarlab.predict(classifier, files, explain_in=tmp_path / "why", force=True)
