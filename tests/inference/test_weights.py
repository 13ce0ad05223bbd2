"""The weights that ship: small, and as good as they say on the whole test set of CIFAR-10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cifarlab
from cifarlab import Data
from cifarlab.inference import targets, weights
from cifarlab.models import model_names

NAMES = weights.names()


def test_every_network_has_some_and_they_are_small() -> None:
    assert sorted(model_names()) == NAMES
    assert sum(weights.path_of(name).stat().st_size for name in NAMES) < 20e6


@pytest.mark.parametrize("name", NAMES)
def test_weights_reach_what_they_state_and_their_onnx_files_say_the_same(
    name: str, cifar10: Data, tmp_path: Path
) -> None:
    classifier = cifarlab.load(f"pretrained:{name}")
    about = classifier.about
    assert classifier.model == name and {"recipe", "seed", "sha256", "protocol", "test_accuracy"} <= about.keys()
    found = cifarlab.evaluate(classifier, cifar10)
    assert len(found.labels) == 10_000
    assert found.accuracy == pytest.approx(about["test_accuracy"], abs=0.001)
    own = cifarlab.evaluate(classifier, cifar10, tta=False) if classifier.tta else found
    written = targets.export(classifier, tmp_path / "a.onnx")
    theirs = targets.evaluate(written.path, cifar10, tta=False)
    assert np.array_equal(own.logits.argmax(1), theirs.logits.argmax(1)) and len(theirs.logits) == 10_000


def test_they_go_where_a_target_goes(cli: Any) -> None:
    printed = json.loads(cli("evaluate", "pretrained:lenet5", "--no-tta", "--json").stdout)
    assert printed["target"] == "pretrained:lenet5" and printed["images"] == 10_000 and printed["tta"] is False
    wrong = cli("evaluate", "pretrained:fasnet", status=2).stderr
    assert "unknown pretrained weights 'fasnet': did you mean 'fastnet'?" in wrong
