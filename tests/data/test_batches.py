"""The order of an epoch, augmentation, and their seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cifarlab import Data
from cifarlab.data import batches
from cifarlab.data.augment import augment, samples
from cifarlab.data.batches import DeviceImages, steps_per_epoch, to_device
from cifarlab.recipes import Augment


def data(count: int) -> DeviceImages:
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 3, 4, 4).clone()
    return DeviceImages(images, torch.arange(count))


def order(count: int, size: int, epoch: int, first: int = 0, seed: int = 0) -> list[list[int]]:
    return [batch.labels.tolist() for batch in batches.batches(data(count), size, seed, epoch, first)]


def test_an_epoch_has_every_image_once_in_an_order_of_its_own() -> None:
    first, second = order(50, 16, 0), order(50, 16, 1)
    assert [len(batch) for batch in first] == [16, 16, 16, 2]
    assert sorted(label for batch in first for label in batch) == list(range(50))
    assert first != second
    assert first == order(50, 16, 0)
    assert first != order(50, 16, 0, seed=1)
    assert order(50, 16, 0, first=2) == first[2:]  # continued in the middle


def test_a_single_image_left_over_is_not_used() -> None:
    assert [len(batch) for batch in order(33, 16, 0)] == [16, 16]
    assert steps_per_epoch(33, 16) == 2
    assert steps_per_epoch(34, 16) == 3
    assert order(1, 16, 0) == [[0]]


def test_images_keep_their_labels() -> None:
    for batch in batches.batches(data(40), 8, 3, 0):
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.labels)
        assert torch.equal(batch.indices, batch.labels)


def test_easy_images_are_left_out_and_others_are_not() -> None:
    losses = torch.cat([torch.full((60,), 0.1), torch.full((40,), 2.0)])[torch.randperm(100)]
    kept = batches.without_easy(losses, 0.25, 0, 1)
    assert len(kept) == 75 and len(set(kept.tolist())) == 75
    assert set((losses > 1).nonzero()[:, 0].tolist()) <= set(kept.tolist())
    assert torch.equal(kept, batches.without_easy(losses, 0.25, 0, 1))
    assert not torch.equal(kept, batches.without_easy(losses, 0.25, 0, 2))
    assert len(batches.without_easy(losses, 0.5, 0, 1)) == 50
    few = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert batches.without_easy(few, 0.5, 0, 1).tolist() == [1, 2, 3]
    seen = [number for batch in batches.batches(data(100), 8, 3, 0, kept=kept) for number in batch.indices.tolist()]
    assert sorted(seen) == kept.tolist()


def test_seeds_differ_by_purpose_and_fit_every_generator() -> None:
    seeds = {batches.seed_for(0, "step", epoch, step) for epoch in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert batches.seed_for(0, "order", 1) != batches.seed_for(0, "step", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


AUGMENTS: list[dict[str, Any]] = [
    {"flip": True},
    {"shift": 0.1},
    {"rotation": 10.0},
    {"crop": 4},
    {"cutout": 8},
    {"flip": True, "shift": 0.1, "rotation": 10.0, "crop": 2, "cutout": 4},
]


@pytest.mark.parametrize("settings", AUGMENTS)
def test_augmentation_depends_on_the_step_alone(settings: dict[str, Any], cifar10: Data) -> None:
    images = torch.from_numpy(np.array(cifar10.test.images[:64])).float()

    def changed(step: int) -> torch.Tensor:
        batches.seed_step(0, 0, step)
        return augment(images, Augment(**settings))

    assert changed(1).shape == images.shape
    assert torch.equal(changed(1), changed(1))
    assert not torch.equal(changed(1), changed(2))
    assert not torch.equal(changed(1), images)
    assert torch.equal(augment(images, Augment()), images)  # all augmentation is off by default


def test_flip_mirrors_about_half() -> None:
    images = torch.rand(2000, 3, 5, 5)
    flipped = augment(images, Augment(flip=True))
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(flipped, images, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(a or b for a, b in zip(mirrored, same, strict=True))
    assert 0.45 < np.mean(mirrored) < 0.55


def test_alternating_flip_mirrors_each_image_in_every_other_epoch() -> None:
    images = torch.randint(0, 256, (500, 3, 5, 5), dtype=torch.uint8)
    whole = DeviceImages(images, torch.arange(500))
    turned = []
    for epoch in range(3):
        mirrored = torch.zeros(500, dtype=torch.bool)
        for batch in batches.batches(whole, 64, 3, epoch, alternate_flip=True):
            pixels, numbers = batch.images, batch.labels
            same = (pixels == images[numbers]).flatten(1).all(1)
            assert ((pixels == images[numbers].flip(3)).flatten(1).all(1) ^ same).all()
            mirrored[numbers] = ~same
        turned.append(mirrored)
    assert 200 < turned[0].sum() < 300
    assert torch.equal(turned[1], ~turned[0]) and torch.equal(turned[2], turned[0])


def test_crop_can_mirror_the_border() -> None:
    images = torch.rand(400, 3, 6, 6) + 1
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    for new, big in zip(augment(images, Augment(crop=2, border="reflect")), padded, strict=True):
        assert any(torch.equal(new, big[:, y : y + 6, x : x + 6]) for y in range(5) for x in range(5))


def test_crop_cuts_every_offset_from_a_zero_border() -> None:
    images = torch.rand(3000, 3, 6, 6) + 1
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    offsets = set()
    for new, big in zip(augment(images, Augment(crop=2)), padded, strict=True):
        matches = [(y, x) for y in range(5) for x in range(5) if torch.equal(new, big[:, y : y + 6, x : x + 6])]
        assert len(matches) == 1
        offsets.update(matches)
    assert len(offsets) == 25


def test_shift_moves_by_at_most_its_fraction_and_repeats_the_border() -> None:
    ramp = torch.arange(20.0).expand(500, 3, 20, 20).clone()  # the value is the column
    moved = augment(ramp, Augment(shift=0.1))
    by = moved[:, 0, 10, 10] - 10
    assert by.abs().max() <= 2.0 + 1e-4
    assert by.abs().max() > 1.9
    assert abs(float(by.mean())) < 0.15
    assert moved.min() >= 0 and moved.max() <= 19  # border values, nothing from outside


def test_rotation_turns_about_the_centre_within_its_angle() -> None:
    disc = torch.zeros(300, 1, 33, 33)
    disc[:, :, 16, 30] = 100.0  # a spot 14 pixels right of the centre
    turned = augment(disc, Augment(rotation=30.0))
    mass = turned[:, 0] / turned[:, 0].sum((1, 2), keepdim=True)
    places = torch.arange(33.0) - 16
    rows, columns = (mass.sum(2) * places).sum(1), (mass.sum(1) * places).sum(1)
    angles = torch.rad2deg(torch.atan2(rows, columns))
    assert angles.abs().max() <= 31 and angles.abs().max() > 27
    assert angles.min() < -20 and angles.max() > 20
    assert torch.all((rows**2 + columns**2).sqrt() > 13)


def test_cutout_zeroes_one_square() -> None:
    cut = augment(torch.ones(500, 3, 16, 16), Augment(cutout=4))
    zeros = (cut == 0).sum((2, 3))
    assert torch.all(zeros[:, 0] == zeros[:, 2])
    assert zeros.max() == 16 and zeros.min() >= 4  # cut off at the edges


def test_images_reach_the_device_unchanged(digits: Data) -> None:
    moved = to_device(digits.test, torch.device("cpu"))
    assert np.array_equal(moved.images.numpy(), digits.test.images)
    assert moved.images.is_contiguous(memory_format=torch.channels_last)


def test_samples_are_of_their_class_and_augmented_ones_of_one_image(digits: Data) -> None:
    rows = samples(digits.train, 4, seed=0)
    assert [row.shape for row in rows] == [(4, 1, 32, 32)] * 10
    for label, row in enumerate(rows):
        members = digits.train.images[digits.train.labels == label]
        assert all((members == image).all((1, 2, 3)).any() for image in row)
    versions = samples(digits.train, 4, seed=0, settings=Augment(shift=0.2))
    assert not np.array_equal(versions[0][0], versions[0][1])
