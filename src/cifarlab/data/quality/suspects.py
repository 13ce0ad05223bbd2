"""What is odd about a data set: images that are in it twice, labels that are likely wrong, images like no other.

Pure functions on arrays; each gives numbers of images, the oddest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.special import logsumexp, softmax

SAME = 0.95  # correlation of the pixels, from which on two images count as nearly the same
_COARSE = 8  # pixels a side of the first look
_CANDIDATES = 5  # a test image, that a second look compares in full
_AT_ONCE = 250  # test images; each needs 16 bytes a training image


@dataclass(frozen=True)
class Duplicate:
    """Two images that are nearly the same."""

    test: int
    train: int
    correlation: float
    """Of their pixels, at most 1."""
    mirrored: bool
    """One is the other's mirror image."""


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong."""

    image: int
    label: int
    likely: int
    """The class that it should rather have."""
    margin: float
    """How much more probable that class is than the label, from 0 to 1."""


def near_duplicates(
    train: UInt8[np.ndarray, "n 3 h w"], test: UInt8[np.ndarray, "m 3 h w"], same: float = SAME
) -> list[Duplicate]:
    """Test images that are nearly a training image, or its mirror image, whatever their brightness and contrast.

    Each test image is compared coarsely with all training images, and in full with the `_CANDIDATES` that look most
    like it, so that a duplicate can be missed where many images look alike.

    Args:
        train: training images.
        test: test images of the same size.
        same: least correlation of the pixels.
    """
    small = _normalized(_coarse(train))  # [n, 192]
    best: dict[int, Duplicate] = {}
    for start in range(0, len(test), _AT_ONCE):
        for mirrored in (False, True):
            some = test[start : start + _AT_ONCE]
            some = some[..., ::-1] if mirrored else some
            near = _normalized(_coarse(some)) @ small.T  # [some, n]
            candidates = np.argpartition(-near, min(_CANDIDATES, len(train) - 1), axis=1)[:, :_CANDIDATES]
            whole = _normalized(some.reshape(len(some), -1))
            for row, places in enumerate(candidates):
                correlations = _normalized(train[places].reshape(len(places), -1)) @ whole[row]
                found = int(correlations.argmax())
                duplicate = Duplicate(start + row, int(places[found]), float(min(correlations[found], 1)), mirrored)
                if duplicate.correlation >= max(same, best[start + row].correlation if start + row in best else same):
                    best[start + row] = duplicate
    return sorted(best.values(), key=lambda each: -each.correlation)


def suspect_labels(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> list[Suspect]:
    """Labels that are likely wrong, by confident learning (Northcutt et al. 2021).

    An image is suspect where another class than its label is more probable than the label, at least as probable as
    that class is on average among the images labelled so, and the most probable of all such classes.

    Args:
        logits: of a network that was not trained on these images.
        labels: as they are in the data set.
    """
    likely = softmax(logits.astype(np.float64), axis=1)
    classes = likely.shape[1]
    usual = np.array(
        [likely[labels == number, number].mean() if (labels == number).any() else 2 for number in range(classes)]
    )
    confident = np.where(likely >= usual, likely, 0)
    said = confident.argmax(axis=1)
    wrong = np.flatnonzero((confident.max(axis=1) > 0) & (said != labels))
    margins = likely[wrong, said[wrong]] - likely[wrong, labels[wrong]]
    order = np.argsort(-margins, kind="stable")
    return [
        Suspect(int(place), int(labels[place]), int(said[place]), float(margin))
        for place, margin in zip(wrong[order], margins[order], strict=True)
        if margin > 0
    ]


def outliers(logits: Float32[np.ndarray, "n classes"], count: int) -> Int64[np.ndarray, " found"]:
    """The images that are least like anything that the network knows: those of the highest energy.

    Liu et al. 2020: an image's energy is minus the logarithm of the sum of its exponentiated logits.
    """
    energy = -logsumexp(logits.astype(np.float64), axis=1)
    return np.argsort(-energy, kind="stable")[:count].astype(np.int64)


def _coarse(images: UInt8[np.ndarray, "n 3 h w"]) -> Float32[np.ndarray, "n values"]:
    """Means over blocks, `_COARSE` a side or fewer."""
    side = images.shape[2] // max(1, images.shape[2] // _COARSE)
    block = images.shape[2] // side
    cut = images[:, :, : side * block, : side * block]
    blocks = cut.reshape(len(images), 3, side, block, side, block)
    means: np.ndarray = blocks.mean(axis=(3, 5), dtype=np.float32).reshape(len(images), -1)
    return means


def _normalized(values: np.ndarray) -> Float32[np.ndarray, "n values"]:
    centred = values.astype(np.float32) - values.mean(axis=1, keepdims=True, dtype=np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: np.ndarray = centred / np.maximum(lengths, 1e-6)
    return unit
