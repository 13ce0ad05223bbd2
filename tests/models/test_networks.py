"""The registered networks: published numbers of parameters, shapes, initial weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cifarlab.errors import UsageError
from cifarlab.models import build_model, model_names
from cifarlab.models.lenet import C3_CONNECTIONS
from cifarlab.models.summary import count_parameters, draw, layer_table
from every_network import networks

PARAMETERS = {  # as published
    "lenet5": 61_106,
    "lenet5-3x3": 71_919,
    "lenet5-wide": 395_006,
    "ygnet": 1_369_738,
    "allcnn-c": 1_369_738,
    "firststeps": 551_722,
    "keras4": 1_250_858,
    "keras6": 2_395_434,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
    "preact-resnet18": 11_171_146,
    "wide-resnet16-4": 2_748_890,
    "wide-resnet28-10": 36_479_194,
    "resnext29-2x64d": 9_128_778,
    "resnext29-32x4d": 4_774_218,
    "resnext29-8x64d": 34_426_698,  # 34.4 M in the paper
    "vgg11": 9_231_114,
    "vgg16": 14_728_266,
    "densenet121": 6_956_298,
    "densenet-bc-100-12": 769_162,
    "mobilenetv2": 2_296_922,
    "convmixer-256-8": 594_186,
    "vit-tiny": 5_362_762,
    "cct-7-3x1": 3_760_139,
}
FASTNET_SHAPES = [(64, 30, 30), (64, 15, 15), (256, 14, 14), (256, 7, 7), (256, 6, 6), (256, 3, 3)]


def test_every_published_network_is_here() -> None:
    assert set(PARAMETERS) <= set(model_names())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    assert count_parameters(build_model(name)) == PARAMETERS[name]


def test_parameter_counts_of_the_options() -> None:
    assert count_parameters(build_model("lenet5", options={"c3": "dense"})) == 62_006
    assert count_parameters(build_model("lenet5-3x3", classes=9)) == 71_832
    network = build_model("firststeps")
    statistics = sum(value.numel() for name, value in network.named_buffers() if "running" in name)
    assert count_parameters(network) + statistics == 552_874


@pytest.mark.parametrize("name", networks())
def test_every_network_gives_logits_and_learns_from_every_weight(name: str) -> None:
    network = build_model(name, classes=7)
    logits = network(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None or not weight.requires_grad, key


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize(
    "size", [48, pytest.param(28, marks=pytest.mark.slow), pytest.param(96, marks=pytest.mark.slow)]
)
def test_networks_take_other_sizes(name: str, size: int) -> None:
    if (name, size) != ("lenet5", 28):  # which it refuses
        assert build_model(name, size=size)(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_an_image_too_small_is_an_error_that_says_so() -> None:
    with pytest.raises(UsageError, match=r"lenet5: images of 16x16 pixels are too small"):
        build_model("lenet5", size=16)


def test_shapes_inside_ygnet_and_allcnn() -> None:
    shapes = [row.output_shape for row in layer_table(build_model("ygnet"))]
    assert (96, 15, 15) in shapes and (192, 13, 13) in shapes and (192, 6, 6) in shapes
    shapes = [row.output_shape for row in layer_table(build_model("allcnn-c"))]
    assert (10, 6, 6) in shapes  # the paper averages over 6x6


def test_lecuns_table_has_sixty_connections() -> None:
    assert sum(map(len, C3_CONNECTIONS)) == 60
    assert [len(maps) for maps in C3_CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    assert len({tuple(sorted(maps)) for maps in C3_CONNECTIONS}) == 16  # no two see the same maps
    seen = np.bincount(np.concatenate([np.array(maps) for maps in C3_CONNECTIONS]))
    assert seen.tolist() == [10] * 6  # each map of S2 is used equally often


@pytest.mark.parametrize("name", ["keras4", "keras6", "lenet5-3x3"])
def test_pooling_before_relu_changes_no_value_and_no_gradient(name: str) -> None:
    network = build_model(name).eval()
    assert isinstance(network, nn.Sequential)
    layers = list(network)
    pools = [place for place, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    assert len(pools) >= 2
    for place in pools:
        relu = next(later for later in range(place, len(layers)) if isinstance(layers[later], nn.ReLU))
        layers.insert(place, layers.pop(relu))
    images = torch.randn(8, 3, 32, 32)
    gradients = []
    for order in (network, nn.Sequential(*layers)):
        network.zero_grad()
        order(images).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    assert torch.equal(network(images), nn.Sequential(*layers)(images))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_fastnet_is_as_its_docstring_says() -> None:
    rows = layer_table(build_model("fastnet"))
    shapes = [row.output_shape for row in rows if row.operation.startswith("UnitConv2d")]
    assert shapes == FASTNET_SHAPES
    assert (
        count_parameters(build_model("fastnet", options={"width": 32})) < count_parameters(build_model("fastnet")) / 3
    )


def test_keras_networks_start_glorot_uniform() -> None:
    torch.manual_seed(0)
    network = build_model("keras6")
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 8
    for layer in layers:
        area = layer.weight[0, 0].numel() if layer.weight.dim() == 4 else 1
        bound = (6 / ((layer.weight.shape[0] + layer.weight.shape[1]) * area)) ** 0.5
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.97 * bound
        assert layer.bias is not None and not layer.bias.any()


def test_firststeps_starts_he_uniform_with_keras_batch_norm() -> None:
    torch.manual_seed(0)
    network = build_model("firststeps")
    convolution = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert 0.95 * (6 / 27) ** 0.5 < convolution.weight.abs().max() <= (6 / 27) ** 0.5
    norm = next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


@pytest.mark.parametrize("name", networks())
def test_networks_for_gray_images_differ_in_the_first_layer_alone(name: str) -> None:
    colour, gray = build_model(name).state_dict(), build_model(name, in_channels=1).state_dict()
    assert colour.keys() == gray.keys()
    changed = [key for key in colour if colour[key].shape != gray[key].shape]
    assert changed and gray[changed[0]].shape[1] == 1 and colour[changed[0]].shape[1] == 3
    assert len(changed) == (3 if name == "fastnet" else 1)  # whose whitening has fewer filters


def test_lenet5_for_gray_images_has_the_first_layer_of_the_paper() -> None:
    rows = layer_table(build_model("lenet5", in_channels=1), in_channels=1)
    assert rows[0].weights == 156 and rows[0].macs == 28 * 28 * 150
    assert "1 x 32 x 32" in draw("lenet5", rows, in_channels=1)
