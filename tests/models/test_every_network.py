"""Every network on gray and coloured images, small and large: trained, resumed, explained and exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cifarlab
from cifarlab import Data, Dataset, Interrupted, Recipe
from cifarlab.inference import onnx_files
from cifarlab.inference.explain import grad_cam
from cifarlab.inference.targets import predict
from cifarlab.models import model_names
from cifarlab.recipes import Channels
from cifarlab.runs.folder import RunFolder
from cifarlab.training.loop import fit
from cifarlab.training.preparation import prepare
from cifarlab.training.session import Session
from every_network import SMALLEST
from small_trainings import StopAt, assert_equal_bits, train_only

TRIED_ALWAYS = ("fastnet", "lenet5-3x3")  # the other networks are slow here
SLOW = pytest.mark.slow


def noise(channels: int, size: int) -> Data:
    """A data set with as few images as a training takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, size, size), dtype=np.uint8)
    whole = Dataset(pixels, np.arange(6, dtype=np.int64) % 2, ("a", "b"))
    train, validation, test = (whole.select(np.array(chosen)) for chosen in ([0, 1], [2, 3], [4, 5]))
    return Data("noise", train, test, validation=validation)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[SLOW] * (name not in TRIED_ALWAYS)) for name in model_names()]
)
@pytest.mark.parametrize(
    ("size", "channels"), [(28, "mono"), pytest.param(32, "rgb", marks=SLOW), pytest.param(96, "rgb", marks=SLOW)]
)
def test_every_network_trains_resumes_explains_and_exports(
    name: str, size: int, channels: Channels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = max(size, SMALLEST.get(name, 0))
    data = noise(1 if channels == "mono" else 3, size)
    recipe = Recipe(model=name, size=size, channels=channels, epochs=2, batch_size=2, learning_rate=0.001)
    recipe = recipe.changed({"precision": "fp32", "threads": 1, "keep": "last", "dataset": "noise"})
    whole = train_only(recipe, tmp_path / "whole", data=data)
    with pytest.raises(Interrupted):
        train_only(recipe, tmp_path / "cut", [StopAt(1)], data=data)
    resumed = RunFolder(tmp_path / "cut" / "a")
    fit(prepare(recipe, data=data, resumed=True), Session(resumed, quiet=True))
    assert_equal_bits(whole, resumed)

    classifier = cifarlab.load(whole.path)
    assert classifier.in_channels == data.test.images.shape[1]
    heat = grad_cam(classifier, data.test.images, data.test.labels)
    assert heat.shape == (2, size, size) and np.isfinite(heat).all()
    monkeypatch.setattr(onnx_files, "CHECKED", 2)
    exported = cifarlab.export(whole.path, tmp_path / "a.onnx")
    by_file, by_network = (predict(target, data.test.images) for target in (exported.path, classifier))
    for one, other in zip(by_file, by_network, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert one.label == other.label or abs(other.probability - other.probabilities[one.label]) < 1e-4
