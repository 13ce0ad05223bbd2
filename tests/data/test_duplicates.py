"""Near-duplicates that were put into real images are found."""

from __future__ import annotations

import numpy as np

from cifarlab import Data
from cifarlab.data.quality.duplicates import find_near_duplicates


def test_hidden_duplicates_are_found_in_real_images(cifar10: Data) -> None:
    train, test = cifar10.train.images[:3000].copy(), cifar10.test.images[:300].copy()
    before = {duplicate.test for duplicate in find_near_duplicates(train, test)}
    noise = np.random.default_rng(0).normal(0, 4, test[0].shape)
    test[7] = (train[11] * 0.8 + 20 + noise).clip(0, 255).astype(np.uint8)  # paler
    test[8] = train[12][..., ::-1]
    duplicates = {duplicate.test: duplicate for duplicate in find_near_duplicates(train, test)}
    assert duplicates.keys() == before | {7, 8}
    assert duplicates[7].train == 11 and duplicates[7].correlation > 0.97 and not duplicates[7].mirrored
    assert duplicates[8].train == 12 and duplicates[8].correlation > 0.999 and duplicates[8].mirrored


def test_images_moved_by_a_pixel_are_found(cifar10: Data) -> None:
    train, test = cifar10.train.images[:3000], cifar10.test.images[:300].copy()
    before = {duplicate.test for duplicate in find_near_duplicates(train, test[60:])}
    for number in range(60):
        down, right = divmod(number % 9, 3)
        padded = np.pad(train[10 * number], ((0, 0), (1, 1), (1, 1)), "edge")
        test[number] = padded[:, down : down + 32, right : right + 32]
    found = {duplicate.test: duplicate.train for duplicate in find_near_duplicates(train, test)}
    assert [found.get(number) for number in range(60)] == list(range(0, 600, 10))
    assert len(found) - 60 == len(before) <= 2  # and hardly any others


def test_gray_images_have_the_duplicates_of_equal_channels(digits: Data) -> None:
    train, test = digits.train.images[:200], np.concatenate([digits.test.images[:20], digits.train.images[5:6]])
    found = find_near_duplicates(train, test), find_near_duplicates(train.repeat(3, axis=1), test.repeat(3, axis=1))
    pairs = [[(duplicate.test, duplicate.train) for duplicate in each] for each in found]
    assert (20, 5) in pairs[0] and sorted(pairs[0]) == sorted(pairs[1])
