"""Data sets by name."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cifarlab import Data, load_data, recipe
from cifarlab.data.catalogue import CATALOGUE, absolute, load_parts
from cifarlab.data.published.cache import find_cached
from cifarlab.data.published.data_sets import PUBLISHED
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
    assert digits.train.images.shape[1:] == (1, 32, 32)
    assert digits.sha256 == load_data("digits").sha256
    assert load_data("digits", size=16).train.images.shape[1:] == (1, 16, 16)
    assert np.bincount(digits.test.labels).min() >= 34  # stratified


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_data_set_opens_or_says_what_is_missing(name: str, tmp_path: Path) -> None:
    if name in PUBLISHED and not find_cached(PUBLISHED[name]):
        pytest.skip("not in the cache; test_published has it in its published format")
    if name.endswith(":"):
        with pytest.raises(UsageError, match=str(tmp_path / "none")):
            load_data(f"{name.partition(':')[0]}:{tmp_path / 'none'}")
    else:
        data = load_data(name, size=32, quiet=True)
        assert data.name == name and data.train.images.shape[2:] == (32, 32)


def test_a_name_is_made_absolute_only_if_it_has_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("folder:photos") == f"folder:{tmp_path / 'photos'}"
    assert absolute("cifar10") == "cifar10" and absolute("cifar100:coarse") == "cifar100:coarse"


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


def test_images_in_two_parts_are_not_honest(digits: Data) -> None:
    own, published = recipe("lenet5", dataset="digits"), {"validate_on": "test", "keep": "last"}
    half = digits.test.select(np.arange(180))
    for data, changes, expected in (
        (digits, {}, "honest protocol: 10%"),
        (replace(digits, validation=digits.test), {}, "not honest, because 359 of the 359 test images are validation"),
        (replace(digits, validation=half), {}, "not honest, because 180 of the 359 test images are validation images:"),
        (replace(digits, validation=digits.train), {}, "not honest, because 1,438 of the 1,438 validation images are"),
        (
            replace(digits, test=digits.train),
            {},
            "not honest, because 1,295 of the 1,438 test images are training images and 143 of the 1,438 test",
        ),
        (digits, published, "published protocol: trained on the training split, and the test set was looked at after"),
        (replace(digits, test=digits.train.select(np.arange(9))), {"drop": list("56789")}, "not honest, because "),
    ):
        assert load_parts(own.changed(changes), data=data)[1].protocol.startswith(expected), expected
    leaked = load_parts(own.changed(published), data=replace(digits, test=digits.train))[1].protocol
    assert "after every epoch; 1,295 of the 1,438 test images are training images" in leaked
    assert "images are" not in load_parts(own.changed(published), data=digits)[1].protocol
