"""Files of explanations: their names, and one per image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cifarlab
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.explanation_files import explanation_paths


def test_explanations_have_different_names(tmp_path: Path) -> None:
    paths = [Path(name) for name in ("a.png", "x/a.jpg", "a-2.png", "b.png")]
    names = [path.name for path in explanation_paths(paths, tmp_path, force=False)]
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
    with pytest.raises(UsageError, match=r"one-explained.png already exists. Replace it"):
        cifarlab.predict(classifier, files, explain_in=tmp_path / "why")
    cifarlab.predict(classifier, files, explain_in=tmp_path / "why", force=True)
