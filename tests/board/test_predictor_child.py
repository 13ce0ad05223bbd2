"""The child process of the predictor, called in this process: several networks and errors."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab import Data
from cifarlab.board.images import to_png
from cifarlab.board.predictor_child import LargeImageError, PredictionRequest, answer
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.prediction import predict
from cifarlab.inference.weights_file import save_weights


@pytest.fixture(scope="module")
def targets(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained networks, in files."""
    folder = tmp_path_factory.mktemp("targets")
    for seed in (0, 1):
        torch.manual_seed(seed)
        classifier = make_classifier("lenet5", {}, digits.classes, 32, "unit")
        save_weights(classifier, folder / f"{seed}.safetensors", {})
    return [folder / "0.safetensors", folder / "1.safetensors"]


def answers(
    *requests: tuple[Path, object, bytes], most_pixels: int = 10**6, explain: bool = False
) -> list[bytes | CifarlabError]:
    batch = [PredictionRequest(str(target), version, explain, content) for target, version, content in requests]
    return answer(batch, most_pixels)


def document(result: bytes | CifarlabError) -> dict[str, Any]:
    assert isinstance(result, bytes)
    content: dict[str, Any] = json.loads(result)
    return content


def test_images_for_two_networks_get_the_predictions_of_their_network(targets: list[Path], digits: Data) -> None:
    from cifarlab import load

    images = digits.test.images[:20]
    results = answers(*((targets[place % 2], 1, to_png(image)) for place, image in enumerate(images)))
    for number, target in enumerate(targets):
        classifier = load(str(target))
        expected = predict(classifier, np.array(images[number::2]))
        for result, row in zip(results[number::2], expected, strict=True):
            found = {one["name"]: one["probability"] for one in document(result)["classes"]}
            np.testing.assert_allclose([found[name] for name in classifier.classes], row, atol=1e-6)


def test_an_error_keeps_its_place(targets: list[Path], digits: Data, capfd: pytest.CaptureFixture[str]) -> None:
    right, large = to_png(digits.test.images[0]), to_png(np.zeros((3, 300, 400), np.uint8))
    nowhere = targets[0].with_name("none.safetensors")
    requests = [(targets[0], 1, b"no image"), (targets[0], 1, right), (targets[0], 1, large), (nowhere, 1, right)]
    results = answers(*requests, most_pixels=100_000)
    assert [type(result) for result in results] == [UsageError, bytes, LargeImageError, UsageError]
    assert "not an image" in str(results[0])
    assert not capfd.readouterr().err


def test_details_of_our_errors_are_not_sent_to_visitors(
    targets: list[Path], digits: Data, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("cifarlab.board.predictor_child.predict", fails)
    results = answers(*[(targets[0], 1, to_png(image)) for image in digits.test.images[:2]])
    assert list(map(str, results)) == ["the prediction failed (ZeroDivisionError)"] * 2
    assert "a secret" in capfd.readouterr().err


def test_a_target_with_a_new_version_is_read_again(targets: list[Path], digits: Data, tmp_path: Path) -> None:
    image, path = to_png(digits.test.images[0]), tmp_path / "best.safetensors"
    shutil.copy(targets[0], path)
    first = answers((path, (1, 2), image))
    shutil.copy(targets[1], path)
    assert answers((path, (1, 2), image)) == first
    assert answers((path, (1, 3), image)) != first


def test_explained_predictions_have_heat_maps(targets: list[Path], digits: Data) -> None:
    found = document(answers((targets[0], 1, to_png(digits.test.images[0])), explain=True)[0])
    assert found["heats"].keys() == {"Grad-CAM", "occlusion"}
    assert found["image"].startswith("data:image/png;base64,")


def test_a_png_file_holds_the_image(digits: Data) -> None:
    gray, colour = digits.test.images[0], digits.test.images[:3, 0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(gray)))), gray[0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(colour)))).transpose(2, 0, 1), colour)


def test_a_process_that_takes_too_long_ends() -> None:
    code = (
        "import re; from cifarlab.board import predictor_child as child; child.MOST_SECONDS = 0.5; "
        "child._answer = lambda *_: re.match('(a|a)*b', 'a' * 40); child.answer([], 1)"  # holds Python's lock
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "Timeout" in ended.stderr
