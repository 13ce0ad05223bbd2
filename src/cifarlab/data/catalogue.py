"""The data sets that cifarlab knows, by name. A new data set is a loader and its entry in `CATALOGUE`."""

from collections.abc import Callable
from pathlib import Path

from cifarlab.data import own
from cifarlab.data.cifar10 import load_cifar10
from cifarlab.data.dataset import Data
from cifarlab.data.digits import load_digits
from cifarlab.errors import unknown

Loader = Callable[[str, int, bool], Data]  # from the name that the user wrote, the images' side in pixels, and `quiet`

# After a colon comes a path.
CATALOGUE: dict[str, Loader] = {
    "cifar10": load_cifar10,
    "digits": load_digits,
    "folder:": own.load_files,
    "csv:": own.load_files,
    "hf:": own.load_files,
    "npz:": own.load_npz,
}


def load_data(name: str = "cifar10", *, size: int = 32, quiet: bool = False) -> Data:
    """Return a data set by its name; CIFAR-10 is downloaded when it is first needed.

    Args:
        name: name in the catalogue, such as `cifar10` or `folder:photos`.
        size: side of the images in pixels; other images are cropped to a square and resized.
        quiet: show no progress.

    Raises:
        UsageError: the name is unknown, or the files that it names are not a data set.
        CifarlabError: CIFAR-10 cannot be downloaded.
    """
    kind = "".join(name.partition(":")[:2])
    if kind not in CATALOGUE:
        raise unknown("data set", name, CATALOGUE)
    return CATALOGUE[kind](name, size, quiet)


def absolute(name: str) -> str:
    """Return a data set's name with an absolute path, if it has a path, so that it is valid in every folder."""
    kind, colon, location = name.partition(":")
    return f"{kind}:{Path(location).resolve()}" if colon else name
