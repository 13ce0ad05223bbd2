"""The layers that PyTorch does not have, against PyTorch and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cifarlab import Data
from cifarlab.models.layers import Dropout, MaxNormLinear, SparseConv2d, UnitConv2d, Whitening, random_bytes
from cifarlab.models.lenet import C3_CONNECTIONS


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


@pytest.mark.parametrize("p", [0.001, 0.003, 0.01, 0.99, 0.999])
def test_extreme_dropout_rates_are_kept_to(p: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(p)(torch.ones(4_000_000))
    kept = (dropped != 0).double().mean().item()
    assert min(kept, 1 - kept) == pytest.approx(min(p, 1 - p), rel=0.1)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.1)


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
    whole, pooled = UnitConv2d(3, 5), UnitConv2d(3, 5, before_pooling=True)
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
def test_the_gradient_of_small_maps_is_that_of_the_library(
    size: int, pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = UnitConv2d(16, 24, pooled)
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    images = torch.randn(3, 16, size, size).to(torch.bfloat16, memory_format=torch.channels_last)
    results = []
    for positions in (36, 0):
        monkeypatch.setattr(UnitConv2d, "SMALL_MAP", positions)
        layer.zero_grad()
        maps = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(maps)
        assert ("SmallMapConvolution" in str(result.grad_fn)) == bool(positions)
        result.backward(torch.arange(result.numel()).view(result.shape).sin().bfloat16())
        assert maps.grad is not None and layer.weight.grad is not None
        results.append((result, maps.grad, layer.weight.grad))
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (one - other).norm() <= 0.01 * other.norm()
