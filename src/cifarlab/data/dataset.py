"""The types `Dataset` and `Data`, and what changes them: relabel, sample, split. `catalogue` loads them by name."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
from jaxtyping import Int64, UInt8

from cifarlab.errors import UsageError, unknown

TEST_FRACTION = 0.2  # of a data set that comes without a test set
MOST_SHARED = 0.01  # of the held-out images; the accuracy is too high by less than that share
HASHED_AT_ONCE = 5_000  # images; a copy of the whole data set would waste memory
TEST_SEED = 0  # the same test set in every run: it belongs to the data set, not to the recipe


@dataclass(frozen=True)
class Dataset:
    """Images of one channel (gray) or three (RGB) with their labels, which count from 0 in the order of `classes`."""

    images: UInt8[np.ndarray, "n c h w"]
    labels: Int64[np.ndarray, " n"]
    classes: tuple[str, ...]
    names: tuple[str, ...] = ()  # of the images, such as paths of their files; empty if the images have none
    superclasses: Mapping[str, str] = field(default_factory=dict)  # of the classes; empty if there are none

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int64[np.ndarray, " m"]) -> "Dataset":
        """Return a copy of the images and labels at these indices."""
        names = tuple(self.names[index] for index in indices) if self.names else ()
        return replace(self, images=self.images[indices], labels=self.labels[indices], names=names)


@dataclass(frozen=True)
class Data:
    """A data set with its training and test sets, and with a validation set if its makers chose one."""

    name: str
    train: Dataset
    test: Dataset
    sha256: str = ""  # computed where it is needed if it is empty
    source: str = "memory"
    path: str = ""
    validation: Dataset | None = None
    skipped: tuple[str, ...] = ()
    """Files that could not be read, and folders and arrays that are not used, each with the reason."""
    test_is_split_off: bool = False
    """True if the data set came without test images, so that `test` was split off its training images."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes


@dataclass(frozen=True)
class Parts:
    """Images to train on, to choose by and to test on. Two of them may be the same value; see `Recipe.protocol`."""

    train: Dataset
    validation: Dataset
    test: Dataset
    protocol: str  # a sentence that says how metrics on these parts come about


def in_colour(images: UInt8[np.ndarray, "*n c h w"]) -> UInt8[np.ndarray, "*n 3 h w"]:
    """Return a view of images of one channel or three that has three; those of gray images are equal."""
    return np.broadcast_to(images, (*images.shape[:-3], 3, *images.shape[-2:]))


def stacked(images: Sequence[UInt8[np.ndarray, "_ h w"]]) -> UInt8[np.ndarray, "n c h w"]:
    """Return images as one array. Gray ones get three channels if others have colours."""
    return np.stack([in_colour(image) for image in images] if len({*map(len, images)}) > 1 else images)


def relabel(data: Data, drop: Sequence[str] = (), merge: Mapping[str, str] | None = None) -> Data:
    """Return the data without some classes and with some classes relabelled, in training, validation and test sets.

    The remaining classes keep their names and their order, and labels are renumbered from 0.

    Args:
        data: the whole data set.
        drop: classes to leave out.
        merge: classes to relabel, each with the class that it becomes.

    Raises:
        UsageError: a class does not exist or is named twice, or fewer than two classes remain.
    """
    merge = merge or {}
    if not drop and not merge:
        return data
    classes, labels = relabelled_classes(data.classes, drop, merge)
    return replace(renumber(data, classes, labels), sha256=relabelled_sha256(data.sha256, drop, merge))


def relabelled_classes(
    classes: tuple[str, ...], drop: Sequence[str], merge: Mapping[str, str]
) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes that `relabel` leaves, and the new label of each old class, -1 for dropped ones.

    Raises:
        UsageError: as `relabel`.
    """
    removed = [*drop, *merge]
    for name in (*removed, *merge.values()):
        if name not in classes:
            raise unknown("class", name, classes)
        if removed.count(name) > 1:
            raise UsageError(f"class {name!r} is dropped or merged twice")
    for origin, into in merge.items():
        if into in removed:
            target = "itself" if into == origin else f"{into!r}, which is itself dropped or merged"
            raise UsageError(f"class {origin!r} cannot become {target}")
    remaining = tuple(name for name in classes if name not in removed)
    if len(remaining) < 2:
        raise UsageError(f"at least two classes must remain, got {len(remaining)} of {', '.join(classes)}")
    return remaining, [-1 if name in drop else remaining.index(merge.get(name, name)) for name in classes]


def renumber(data: Data, classes: tuple[str, ...], labels: Sequence[int]) -> Data:
    """Return the data with new classes. `labels` has the new label of each old class, or -1 to leave its images out."""
    new_labels = np.array(labels, dtype=np.int64)

    def apply(dataset: Dataset) -> Dataset:
        labels = new_labels[dataset.labels]
        kept = np.flatnonzero(labels >= 0)
        renumbered = replace(dataset, labels=labels, classes=classes)
        return renumbered if len(kept) == len(labels) else renumbered.select(kept)

    validation = apply(data.validation) if data.validation is not None else None
    return replace(data, train=apply(data.train), test=apply(data.test), validation=validation)


def join(*parts: Dataset) -> Dataset:
    """Return the images of several data sets of the same classes as one data set, with names if all parts have some."""
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    names = tuple(name for part in parts for name in part.names)
    return replace(parts[0], images=images, labels=labels, names=names if len(names) == len(labels) else ())


def relabelled_sha256(sha256: str, drop: Sequence[str], merge: Mapping[str, str]) -> str:
    """Return the checksum that `relabel` gives to a data set with this checksum."""
    if not drop and not merge:
        return sha256
    return hashlib.sha256(repr((sha256, sorted(drop), sorted(merge.items()))).encode()).hexdigest()


def sample(images: UInt8[np.ndarray, "n c h w"], count: int) -> UInt8[np.ndarray, "m c h w"]:
    """Return at most `count` images: always the same random ones, because the images may be sorted by class."""
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    return images if len(images) <= count else images[np.sort(chosen)]


def split(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set at random in two, with a `fraction` of every class in the second part (stratified).

    A class of two different images or more is in both parts. Identical images are in the same part, whatever their
    labels. The images of each part keep their order.
    """
    generator = np.random.default_rng([seed, 0x5B117])
    in_second = np.zeros(len(dataset), dtype=bool)
    unique = np.unique(twins := first_twins(dataset.images))
    for label in range(len(dataset.classes)):
        members = unique[dataset.labels[unique] == label]
        count = min(round(fraction * len(members)), len(members) - 1) if len(members) > 1 else 0
        in_second[generator.permutation(members)[: max(count, int(len(members) > 1))]] = True
    in_second = in_second[twins]
    return dataset.select(np.flatnonzero(~in_second)), dataset.select(np.flatnonzero(in_second))


def folds_of(dataset: Dataset, count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Return the number of each image's fold, below `count`. Every class is spread evenly; see `split` for twins."""
    generator = np.random.default_rng([seed, 0xF01D5])
    twins = first_twins(dataset.images)
    unique = generator.permutation(np.unique(twins))
    folds: np.ndarray = np.zeros(len(dataset), dtype=np.int64)
    folds[unique[np.argsort(dataset.labels[unique], kind="stable")]] = np.arange(len(unique)) % count
    folds = folds[twins]
    return folds


def first_twins(images: UInt8[np.ndarray, "n c h w"]) -> Int64[np.ndarray, " n"]:
    """Return for each image the index of the first image with the same pixels."""
    first: dict[int, int] = {}
    return np.array([first.setdefault(hash(image.tobytes()), index) for index, image in enumerate(images)], np.int64)


def shared_images(train: Dataset, validation: Dataset, test: Dataset) -> str:
    """Return how many validation and test images the other parts have too; empty if less than `MOST_SHARED` of each."""
    names = {"training": train, "validation": validation, "test": test}
    if validation is test:
        del names["validation"]
    hashes = {name: [hash(image.tobytes()) for image in part.images] for name, part in names.items()}
    shared = []
    for other, name in combinations(names, 2):
        count = len(hashes[name]) - sum(map({*hashes[name]}.difference(hashes[other]).__contains__, hashes[name]))
        if count > MOST_SHARED * len(names[name]):
            shared.append(f"{count:,} of the {len(names[name]):,} {name} images are {other} images")
    return " and ".join(shared)


def split_off_test(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Split a data set that comes without a test set into training and test set, in the same way in every run."""
    return split(dataset, TEST_FRACTION, TEST_SEED)


def sha256_of(*parts: Dataset) -> str:
    """Return the SHA-256 of class names, images and labels, as hexadecimal digits.

    Gray images count with three channels, as all images had up to version 0.2.
    """
    digest = hashlib.sha256("\n".join(parts[0].classes).encode())
    for part in parts:
        for start in range(0, len(part), HASHED_AT_ONCE):
            digest.update(in_colour(part.images[start : start + HASHED_AT_ONCE]).tobytes())
        digest.update(part.labels.tobytes())
    return digest.hexdigest()
