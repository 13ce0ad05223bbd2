"""Load the user's own image files as a data set; `data.arrays` has images in memory and in NumPy files.

    folder:DIR  a folder of images per class, in a folder per part (training, validation, test) or in none;
                or the files of MNIST (IDX) or SVHN (.mat)
    csv:FILE    a table of classes, and of files or pixels
    hf:DIR      a Hugging Face data set on disk: Parquet or Arrow files that contain the images

Files that cannot be read are reported and skipped. Without a test set, a fifth of the images is kept for testing.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifarlab.data import picture_cache
from cifarlab.data.dataset import Data, Dataset, in_colour, sha256_of, split_off_test, stacked
from cifarlab.data.image_files import read_image
from cifarlab.data.own.folders import list_folder
from cifarlab.data.own.huggingface import list_huggingface
from cifarlab.data.own.image_list import PARTS, ImageFile, check_class_names
from cifarlab.data.own.tables import list_table
from cifarlab.errors import UsageError, unknown
from cifarlab.files import other_format, with_home
from cifarlab.progress import task
from cifarlab.recipes import Resize

MOST_NAMED = 3  # files that are skipped for one reason
LISTERS = {"folder": list_folder, "csv": list_table, "hf": list_huggingface}


def load_files(name: str, size: int, quiet: bool, resize: Resize = "crop") -> Data:
    """Return the data set in a folder, a table or a Hugging Face folder, with images of `size` pixels a side."""
    kind, _, location = name.partition(":")
    files, classes = list_files(name, quiet)
    read: dict[str, list[tuple[np.ndarray, int, str]]] = {part: [] for part in PARTS.values()}
    entry, began = picture_cache.entry_of([file.source for file in files], size, resize), time.monotonic()
    cached, decoded = picture_cache.load(entry) if entry else {}, dict[int, np.ndarray]()
    errors: list[str] = []
    skipped: dict[str, list[str]] = {}  # names by reason
    with task("reading images", len(files), quiet=quiet) as progress:
        for number, file in enumerate(files):
            if file.label not in classes:
                raise UsageError(f"{file.name}: {unknown('class', file.label, classes)}")
            try:
                in_cache = number in cached
                decoded[number] = cached[number] if in_cache else read_image(file.source, size, file.name, resize)
                read[file.part].append((decoded[number], classes.index(file.label), file.place))
            except UsageError as error:
                errors.append(str(error))
                reason = errors[-1].removeprefix(f"{file.name}: ").replace(f" {file.name!r}", "").partition(" (")[0]
                skipped.setdefault(reason, []).append(file.name)
            progress.advance(1)
        for reason, names in skipped.items():
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            progress.say(f"skipped: {', '.join(names[:MOST_NAMED])}{more}: {reason}")
        if errors:
            progress.say(f"{len(errors)} of {len(files)} files skipped")
    if entry and decoded and not cached and time.monotonic() - began > picture_cache.SLOW:
        picture_cache.store(entry, decoded)
    parts = {}
    for part in {file.part for file in files}:
        if not read[part]:
            raise UsageError(f"{location}: no image of the part {part} can be read")
        images, labels, places = zip(*read[part], strict=True)
        parts[part] = Dataset(stacked(images), np.array(labels, dtype=np.int64), classes, places)
    if not parts:
        raise UsageError(f"{location}: no readable image in {classes[0]!r}")
    return assemble(name, parts, kind, str(Path(location).resolve()), errors)


def check_trainable(data: Data) -> None:
    """Raise UsageError if a data set has no training images, fewer than two classes, or a class without an image."""
    present = set(data.train.labels.tolist())
    if not present or len(data.classes) < 2:
        raise UsageError(f"{data.name}: should have training images of at least two classes, got {len(present)}")
    empty = set(range(len(data.classes))) - present
    if empty and data.source in LISTERS:  # arrays may name classes that they do not use
        raise UsageError(f"{data.path}: no readable image in {data.classes[min(empty)]!r}")


def assemble(name: str, parts: dict[str, Dataset], source: str, path: str, skipped: Sequence[str]) -> Data:
    """Return the parts as a data set. Without test images, a fifth of the training images becomes the test set.

    If a part has colours, gray parts get three channels too.
    """
    if len({part.images.shape[1] for part in parts.values()}) > 1:
        parts = {name: replace(part, images=np.array(in_colour(part.images))) for name, part in parts.items()}
    empty = next(iter(parts.values())).select(np.zeros(0, np.int64))
    train, validation, test = parts.get("train", empty), parts.get("validation"), parts.get("test")
    if is_split_off := test is None:
        train, test = split_off_test(train)
    sha256 = sha256_of(train, test, *([validation] if validation else []))
    return Data(name, train, test, sha256, source, path, validation, tuple(skipped), is_split_off)


def list_files(name: str, quiet: bool = True) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return the images of a data set, not read, and its class names. Both are empty for a data set without files.

    Folders that are not used and broken links are listed as images that cannot be read, so that users hear of them.
    """
    kind = name.partition(":")[0]
    if kind not in LISTERS:
        return [], ()
    files, classes = LISTERS[kind](path := path_of(with_home(name)), quiet)
    check_class_names(classes, path)
    return files, classes


def path_of(name: str) -> Path:
    """Return the path in a name such as `folder:DIR`, which must be an existing folder or file."""
    kind, _, location = name.partition(":")
    if not location:
        raise UsageError(
            f"{name} names no path after the colon. If the path is in a variable, the variable is not set."
        )
    path = Path(location)
    wanted, fits = ("folder", path.is_dir()) if kind in ("folder", "hf") else ("file", path.is_file())
    if not fits:
        other = (
            "a folder" if path.is_dir() else other_format(path) or "a file" if path.is_file() else "a pipe or a device"
        )
        raise UsageError(f"there is no {wanted} {location!r}" + (f", it is {other}" if path.exists() else ""))
    if "Git LFS" in (other := other_format(path)):
        raise UsageError(f"{path}: {other}")
    return path
