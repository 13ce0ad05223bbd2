"""The benchmark scripts run, and compare the same network."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cifarlab import Data
from cifarlab.models import build_model
from cifarlab.recipes import Recipe
from cifarlab.statistics import significance
from cifarlab.statistics.comparison import TestedRun as ComparedRun  # pytest collects names with Test
from cifarlab.statistics.comparison import compare

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


def run(*arguments: str) -> str:
    command = [sys.executable, str(FOLDER / arguments[0]), *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5


@pytest.mark.parametrize(
    "name",
    [
        "ablations.py",
        "false_alarms.py",
        "study_overhead.py",
        "time_to_accuracy.py",
        "versus_keras.py",
        "versus_pytorch_cifar.py",
        "versus_speedrun.py",
    ],
)
def test_scripts_explain_themselves(name: str) -> None:
    assert "python benchmarks/" in run(name, "--help")


@pytest.mark.parametrize(
    "model", ["lenet5-3x3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("keras4", "keras6"))]
)
def test_a_plain_loop_is_compared_with_the_same_network(model: str) -> None:
    contestants = ["--contestants", "cifarlab fp32", "dataloader fp32"]
    few = ["--images-per-turn", "64", "--rounds", "1"]
    result = json.loads(run("versus_keras.py", "--models", model, *contestants, *few))
    assert result["model"] == model and result["batch"] == 32
    ours, theirs = result["images/s"]["cifarlab fp32"], result["images/s"]["dataloader fp32"]
    assert result["ratios"]["cifarlab fp32 / dataloader fp32"] == pytest.approx(ours / theirs, rel=0.1)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_resnet18_is_compared_with_the_script_that_everyone_copies(precision: str) -> None:
    contestants = ["--contestants", f"cifarlab {precision}", f"pytorch {precision}"]
    few = ["--images-per-turn", "16", "--batch", "8", "--rounds", "1"]
    result = json.loads(run("versus_pytorch_cifar.py", *contestants, *few))
    ours, theirs = result["images/s"][f"cifarlab {precision}"], result["images/s"][f"pytorch {precision}"]
    assert result["ratios"] == {f"cifarlab / pytorch, {precision}": pytest.approx(ours / theirs, rel=0.1)}


def test_the_copied_script_has_the_same_network_and_images(cifar10: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)  # where the script finds `turns`
    script = load("versus_pytorch_cifar")
    theirs, ours = script.ResNet18().eval(), build_model("resnet18").eval()
    weights = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict(dict(weights))
    inputs = torch.rand(2, 3, 32, 32)
    assert torch.allclose(ours(inputs), theirs(inputs), atol=1e-5)
    images, labels = cifar10.train.images[:50], cifar10.train.labels[:50]
    dataset = script.TransformedImages(images, labels)
    values, label = dataset[7]
    pixels = 255 * (values * dataset.std + dataset.mean)
    padded = np.pad(images[7], ((0, 0), (4, 4), (4, 4)))
    crops = [padded[:, y : y + 32, x : x + 32][:, :, ::step] for y in range(9) for x in range(9) for step in (1, -1)]
    assert label == labels[7] and any(np.array_equal(pixels.round().numpy(), crop) for crop in crops)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look here
    spec.loader.exec_module(module)
    return module


def test_small_sets_are_drawn_by_the_seed_and_tested_on_other_pictures(cifar10: Data) -> None:
    small_sets = load("small_sets")
    whole = small_sets.pets(FOLDER)
    first, again, other = (small_sets.draw(whole, 30, seed) for seed in (0, 0, 1))
    assert first["x_train"].shape == (90, 3, 32, 32) and first["x_test"].shape == (450, 3, 32, 32)
    assert (first["x_train"] == again["x_train"]).all() and (first["x_train"] != other["x_train"]).any()
    assert (first["x_test"] == other["x_test"]).all() and (first["y_train"] == np.repeat(range(3), 30)).all()
    test = {image.tobytes() for image in first["x_test"]}
    assert not test & {image.tobytes() for each in (first, other) for image in each["x_train"]}


@pytest.fixture(scope="module")
def scheduler() -> ModuleType:
    return load("scheduler")


@pytest.fixture(scope="module")
def false_alarms() -> ModuleType:
    return load("false_alarms")


@pytest.mark.parametrize(("settings", "seeds"), [(2, 3), (5, 10), (20, 5)])
def test_of_studies_of_equal_settings_few_find_a_difference(
    false_alarms: ModuleType, settings: int, seeds: int
) -> None:
    cell = false_alarms.simulate(settings, seeds, 400, np.random.default_rng(0))
    assert cell.wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)
    assert cell.estimated == pytest.approx(cell.optimism, rel=0.25)


def test_the_simulated_verdicts_are_those_of_compare(
    false_alarms: ModuleType, small: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Luck is shared between validation and test accuracy, so that correcting the pairs with the best is too little."""
    monkeypatch.setattr(significance, "detectable_difference", lambda *_: 0.0)  # slow, and of no interest here
    images, covariance = 1000, 1e-4 * np.array([[1, 0.75], [0.75, 1]])
    labels, checked = np.zeros(images, dtype=np.int64), 0
    for luck in np.random.default_rng(0).multivariate_normal([0.8, 0.8], covariance, (200, 20, 5)):
        validation, test = luck[..., 0], luck[..., 1].round(3)  # whole numbers of images
        order = validation.mean(axis=1).argsort()[::-1]
        p_values, is_shown = false_alarms.pairs(test[None, order])
        if checked == 3 or min(significance.holm(p_values[0, is_shown].tolist())) > significance.LEVEL:
            continue
        runs = []
        for setting, seed in np.ndindex(test.shape):
            recipe = small.changed({"learning_rate": 0.01 * (1 + setting), "seed": seed})
            predictions = (np.arange(images) >= round(test[setting, seed] * images)).astype(np.int64)
            facts = ("simulated", "0" * 64, ("a", "b"), "honest protocol", validation[setting, seed])
            runs.append(ComparedRun("run", recipe, *facts, labels, predictions))
        comparison = compare(runs)
        found = [pair.found.p for pair in comparison.table_pairs if pair.found]
        assert sorted(found) == pytest.approx(sorted(p_values[0, is_shown]))
        is_found = any(pair.real for pair in comparison.table_pairs)
        assert is_found == false_alarms.finds_a_difference(p_values[0], is_shown)
        estimate = significance.choice_optimism(validation.tolist(), test.tolist())
        assert (
            comparison.optimism == pytest.approx(estimate) and f"about {100 * estimate:.1f}" in comparison.choice_note
        )
        checked += 1
    assert checked == 3


def test_the_simulated_schedule_adds_up(scheduler: ModuleType) -> None:
    costs = scheduler.Costs(seconds=10.0, size=1e6, files=5)
    quiet = scheduler.Plan(
        runs=12,
        gpus=4,
        gpus_per_node=2,
        minutes=1.0,
        spread=0.0,
        checkpoint=20.0,
        dispatch=0.0,
        lost_after=1e9,
        replaced=1.0,
    )
    outcome = scheduler.simulate(quiet, costs)
    assert outcome.hours * 3600 == pytest.approx(3 * 70) and outcome.busy == pytest.approx(1) and outcome.losses == 0
    one_by_one = scheduler.simulate(replace(quiet, dispatch=70.0), costs)
    assert one_by_one.hours * 3600 == pytest.approx(12 * 70 + 70)  # GPUs wait for the scheduler
    uneven = replace(quiet, runs=400, spread=1.0)
    longest_first = scheduler.simulate(replace(uneven, longest_first=True), costs)
    assert longest_first.hours < scheduler.simulate(uneven, costs).hours
    lost = replace(quiet, runs=400, lost_after=0.5)
    with_checkpoints, without = (scheduler.simulate(replace(lost, checkpoint=every), costs) for every in (20.0, 0.0))
    assert with_checkpoints.losses > 5 and 0 < with_checkpoints.redone < without.redone
    assert without.hours > with_checkpoints.hours > scheduler.simulate(replace(quiet, runs=400), costs).hours
