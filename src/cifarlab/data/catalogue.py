"""The data sets that cifarlab knows, by name. A new data set is one entry in `CATALOGUE` and its loader.

A loader returns uint8 images, int64 labels and class names as a `Data`, whatever the files look like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifarlab.data import own
from cifarlab.data.cifar10 import load_cifar10
from cifarlab.data.dataset import Data
from cifarlab.data.digits import load_digits
from cifarlab.errors import unknown


@dataclass(frozen=True)
class Entry:
    """A data set that users can name."""

    name: str
    """Name as users write it; a word in capitals stands for a path: `folder:DIR`."""
    description: str
    """One line for lists and help texts."""
    load: Callable[[str, int, bool], Data]
    """Loads the data set, given the name that the user wrote, the side of the images in pixels, and `quiet`."""


CATALOGUE = (
    Entry("cifar10", "CIFAR-10: 60,000 photos of 10 classes, downloaded when first needed", load_cifar10),
    Entry("digits", "scikit-learn's digits: 1,797 images of 10 classes, no download", load_digits),
    Entry("folder:DIR", "your own images, a folder per class", own.load_files),
    Entry(
        "csv:FILE",
        "your own images, listed in a table with the columns path, label and optionally split",
        own.load_files,
    ),
    Entry("hf:DIR", "a Hugging Face data set on disk, as Parquet or Arrow files", own.load_files),
    Entry("npz:FILE", "your own NumPy arrays: x_train, y_train and optionally x_test, y_test, classes", own.load_npz),
)
NAMES = tuple(entry.name for entry in CATALOGUE)


def load_data(name: str = "cifar10", *, size: int = 32, quiet: bool = False) -> Data:
    """Return a data set by its name; CIFAR-10 is downloaded when it is first needed.

    Args:
        name: name in the catalogue, from `NAMES`, such as `cifar10` or `folder:photos`.
        size: side of the images in pixels; other images are cropped to a square and resized.
        quiet: show no progress.

    Raises:
        UsageError: the name is unknown, or the files that it names are not a data set.
        CifarlabError: CIFAR-10 cannot be downloaded.
    """
    kind, colon, _ = name.partition(":")
    for entry in CATALOGUE:
        if entry.name.partition(":")[:2] == (kind, colon):
            return entry.load(name, size, quiet)
    raise unknown("data set", name, NAMES)


def absolute(name: str) -> str:
    """Return a data set's name with an absolute path, if it has a path, so that it is valid in every folder."""
    kind, colon, location = name.partition(":")
    return f"{kind}:{Path(location).resolve()}" if colon else name
