"""Data sets by name, and what can be done to their classes: drop, merge, split.

`cifar10` comes from `sources`; `digits` ships with scikit-learn and needs no network; `folder:DIR` and `npz:FILE` are
one's own. All of them end as the same value: uint8 images, int64 labels, class names.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from cifarlab.data import images as pictures
from cifarlab.data import sources
from cifarlab.errors import UsageError, unknown
from cifarlab.progress import task

NAMES = ("cifar10", "digits", "folder:DIR", "npz:FILE")
TEST_FRACTION = 0.2  # of data that comes without a test set
TEST_SEED = 0  # which part is the test set belongs to the data set, not to a run
_TEST_FOLDERS = ("test",)
_VALIDATION_FOLDERS = ("validation", "val", "valid")


@dataclass(frozen=True)
class Dataset:
    """Images with their labels. Labels count from 0 in the order of `classes`."""

    images: UInt8[np.ndarray, "n 3 h w"]
    labels: Int64[np.ndarray, " n"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int64[np.ndarray, " m"]) -> Dataset:
        """The images at these places, copied."""
        return Dataset(self.images[indices], self.labels[indices], self.classes)


@dataclass(frozen=True)
class Data:
    """A data set as its makers split it; `validation` only where they made one."""

    name: str
    train: Dataset
    test: Dataset
    sha256: str
    source: str
    path: str
    validation: Dataset | None = None
    skipped: tuple[str, ...] = ()
    """Damaged files, each with the reason."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


def load_data(name: str = "cifar10", *, size: int = 32, quiet: bool = False) -> Data:
    """A data set by its name; CIFAR-10 is fetched when it is first asked for.

    Args:
        name: `cifar10`, `digits`, `folder:DIR` or `npz:FILE`.
        size: side of the images in pixels; others are cut to a square and resized.
        quiet: show no progress.

    Raises:
        UsageError: the name is unknown, or what it names is not a data set.
        CifarlabError: CIFAR-10 cannot be had.
    """
    kind, colon, place = name.partition(":")
    if kind == "folder" and colon:
        return _folder(Path(place), size, quiet)
    if kind == "npz" and colon:
        return _npz(Path(place), size)
    if name == "digits":
        return _digits(size)
    if name == "cifar10":
        return _cifar10(size, quiet)
    raise unknown("data set", name, NAMES)


def absolute(name: str) -> str:
    """A data set's name with the whole path where it has one, so that it means the same in every folder."""
    kind, colon, place = name.partition(":")
    return f"{kind}:{Path(place).resolve()}" if colon else name


def relabel(data: Data, drop: Sequence[str] = (), merge: Mapping[str, str] | None = None) -> Data:
    """The data without some classes and with some called another, in training, validation and test alike.

    Labels are numbered anew; the remaining classes keep their names and their order.

    Args:
        data: the whole data set.
        drop: classes to leave out.
        merge: classes to relabel, each with the class that it becomes.

    Raises:
        UsageError: a class does not exist, is asked for twice, or fewer than two remain.
    """
    merge = merge or {}
    if not drop and not merge:
        return data
    for name in (*drop, *merge.keys(), *merge.values()):
        if name not in data.classes:
            raise unknown("class", name, data.classes)
    gone = [*drop, *merge]
    for name in gone:
        if gone.count(name) > 1:
            raise UsageError(f"class {name!r} is dropped or merged twice")
    for origin, into in merge.items():
        if into in gone:
            raise UsageError(f"class {origin!r} cannot become {into!r}, which is dropped or merged itself")
    classes = tuple(name for name in data.classes if name not in gone)
    if len(classes) < 2:
        raise UsageError(f"fewer than two classes remain of {', '.join(data.classes)}")
    new_labels = np.array(
        [-1 if name in drop else classes.index(merge.get(name, name)) for name in data.classes], dtype=np.int64
    )

    def apply(dataset: Dataset) -> Dataset:
        labels = new_labels[dataset.labels]
        kept = np.flatnonzero(labels >= 0)
        return Dataset(dataset.images[kept] if drop else dataset.images, labels[kept], classes)

    validation = apply(data.validation) if data.validation is not None else None
    sha256 = relabelled_sha256(data.sha256, drop, merge)
    return replace(data, train=apply(data.train), test=apply(data.test), validation=validation, sha256=sha256)


def relabelled_sha256(sha256: str, drop: Sequence[str], merge: Mapping[str, str]) -> str:
    """What stands for a data set of this checksum once `relabel` has changed it."""
    if not drop and not merge:
        return sha256
    return hashlib.sha256(repr((sha256, sorted(drop), sorted(merge.items()))).encode()).hexdigest()


def sample(images: UInt8[np.ndarray, "n 3 h w"], most: int) -> UInt8[np.ndarray, "m 3 h w"]:
    """At most so many images, drawn from all of them, since they may be sorted by class; always the same ones."""
    if len(images) <= most:
        return images
    return images[np.sort(np.random.default_rng(0).permutation(len(images))[:most])]


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off a part in which each class has the same share as in the whole.

    Args:
        dataset: what to split.
        fraction: size of the second part, between 0 and 1.
        seed: decides which images go there.

    Returns:
        The larger rest and the part; both in the original order.
    """
    generator = np.random.default_rng([seed, 0x5B117])
    taken = np.zeros(len(dataset), dtype=bool)
    for label in range(len(dataset.classes)):
        members = np.flatnonzero(dataset.labels == label)
        count = min(round(fraction * len(members)), len(members) - 1) if len(members) > 1 else 0
        taken[generator.permutation(members)[: max(count, int(len(members) > 1))]] = True
    return dataset.select(np.flatnonzero(~taken)), dataset.select(np.flatnonzero(taken))


def _cifar10(size: int, quiet: bool) -> Data:
    cached = sources.get_cifar10(quiet=quiet)
    images, labels = sources.open_cifar10(cached)
    if size != 32:
        images = pictures.resize_all(images.transpose(0, 2, 3, 1), size)
    train = Dataset(images[:50_000], labels[:50_000].astype(np.int64), sources.CLASSES)
    test = Dataset(images[50_000:], labels[50_000:].astype(np.int64), sources.CLASSES)
    return Data("cifar10", train, test, sources.cifar10_sha256(), cached.source, str(cached.path))


def _digits(size: int) -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = (digits.images * (255 / 16)).round().astype(np.uint8)
    whole = Dataset(
        pictures.resize_all(np.repeat(gray[..., None], 3, axis=3), size),
        digits.target.astype(np.int64),
        tuple(str(digit) for digit in range(10)),
    )
    return _with_test(whole, "digits", "scikit-learn", "sklearn.datasets.load_digits")


def _npz(path: Path, size: int) -> Data:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}" + (", it is a folder" if path.is_dir() else ""))
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: not an .npz file of plain arrays") from error
    missing = [key for key in ("x_train", "y_train") if key not in arrays]
    if missing:
        raise UsageError(
            f"{path}: has no array {missing[0]!r} (needed: x_train, y_train; if there: x_test, y_test, classes)"
        )
    labels = arrays["y_train"]
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"{path}: y_train should be whole numbers from 0, got {labels.dtype}")
    highest = int(labels.max(initial=0))
    named = arrays.get("classes", np.arange(highest + 1))
    classes = tuple(str(name) for name in np.ravel(named))
    if len(classes) < 2:
        raise UsageError(f"{path}: fewer than two classes")
    train = _npz_part(path, arrays, "train", classes, size)
    if "x_test" not in arrays:
        return _with_test(train, f"npz:{path}", "file", str(path))
    test = _npz_part(path, arrays, "test", classes, size)
    return Data(f"npz:{path}", train, test, sha256_of(train, test), "file", str(path))


def _npz_part(path: Path, arrays: Mapping[str, Any], part: str, classes: tuple[str, ...], size: int) -> Dataset:
    labels = np.ravel(arrays.get(f"y_{part}", []))
    try:
        images = pictures.from_array(arrays[f"x_{part}"], size)
    except ValueError as error:
        raise UsageError(f"{path}: x_{part} {error}") from error
    whole = np.issubdtype(labels.dtype, np.integer)
    if len(labels) != len(images) or not whole or labels.min() < 0 or labels.max() >= len(classes):
        raise UsageError(f"{path}: y_{part} should be {len(images)} whole numbers from 0 to {len(classes) - 1}")
    return Dataset(images, labels.astype(np.int64), classes)


def _folder(root: Path, size: int, quiet: bool) -> Data:
    if not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r}" + (", it is a file" if root.exists() else ""))
    inner = {child.name.lower(): child for child in root.iterdir() if child.is_dir()}
    train_root = inner.get("train", root)
    classes = _class_folders(train_root)
    skipped: list[str] = []
    train = _read_folder(train_root, classes, size, skipped, quiet, is_train=True)

    def part(names: Sequence[str]) -> Dataset | None:
        found = next((inner[name] for name in names if name in inner), None) if "train" in inner else None
        return _read_folder(found, classes, size, skipped, quiet) if found is not None else None

    test, validation = part(_TEST_FOLDERS), part(_VALIDATION_FOLDERS)
    name, path = f"folder:{root}", str(root.resolve())
    if test is None:
        train, test = split(train, TEST_FRACTION, TEST_SEED)
    sha256 = sha256_of(train, test, *([validation] if validation is not None else []))
    return Data(name, train, test, sha256, "folder", path, validation, tuple(skipped))


def _class_folders(root: Path) -> tuple[str, ...]:
    names = [child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")]
    if len(names) < 2:
        raise UsageError(f"{root}: should hold a folder of images per class, at least two; it has {len(names)}")
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts `2` before `10`, numbers before letters, and equals such as `1` and `01` in the same way everywhere."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts], name


def _read_folder(
    root: Path, classes: tuple[str, ...], size: int, skipped: list[str], quiet: bool, *, is_train: bool = False
) -> Dataset:
    for child in root.iterdir():
        if child.is_dir() and not child.name.startswith(".") and child.name not in classes:
            raise UsageError(f"{root}: {unknown('class folder', child.name, classes)}")
    found = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"), key=lambda path: _natural(path.relative_to(root).as_posix()))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    images, labels, damaged = [], [], 0
    with task(f"reading {root.name}", len(found), quiet=quiet) as shown:
        for path, label in found:
            try:
                images.append(pictures.read_image(path, size))
                labels.append(label)
            except UsageError as error:
                damaged += 1
                skipped.append(str(error))
                shown.say(f"skipped: {error}")
            shown.advance(1)
        if damaged:
            shown.say(f"{root}: {damaged} of {len(found)} files skipped")
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if not images or (empty and is_train):
        raise UsageError(f"{root}: no readable image in {empty[0]!r}")
    return Dataset(np.stack(images), np.array(labels, dtype=np.int64), classes)


def _with_test(whole: Dataset, name: str, source: str, path: str) -> Data:
    train, test = split(whole, TEST_FRACTION, TEST_SEED)
    return Data(name, train, test, sha256_of(train, test), source, path)


def sha256_of(*parts: Dataset) -> str:
    """The checksum of class names, images and labels."""
    digest = hashlib.sha256("\n".join(parts[0].classes).encode())
    for part in parts:
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes())
    return digest.hexdigest()
