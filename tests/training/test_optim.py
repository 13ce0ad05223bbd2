"""Schedules at known points, and optimizers that do what the recipe says."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from cifarlab import recipe
from cifarlab.data.batches import steps_per_epoch
from cifarlab.models import build_model
from cifarlab.models.layers import MaxNormLinear, SparseConv2d
from cifarlab.training.optim import Muon, learning_rate, make_optimizer, orthogonalize, set_learning_rate

CPU = torch.device("cpu")


def rates(steps: int = 10, **changes: object) -> list[float]:
    """Return the rates of all steps; `steps` is their number in an epoch."""
    made = recipe("lenet5", learning_rate=0.1, **changes)
    return [learning_rate(made, step, steps) for step in range(made.epoch_count * steps)]


def test_constant_and_inverse_time() -> None:
    assert set(rates(epochs=2)) == {0.1}
    decayed = rates(epochs=2, schedule="inverse-time", decay=0.5)
    assert decayed[:3] == pytest.approx([0.1, 0.1 / 1.5, 0.1 / 2])


def test_step_falls_after_its_epochs() -> None:
    stepped = rates(epochs=4, schedule="step", milestones=[1, 3], factor=0.1)
    assert stepped[9] == 0.1 and stepped[10] == pytest.approx(0.01) and stepped[30] == pytest.approx(0.001)


def test_resnet110_has_the_rates_of_its_paper() -> None:
    """He et al. 2015, section 4.2: 64,000 steps, of which 400 are at 0.01."""
    made, steps = recipe("resnet110"), steps_per_epoch(50_000, 128)
    assert math.floor(made.epochs) * steps + math.ceil(steps * (made.epochs % 1)) == 64_000
    values = [round(learning_rate(made, step, steps), 9) for step in range(64_000)]
    changes = [step for step, (before, after) in enumerate(pairwise(values), start=1) if before != after]
    assert changes == [400, 32_000, 48_000] and [values[0], *(values[step] for step in changes)] == [
        0.01,
        0.1,
        0.01,
        0.001,
    ]


@pytest.mark.parametrize("schedule", ["step", "cosine", "linear", "one-cycle"])
def test_the_rate_of_the_warmup_may_be_constant(schedule: str) -> None:
    values = rates(epochs=20, schedule=schedule, milestones=[15], warmup=0.2, warmup_rate=0.03)
    assert set(values[:39]) == {0.03} and values[41] == pytest.approx(0.1, rel=0.02)
    risen = rates(epochs=20, schedule=schedule, milestones=[15], warmup=0.2)
    assert risen[:39] == pytest.approx([0.1 * (step + 1) / (0.2 * 201) for step in range(39)])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one-cycle"])
def test_schedules_that_rise_and_fall(schedule: str) -> None:
    values = rates(epochs=20, schedule=schedule, warmup=0.2)
    top = values.index(max(values))
    assert max(values) == pytest.approx(0.1, rel=0.03)
    assert 35 <= top <= 45
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)
    assert 0 < values[0] < 0.01 and 0 < values[-1] < 0.002


def test_cosine_without_warmup_is_half_way_in_the_middle() -> None:
    values = rates(epochs=20, schedule="cosine")
    assert values[0] == pytest.approx(0.1, rel=0.01)
    assert values[100] == pytest.approx(0.05, rel=0.02)


def test_sgd_step_is_the_formula() -> None:
    weight = nn.Linear(3, 1, bias=False)
    start, gradient = weight.weight.detach().clone(), torch.ones(1, 3)
    made = recipe("lenet5", learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    optimizer = make_optimizer(weight, made, CPU)
    set_learning_rate(optimizer, made, 0, 1)
    weight.weight.grad = gradient.clone()
    optimizer.step()
    decayed = gradient + 0.01 * start
    torch.testing.assert_close(weight.weight.detach(), start - 0.1 * (decayed + 0.9 * decayed))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_optimizer_learns(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(5, 2)
    made = recipe("lenet5", optimizer=name, learning_rate=0.05, weight_decay=1e-4)
    optimizer = make_optimizer(network, made, CPU)
    inputs = torch.randn(200, 5)
    labels = (inputs.sum(1) > 0).long()
    first = last = 0.0
    for _ in range(50):
        loss = nn.functional.cross_entropy(network(inputs), labels)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()
    assert last < 0.5 * first


def test_linear_falls_straight_to_zero() -> None:
    values = rates(epochs=10, schedule="linear")
    steps = [before - after for before, after in pairwise(values)]
    assert values[0] == pytest.approx(0.1, rel=0.02) and values[-1] == pytest.approx(0.1 / 101, rel=0.02)
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (30, 30)])
def test_orthogonalize_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, values, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    found = orthogonalize(left @ torch.diag(values) @ right, steps=5)
    inside = left.T @ found @ right.T  # diagonal, if the singular vectors are the same
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-3
    assert inside.diagonal().min() > 0.3 and inside.diagonal().max() < 1.3
    assert (inside.diagonal().max() / inside.diagonal().min()) < 0.5 * values.max() / values.min()


def test_muon_orthogonalizes_kernels_and_takes_plain_steps_elsewhere() -> None:
    network = build_model("fastnet", options={"width": 8})
    made = recipe("fast94", learning_rate=0.1, head_learning_rate=0.2, bias_learning_rate=0.3, weight_decay=0.01)
    optimizer = make_optimizer(network, made.changed({"precision": "fp32"}), CPU)
    assert isinstance(optimizer, Muon)
    kernels, head, biases = optimizer.param_groups
    assert {weight.ndim for weight in kernels["params"]} == {4} and len(kernels["params"]) == 6
    assert [tuple(weight.shape) for weight in head["params"]] == [(10, 32)]
    assert {weight.ndim for weight in biases["params"]} == {1} and len(biases["params"]) == 7
    before = {id(weight): weight.detach().clone() for weight in network.parameters()}
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    for group, rate in ((head, 0.2), (biases, 0.3)):
        weight = group["params"][0]
        expected = before[id(weight)] * 0.99 - rate * (1 + made.momentum) * weight.grad
        torch.testing.assert_close(weight.detach(), expected)
    kernel = kernels["params"][0]  # its layer scales the weights after the step
    assert kernel.detach().norm().item() == pytest.approx(8**0.5)
    update = orthogonalize(kernel.grad.flatten(1)).view_as(kernel)
    stepped = before[id(kernel)] - 0.1 * update
    torch.testing.assert_close(kernel.detach(), stepped * 8**0.5 / stepped.norm())


@pytest.mark.parametrize(
    ("name", "theirs", "more"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
    ],
)
def test_steps_are_pytorchs_own(name: str, theirs: type, more: dict[str, float]) -> None:
    ours, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(ours.state_dict())
    made = recipe("lenet5", optimizer=name, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    steps = (
        (ours, make_optimizer(ours, made, CPU)),
        (other, theirs(other.parameters(), lr=0.1, weight_decay=0.01, fused=True, **more)),
    )
    for seed in range(3):
        for layer, optimizer in steps:
            images = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            layer(images).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, other.weight) and torch.equal(ours.bias, other.bias)


def test_optimizers_start_without_the_compiler() -> None:
    code = """
import sys, torch, cifarlab
from cifarlab.training.optim import make_optimizer
for name in ("sgd", "adam", "adamw", "muon"):
    layer = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(layer, cifarlab.recipe("lenet5", optimizer=name), torch.device("cpu"))
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    print(name, "torch._dynamo" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "sgd False\nadam False\nadamw False\nmuon False\n", ended.stderr


def test_muons_weight_decay_falls_with_the_learning_rate() -> None:
    layer = nn.Linear(3, 2)
    made = recipe("lenet5", optimizer="muon", schedule="linear", epochs=1, weight_decay=0.5)
    optimizer = make_optimizer(layer, made, CPU)
    set_learning_rate(optimizer, made, 49, 99)  # half way
    start = layer.weight.detach().clone()
    for weight in layer.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), start * 0.75)


def test_muon_decays_no_kernel_and_the_output_layer_whatever_its_learning_rate() -> None:
    for rate in (0.001, 1.0):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        made = recipe("lenet5", optimizer="muon", learning_rate=rate, head_learning_rate=rate, weight_decay=0.5)
        optimizer = make_optimizer(network, made, CPU)
        before = [weight.detach().clone() for weight in network.parameters()]
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        for weight, start, decay in zip(network.parameters(), before, (1, 0.5, 0.5, 0.5), strict=True):
            torch.testing.assert_close(weight.detach(), decay * start)


def test_muon_takes_each_pair_of_a_connection_table_as_an_output() -> None:
    network = nn.Sequential(SparseConv2d(2, [[0], [0, 1]], 3), nn.Flatten(), nn.Linear(2, 2))
    made = recipe("lenet5", optimizer="muon", learning_rate=0.1, momentum=0, precision="fp32")
    optimizer = make_optimizer(network, made, CPU)
    kernels = next(network.parameters())
    start, kernels.grad = kernels.detach().clone(), torch.randn(3, 3, 3)
    optimizer.step()
    expected = start - 0.1 * orthogonalize(kernels.grad.view(3, 9)).view(3, 3, 3)
    torch.testing.assert_close(kernels.detach(), expected)


def test_gradients_are_clipped_before_the_step() -> None:
    network = nn.Linear(4, 1, bias=False)
    start = network.weight.detach().clone()
    made = recipe("lenet5", learning_rate=1.0, momentum=0, gradient_clip=0.5)
    optimizer = make_optimizer(network, made, CPU)
    network.weight.grad = torch.full((1, 4), 100.0)
    optimizer.step()
    assert (network.weight.detach() - start).norm() == pytest.approx(0.5, rel=1e-3)


def test_max_norm_holds_after_every_step() -> None:
    network = build_model("keras6")
    optimizer = make_optimizer(network, recipe("keras6", learning_rate=50.0), CPU)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    layer = next(layer for layer in network.modules() if isinstance(layer, MaxNormLinear))
    assert layer.weight.detach().norm(dim=1).max() <= 3.0001
