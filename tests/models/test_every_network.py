"""Every network on gray and coloured images, small and large: trained, resumed, explained and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cifarlab
from cifarlab import Data, Dataset, Interrupted, Recipe
from cifarlab.inference.explain import grad_cam
from cifarlab.inference.targets import predict
from cifarlab.recipes import Channels
from every_network import SMALLEST, networks
from small_trainings import StopAt, assert_equal_bits, train_only

CLASSES = tuple("abc")


def noise(channels: int, size: int) -> Data:
    """A data set with as few images as a training takes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, channels, size, size), dtype=np.uint8)
    part = Dataset(pixels, np.arange(9, dtype=np.int64) % 3, CLASSES)
    return Data("noise", part.select(np.arange(6)), part.select(np.arange(6, 9)), validation=part.select(np.arange(3)))


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize(
    ("size", "channels"),
    [
        pytest.param(28, "mono"),
        pytest.param(32, "rgb", marks=pytest.mark.slow),
        pytest.param(96, "rgb", marks=pytest.mark.slow),
    ],
)
def test_every_network_trains_resumes_explains_and_exports(
    name: str, size: int, channels: Channels, tmp_path: Path
) -> None:
    size = max(size, SMALLEST.get(name, 0))
    data = noise(1 if channels == "mono" else 3, size)
    recipe = Recipe(model=name, size=size, channels=channels, epochs=2, batch_size=3, learning_rate=0.001)
    recipe = recipe.changed({"precision": "fp32", "threads": 1, "keep": "last", "dataset": "noise"})
    whole = train_only(recipe, tmp_path / "whole", data=data)
    with pytest.raises(Interrupted):
        train_only(recipe, tmp_path / "cut", [StopAt(1)], data=data)
    resumed = cifarlab.resume(tmp_path / "cut" / "a", data=data, quiet=True)
    assert_equal_bits(whole, resumed)

    classifier = cifarlab.load(whole.path)
    assert classifier.in_channels == data.test.images.shape[1]
    heat = grad_cam(classifier, data.test.images, data.test.labels)
    assert heat.shape == (3, size, size) and np.isfinite(heat).all()
    exported = cifarlab.export(whole.path, tmp_path / "a.onnx")
    assert exported.difference is not None and exported.difference < 1e-4
    by_file, by_network = (predict(target, data.test.images) for target in (exported.path, classifier))
    for one, other in zip(by_file, by_network, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert one.label == other.label or abs(other.probability - other.probabilities[one.label]) < 1e-4
