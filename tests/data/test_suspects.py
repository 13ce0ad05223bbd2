"""Suspects that were put there are found, and no others."""

from __future__ import annotations

import numpy as np

from cifarlab import Data
from cifarlab.data.quality.suspects import near_duplicates, outliers, suspect_labels


def test_hidden_duplicates_are_found_in_real_images(cifar10: Data) -> None:
    train, test = cifar10.train.images[:3000].copy(), cifar10.test.images[:300].copy()
    before = {each.test for each in near_duplicates(train, test)}
    noise = np.random.default_rng(0).normal(0, 4, test[0].shape)
    test[7] = (train[11] * 0.8 + 20 + noise).clip(0, 255).astype(np.uint8)  # paler
    test[8] = train[12][..., ::-1]
    found = {each.test: each for each in near_duplicates(train, test)}
    assert found.keys() == before | {7, 8}
    assert found[7].train == 11 and found[7].correlation > 0.97 and not found[7].mirrored
    assert found[8].train == 12 and found[8].correlation > 0.999 and found[8].mirrored


def test_swapped_labels_are_suspected() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 2000)
    logits = random.normal(0, 1, (2000, 5)).astype(np.float32)
    logits[np.arange(2000), labels] += 5
    swapped = random.permutation(2000)[:40]
    labels[swapped] = (labels[swapped] + 1) % 5
    found = suspect_labels(logits, labels)
    assert {each.image for each in found[:20]} <= set(swapped.tolist())
    assert len({each.image for each in found} & set(swapped.tolist())) >= 24  # it is careful: above the average
    assert all(each.likely == (each.label - 1) % 5 for each in found[:20])
    margins = [each.margin for each in found]
    assert margins == sorted(margins, reverse=True)


def test_what_no_class_claims_is_an_outlier() -> None:
    logits = np.array([[9, 0], [0.1, 0], [0, 7], [0, 0]], np.float32)
    assert outliers(logits, 2).tolist() == [3, 1]
