"""Preprocessing: each kind compared with its formula in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab import Data
from cifarlab.inference.preprocessing import Preprocess
from cifarlab.recipes import Channels, Normalization, Preprocessing


@pytest.mark.parametrize("kind", ["unit", "symmetric", "standard"])
def test_preprocessing_is_the_formula(kind: Normalization, cifar10: Data) -> None:
    images = np.array(cifar10.train.images[:2000])
    preprocess = Preprocess(kind, 32)
    preprocess.fit(images)
    found = preprocess(torch.from_numpy(images)).numpy()
    unit = images / np.float64(255)
    expected = {
        "unit": unit,
        "symmetric": unit * 2 - 1,
        "standard": (unit - unit.mean((0, 2, 3), keepdims=True)) / unit.std((0, 2, 3), keepdims=True),
    }[kind]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    "settings", ["unit", "standard", Preprocessing(channels="bgr"), Preprocessing(channels="gray")]
)
def test_the_order_in_memory_changes_no_bit(settings: Preprocessing | Normalization, cifar10: Data) -> None:
    images = np.array(cifar10.train.images[:64])
    preprocess = Preprocess(settings, 32)
    preprocess.fit(images)
    first = preprocess(torch.from_numpy(images))
    last = preprocess(torch.from_numpy(images).contiguous(memory_format=torch.channels_last))
    assert torch.equal(first, last) and preprocess(torch.from_numpy(images[:0])).shape == (0, 3, 32, 32)
    if settings in ("unit", "standard"):
        assert last.is_contiguous(memory_format=torch.channels_last)


CAFFE = (103.939, 116.779, 123.68)  # blue, green, red


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        (Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2,)), lambda x: (x / 255 - column(0.5, 0.4, 0.3)) / 0.2),
        (Preprocessing("unit", std=(0.5,)), lambda x: x / 255 * 2),
        (Preprocessing("raw", mean=CAFFE, channels="bgr"), lambda x: x[:, ::-1] - column(*CAFFE)),
        (Preprocessing(mean=(120.707,), std=(64.15,)), lambda x: (x - 120.707) / 64.15),
        (Preprocessing("unit", channels="gray"), lambda x: np.stack([by_pillow(image) for image in x]) / 255),
        (Preprocessing(channels="bgr"), lambda x: scaled(x[:, ::-1])),
        (Preprocessing(channels="gray"), lambda x: scaled(np.stack([by_pillow(image) for image in x]))),
    ],
    ids=lambda value: str(value) if isinstance(value, Preprocessing) else "",
)
def test_constants_and_channels_are_the_formula(
    settings: Preprocessing, formula: Callable[[np.ndarray], Any], cifar10: Data
) -> None:
    images = np.array(cifar10.train.images[:500])
    preprocess = Preprocess(settings, 32)
    preprocess.fit(images)
    found = preprocess(torch.from_numpy(images))
    np.testing.assert_allclose(found.numpy(), formula(images.astype(np.float64)), rtol=1e-5, atol=2e-5)


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None, None]


def scaled(images: np.ndarray) -> Any:
    return (images - images.mean((0, 2, 3), keepdims=True)) / images.std((0, 2, 3), keepdims=True)


def by_pillow(image: np.ndarray) -> np.ndarray:
    gray = np.asarray(Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).convert("L"))
    return np.stack([gray.astype(np.float64)] * 3)


def test_zca_whitens(cifar10: Data) -> None:
    images = cifar10.train.images[:4000, :, :8, :8]
    preprocess = Preprocess("zca", 8)
    preprocess.fit(images)
    flat = preprocess(torch.from_numpy(np.array(images))).flatten(1).double()
    assert flat.mean(0).abs().max() < 1e-4
    variance = (flat.T @ flat / len(flat)).numpy()
    raw = torch.from_numpy(np.array(images)).float().flatten(1)
    raw = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True).clamp(min=1e-3)  # some corners are one colour
    before = np.cov(raw.T.numpy(), bias=True)
    correlation = np.abs(variance - np.diag(np.diag(variance))).mean()
    assert correlation < 0.05 * np.abs(before - np.diag(np.diag(before))).mean()
    strong = np.linalg.eigvalsh(before)[-20:]
    expected = strong / (strong + 0.01)  # what epsilon leaves of a variance of 1
    np.testing.assert_allclose(np.linalg.eigvalsh(variance)[-1], expected.max(), rtol=1e-2)


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("normalize", ["unit", "standard", "zca"])
def test_gray_images_become_three_equal_channels(normalize: Normalization, channels: Channels, digits: Data) -> None:
    images = digits.train.images[:200, :, ::2, ::2]
    copies, inputs = images.repeat(3, axis=1), []
    for each in (images, copies):
        preprocess = Preprocess(Preprocessing(normalize, channels=channels), 16)
        preprocess.fit(each)
        inputs.append(preprocess(torch.from_numpy(each)))
    assert inputs[0].shape == (200, 3, 16, 16) and torch.equal(*inputs)


@pytest.mark.parametrize("settings", [Preprocessing("unit", channels="mono"), Preprocessing(channels="mono")])
def test_mono_is_the_brightness_in_one_channel(settings: Preprocessing, cifar10: Data, digits: Data) -> None:
    for images in (np.array(cifar10.train.images[:500]), digits.train.images):
        preprocess = Preprocess(settings, 32)
        preprocess.fit(images)
        gray = images if images.shape[1] == 1 else np.stack([by_pillow(image)[:1] for image in images])
        expected = gray / 255 if settings.normalize == "unit" else scaled(gray.astype(np.float64))
        for each in (torch.from_numpy(images), torch.from_numpy(images).contiguous(memory_format=torch.channels_last)):
            np.testing.assert_allclose(preprocess(each).numpy(), expected, rtol=1e-5, atol=2e-5)
