"""Preprocessing: each kind compared with its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cifarlab import Data
from cifarlab.inference.preprocessing import Preprocess


@pytest.mark.parametrize("kind", ["unit", "symmetric", "standard"])
def test_preprocessing_is_the_formula(kind: str, cifar10: Data) -> None:
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
