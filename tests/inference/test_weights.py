"""Shipped weights: small files that reach their stated accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cifarlab
from cifarlab import Data, load_data
from cifarlab.inference import weights
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import evaluate
from cifarlab.inference.export import export
from cifarlab.models import model_names

NAMES = weights.names()
FIRST = 500  # images of the test set
CORRECT = {
    "allcnn-c": 468,
    "fastnet": 464,
    "firststeps": 452,
    "keras4": 383,
    "keras6": 380,
    "lenet5": 277,
    "lenet5-3x3": 291,
    "lenet5-wide": 406,
    "ygnet": 464,
    "fashion-mnist": 469,
    "mnist": 499,
}
"""Number of the first test images that each network recognises without test-time augmentation."""


def test_weights_are_those_of_networks_and_their_files_are_small() -> None:
    assert set(NAMES) - set(model_names()) == {"fashion-mnist", "mnist"}
    assert sum(weights.path_of(name).stat().st_size for name in NAMES) < 23e6


def own_data(classifier: Classifier) -> Data:
    """Return the data set that a classifier was trained on."""
    return load_data(classifier.about["dataset"], size=classifier.size, quiet=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in model_names())) for name in NAMES]
)  # quick are those for CIFAR-10, which the tests have anyway
def test_weights_recognise_a_known_number_of_the_first_images(name: str) -> None:
    classifier = cifarlab.load(f"pretrained:{name}")
    assert name in (classifier.model, classifier.about["recipe"])
    assert {"recipe", "seed", "sha256", "protocol", "test_accuracy"} <= classifier.about.keys()
    evaluation = evaluate(classifier, own_data(classifier).test.select(np.arange(FIRST)))
    assert round(evaluation.accuracy * FIRST) == pytest.approx(CORRECT[name], abs=1)  # rounding differs by processor


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_weights_reach_their_stated_accuracy_and_their_onnx_files_agree(name: str, tmp_path: Path) -> None:
    classifier = cifarlab.load(f"pretrained:{name}")
    data = own_data(classifier)
    evaluation = cifarlab.evaluate(classifier, data)
    assert len(evaluation.labels) == 10_000
    assert evaluation.accuracy == pytest.approx(classifier.about["test_accuracy"], abs=0.001)
    own = cifarlab.evaluate(classifier, data, tta=False) if classifier.tta else evaluation
    onnx_file = export(classifier, tmp_path / "a.onnx").path
    exported = cifarlab.evaluate(onnx_file, data, tta=False)
    assert np.array_equal(own.logits.argmax(1), exported.logits.argmax(1)) and len(exported.logits) == 10_000


def test_the_command_line_evaluates_shipped_weights(cli: Any) -> None:
    printed = json.loads(cli("evaluate", "pretrained:lenet5", "--no-tta", "--json").stdout)
    assert printed["target"] == "pretrained:lenet5" and printed["images"] == 10_000 and printed["tta"] is False
    wrong = cli("evaluate", "pretrained:fasnet", status=2).stderr
    assert "unknown pretrained weights 'fasnet': did you mean 'fastnet'?" in wrong
