"""ONNX files: the same answers as the network, in one file that says what it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import cifarlab
from cifarlab import Data
from cifarlab.errors import UsageError
from cifarlab.inference import onnx_files, targets
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.export import export
from cifarlab.inference.prediction import predict
from cifarlab.recipes import Preprocessing
from every_network import networks

CLASSES = tuple(f"class {number}" for number in range(10))


def random_images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def test_an_empty_onnx_file_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UsageError, match=r"a.onnx is empty"):
        onnx_files.from_onnx(tmp_path / "a.onnx")


HEAVY = ("allcnn-c", "ygnet")  # a whitening of 3,072 values squared; many channels


@pytest.mark.parametrize("name", networks(*HEAVY))
def test_every_network_gives_the_same_probabilities_in_onnxruntime(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = make_classifier(name, {}, CLASSES, 32, "zca" if name == "allcnn-c" else "standard")
    classifier.preprocess.fit(random_images(40))
    path = tmp_path / "a.onnx"
    assert onnx_files.to_onnx(classifier, path) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = random_images(count)
        (probabilities,) = session.run(None, {"images": images.transpose(0, 2, 3, 1)})
        np.testing.assert_allclose(probabilities, predict(classifier, images), atol=1e-5)
        np.testing.assert_allclose(predict(onnx_files.from_onnx(path), images), probabilities, atol=1e-6)


SETTINGS = [
    Preprocessing("unit"),
    Preprocessing("raw", (104.0, 117.0, 124.0), (), "bgr", "stretch"),
    Preprocessing(std=(0.5,), channels="gray", resize="pad"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_example_in_the_guide_prepares_photos_as_predict_does(
    settings: Preprocessing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    classifier = make_classifier("lenet5", {}, CLASSES, 32, settings)
    classifier.preprocess.fit(random_images(2))
    onnx_files.to_onnx(classifier, tmp_path / "photos.onnx")
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text()
    (example,) = re.findall(r"```python\n(.*?onnxruntime.*?)```", guide, re.S)
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    gradient = np.linspace(0, 255, 90 * 40 * 3).reshape(90, 40, 3).astype(np.uint8)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(gradient).save("photo.jpg", exif=turned)
    names: dict[str, np.ndarray] = {}
    exec(example, names)
    for target in ("photos.onnx", classifier):
        (prediction,) = cifarlab.predict(target, ["photo.jpg"])
        expected = [prediction.probabilities[name] for name in CLASSES]
        np.testing.assert_allclose(names["probabilities"][0], expected, atol=1e-5)


def test_the_file_says_what_it_is_and_holds_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    classifier = make_classifier("lenet5", {}, CLASSES, 32, "unit")
    onnx_files.to_onnx(classifier, path)
    described = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    assert json.loads(described["classes"]) == list(CLASSES) and described["size"] == "32"
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"] and path.stat().st_size > 4 * 61_106
    loaded = onnx_files.from_onnx(path)
    assert loaded.classes == CLASSES and loaded.size == 32


def test_the_temperature_is_inside(tmp_path: Path, digits: Data) -> None:
    recipe = cifarlab.recipe("lenet5", dataset="digits", epochs=1, batch_size=64)
    run = cifarlab.train(recipe, runs=tmp_path, name="a", quiet=True)
    assert run.classifier.temperature != 1
    written = export(run, tmp_path / "a.onnx")
    assert written.difference is not None and written.difference < 1e-5
    own, theirs = (predict(targets.load(target), digits.test.images) for target in (run, written.path))
    np.testing.assert_allclose(own, theirs, atol=1e-5)
    evaluation, loaded = targets.evaluate(written.path), targets.load(written.path)
    for name in ("accuracy", "loss", "calibration_error"):  # before the temperature, as those of the run
        assert getattr(evaluation, name) == pytest.approx(
            run.results[f"test_{name}".replace("test_cal", "cal")], abs=1e-4
        )
    assert loaded.about == run.classifier.about and loaded.temperature == run.results["temperature"]


@pytest.mark.slow
def test_int8_comes_near(cifar10: Data, tmp_path: Path) -> None:
    written = export("pretrained:fastnet", tmp_path / "a.onnx")
    own = targets.evaluate("pretrained:fastnet", cifar10, tta=False)
    small = tmp_path / "b.onnx"
    onnx_files.to_int8(targets.load("pretrained:fastnet"), small, cifar10.train.images[: onnx_files.CALIBRATED])
    assert small.stat().st_size < written.bytes / 3
    assert targets.evaluate(small, cifar10, tta=False).accuracy > own.accuracy - 0.01


def test_a_file_is_named_after_its_target_with_all_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(make_classifier("lenet5", {}, CLASSES, 32, "unit"), "lr0.1.safetensors", format="safetensors")
    assert export("lr0.1.safetensors").path.name == "lr0.1.onnx"


def test_weights_are_exported_too(tmp_path: Path, digits: Data) -> None:
    classifier = make_classifier("lenet5", {}, digits.classes, 32, "unit")
    written = export(classifier, tmp_path / "a.safetensors", format="safetensors")
    assert np.array_equal(
        predict(targets.load(written.path), digits.test.images[:9]), predict(classifier, digits.test.images[:9])
    )


def test_what_cannot_be_exported_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = make_classifier("lenet5", {}, CLASSES, 32, "unit")
    path = export(classifier, tmp_path / "a.onnx").path
    for arguments, text in (
        ({"out": path}, "the file exists; replace it with --force"),
        ({"format": "onx"}, "did you mean 'onnx'"),
        ({"format": "safetensors", "int8": True}, "--int8 needs --format onnx"),
        ({"int8": True, "out": tmp_path / "b.onnx"}, "Give one with --data"),
    ):
        with pytest.raises(UsageError, match=text):
            export(classifier, **arguments)
    with pytest.raises(UsageError, match="is already an ONNX file"):
        export(path, tmp_path / "b.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"ONNX files need the package onnxscript: pip install 'cifarlab\[onnx\]'"):
        export(classifier, tmp_path / "b.onnx")
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_a_network_without_onnx_operations_is_named_in_the_error(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 10) + float(np.float32(images.detach().numpy().sum()))

    classifier = make_classifier("lenet5", {}, CLASSES, 32, "unit")
    object.__setattr__(classifier, "network", Odd())
    with pytest.raises(UsageError, match="cannot be exported to ONNX"):
        onnx_files.to_onnx(classifier, tmp_path / "a.onnx")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx_files.to_onnx(make_classifier("lenet5", {}, CLASSES, 32, "unit"), path)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5_000])
    model = onnx.load(path)
    next(entry for entry in model.metadata_props if entry.key == "about").value = '{"temperature": null}'
    onnx.save(model, tmp_path / "cold.onnx")
    for name, text in (
        ("plain.onnx", "has no class names"),
        ("cut.onnx", "is not an ONNX file: it is damaged or incomplete"),
        ("cold.onnx", "has damaged metadata: about.temperature should be a number, got None"),
        ("none.onnx", "there is no file"),
    ):
        with pytest.raises(UsageError, match=text):
            targets.load(tmp_path / name)


def test_a_file_whose_memory_depends_on_the_pixels_is_limited(tmp_path: Path) -> None:
    onnx_files.to_onnx(make_classifier("lenet5", {}, CLASSES, 32, "unit"), path := tmp_path / "a.onnx")
    model = onnx.load(path)
    step = onnx.helper.make_node
    nodes = [step("Cast", ["images"], ["whole"], to=7), step("ReduceMax", ["whole"], ["highest"], keepdims=0)]
    nodes += [step("Mul", ["highest", "factor"], ["size"]), step("ConstantOfShape", ["size"], ["zeros"])]
    nodes += [step("ReduceSum", ["zeros"], ["zero"], keepdims=0), step("Add", ["small", "zero"], ["probabilities"])]
    model.graph.node[-1].output[0] = "small"
    model.graph.node.extend(nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([10**8]), "factor"))
    onnx.save(model, path)
    bomb = onnx_files.from_onnx(path)
    assert predict(bomb, np.zeros((2, 3, 32, 32), np.uint8)).shape == (2, 10)
    with pytest.raises(UsageError, match=r"fails on these images .* smaller than requested bytes"):
        predict(bomb, np.full((2, 3, 32, 32), 255, np.uint8))
