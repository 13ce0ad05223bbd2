"""Fine-tuning of imported networks: with the same classes, with other classes, and with frozen layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from keras_files import SMALL_WEIGHTS, conv, images, layer, sequential, small, write_h5, written

import cifarlab
from cifarlab import UsageError, import_keras
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.prediction import predict
from cifarlab.inference.weights_file import save_weights
from cifarlab.models.keras_graph import Architecture
from cifarlab.models.registry import try_step
from cifarlab.training.finetuning import take_over

NORMAL = {f"{name}:0": (2,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}


def saved(classifier: Classifier, path: Path) -> str:
    """Write a weights file and return its path, as `start_from` takes it."""
    save_weights(classifier, path)
    return str(path)


def test_an_import_is_tuned_on_other_classes_and_exported(tmp_path: Path) -> None:
    weights: dict[str, Any] = {**SMALL_WEIGHTS, "batchnormalization": NORMAL}
    source = import_keras(write_h5(tmp_path / "m.h5", small(layer("BatchNormalization")), weights))
    start = saved(source, tmp_path / "m.safetensors")
    recipe = cifarlab.recipe("keras4", dataset="digits", epochs=1, start_from=start, freeze=2)
    run = cifarlab.train(recipe, runs=tmp_path / "runs", quiet=True)
    exported = cifarlab.export(run.path, tmp_path / "t.safetensors", format="safetensors", quiet=True)
    tuned = cifarlab.load(str(exported.path))
    assert tuned.classes == tuple("0123456789") and tuned.model_options == source.model_options
    assert (tuned.size, tuned.preprocess.settings.normalize) == (8, "unit")
    assert fresh(source, tuned) == {"layers.3"}
    assert tuned.network.state_dict()["layers.3.weight"].shape == (10, 2)


def test_every_layer_trains(tmp_path: Path) -> None:
    real = next(file for file in written() if file.file == "channels_first.keras" and "keras-3" in file.archive.name)
    source = import_keras(real.unpack(tmp_path)[0])
    network = make_classifier(source.model, source.model_options, tuple("abc"), source.size, "unit")
    take_over(network, source)
    logits = network.logits(torch.from_numpy(images(source.size)))
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    gradients = {name: weight.grad for name, weight in network.network.named_parameters()}
    assert len(gradients) == 9
    assert all(gradient is not None and gradient.any() for gradient in gradients.values()), gradients


def imported(path: Path, *layers: dict[str, Any], **weights: Mapping[str, Sequence[int]]) -> Classifier:
    """Import a network of these layers after a convolution with two channels."""
    first = conv(padding="same")
    return import_keras(write_h5(path, sequential(first, *layers), {"conv2d": SMALL_WEIGHTS["conv2d"], **weights}))


def tuned(source: Classifier, classes: int) -> Classifier:
    """Return a network for other classes that starts from `source`."""
    names = tuple(f"new{number}" for number in range(classes))
    network = make_classifier(source.model, source.model_options, names, source.size, "unit")
    take_over(network, source)
    with torch.no_grad():
        images = torch.zeros(2, 3, source.size, source.size, dtype=torch.uint8)
        assert network.logits(images).shape == (2, classes)
    return network


def fresh(source: Classifier, network: Classifier) -> set[str]:
    """Return the names of the layers that do not have the source's weights."""
    before, after = source.network.state_dict(), network.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.rpartition(".")[0] for name in changed}


POOL, SOFTMAX = layer("GlobalAveragePooling2D"), layer("Activation", activation="softmax")


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_whatever_makes_the_outputs_is_made_anew(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "m.h5"
    kernel, bias = {"kernel:0": (1, 1, 2, 4)}, {"bias:0": (4,)}
    one = layer("Conv2D", "last", filters=4, kernel_size=1)
    shapes = {"last": {**kernel, **bias}}
    several = {
        "a sigmoid": imported(
            path, POOL, layer("Dense", "last", units=1, activation="sigmoid"), last={"kernel:0": (2, 1), "bias:0": (1,)}
        ),
        "pooled": imported(path, one, layer("Dropout", rate=0.5), POOL, SOFTMAX, **shapes),
        "reshaped": imported(path, one, POOL, layer("Reshape", target_shape=[1, 4]), layer("Flatten"), **shapes),
        "separable": imported(
            path,
            layer("SeparableConv2D", "last", filters=4, kernel_size=1),
            POOL,
            last={"depthwise_kernel:0": (1, 1, 2, 1), "pointwise_kernel:0": (1, 1, 2, 4), **bias},
        ),
    }
    outputs = {"a sigmoid": "layers.2", "pooled": "layers.1", "reshaped": "layers.1", "separable": "layers.1.pointwise"}
    for kind, source in several.items():
        network = tuned(source, classes)
        assert fresh(source, network) == {outputs[kind]}
        try_step(network.network, 2, source.size)


def test_what_has_weights_for_each_output_follows(tmp_path: Path) -> None:
    many = {f"{name}:0": (4,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    source = imported(
        tmp_path / "m.h5",
        POOL,
        layer("Dense", "last", units=4),
        layer("BatchNormalization", "normal"),
        SOFTMAX,
        last={"kernel:0": (2, 4), "bias:0": (4,)},
        normal=many,
    )
    assert fresh(source, tuned(source, 6)) == {"layers.2", "layers.3"}
    assert fresh(source, tuned(source, 4)) == {"layers.2", "layers.3"}  # of the same number, but other names
    same = make_classifier(source.model, source.model_options, source.classes, source.size, "unit")
    take_over(same, source)
    assert fresh(source, same) == set()


def test_outputs_that_no_layer_counts_stay_as_many_as_they_are(tmp_path: Path) -> None:
    source = imported(tmp_path / "m.h5", POOL, layer("Normalization", mean=0.5, variance=2.0))
    assert Architecture.from_json(source.model_options["architecture"]).output_layers() == []
    with pytest.raises(
        UsageError,
        match="keras-graph: the number of classes cannot change, because no dense layer or convolution computes",
    ):
        tuned(source, 3)


def test_outputs_that_are_averaged_are_all_made_anew(tmp_path: Path) -> None:
    source = import_keras(write_ensemble(tmp_path / "m.h5"))
    assert fresh(source, tuned(source, 5)) == {"layers.1", "layers.4"}


def write_ensemble(path: Path) -> Path:
    """Write a model that averages two softmaxes, one of all pixels and one of the mean colours."""
    entry = layer("InputLayer", "in", batch_input_shape=[None, 8, 8, 3])
    dense = {"units": 3, "activation": "softmax"}
    graph: tuple[tuple[dict[str, Any], list[str]], ...] = (
        (entry, []),
        (layer("Flatten", "flat"), ["in"]),
        (layer("Dense", "a", **dense), ["flat"]),
        (layer("GlobalAveragePooling2D", "pool"), ["in"]),
        (layer("Dense", "b", **dense), ["pool"]),
        (layer("Average", "out"), ["a", "b"]),
    )
    layers = []
    for each, inputs in graph:
        calls: list[Any] = [[[name, 0, 0, {}] for name in inputs]] if inputs else []
        layers.append({**each, "name": each["config"]["name"], "inbound_nodes": calls})
    ends = {"input_layers": [["in", 0, 0]], "output_layers": [["out", 0, 0]]}
    weights = {name: {"kernel:0": (size, 3), "bias:0": (3,)} for name, size in (("a", 192), ("b", 3))}
    return write_h5(path, {"class_name": "Model", "config": {"name": "graph", "layers": layers, **ends}}, weights)


def test_the_mean_of_softmaxes_is_a_probability(tmp_path: Path) -> None:
    classifier = import_keras(write_ensemble(tmp_path / "m.h5"))
    assert not any("softmax" in line for line in classifier.about["assumed"])
    pixels = images(8).transpose(0, 2, 3, 1) / 255
    with h5py.File(tmp_path / "m.h5") as file:
        expected = 0
        for name, values in (("a", pixels.reshape(16, -1)), ("b", pixels.mean((1, 2)))):
            kernel, bias = (np.array(file[f"model_weights/{name}/{name}/{array}:0"]) for array in ("kernel", "bias"))
            powers = np.exp(values @ kernel + bias)
            expected = expected + powers / powers.sum(axis=1, keepdims=True) / 2
    np.testing.assert_allclose(predict(classifier, images(8)), expected, atol=1e-6)
