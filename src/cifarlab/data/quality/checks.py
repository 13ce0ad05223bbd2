"""What is wrong with a data set, before anything is trained on it: files, sizes, duplicates, names of classes.

Likely label errors need a trained network: see `checkup`.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.data import images as pictures
from cifarlab.data import own
from cifarlab.data.catalogue import load_data
from cifarlab.data.dataset import Data
from cifarlab.errors import UsageError
from cifarlab.progress import task

FEWEST = 10  # training images of a class; fewer teach little
MOST_UNBALANCED = 5.0  # how many times as many images the largest class may have as the smallest


@dataclass(frozen=True)
class Finding:
    """Something that should be looked at."""

    kind: str
    """`unreadable`, `tiny`, `blank`, `duplicate`, `contradiction`, `leak`, `few`, `unbalanced` or `names`."""
    text: str


@dataclass(frozen=True)
class _Picture:
    name: str
    label: str
    part: str
    pixels: bytes
    """Of the image as networks see it; empty where the file cannot be read."""
    smaller: str = ""
    """Width and height, where the file has fewer pixels than the network wants."""
    error: str = ""


def inspect(name: str, size: int = 32, *, quiet: bool = False) -> list[Finding]:
    """Looks a data set over.

    Args:
        name: as `load_data` takes it.
        size: side of the images that the network will see, in pixels.
        quiet: show no progress.

    Raises:
        UsageError: there is no such data set.
    """
    items, classes = own.listed(name)
    if items:
        seen = list(_read(items, size, quiet))
    else:
        data = load_data(name, size=size, quiet=quiet)
        seen, classes = list(_in_memory(data)), data.classes
    return [*_files(seen), *_twins(seen), *_classes(seen, classes)]


def _read(items: list[own.Item], size: int, quiet: bool) -> Iterator[_Picture]:
    with task("looking at pictures", len(items), quiet=quiet) as shown:
        for item in items:
            try:
                pixels = pictures.read_image(item.picture, size).tobytes()
                yield _Picture(item.name, item.label, item.part, pixels, _smaller(item.picture, size))
            except UsageError as error:
                told = str(error) if isinstance(item.picture, Path) else f"{item.name}: {error}"
                yield _Picture(item.name, item.label, item.part, b"", error=told)
            shown.advance(1)


def _smaller(picture: Path | bytes, size: int) -> str:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return f"{image.width}x{image.height}" if min(image.size) < size else ""


def _in_memory(data: Data) -> Iterator[_Picture]:
    for part, dataset in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if dataset is not None:
            for number, label in enumerate(dataset.labels):
                pixels = dataset.images[number].tobytes()
                yield _Picture(f"{part} image {number}", data.classes[label], part, pixels)


def _files(seen: list[_Picture]) -> Iterator[Finding]:
    for picture in seen:
        if picture.error:
            yield Finding("unreadable", picture.error)
        elif picture.smaller:
            yield Finding("tiny", f"{picture.name}: {picture.smaller} pixels, to be blown up")
        if picture.pixels and np.ptp(np.frombuffer(picture.pixels, np.uint8).reshape(3, -1), axis=1).max() == 0:
            yield Finding("blank", f"{picture.name}: one colour all over")


def _twins(seen: list[_Picture]) -> Iterator[Finding]:
    """Equal images: of two classes, of training and another part, or just twice."""
    equal: dict[bytes, list[_Picture]] = defaultdict(list)
    for picture in seen:
        if picture.pixels:
            equal[picture.pixels].append(picture)
    for twins in equal.values():
        if len(twins) == 1:
            continue
        names = " = ".join(f"{twin.name} ({twin.label})" for twin in twins[:4]) + (" = …" if len(twins) > 4 else "")
        if len({twin.label for twin in twins}) > 1:
            yield Finding("contradiction", f"one image, two classes: {names}")
        elif len({twin.part for twin in twins}) > 1:
            yield Finding("leak", f"one image in two parts: {names}")
        else:
            yield Finding("duplicate", names)


def _classes(seen: list[_Picture], classes: tuple[str, ...]) -> Iterator[Finding]:
    counts = dict.fromkeys([*classes, *(picture.label for picture in seen)], 0)
    for picture in seen:
        counts[picture.label] += bool(picture.pixels) and picture.part == "train"
    for name, count in counts.items():
        if count < FEWEST:
            yield Finding("few", f"class {name!r} has {count} training images that can be read")
    if counts and max(counts.values()) > MOST_UNBALANCED * max(1, min(counts.values())):
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        yield Finding("unbalanced", f'{told}: look at balanced accuracy, or set class_weights = "balanced"')
    for one, other in combinations(counts, 2):
        if _plain(one) == _plain(other):
            yield Finding("names", f"classes {one!r} and {other!r} look like one")


def _plain(name: str) -> str:
    """A class name without case, spaces, signs and a plural's ending."""
    return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s")
