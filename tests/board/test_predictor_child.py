"""The child process of the predictor, called in this process: several networks, errors, and its protocol."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab import Data
from cifarlab.board.images import to_png
from cifarlab.board.predictor_child import ANSWER, FAILED, LARGE, WRONG, BatchPredictor, Header, serve
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


def answers(predictor: BatchPredictor, *requests: tuple[Path, object, bytes], explain: bool = False) -> list[list[str]]:
    headers = [Header(str(target), version, explain, len(content)) for target, version, content in requests]
    return predictor.answer(headers, [content for _, _, content in requests])


def test_images_for_two_networks_get_the_predictions_of_their_network(targets: list[Path], digits: Data) -> None:
    from cifarlab import load

    images = digits.test.images[:20]
    results = answers(
        BatchPredictor(10**6), *((targets[place % 2], 1, to_png(image)) for place, image in enumerate(images))
    )
    for number, target in enumerate(targets):
        classifier = load(str(target))
        expected = predict(classifier, np.array(images[number::2]))
        for (kind, text), row in zip(results[number::2], expected, strict=True):
            found = {one["name"]: one["probability"] for one in json.loads(text)["classes"]}
            assert kind == ANSWER
            np.testing.assert_allclose([found[name] for name in classifier.classes], row, atol=1e-6)


def test_an_error_keeps_its_place(targets: list[Path], digits: Data, capfd: pytest.CaptureFixture[str]) -> None:
    right, large = to_png(digits.test.images[0]), to_png(np.zeros((3, 300, 400), np.uint8))
    nowhere = targets[0].with_name("none.safetensors")
    results = answers(BatchPredictor(100_000), *((path, 1, content) for path, content in [
        (targets[0], b"no image"), (targets[0], right), (targets[0], large), (nowhere, right)
    ]))  # fmt: skip
    assert [kind for kind, _ in results] == [WRONG, ANSWER, LARGE, WRONG]
    assert "not an image" in results[0][1]
    assert not capfd.readouterr().err


def test_details_of_our_errors_are_not_sent_to_visitors(
    targets: list[Path], digits: Data, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("cifarlab.board.predictor_child.predict", fails)
    results = answers(BatchPredictor(10**6), *[(targets[0], 1, to_png(image)) for image in digits.test.images[:2]])
    assert results == [[FAILED, "the prediction failed (ZeroDivisionError)"]] * 2
    assert "a secret" in capfd.readouterr().err


def test_a_target_with_a_new_version_is_read_again(targets: list[Path], digits: Data, tmp_path: Path) -> None:
    predictor, image, path = BatchPredictor(10**6), to_png(digits.test.images[0]), tmp_path / "best.safetensors"
    shutil.copy(targets[0], path)
    first = answers(predictor, (path, [1, 2], image))
    shutil.copy(targets[1], path)
    assert answers(predictor, (path, [1, 2], image)) == first
    assert answers(predictor, (path, [1, 3], image)) != first


def test_explained_predictions_have_heat_maps(targets: list[Path], digits: Data) -> None:
    ((_, text),) = answers(BatchPredictor(10**6), (targets[0], 1, to_png(digits.test.images[0])), explain=True)
    found = json.loads(text)
    assert found["heats"].keys() == {"Grad-CAM", "occlusion"}
    assert found["image"].startswith("data:image/png;base64,")


def test_requests_are_lines_followed_by_the_image_files(targets: list[Path], digits: Data) -> None:
    images = [to_png(image) for image in digits.test.images[:3]]
    requests = io.BytesIO()
    for batch in (images[:2], images[2:]):
        headers = [[str(targets[0]), None, False, len(image)] for image in batch]
        requests.write(json.dumps(headers).encode() + b"\n" + b"".join(batch))
    requests.seek(0)
    output = io.BytesIO()
    serve(requests, output, BatchPredictor(10**6))
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [[kind for kind, _ in line] for line in lines] == [[ANSWER, ANSWER], [ANSWER]]


def test_a_png_file_holds_the_image(digits: Data) -> None:
    image = digits.test.images[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(to_png(image)))).transpose(2, 0, 1), image)
