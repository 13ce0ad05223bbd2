"""Dropping, merging, sampling and splitting."""

from __future__ import annotations

import numpy as np
import pytest

from cifarlab import Data, relabel
from cifarlab.data.dataset import Dataset, folds_of, in_colour, sample, sha256_of, split
from cifarlab.errors import UsageError


def test_dropping_and_merging_apply_to_every_part(cifar10: Data) -> None:
    dropped = relabel(cifar10, drop=["truck"])
    assert (len(dropped.train), len(dropped.test)) == (45_000, 9_000)
    assert dropped.classes == cifar10.classes[:9]
    merged = relabel(cifar10, merge={"truck": "automobile"})
    assert (len(merged.train), len(merged.test)) == (50_000, 10_000)
    assert np.bincount(merged.test.labels).tolist() == [1000, 2000, *[1000] * 7]
    was_truck = cifar10.test.labels == 9
    assert set(merged.test.labels[was_truck]) == {1}
    assert np.array_equal(merged.test.images, cifar10.test.images)


def test_labels_are_renumbered_and_stay_with_their_images(digits: Data) -> None:
    changed = relabel(digits, drop=["3", "7"], merge={"0": "9", "1": "2"})
    assert changed.classes == ("2", "4", "5", "6", "8", "9")
    expected = {"0": "9", "1": "2"}
    kept = [i for i, label in enumerate(digits.train.labels) if digits.classes[label] not in ("3", "7")]
    for new, old in enumerate(kept):
        name = digits.classes[digits.train.labels[old]]
        assert changed.classes[changed.train.labels[new]] == expected.get(name, name)
        assert np.array_equal(changed.train.images[new], digits.train.images[old])


@pytest.mark.parametrize(
    ("drop", "merge", "text"),
    [
        (["trck"], {}, "unknown class 'trck': did you mean 'truck'"),
        ([], {"truck": "automobil"}, "did you mean 'automobile'"),
        (["cat", "cat"], {}, "dropped or merged twice"),
        (["cat"], {"cat": "dog"}, "dropped or merged twice"),
        (["dog"], {"cat": "dog"}, "cannot become 'dog'"),
        ([], {"cat": "dog", "dog": "cat"}, "cannot become"),
        ([], {"cat": "cat"}, "cannot become"),
    ],
)
def test_impossible_classes_are_refused(cifar10: Data, drop: list[str], merge: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        relabel(cifar10, drop, merge)


def test_two_classes_must_remain(digits: Data) -> None:
    with pytest.raises(UsageError, match="at least two classes must remain, got 1 of 0, 1"):
        relabel(digits, drop=list("012345678"))


def test_the_split_is_stratified_and_seeded(cifar10: Data) -> None:
    train, validation = split(cifar10.train, 0.1, seed=0)
    assert (len(train), len(validation)) == (45_000, 5_000)
    assert np.bincount(validation.labels).tolist() == [500] * 10
    again, other = split(cifar10.train, 0.1, seed=0)[1], split(cifar10.train, 0.1, seed=1)[1]
    assert np.array_equal(again.images, validation.images)
    assert not np.array_equal(other.labels, validation.labels) or not np.array_equal(other.images, validation.images)


def test_the_split_puts_every_image_into_one_part() -> None:
    images = np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    whole = Dataset(images, np.arange(100, dtype=np.int64) % 3, ("a", "b", "c"))
    train, rest = split(whole, 0.25, seed=5)
    seen = np.concatenate([train.images[:, 0, 0, 0], rest.images[:, 0, 0, 0]])
    assert sorted(seen.tolist()) == list(range(100))
    assert all(label == image[0, 0, 0] % 3 for image, label in zip(rest.images, rest.labels, strict=True))


def test_a_sample_is_drawn_from_all_images() -> None:
    images = np.repeat(np.arange(100, dtype=np.uint8), 12).reshape(100, 3, 2, 2)
    some = sample(images, 10)
    assert len(some) == 10 and some.max() > 50 and np.array_equal(some, sample(images, 10))
    assert np.array_equal(sample(images, 100), images)


def test_identical_images_are_on_one_side_of_a_split() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 4, 4), dtype=np.uint8)
    labels = np.random.default_rng(1).integers(0, 3, 600)
    whole = Dataset(np.concatenate([images, images]), labels, ("a", "b", "c"))
    train, test = split(whole, 0.2, seed=0)
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    assert 100 <= len(test) <= 140


def test_folds_spread_the_classes_and_keep_identical_images_together(digits: Data) -> None:
    images = np.concatenate([digits.test.images, digits.test.images[:40]])
    twice = Dataset(images, np.concatenate([digits.test.labels, digits.test.labels[:40]]), digits.classes)
    folds = folds_of(twice, 4, seed=1)
    assert np.array_equal(folds[-40:], folds[:40])
    counts = np.array([np.bincount(digits.test.labels[folds[:-40] == fold], minlength=10) for fold in range(4)])
    assert np.ptp(counts, axis=0).max() <= 1 and np.ptp(counts.sum(axis=1)) <= 1
    assert not np.array_equal(folds, folds_of(twice, 4, seed=2))


def test_gray_images_have_the_checksum_of_equal_channels(digits: Data) -> None:
    copies = Dataset(digits.test.images.repeat(3, axis=1), digits.test.labels, digits.classes)
    assert sha256_of(digits.test) == sha256_of(copies) != sha256_of(digits.train)
    assert np.array_equal(in_colour(digits.test.images), copies.images)
    assert np.shares_memory(in_colour(digits.test.images), digits.test.images)
