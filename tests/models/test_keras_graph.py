"""Keras's layers against NumPy, in both layouts, and the limits of what a description may ask for."""

from __future__ import annotations

import itertools
import json
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from cifarlab import UsageError, build_model
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.weights_file import CHECKSUM, load_weights, save_weights
from cifarlab.models import model_names
from cifarlab.models.keras_graph import LAYERS, Architecture, Inputs, KerasGraph, image_layout, run_layer
from cifarlab.models.keras_graph.shapes import same_padding

DRAW = np.random.default_rng(3)
VALUES = DRAW.normal(size=(2, 5, 6, 4)).astype(np.float32)  # [b, ...] in Keras's order, whatever the layout


def build_layer(kind: str, channels_last: bool, *inputs: np.ndarray, **settings: Any) -> nn.Module:
    """Build a layer for inputs in Keras's order of axes."""
    return LAYERS[kind](Inputs(inputs[0].shape[1:], channels_last), **settings).eval()


def run(layer: nn.Module, channels_last: bool, *inputs: np.ndarray) -> np.ndarray:
    """Run a layer on inputs in Keras's order of axes."""
    with torch.no_grad():
        result: np.ndarray = run_layer(layer, [torch.from_numpy(values) for values in inputs], channels_last).numpy()
    return result


def compute(kind: str, channels_last: bool, *inputs: np.ndarray, **settings: Any) -> np.ndarray:
    return run(build_layer(kind, channels_last, *inputs, **settings), channels_last, *inputs)


def test_same_padding_is_tensorflows() -> None:
    for size, kernel, stride in itertools.product(range(1, 12), range(1, 8), range(1, 5)):
        before, after = same_padding(size, kernel, stride)
        assert 0 <= before <= after <= before + 1  # the odd place comes after
        assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
        assert same_padding(size, kernel, stride, before=kernel // 2)[0] == kernel // 2


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("padding", ["valid", "same", "theano"])
def test_pooling_is_the_mean_and_the_maximum_of_windows(channels_last: bool, padding: str) -> None:
    size, strides = (3, 2), (2, 1)
    maps = VALUES if channels_last else VALUES.transpose(0, 3, 1, 2)
    settings = {"pool_size": size, "strides": strides, "padding": padding}
    results = [
        compute("AveragePooling2D", channels_last, np.ascontiguousarray(maps), counts_padding=False, **settings),
        compute("MaxPooling2D", channels_last, np.ascontiguousarray(maps), **settings),
    ]
    befores = {"valid": (0, 0), "same": (same_padding(5, 3, 2)[0], same_padding(6, 2, 1)[0]), "theano": (1, 1)}[padding]
    rows, columns = (2, 5) if padding == "valid" else (3, 6)
    functions: tuple[Callable[..., Any], ...] = (np.mean, np.max)
    for result, function in zip(results, functions, strict=True):
        result = result if channels_last else result.transpose(0, 2, 3, 1)
        assert result.shape == (2, rows, columns, 4)
        for row, column in itertools.product(range(rows), range(columns)):
            top, left = row * 2 - befores[0], column - befores[1]
            window = VALUES[:, max(0, top) : top + 3, max(0, left) : left + 2]
            np.testing.assert_allclose(result[:, row, column], function(window, axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("channels_last", [True, False])
def test_padding_counts_where_keras_had_it_so(channels_last: bool) -> None:
    ones = np.ones_like(VALUES)
    settings = {"pool_size": (2, 2), "strides": (1, 1), "padding": "theano"}
    counted = compute("AveragePooling2D", channels_last, ones, counts_padding=True, **settings)
    assert (
        counted.min() == 0.25
        and compute("AveragePooling2D", channels_last, ones, counts_padding=False, **settings).min() == 1
    )


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("axis", [-1, 1, 2, 3])
def test_axes_are_keras_axes(channels_last: bool, axis: int) -> None:
    length = VALUES.shape[axis]
    along = [1, 1, 1, 1]
    along[axis] = length
    joined = compute("Concatenate", channels_last, VALUES, 2 * VALUES, axis=axis)
    np.testing.assert_array_equal(joined, np.concatenate([VALUES, 2 * VALUES], axis))
    powers = np.exp(VALUES)
    expected = powers / powers.sum(axis, keepdims=True)
    np.testing.assert_allclose(compute("Softmax", channels_last, VALUES, axis=axis), expected, rtol=1e-5)

    settings = {"axis": axis, "epsilon": 0.1, "momentum": 0.9, "center": True, "scale": True}
    layer: Any = build_layer("BatchNormalization", channels_last, VALUES, **settings)
    gamma, beta, mean, variance = DRAW.uniform(0.5, 2, (4, length)).astype(np.float32)
    layer.set_weights(gamma, beta, mean, variance)
    scaled = (VALUES - mean.reshape(along)) / np.sqrt(variance.reshape(along) + 0.1)
    expected = scaled * gamma.reshape(along) + beta.reshape(along)
    np.testing.assert_allclose(run(layer, channels_last, VALUES), expected, atol=1e-5)

    layer = build_layer("Normalization", channels_last, VALUES, axes=[axis], invert=False)
    layer.set_weights(mean, variance, np.array(3))
    expected = (VALUES - mean.reshape(along)) / np.sqrt(variance.reshape(along))
    np.testing.assert_allclose(run(layer, channels_last, VALUES), expected, atol=1e-5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_layers_that_depend_on_the_order_of_axes(channels_last: bool) -> None:
    flat = compute("Flatten", channels_last, VALUES, moves_channels=False)
    np.testing.assert_array_equal(flat, VALUES.reshape(2, -1))
    moved = compute("Flatten", channels_last, VALUES, moves_channels=True)
    np.testing.assert_array_equal(moved, VALUES.transpose(0, 2, 3, 1).reshape(2, -1))
    np.testing.assert_array_equal(
        compute("Reshape", channels_last, VALUES, shape=[4, -1, 6]), VALUES.reshape(2, 4, 5, 6)
    )
    np.testing.assert_array_equal(
        compute("Permute", channels_last, VALUES, dims=[3, 1, 2]), VALUES.transpose(0, 3, 1, 2)
    )

    layer: Any = build_layer("Dense", channels_last, VALUES, units=3, use_bias=True)
    kernel, bias = DRAW.normal(size=(4, 3)).astype(np.float32), np.array([1, 2, 3], np.float32)
    layer.set_weights(kernel, bias)
    np.testing.assert_allclose(run(layer, channels_last, VALUES), VALUES @ kernel + bias, atol=1e-5)

    layer = build_layer("PReLU", channels_last, VALUES, shared_axes=[1])
    alpha = DRAW.normal(size=(1, 6, 4)).astype(np.float32)
    layer.set_weights(alpha)
    expected = np.where(VALUES > 0, VALUES, alpha * VALUES)
    np.testing.assert_allclose(run(layer, channels_last, VALUES), expected, atol=1e-6)

    scales = [1.0, 2.0, 3.0, 4.0]
    np.testing.assert_allclose(
        compute("Rescaling", channels_last, VALUES, scale=scales, offset=1.0), VALUES * scales + 1, atol=1e-6
    )


@pytest.mark.parametrize("channels_last", [True, False])
def test_edges_are_added_and_cut_where_keras_does(channels_last: bool) -> None:
    edges = [[1, 0], [2, 3]]
    wide = [(0, 0), (1, 0), (2, 3), (0, 0)] if channels_last else [(0, 0), (0, 0), (1, 0), (2, 3)]
    np.testing.assert_array_equal(compute("ZeroPadding2D", channels_last, VALUES, edges=edges), np.pad(VALUES, wide))
    kept = [slice(low, size - high) for (low, high), size in zip(wide, np.pad(VALUES, wide).shape, strict=True)]
    assert np.array_equal(
        compute("Cropping2D", channels_last, np.pad(VALUES, wide), edges=edges), np.pad(VALUES, wide)[tuple(kept)]
    )
    rows, columns = (1, 2) if channels_last else (2, 3)
    expected = VALUES.repeat(2, rows).repeat(3, columns)
    np.testing.assert_array_equal(
        compute("UpSampling2D", channels_last, VALUES, size=[2, 3], interpolation="nearest"), expected
    )


SAME: dict[str, Any] = {"strides": [2, 2], "padding": "same"}
CONV = {"filters": 4, "groups": 1, "kernel_size": [3, 2], "dilation_rate": [1, 1], "use_bias": True, **SAME}
SHARED: dict[str, dict[str, Any]] = {
    "MaxPooling2D": {"pool_size": [3, 2], **SAME},
    "AveragePooling2D": {"pool_size": [2, 3], "counts_padding": False, **SAME},
    "UpSampling2D": {"size": [2, 3], "interpolation": "nearest"},
    "Conv2D": CONV,
    "Softmax": {"axis": -1},
    "Activation": {"function": "softmax"},
    "Rescaling": {"scale": [1.0, 2.0, 3.0, 4.0], "offset": 1.0},
    "Dense": {"units": 4, "use_bias": True},
}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("kind", SHARED)
def test_a_layer_that_is_used_again_may_get_other_sizes_and_ranks(kind: str, channels_last: bool) -> None:
    inputs = [VALUES, VALUES[:, :4, :5], VALUES[:, :3, :2]]
    if kind in list(SHARED)[:4]:
        inputs = [values if channels_last else np.ascontiguousarray(values.transpose(0, 3, 1, 2)) for values in inputs]
    else:
        inputs += [VALUES[:, 0], VALUES[:, 0, 0]]
    shared = build_layer(kind, channels_last, inputs[0], **SHARED[kind])
    for values in inputs[1:]:
        own = build_layer(kind, channels_last, values, **SHARED[kind])
        own.load_state_dict(shared.state_dict())
        assert np.array_equal(run(shared, channels_last, values), run(own, channels_last, values))


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_softmax_may_be_over_several_axes(channels_last: bool) -> None:
    powers = np.exp(VALUES)
    expected = powers / powers.sum((1, 3), keepdims=True)
    np.testing.assert_allclose(compute("Softmax", channels_last, VALUES, axis=[1, -1]), expected, rtol=1e-5)


DEPTHWISE = {"depth_multiplier": 1, "kernel_size": [3, 3], "dilation_rate": [1, 1], "use_bias": True, **SAME}


@pytest.mark.parametrize(
    ("kind", "settings", "shapes"),
    [
        ("Conv2D", CONV, [(3, 3), (4,)]),
        ("Conv2D", CONV, [(3, 2, 3, 2, 2), (4,)]),
        ("Conv2D", CONV, [(3, 2, 3, 4)]),
        ("DepthwiseConv2D", DEPTHWISE, [(9, 3), (3,)]),
        ("PReLU", {"shared_axes": []}, [(192,)]),
    ],
)
def test_arrays_of_another_rank_are_refused(kind: str, settings: Any, shapes: list[tuple[int, ...]]) -> None:
    network = graph_of(described((kind, settings)))
    with pytest.raises(UsageError, match=rf"the layer '{kind.lower()}' \({kind}\): the file's arrays .* do not fit it"):
        network.set_weights({0: [np.zeros(shape, np.float32) for shape in shapes]})


def test_long_names_are_cut_in_errors() -> None:
    architecture = described(("Softmax", {"axis": 9}))
    architecture["layers"][0]["name"] = "n\n" * 5_000
    with pytest.raises(UsageError, match="the layer 'n n n") as raised:
        graph_of(architecture)
    assert len(str(raised.value)) < 200


def test_relu_has_a_ceiling_a_slope_and_a_threshold() -> None:
    values = np.array([[-2, -0.5, 0, 0.5, 1, 3, 7]], np.float32)
    for ceiling, slope, threshold in itertools.product((None, 2.0), (0.0, 0.3), (0.0, 0.5)):
        result = compute("ReLU", True, values, max_value=ceiling, negative_slope=slope, threshold=threshold)
        above = np.minimum(values, np.inf if ceiling is None else ceiling)
        np.testing.assert_allclose(result, np.where(values > threshold, above, slope * (values - threshold)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("hard_sigmoid", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),  # until Keras 2
        ("hard_sigmoid_3", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("leaky_relu", lambda x: np.where(x > 0, x, 0.2 * x)),
        ("silu", lambda x: x / (1 + np.exp(-x))),
        ("softsign", lambda x: x / (1 + np.abs(x))),
        ("softplus", lambda x: np.log1p(np.exp(x))),
        ("squareplus", lambda x: (x + np.sqrt(x * x + 4)) / 2),
        ("log_sigmoid", lambda x: -np.log1p(np.exp(-x))),
    ],
)
def test_activations_are_their_formulas(name: str, formula: Callable[[np.ndarray], np.ndarray]) -> None:
    np.testing.assert_allclose(compute("Activation", True, 3 * VALUES, function=name), formula(3 * VALUES), atol=2e-6)


def test_noise_is_for_training_only() -> None:
    torch.manual_seed(0)
    noisy = {"Dropout": "rate", "SpatialDropout2D": "rate", "AlphaDropout": "rate", "GaussianDropout": "rate"}
    for kind, setting in {**noisy, "GaussianNoise": "stddev"}.items():
        layer = build_layer(kind, True, VALUES, **{setting: 0.5})
        assert np.array_equal(run(layer, True, VALUES), VALUES)
        assert not np.array_equal(run(layer.train(), True, VALUES), VALUES)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([32, 32, 3], (32, 3, False)),
        ([3, 32, 32], (32, 3, True)),
        ([28, 28, 1], (28, 1, False)),
        ([1, 28, 28], (28, 1, True)),
        ([28, 28], (28, 1, False)),
        ([3072], (32, 3, False)),
        ([784], (28, 1, False)),
    ],
)
def test_images_go_in_as_the_file_wants_them(shape: list[int], expected: tuple[int, int, bool]) -> None:
    assert image_layout(shape) == expected


@pytest.mark.parametrize("shape", [[32, 24, 3], [32, 32, 4], [4, 32, 32], [1000], [8, 8, 8, 3], [5, 7]])
def test_what_is_no_square_image_is_refused(shape: list[int]) -> None:
    with pytest.raises(UsageError, match="the input must be a square image with three channels or one"):
        image_layout(shape)


def described(*layers: tuple[str, Mapping[str, Any]], **others: Any) -> dict[str, Any]:
    """Return the JSON object of a chain of layers on images of 8 pixels, flattened for 3 classes."""
    chain = [*layers, ("Flatten", {"moves_channels": False}), ("Dense", {"units": 3, "use_bias": True})]
    named = [{"name": kind.lower(), "kind": kind, "settings": settings} for kind, settings in chain]
    nodes = [[number, number] for number in range(len(chain))]
    return {"input": [8, 8, 3], "layers": named, "nodes": nodes, "output": len(chain), **others}


def graph_of(architecture: dict[str, Any]) -> KerasGraph:
    return KerasGraph(Architecture.from_json(json.dumps(architecture)))


def convolution(**changes: Any) -> tuple[str, dict[str, Any]]:
    """Return a convolution that is valid except for the changes."""
    ones = {"kernel_size": [3, 3], "strides": [1, 1], "dilation_rate": [1, 1], "padding": "valid", "use_bias": True}
    return "Conv2D", {"filters": 4, "groups": 1, "data_format": "channels_last", **ones, **changes}


FAR = {"padding": "same", "data_format": "channels_last"}
PADDING = {"edges": [[10**9, 0], [10**9, 0]], "data_format": "channels_last"}
WIDE = {"pool_size": [9, 9], "strides": [1, 1], "padding": "valid", "data_format": "channels_last"}


@pytest.mark.parametrize(
    ("architecture", "text"),
    [
        (described(("ZeroPadding2D", PADDING)), "the layer 'zeropadding2d'"),
        (described(("Dense", {"units": 10**9, "use_bias": False})), "more than 268,435,456 weights"),
        (described(convolution(filters=2**20, padding="same")), "the layer 'conv2d' .*: the network is far too large"),
        (described(("UpSampling2D", {"size": [10**9] * 2, "interpolation": "nearest"})), "the layer 'upsampling2d'"),
        (
            described(("MaxPooling2D", {"pool_size": [2**13] * 2, "strides": [2**13] * 2, **FAR})),
            "windows are far too large",
        ),
        (described(convolution(dilation_rate=[2**14] * 2, strides=[9, 9], **FAR)), "windows are far too large"),
        (described(("MaxPooling2D", WIDE)), "the layer 'maxpooling2d' .*: RuntimeError"),
        (
            described(convolution(groups=2)),
            "the layer 'conv2d' .*: ValueError: in_channels must be divisible by groups",
        ),
        (described(convolution(kernel_size=[9, 9])), "Kernel size can't be greater than actual input size"),
        (described(("Flatten", {"moves_channels": False}), convolution()), "takes images with channels, got"),
        (described(("Reshape", {"shape": [5, 5]})), "the layer 'reshape' .*: RuntimeError: shape"),
        (described(("Add", {})), "takes two values or more of one rank"),
        (described(("Concatenate", {"axis": 4})), "takes two values or more"),
        (described(("Softmax", {"axis": 0})), "axis must be one of the axes after the batch"),
        (described(("System", {})), "the layer 'system' .*: KeyError"),
        (described(nodes=[[7, 0]], output=1), "a node refers to a layer or value that does not exist"),
        (described(nodes=[[0, -1]], output=1), "a node refers to a layer or value that does not exist"),
        (described(nodes=[[0, 0, 0]], output=1), "takes one value, got 2"),
        (described(nodes=[[0, 0]] * 6_000), "the layer 'flatten' .*: the network is far too large"),
        (described(input=[8, 8, 5]), "the input must be a square image"),
        (described(input=[8, None, 3]), "TypeError|TypeCheckError"),
        (described(output=9), "its output does not exist"),
        ({}, "KeyError"),
        ([1], "TypeError|TypeCheckError"),
    ],
)
def test_descriptions_that_cannot_be_are_refused_before_they_cost_memory(architecture: Any, text: str) -> None:
    with pytest.raises(UsageError, match=f"keras-graph.*{text}"):
        build_model("keras-graph", classes=3, size=8, options={"architecture": json.dumps(architecture)})


def test_a_forged_weights_file_is_refused(tmp_path: Path) -> None:
    options = {"architecture": json.dumps(described(convolution()))}
    path = tmp_path / "w.safetensors"
    save_weights(make_classifier("keras-graph", options, ("a", "b", "c"), 8, "unit"), path)
    assert load_weights(path).size == 8
    with safetensors.safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != CHECKSUM}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    for forged, text in (
        ({"architecture": json.dumps(described(("Dense", {"units": 10**9, "use_bias": False})))}, "weights"),
        ({"architecture": "[" * 9_999}, "RecursionError"),
        ({}, "missing .* argument: 'architecture'"),
    ):
        safetensors.torch.save_file(tensors, path, {**metadata, "model_options": json.dumps(forged)})
        with pytest.raises(UsageError, match=text):
            load_weights(path)


def test_it_is_no_network_to_choose_by_name() -> None:
    assert "keras-graph" not in model_names()
    with pytest.raises(UsageError, match="unknown model 'kerasgraph'"):
        build_model("kerasgraph")


def test_a_mix_of_layouts_is_what_the_order_of_axes_says() -> None:
    """A `channels_first` convolution takes the rows of [h, w, channels] for channels, as in Keras."""
    network = graph_of(described(convolution(data_format="channels_first", kernel_size=[2, 2]))).eval()
    images = torch.rand(2, 3, 8, 8)
    first: Any = network.layers[0]
    expected = nn.functional.conv2d(images.permute(0, 2, 3, 1), first.weight, first.bias)  # rows, [columns, colours]
    dense: Any = network.layers[2]
    torch.testing.assert_close(network(images), nn.functional.linear(expected.flatten(1), dense.weight, dense.bias))


def test_values_are_freed_after_their_last_use() -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def count_before(*_: Any) -> None:
        alive.append(sum(reference() is not None for reference in made))

    def watch(layer: nn.Module, inputs: Any, result: torch.Tensor) -> torch.Tensor:
        made.append(weakref.ref(result := result.clone()))
        return result

    layers = [("Activation", {"function": "relu"})] * 6
    network = graph_of(described(*layers, input=[3, 8, 8])).eval()  # channels first, so that nothing is permuted
    for layer in network.layers:
        layer.register_forward_pre_hook(count_before)
        layer.register_forward_hook(watch)
    network(torch.rand(1, 3, 8, 8))
    assert len(made) == 8 and max(alive) == 1
