"""Progressive resizing: which sizes a network sees when, what that costs, and equal bits after an interruption."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cifarlab
from cifarlab import Recipe, UsageError
from cifarlab.data.augment import resized
from cifarlab.data.batches import steps_per_epoch, to_device
from cifarlab.models.summary import count_macs
from cifarlab.recipes import load, parse_settings
from cifarlab.training import loop, speed
from cifarlab.training.loop import one_step
from cifarlab.training.preparation import prepare
from cifarlab.training.session import Session
from cifarlab.training.state import Training, begin
from cutting import assert_equal_bits_after_a_cut

SIZES = ((24, 0.4), (28, 0.75))
SHARES = ((0.75, 0.4), (0.875, 0.75))  # of 32 pixels


@pytest.fixture
def tiny() -> Recipe:
    """A recipe of a network for any image size, in which every size counts."""
    few = {"model_options.width": 4, "dataset": "digits", "batch_size": 64, "epochs": 2.5, "skip_easy": 0.3}
    return load("fast90").changed(few | {"progressive_resizing": SHARES})


def test_images_are_resized_as_pillow_does() -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for size in (24, 28, 40):
        ours = resized(images, size)
        assert ours.shape == (3, 3, size, size)
        for image, result in zip(images.flatten(0, 1), ours.flatten(0, 1), strict=True):
            theirs = np.array(Image.fromarray(image.numpy(), "F").resize((size, size), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(result, theirs, atol=1e-5)
    assert resized(images, 32) is images and resized(images[:0], 24).shape == (0, 3, 32, 32)


def test_the_network_sees_each_size_in_its_time(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    train_step = loop.train_step

    def watched(training: Training, batch: Any) -> None:
        training.forward = _watch(
            training.classifier.network, lambda side: seen.append((training.epoch, batch.step, side))
        )
        train_step(training, batch)

    monkeypatch.setattr(loop, "train_step", watched)
    run = cifarlab.train(tiny, runs=tmp_path, name="a", quiet=True)
    assert {side for _, _, side in seen} == {24, 28, 32} and len(run.history) == 3
    images = speed.images_by_epoch(tiny.changed({"epochs": 3}), run.record.data.train)
    for epoch, step, side in seen:
        progress = (epoch + step / steps_per_epoch(images[epoch], tiny.batch_size)) / tiny.epochs
        assert side == next((size for size, end in SIZES if progress < end), 32), (epoch, step)


def _watch(network: torch.nn.Module, note: Callable[[int], None]) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(images: torch.Tensor) -> torch.Tensor:
        note(images.shape[2])
        logits: torch.Tensor = network(images)
        return logits

    return forward


def test_a_run_cut_between_two_sizes_resumes_to_the_same_bits(tiny: Recipe, tmp_path: Path) -> None:
    assert_equal_bits_after_a_cut(tiny, tmp_path, epoch=1)  # at 0.4 of the training the size changes


@pytest.mark.parametrize("epochs", [1, 1.3, 2, 3, 7.5])
def test_work_is_counted_in_images_of_full_size(tiny: Recipe, epochs: float) -> None:
    prepared = prepare(tiny.changed({"epochs": epochs}))
    network, images = prepared.classifier.network, len(prepared.parts.train)
    whole = count_macs(network, 32)
    costs = {size: count_macs(network, size) / whole for size in (24, 28, 32)}
    assert prepared.costs == {size: costs[size] for size in (24, 28)} and 0.4 < costs[24] < 0.6 < costs[28] < 1
    work = speed.work_by_epoch(prepared)
    for epoch, count in enumerate(speed.images_by_epoch(prepared.recipe, images)):
        length = min(1.0, epochs - epoch)
        moments = (epoch + length * (np.arange(10_000) + 0.5) / 10_000) / epochs
        mean_cost = np.mean([costs[prepared.recipe.size_at(moment)] for moment in moments])
        assert work[epoch] == pytest.approx(count * mean_cost, rel=1e-3)
    assert len(work) == math.ceil(epochs)
    plain = dataclasses.replace(prepared, recipe=prepared.recipe.changed({"progressive_resizing": ()}))
    assert (speed.work_by_epoch(plain) == speed.images_by_epoch(plain.recipe, images)).all()
    assert speed.expected_seconds(prepared, 100.0) < speed.expected_seconds(plain, 100.0)


def test_speed_is_measured_on_images_of_full_size(tiny: Recipe) -> None:
    prepared, sides = prepare(tiny), list[int]()
    training = begin(prepared)
    training.forward = _watch(training.classifier.network, sides.append)
    images = to_device(prepared.parts.train, training.device)
    one_step(training, images)(64)
    assert sides == [32]


def test_larger_images_are_no_reason_to_measure_again(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[tuple[int, float]] = []
    monkeypatch.setattr("cifarlab.training.session.SECONDS_BETWEEN_CHECKS", 0.0)
    monkeypatch.setattr(
        Session, "_adapt", lambda _, training, rate, seconds: rates.append((training.size, rate * seconds))
    )
    cifarlab.train(tiny, runs=tmp_path, name="a", quiet=True)
    costs = {**prepare(tiny).costs, 32: 1.0}
    full = [(size, done) for size, done in rates if done == pytest.approx(64 * costs[size])]
    assert len(full) >= len(rates) - 3  # the last batch of an epoch is smaller
    assert {size for size, _ in full} == {24, 28, 32}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("[[0.5, 0.5], [0.8, 0.5]]", r"progressive_resizing needs ends that rise, got \[0.5, 0.5\]"),
        ("[[0.5, 0.6], [0.8, 0.5]]", r"progressive_resizing needs ends that rise"),
        ("[[24, 0.5]]", r"progressive_resizing\.0\.0 should be less than 1, got 24"),
        ("[[0, 0.5]]", r"progressive_resizing\.0\.0 should be greater than 0, got 0"),
        ("[[0.5, 1.0]]", r"progressive_resizing\.0\.1 should be less than 1, got 1\.0"),
        ("[[0.5]]", r"progressive_resizing"),
        ("24", r"progressive_resizing should be"),
    ],
)
def test_what_is_no_progressive_resizing_is_refused(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("fast90").changed(parse_settings([f"progressive_resizing={setting}"]))


def test_a_network_for_one_image_size_is_refused_before_a_run_is_made(tmp_path: Path) -> None:
    recipe = load("lenet5").changed({"dataset": "digits", "progressive_resizing": [[0.75, 0.5]]})
    with pytest.raises(UsageError, match="the network does not train on batches of 2 at 24x24 pixels: layer"):
        cifarlab.train(recipe, runs=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_sizes_follow_the_size_and_another_network_drops_them() -> None:
    recipe = load("fast90")
    assert (
        recipe.smaller_sizes == ((24, 0.35), (28, 0.65)) and recipe.size_at(0.35) == 28 and recipe.size_at(0.65) == 32
    )
    assert recipe.changed({"size": 64}).smaller_sizes == ((48, 0.35), (56, 0.65))
    assert recipe.changed({"model": "lenet5"}).smaller_sizes == ()
    assert recipe.changed({"model": "fastnet"}).smaller_sizes == recipe.smaller_sizes
    other = recipe.changed({"model": "allcnn", "progressive_resizing": SHARES})
    assert other.progressive_resizing == SHARES
