from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cifarlab import Data
from cifarlab.errors import UsageError
from cifarlab.models import build_model, model_names, register, resolve_model_name
from cifarlab.models.layers import Dropout, MaxNormLinear, SparseConv2d, UnitConv2d, Whitening, random_bytes
from cifarlab.models.lenet import C3_CONNECTIONS
from cifarlab.models.summary import count_macs, count_parameters, draw, layer_table

PARAMETERS = {  # as published
    "lenet5": 61_106,
    "lenet5-3x3": 71_919,
    "lenet5-wide": 395_006,
    "ygnet": 1_369_738,
    "allcnn-c": 1_369_738,
    "firststeps": 551_722,
    "keras4": 1_250_858,
    "keras6": 2_395_434,
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


@pytest.mark.parametrize("name", model_names())
def test_every_network_gives_logits_and_learns_from_every_weight(name: str) -> None:
    network = build_model(name, classes=7)
    logits = network(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    for key, weight in network.named_parameters():
        assert weight.grad is not None or not weight.requires_grad, key


@pytest.mark.parametrize("name", model_names())
def test_networks_take_other_sizes(name: str) -> None:
    assert build_model(name, size=48)(torch.zeros(2, 3, 48, 48)).shape == (2, 10)


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


def test_sparse_convolution_equals_a_convolution_map_by_map() -> None:
    layer = SparseConv2d(6, C3_CONNECTIONS, 5)
    nn.init.normal_(layer.bias)
    images = torch.randn(3, 6, 14, 14)
    expected = torch.zeros(3, 16, 10, 10)
    pair = 0
    for output, origins in enumerate(C3_CONNECTIONS):
        for origin in origins:
            one = images[:, origin : origin + 1]
            expected[:, output] += nn.functional.conv2d(one, layer.weight[pair][None, None])[:, 0]
            pair += 1
    expected += layer.bias[:, None, None]
    torch.testing.assert_close(layer(images), expected, rtol=1e-4, atol=1e-5)


def test_max_norm_is_kept_and_small_weights_are_left_alone() -> None:
    layer = MaxNormLinear(50, 4, limit=3.0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 50))
        layer.weight[0] *= 0.01
    before = layer.weight.detach().clone()
    layer.constrain()
    norms = layer.weight.detach().norm(dim=1)
    assert torch.equal(layer.weight[0], before[0])
    assert torch.all(norms[1:] <= 3.0001)
    torch.testing.assert_close(layer.weight[1] / norms[1], before[1] / before[1].norm())  # only the length changes


def test_random_bytes_are_all_equally_likely_and_keep_the_memory_order() -> None:
    torch.manual_seed(0)
    like = torch.empty(10, 8, 30, 31).contiguous(memory_format=torch.channels_last)
    drawn = random_bytes(like)
    assert drawn.shape == like.shape and drawn.stride() == like.stride()
    counts = torch.bincount(drawn.flatten().long(), minlength=256).double()
    expected = drawn.numel() / 256
    assert len(counts) == 256
    assert 150 < ((counts - expected) ** 2 / expected).sum() < 380  # chi-square with 255 degrees of freedom
    pairs = drawn.as_strided((drawn.numel(),), (1,)).double()
    assert abs(torch.corrcoef(torch.stack([pairs[:-1], pairs[1:]]))[0, 1]) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, values = Dropout(p), torch.ones(50, 16, 20, 20, dtype=dtype, requires_grad=True)
    dropped = layer(values)
    kept = (dropped != 0).double().mean().item()
    assert kept == pytest.approx(1 - p, abs=0.005)
    if p < 1:
        assert dropped.double().mean().item() == pytest.approx(1, abs=0.01)
    dropped.sum().backward()
    assert values.grad is not None and torch.equal(values.grad, dropped.detach())  # the mask, for inputs of 1
    assert torch.equal(layer.eval()(values), values)


def test_dropout_has_the_distribution_of_pytorchs_and_its_numbers_follow_the_seed() -> None:
    values = torch.randn(300, 7)
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(Dropout(0.25)(values))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    kept = masks[0] != 0
    torch.testing.assert_close(masks[0][kept], values[kept] / 0.75)  # 0.25 is 64/256 exactly


def test_dropout_takes_values_with_gaps_in_memory() -> None:
    torch.manual_seed(0)
    values = torch.ones(40, 40)[:, ::2]
    assert (Dropout(0.5)(values) != 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_whitening_whitens_patches(cifar10: Data) -> None:
    images = torch.from_numpy(np.array(cifar10.train.images[:1000])).float() / 64 - 2
    layer = Whitening(2)
    layer.fit(images)
    outputs = layer(images)  # [n, 24, 31, 31]
    flat = outputs[:, :12].permute(1, 0, 2, 3).flatten(1).double()
    covariance = flat @ flat.T / flat.shape[1]
    assert covariance.diagonal()[3:].min() > 0.5 and covariance.diagonal().max() < 1.05  # 1 but for the epsilon
    assert (covariance - covariance.diagonal().diag()).abs().max() < 0.01
    torch.testing.assert_close(outputs[:, 12:], -outputs[:, :12])
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("size", [6, 7])
def test_a_pooled_convolution_leaves_out_only_what_pooling_drops(size: int) -> None:
    torch.manual_seed(0)
    whole, pooled = UnitConv2d(3, 5), UnitConv2d(3, 5, pooled=True)
    pooled.load_state_dict(whole.state_dict())
    images = torch.randn(4, 3, size, size)
    expected = nn.functional.max_pool2d(whole(images), 2)
    torch.testing.assert_close(nn.functional.max_pool2d(pooled(images), 2), expected)
    assert pooled(images).shape[2:] == (6, 6)


def test_unit_convolution_begins_as_the_identity_and_keeps_its_norm() -> None:
    layer = UnitConv2d(5, 8)
    images = torch.randn(2, 5, 9, 9)
    begun = layer(images)[:, :5] / layer.weight.detach()[0, 0, 1, 1]
    torch.testing.assert_close(begun, images)
    layer.weight.data.mul_(7)
    layer.constrain()
    assert layer.weight.detach().norm().item() == pytest.approx(8**0.5)


@pytest.mark.parametrize(("size", "pooled"), [(7, True), (6, False), (3, False)])
def test_the_gradient_for_few_places_is_that_of_the_library(
    size: int, pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = UnitConv2d(16, 24, pooled)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    images = torch.randn(3, 16, size, size).to(torch.bfloat16, memory_format=torch.channels_last)
    found = []
    for places in (36, 0):
        monkeypatch.setattr(UnitConv2d, "SMALL_MAP", places)
        layer.zero_grad()
        maps = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(maps)
        assert ("SmallMapConvolution" in str(result.grad_fn)) == bool(places)
        result.backward(torch.arange(result.numel()).view(result.shape).sin().bfloat16())
        assert maps.grad is not None and layer.weight.grad is not None
        found.append((result, maps.grad, layer.weight.grad))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).norm() <= 0.01 * other.norm()


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


def test_macs_agree_with_pytorchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for name in ("keras4", "ygnet", "lenet5-wide"):
        network = build_model(name).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, 32, 32))
        assert count_macs(network) == counter.get_total_flops() // 2


def test_summary_draws_every_weight() -> None:
    rows = layer_table(build_model("lenet5-3x3"))
    text = draw("lenet5-3x3", rows)
    assert "71,919 trainable parameters" in text
    assert "Conv2d 3x3" in text and "13 x 13 x 13" in text and "78.3%" in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()


def test_ones_own_network_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes, width=4):\n"
        "        super().__init__()\n"
        "        self.body = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "        self.head = nn.Linear(width, classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.body(x))\n"
        "def bad(classes): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 3072))\n"
        "def broken(classes): return nn.Sequential(nn.Flatten(), nn.Linear(5, classes))\n"
    )
    network = build_model(f"{file}:Net", classes=3, options={"width": 8})
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert layer_table(network)[-1].weights == 27
    for name, text in (
        ("Nett", "did you mean 'Net'"),
        ("bad", r"must return logits \[2, 10\], returned \[2, 3072\]"),
        ("broken", r"layer '1', Linear\(in_features=5.*got \[2, 3072\].*mat1 and mat2 shapes"),
    ):
        with pytest.raises(UsageError, match=text):
            build_model(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"unknown option of .*: did you mean 'width'"):
        build_model(f"{file}:Net", options={"widht": 8})
    with pytest.raises(UsageError, match=r"the file 'nowhere\.py' does not exist"):
        build_model("nowhere.py:Net")


def test_ones_own_file_is_run_as_python_would_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "widths.py").write_text("WIDTH = 6")
    file = tmp_path / "with_helper.py"
    file.write_text(
        "from torch import nn\n"
        "from widths import WIDTH\n"
        "print('loading')\n"
        "def net(classes):\n"
        "    print('building')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, WIDTH), nn.Linear(WIDTH, classes))\n"
        "def fixed(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))\n"
        "def nothing(classes): return nn.Flatten()\n"
        "def ends(classes): raise SystemExit(0)\n"
    )
    assert build_model(f"{file}:net", classes=4)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and "loading" in shown.err and "building" in shown.err
    assert str(tmp_path) not in sys.path
    for name, text in (
        ("fixed", r"returned \[2, 7\]. Add a parameter `classes`"),
        ("nothing", "has no weights to train"),
        ("ends", "SystemExit: 0"),
    ):
        with pytest.raises(UsageError, match=text):
            build_model(f"{file}:{name}")
    with pytest.raises(UsageError, match=r"write net\.py:NAME"):
        build_model("net.py")


def test_a_registered_function_is_a_network() -> None:
    @register
    def only_for_tests(classes: int = 10) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))  # fits tests that follow

    assert "only-for-tests" in model_names()
    assert build_model("only-for-tests", classes=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    assert resolve_model_name(only_for_tests) == "only-for-tests"


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown model 'kears4': did you mean 'keras4'"):
        build_model("kears4")
    with pytest.raises(UsageError, match="unknown activation 'tanhh': did you mean 'tanh'"):
        build_model("lenet5", options={"activation": "tanhh"})


def test_summary_takes_layers_of_other_kinds() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Conv1d(3, 4, 5)
            self.memory = nn.GRU(4, 6, batch_first=True)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = self.memory(self.line(images.flatten(2)).transpose(1, 2))[0]
            return values[:, -1]

    rows = layer_table(Other())
    assert [row.operation for row in rows] == ["Conv1d 5", "GRU"]
    assert rows[1].output_shape == (1020, 6)


def test_a_users_error_of_any_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "@dataclass\n"
        "class Settings:\n"
        "    width: int = 3\n"
        "def net(classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes).undefined)\n"
    )
    with pytest.raises(UsageError, match=r"AttributeError: .*undefined"):
        build_model(f"{file}:net")
