"""Data sets by name."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cifarlab import Data, load_data
from cifarlab.data.catalogue import CATALOGUE, absolute
from cifarlab.errors import UsageError


def test_the_second_start_is_quick(cifar10: Data) -> None:
    began = time.perf_counter()
    data = load_data("cifar10", quiet=True)
    total = int(data.train.images.sum(dtype=np.int64)) + int(data.test.images.sum(dtype=np.int64))
    seconds = time.perf_counter() - began
    assert total > 0
    # Every byte was read, so the pages are in memory: loading them again is what a second start costs.
    began = time.perf_counter()
    data = load_data("cifar10", quiet=True)
    images = np.concatenate([data.train.images, data.test.images])
    seconds = time.perf_counter() - began
    assert images.shape == (60_000, 3, 32, 32)
    assert seconds < 2  # docs/internals/log.md has a measurement; a loop in Python would take longer than this


def test_digits_are_the_same_everywhere(digits: Data) -> None:
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.classes == tuple("0123456789")
    assert digits.train.images.shape[1:] == (3, 32, 32)
    assert digits.sha256 == load_data("digits").sha256
    assert load_data("digits", size=16).train.images.shape[1:] == (3, 16, 16)
    assert np.bincount(digits.test.labels).min() >= 34  # stratified


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_data_set_opens_or_says_what_is_missing(name: str, tmp_path: Path) -> None:
    if ":" in name:
        with pytest.raises(UsageError, match=str(tmp_path / "none")):
            load_data(f"{name.partition(':')[0]}:{tmp_path / 'none'}")
    else:
        data = load_data(name, size=32, quiet=True)
        assert data.name == name and data.train.images.shape[1:] == (3, 32, 32)


def test_a_name_is_made_absolute_only_if_it_has_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("folder:photos") == f"folder:{tmp_path / 'photos'}" and absolute("cifar10") == "cifar10"


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'cifar': did you mean 'cifar10'"):
        load_data("cifar")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    with pytest.raises(UsageError, match="there is no file"):
        load_data(f"npz:{tmp_path / 'none.npz'}")


def test_the_digits_are_those_of_scikit_learn(digits: Data) -> None:
    theirs = load_digits()
    whole = load_data("digits", size=8)
    images = np.concatenate([whole.train.images, whole.test.images])
    labels = np.concatenate([whole.train.labels, whole.test.labels])
    gray = (theirs.images * (255 / 16)).round().astype(np.uint8).reshape(-1, 64)
    expected = np.c_[gray, theirs.target]
    ours = np.c_[images[:, 0].reshape(-1, 64), labels]
    assert np.array_equal(ours[np.lexsort(ours.T)], expected[np.lexsort(expected.T)])
    assert (len(digits.train), len(digits.test)) == (len(whole.train), len(whole.test))
