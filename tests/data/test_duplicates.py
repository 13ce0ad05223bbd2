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
