"""Measuring speed: operations are counted correctly, and every network can be measured."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cifarlab import recipes
from cifarlab.experiments import bench
from conftest import Cli, answer

CPU = torch.device("cpu")


def test_operations_are_counted() -> None:
    inputs, kernels = torch.rand(4, 3, 10, 10, requires_grad=True), torch.rand(5, 3, 3, 3, requires_grad=True)
    forward = 2 * 4 * 5 * 8 * 8 * 3 * 9
    assert bench.flops(lambda: discard(F.conv2d(inputs, kernels))) == forward
    assert bench.flops(lambda: F.conv2d(inputs, kernels).sum().backward()) == 3 * forward


def test_durations_are_measured() -> None:
    calls: list[int] = []
    assert 0 <= bench.median_seconds(lambda: calls.append(1), CPU, 0) < 0.1
    assert len(calls) == 8  # three to warm up, five to measure


def test_there_is_a_recipe_for_every_network_that_is_not_very_large() -> None:
    chosen = bench.one_recipe_per_network()
    left_out = {recipes.load(name).model for name in recipes.names()} - {recipe.model for recipe in chosen}
    assert {"resnet18", "wide-resnet28-10"} <= left_out and len(left_out) < 12
    assert {"fastnet", "keras6", "lenet5", "resnet20"} <= {recipe.model for recipe in chosen}
    assert len({(recipe.model, str(recipe.model_options)) for recipe in chosen}) == len(chosen)
    assert {recipe.dataset for recipe in chosen} == {"cifar10"}


@pytest.fixture(scope="module")
def peak() -> bench.Peak:
    return bench.measure_peak("fp32", CPU, 0)


def test_the_peak_is_measured(peak: bench.Peak) -> None:
    assert peak.precision == "fp32" and peak.convolution > 1e8 and peak.matmul > 1e8


@pytest.mark.parametrize("name", ["lenet5", pytest.param("fast90", marks=pytest.mark.slow)])
def test_a_recipe_is_measured(name: str, peak: bench.Peak) -> None:
    recipe = recipes.load(name).changed({"batch_size": 16, "precision": "fp32"})
    speed = bench.measure(recipe, CPU, peak, 0)
    assert speed.batch_size == 16 and speed.precision == "fp32"
    assert speed.train_share == pytest.approx(speed.train_flops / max(peak.convolution, peak.matmul))
    assert 0 < speed.train_images_per_second < speed.predict_images_per_second
    assert 0 < speed.train_share <= 1


def test_the_command_prints_a_table_and_json(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CONVOLUTION", (16, 32, 8))  # a small peak, because its value does not matter here
    monkeypatch.setattr(bench, "MATRIX", 256)
    document = answer(cli("bench", "lenet5", "--seconds", "0", "--precision", "fp32", "--batch-size", "8", "--json"))
    assert [row["recipe"] for row in document["speeds"]] == ["lenet5"]
    assert document["peaks"][0]["precision"] == "fp32" and document["environment"]["torch"]
    assert "of peak" in cli("bench", "lenet5", "--seconds", "0", "--precision", "fp32").stdout
    assert "unknown recipe" in cli("bench", "lenet55", status=2).stderr


def discard(_: torch.Tensor) -> None:
    pass
