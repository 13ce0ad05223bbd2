"""Checks of a data set before training: damaged files, image sizes, exact duplicates, sizes and names of classes.

Likely label errors need a trained network: see `label_issues`.
"""

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.data import own
from cifarlab.data.catalogue import load_data
from cifarlab.data.dataset import Data
from cifarlab.data.image_files import read_image
from cifarlab.errors import UsageError
from cifarlab.progress import task

FEWEST_IMAGES = 10  # training images of a class; fewer teach little
LARGEST_IMBALANCE = 5.0  # images of the largest class divided by images of the smallest


@dataclass(frozen=True)
class Finding:
    """A possible fault of a data set."""

    kind: str
    """`unreadable`, `tiny`, `blank`, `duplicate`, `contradiction`, `leak`, `few`, `unbalanced` or `names`."""
    text: str


@dataclass(frozen=True)
class _CheckedImage:
    name: str
    label: str
    part: str
    """`train`, `validation` or `test`."""
    pixels: bytes
    """Pixels as the network sees them; empty if the file cannot be read."""
    small_size: str = ""
    """Width and height of the file, such as `9x7`, if one is less than the network's input; else empty."""
    error: str = ""
    """Reason why the file cannot be read, or empty."""


def check_data_set(name: str, size: int = 32, *, quiet: bool = False) -> list[Finding]:
    """Return the possible faults of a data set.

    Args:
        name: name of the data set, as `load_data` takes it.
        size: side of the network's input, in pixels.
        quiet: show no progress.

    Raises:
        UsageError: the data set does not exist.
    """
    files, classes = own.list_files(name)
    if files:
        images = list(_from_files(files, size, quiet))
    else:
        data = load_data(name, size=size, quiet=quiet)
        images, classes = list(_from_memory(data)), data.classes
    return [*_check_files(images), *_check_duplicates(images), *_check_classes(images, classes)]


def _from_files(files: list[own.ImageFile], size: int, quiet: bool) -> Iterator[_CheckedImage]:
    with task("checking images", len(files), quiet=quiet) as progress:
        for file in files:
            try:
                pixels = read_image(file.source, size).tobytes()
                yield _CheckedImage(file.name, file.label, file.part, pixels, _small_size(file.source, size))
            except UsageError as error:
                yield _CheckedImage(file.name, file.label, file.part, b"", error=file.describe(error))
            progress.advance(1)


def _small_size(source: Path | bytes, size: int) -> str:
    """Return width and height of an image file if one is below `size`, else an empty string."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return f"{image.width}x{image.height}" if min(image.size) < size else ""


def _from_memory(data: Data) -> Iterator[_CheckedImage]:
    for part, dataset in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if dataset is not None:
            for number, label in enumerate(dataset.labels):
                pixels = dataset.images[number].tobytes()
                yield _CheckedImage(f"{part} image {number}", data.classes[label], part, pixels)


def _check_files(images: list[_CheckedImage]) -> Iterator[Finding]:
    for image in images:
        if image.error:
            yield Finding("unreadable", image.error)
        elif image.small_size:
            yield Finding("tiny", f"{image.name}: only {image.small_size} pixels, which are enlarged")
        if image.pixels and np.ptp(np.frombuffer(image.pixels, np.uint8).reshape(3, -1), axis=1).max() == 0:
            yield Finding("blank", f"{image.name}: all pixels have the same colour")


def _check_duplicates(images: list[_CheckedImage]) -> Iterator[Finding]:
    """Find equal images: with different labels, in different parts of the data, or simply twice."""
    by_pixels: dict[bytes, list[_CheckedImage]] = defaultdict(list)
    for image in images:
        if image.pixels:
            by_pixels[image.pixels].append(image)
    for equal in by_pixels.values():
        if len(equal) == 1:
            continue
        names = " = ".join(f"{image.name} ({image.label})" for image in equal[:4]) + (" = …" if len(equal) > 4 else "")
        if len({image.label for image in equal}) > 1:
            yield Finding("contradiction", f"one image, two classes: {names}")
        elif len({image.part for image in equal}) > 1:
            yield Finding("leak", f"one image in two parts: {names}")
        else:
            yield Finding("duplicate", names)


def _check_classes(images: list[_CheckedImage], classes: tuple[str, ...]) -> Iterator[Finding]:
    counts = dict.fromkeys([*classes, *(image.label for image in images)], 0)
    for image in images:
        counts[image.label] += bool(image.pixels) and image.part == "train"
    for name, count in counts.items():
        if count < FEWEST_IMAGES:
            yield Finding("few", f"class {name!r} has {count} readable training images, fewer than {FEWEST_IMAGES}")
    if counts and max(counts.values()) > LARGEST_IMBALANCE * max(1, min(counts.values())):
        sizes = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        yield Finding("unbalanced", f'{sizes}: look at balanced accuracy, or set class_weights = "balanced"')
    for first, second in combinations(counts, 2):
        if _simplified(first) == _simplified(second):
            yield Finding("names", f"classes {first!r} and {second!r} may be one class")


def _simplified(name: str) -> str:
    """Return a class name without case, spaces, punctuation and the ending of a plural."""
    return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s")
