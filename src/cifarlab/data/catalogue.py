"""Data sets by name: CIFAR-10 from `sources`, scikit-learn's digits, which need no network, and one's own from `own`.

All of them end as the same value: uint8 images, int64 labels, class names.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path

import numpy as np

from cifarlab.data import cifar10, own
from cifarlab.data import images as pictures
from cifarlab.data.dataset import Data, Dataset
from cifarlab.errors import unknown

NAMES = ("cifar10", "digits", "folder:DIR", "csv:FILE", "hf:DIR", "npz:FILE")


def load_data(name: str = "cifar10", *, size: int = 32, quiet: bool = False) -> Data:
    """A data set by its name; CIFAR-10 is fetched when it is first asked for.

    Args:
        name: one of `NAMES`: CIFAR-10, scikit-learn's digits, or one's own pictures; see `own` for these.
        size: side of the images in pixels; others are cut to a square and resized.
        quiet: show no progress.

    Raises:
        UsageError: the name is unknown, or what it names is not a data set.
        CifarlabError: CIFAR-10 cannot be had.
    """
    if ":" in name and name.partition(":")[0] in own.KINDS:
        return own.load(name, size, quiet)
    if name == "digits":
        return _digits(size)
    if name == "cifar10":
        return _cifar10(size, quiet)
    raise unknown("data set", name, NAMES)


def absolute(name: str) -> str:
    """A data set's name with the whole path where it has one, so that it means the same in every folder."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{Path(place).resolve()}" if colon else name


def _cifar10(size: int, quiet: bool) -> Data:
    cached = cifar10.get_cifar10(quiet=quiet)
    images, labels = cifar10.open_cifar10(cached)
    if size != 32:
        images = pictures.resize_all(images.transpose(0, 2, 3, 1), size)
    train = Dataset(images[:50_000], labels[:50_000].astype(np.int64), cifar10.CLASSES)
    test = Dataset(images[50_000:], labels[50_000:].astype(np.int64), cifar10.CLASSES)
    return Data("cifar10", train, test, cifar10.cifar10_sha256(), cached.source, str(cached.path))


def _digits(size: int) -> Data:
    # what scikit-learn's load_digits reads; to import it takes a second or two
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")
    gray = (table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    whole = Dataset(
        pictures.resize_all(np.repeat(gray[..., None], 3, axis=3), size),
        table[:, -1].astype(np.int64),
        tuple(str(digit) for digit in range(10)),
    )
    return own.with_test(whole, "digits", "scikit-learn", "sklearn.datasets.load_digits")
