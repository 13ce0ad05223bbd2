"""Test images that are nearly a training image, found by the correlation of their pixels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.lib.stride_tricks import sliding_window_view

LEAST_CORRELATION = 0.95  # of the pixels of two images that count as near-duplicates
_COARSE_SIDE = 8  # pixels a side of the block means that the coarse comparison uses
_CANDIDATES = 5  # training images a test image that are compared in full resolution
_LEAST_COARSE = 0.86  # correlation; of 300 images moved by a pixel, none had a lower one with the original
_CHUNK = 250  # test images compared at once; each needs 16 bytes a training image


@dataclass(frozen=True)
class Duplicate:
    """A test image and a training image that are nearly the same."""

    test: int  # index of the test image
    train: int  # index of the training image
    correlation: float  # of their pixels, at most 1
    mirrored: bool  # one is nearly the mirror image of the other


def find_near_duplicates(train: UInt8[np.ndarray, "n c h w"], test: UInt8[np.ndarray, "m c h w"]) -> list[Duplicate]:
    """Return the test images that are nearly a training image or its mirror image, the highest correlation first.

    Correlation ignores brightness and contrast, and is the highest of those with the training image moved by at most a
    pixel. Each test image is compared coarsely with all training images, and in
    full resolution with the five most similar ones. A duplicate can therefore be missed where many images look alike.
    """
    coarse_train = _normalized(_block_means(train))  # [n, values]
    best: dict[int, Duplicate] = {}
    for start in range(0, len(test), _CHUNK):
        for mirrored in (False, True):
            chunk = test[start : start + _CHUNK, ..., :: -1 if mirrored else 1]
            similarity = _normalized(_block_means(chunk)) @ coarse_train.T  # [chunk, n]
            candidates = np.argpartition(-similarity, min(_CANDIDATES, len(train) - 1), axis=1)[:, :_CANDIDATES]
            inner = chunk[..., 1:-1, 1:-1]  # without the border, which images moved by a pixel do not share
            pixels = _normalized(inner.reshape(len(chunk), -1))
            for row, images in enumerate(candidates):
                images = images[similarity[row, images] >= _LEAST_COARSE]
                if not len(images):
                    continue
                moved = sliding_window_view(train[images], inner.shape[2:], axis=(2, 3))  # [images, c, 3, 3, h, w]
                moved = moved.transpose(0, 2, 3, 1, 4, 5).reshape(9 * len(images), -1)
                nearest = int((correlations := _normalized(moved) @ pixels[row]).argmax())
                train_index, correlation = int(images[nearest // 9]), float(min(correlations[nearest], 1))
                duplicate = Duplicate(start + row, train_index, correlation, mirrored)
                least = best[start + row].correlation if start + row in best else LEAST_CORRELATION
                if duplicate.correlation >= least:
                    best[start + row] = duplicate
    return sorted(best.values(), key=lambda duplicate: -duplicate.correlation)


def _block_means(images: UInt8[np.ndarray, "n c h w"]) -> Float32[np.ndarray, "n values"]:
    """Return the means over square blocks, at most `_COARSE_SIDE` blocks a side, flattened for each image."""
    side = images.shape[2] // max(1, images.shape[2] // _COARSE_SIDE)
    block = images.shape[2] // side
    cropped = images[:, :, : side * block, : side * block]
    blocks = cropped.reshape(*images.shape[:2], side, block, side, block)
    means: np.ndarray = blocks.mean(axis=(3, 5), dtype=np.float32).reshape(len(images), -1)
    return means


def _normalized(values: np.ndarray) -> Float32[np.ndarray, "n values"]:
    """Return each row with mean 0 and length 1, so that the product of two rows is their correlation."""
    centred: np.ndarray = values.astype(np.float32) - values.mean(axis=1, keepdims=True, dtype=np.float32)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
    return centred
