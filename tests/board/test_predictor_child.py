"""What the board's other process answers, asked in this one: pictures of several networks, errors, its protocol."""

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
from cifarlab.board.worker import ANSWER, FAILED, LARGE, WRONG, Worker, png, serve
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.evaluation import predict
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


def answered(worker: Worker, *questions: tuple[Path, object, bytes], explain: bool = False) -> list[list[str]]:
    told = [[str(target), stamp, explain, len(content)] for target, stamp, content in questions]
    return worker.answers(told, [content for _, _, content in questions])


def test_pictures_of_two_networks_get_what_each_says(targets: list[Path], digits: Data) -> None:
    from cifarlab import load

    images = digits.test.images[:20]
    told = answered(Worker(10**6), *((targets[place % 2], 1, png(image)) for place, image in enumerate(images)))
    for which, target in enumerate(targets):
        classifier = load(str(target))
        expected = predict(classifier, np.array(images[which::2]))
        for (kind, text), row in zip(told[which::2], expected, strict=True):
            found = {one["name"]: one["probability"] for one in json.loads(text)["classes"]}
            assert kind == ANSWER
            np.testing.assert_allclose([found[name] for name in classifier.classes], row, atol=1e-6)


def test_an_error_is_told_in_its_place(targets: list[Path], digits: Data, capfd: pytest.CaptureFixture[str]) -> None:
    right, large = png(digits.test.images[0]), png(np.zeros((3, 300, 400), np.uint8))
    nowhere = targets[0].with_name("none.safetensors")
    told = answered(Worker(100_000), *((path, 1, content) for path, content in [
        (targets[0], b"no picture"), (targets[0], right), (targets[0], large), (nowhere, right)
    ]))  # fmt: skip
    assert [kind for kind, _ in told] == [WRONG, ANSWER, LARGE, WRONG]
    assert "not an image" in told[0][1]
    assert not capfd.readouterr().err


def test_a_fault_of_ours_is_not_told_to_visitors(
    targets: list[Path], digits: Data, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("cifarlab.board.worker.predict", fails)
    told = answered(Worker(10**6), *[(targets[0], 1, png(image)) for image in digits.test.images[:2]])
    assert told == [[FAILED, "the prediction failed (ZeroDivisionError)"]] * 2
    assert "a secret" in capfd.readouterr().err


def test_a_target_that_changed_is_read_again(targets: list[Path], digits: Data, tmp_path: Path) -> None:
    worker, picture, path = Worker(10**6), png(digits.test.images[0]), tmp_path / "best.safetensors"
    shutil.copy(targets[0], path)
    first = answered(worker, (path, [1, 2], picture))
    shutil.copy(targets[1], path)
    assert answered(worker, (path, [1, 2], picture)) == first
    assert answered(worker, (path, [1, 3], picture)) != first


def test_explained_pictures_carry_where_the_network_looks(targets: list[Path], digits: Data) -> None:
    ((_, text),) = answered(Worker(10**6), (targets[0], 1, png(digits.test.images[0])), explain=True)
    found = json.loads(text)
    assert found["heats"].keys() == {"Grad-CAM", "occlusion"}
    assert found["image"].startswith("data:image/png;base64,")


def test_questions_come_as_lines_with_the_pictures_behind(targets: list[Path], digits: Data) -> None:
    pictures = [png(image) for image in digits.test.images[:3]]
    asking = io.BytesIO()
    for batch in (pictures[:2], pictures[2:]):
        told = [[str(targets[0]), None, False, len(picture)] for picture in batch]
        asking.write(json.dumps(told).encode() + b"\n" + b"".join(batch))
    asking.seek(0)
    answering = io.BytesIO()
    serve(asking, answering, Worker(10**6))
    lines = [json.loads(line) for line in answering.getvalue().splitlines()]
    assert [[kind for kind, _ in line] for line in lines] == [[ANSWER, ANSWER], [ANSWER]]


def test_a_png_has_the_image(digits: Data) -> None:
    image = digits.test.images[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(image)))).transpose(2, 0, 1), image)
