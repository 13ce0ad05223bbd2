"""Checks of a data set before training: damaged files, image sizes, exact duplicates, sizes and names of classes."""

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.data.catalogue import load_data
from cifarlab.data.dataset import TEST_FRACTION, Data, in_colour
from cifarlab.data.image_files import read_image
from cifarlab.data.own.image_list import ImageFile, part_of
from cifarlab.data.own.loading import list_files
from cifarlab.errors import UsageError, readable
from cifarlab.progress import task

FEWEST_IMAGES = 10  # training images of a class; fewer teach little
LARGEST_IMBALANCE = 5.0  # images of the largest class divided by images of the smallest, from which on it is a finding


@dataclass(frozen=True)
class Finding:
    """A possible fault of a data set."""

    kind: str  # unreadable, tiny, blank, duplicate, contradiction, leak, few, unbalanced, names or parts
    text: str


def check_data_set(name: str, size: int = 32, *, quiet: bool = False) -> list[Finding]:
    """Return the possible faults of a data set, as a network with input images of `size` pixels a side sees it."""
    try:
        files, classes = list_files(name, quiet)
    except UsageError as error:
        if not Path(name.removeprefix("folder:")).is_dir():
            raise
        return [Finding("parts", str(error))]
    images: list[tuple[ImageFile, bytes]] = []  # with the pixels that the network sees
    findings: list[Finding] = []
    with task("checking images", len(files), quiet=quiet or not files) as progress:
        for file in files:
            try:
                images.append((file, in_colour(read_image(file.source, size, file.name)).tobytes()))
                with Image.open(io.BytesIO(file.source) if isinstance(file.source, bytes) else file.source) as image:
                    if min(image.size) < size:
                        text = f"{file.name}: only {image.width}x{image.height} pixels, which are enlarged"
                        findings.append(Finding("tiny", text))
            except UsageError as error:
                findings.append(Finding("unreadable", str(error)))
            progress.advance(1)
    if not files:
        data = load_data(name, size=size, quiet=quiet, test_only=True)
        classes, images = data.classes, list(_images_of(data))
    for file, pixels in images:
        if np.ptp(np.frombuffer(pixels, np.uint8).reshape(3, -1), axis=1).max() == 0:
            findings.append(Finding("blank", f"{file.name}: all pixels have the same colour"))
    counts = dict.fromkeys([*classes, *(file.label for file in files)], 0)  # of readable training images
    for file, _ in images:
        counts[file.label] += file.part == "train"
    if files and not any(file.part == "test" for file in files):
        counts = {name: count - round(count * TEST_FRACTION) for name, count in counts.items()}
    layout = _check_layout(files) if name.startswith("folder:") else ()
    return [*findings, *layout, *_check_duplicates(images), *_check_classes(counts)]


def _images_of(data: Data) -> Iterator[tuple[ImageFile, bytes]]:
    for part, dataset in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if dataset is not None:
            for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
                yield ImageFile(b"", data.classes[label], part, f"{part} image {number}"), in_colour(image).tobytes()


def _check_layout(files: list[ImageFile]) -> Iterator[Finding]:
    """Find classes that may be parts of the data set, and classes whose subfolders may be the classes."""
    folders: dict[str, set[str]] = defaultdict(set)  # names of the folders that hold the images of a class
    for file in files:
        if isinstance(file.source, Path):
            folders[file.label].add(readable(file.source.parent.name))
    for name, inside in folders.items():
        reason = "has the name of a part, such as train" if part_of(name) else "holds only folders, perhaps the classes"
        if part_of(name) or name not in inside:
            yield Finding("parts", f"class {name!r} {reason}: {', '.join(sorted(inside))}")


def _check_duplicates(images: list[tuple[ImageFile, bytes]]) -> Iterator[Finding]:
    """Find equal images: with different labels, in different parts of the data, or simply twice."""
    by_pixels: dict[bytes, list[ImageFile]] = defaultdict(list)
    for file, pixels in images:
        by_pixels[pixels].append(file)
    for equal in by_pixels.values():
        names = " = ".join(f"{file.name} ({file.label})" for file in equal[:4]) + (" = …" if len(equal) > 4 else "")
        if len({file.label for file in equal}) > 1:
            yield Finding("contradiction", f"one image, two classes: {names}")
        elif len({file.part for file in equal}) > 1:
            yield Finding("leak", f"one image in two parts: {names}")
        elif len(equal) > 1:
            yield Finding("duplicate", names)


def _check_classes(counts: dict[str, int]) -> Iterator[Finding]:
    for name, count in counts.items():
        if count < FEWEST_IMAGES:
            yield Finding("few", f"class {name!r} has {count} readable training images, fewer than {FEWEST_IMAGES}")
    if len(counts) < 2:
        yield Finding("parts", f"training needs at least two classes, got {', '.join(counts) or 0}")
    if counts and max(counts.values()) >= LARGEST_IMBALANCE * max(1, min(counts.values())):
        sizes = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        yield Finding("unbalanced", f'unequal classes ({sizes}): use balanced accuracy, or class_weights = "balanced"')
    simplified = {name: re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s") for name in counts}
    for first, second in combinations(counts, 2):
        if simplified[first] == simplified[second]:
            yield Finding("names", f"classes {first!r} and {second!r} may be one class")
