"""What a data set is, and what can be done to its classes: drop, merge, split. Where it comes from: `loaders`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt8

from cifarlab.errors import UsageError, unknown


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
        if into == origin:
            raise UsageError(f"class {origin!r} cannot become itself: name the class that it is to become")
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


def sha256_of(*parts: Dataset) -> str:
    """The checksum of class names, images and labels."""
    digest = hashlib.sha256("\n".join(parts[0].classes).encode())
    for part in parts:
        digest.update(part.images.tobytes())
        digest.update(part.labels.tobytes())
    return digest.hexdigest()
