"""Your own images in arrays, tensors or lists, in memory or in a NumPy file (`npz:FILE`), as a data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.data.dataset import Data, Dataset, sha256_of
from cifarlab.data.image_files import from_array, to_array
from cifarlab.data.own.image_list import check_class_names, natural_order, part_of
from cifarlab.data.own.loading import assemble, path_of
from cifarlab.errors import MOST_CHOICES, UsageError
from cifarlab.progress import notice
from cifarlab.recipes import Resize

GivenData = Data | Mapping[str, Any] | Sequence[Any]  # see `in_memory`
MOST_CLASSES = 10_000
LARGEST_NPZ = 500_000_000  # bytes of arrays; a larger total is accepted only if the file itself is large
LARGEST_NPZ_RATIO = 100  # bytes of arrays divided by bytes of the file


def load_npz(name: str, size: int, quiet: bool = False, resize: Resize = "crop") -> Data:
    """Return the data set in the arrays `x_train`, `y_train` and, optionally, of other parts, and `classes`."""
    path = path_of(name)
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            assert archive.zip is not None  # true of an archive that is open
            unpacked = sum(member.file_size for member in archive.zip.infolist())
            if unpacked > LARGEST_NPZ and unpacked > LARGEST_NPZ_RATIO * path.stat().st_size:
                raise ValueError("unpacks to far more than its size")
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # damage, passwords and rare compressions raise errors of many kinds
        raise UsageError(f"{path}: not an .npz file of plain arrays") from error
    data = in_memory(arrays, size, path=path, quiet=quiet, resize=resize)
    return replace(data, name=f"npz:{path}", source="file", path=str(path))


def in_memory(
    data: GivenData,
    size: int,
    classes: Sequence[str] = (),
    path: Path | str = "data",
    quiet: bool = True,
    resize: Resize = "crop",
) -> Data:
    """Return the data set of (images, labels), of two such pairs for training and test, or of arrays as in `npz:`.

    With the `classes` of a network to evaluate, a single pair is a test set. `path` is for errors.
    """
    if isinstance(data, Data):
        train = _checked(data.train, f"{data.name}: train", data.train)
        test = _checked(data.test, f"{data.name}: test", train)
        own = data.validation
        validation = own if own is None else _checked(own, f"{data.name}: validation", train)
        parts = (train, test, *([validation] if validation else []))
        return replace(data, train=train, test=test, validation=validation, sha256=data.sha256 or sha256_of(*parts))
    if isinstance(data, tuple | list) and len(data) == 2:
        pairs = data if isinstance(data[0], tuple) else [data]
        keys = ("x_test", "y_test") if classes and pairs[0] is data else ("x_train", "y_train", "x_test", "y_test")
        data = dict(zip(keys, chain(*pairs), strict=False))
    arrays = {str(key): data[key] for key in data} if isinstance(data, Mapping) else {}
    given: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # images and labels by part
    labels_keys: dict[str, str] = {}
    unused = set(arrays) - {"classes"}
    for key in arrays:
        usual = re.fullmatch(r"x_(\w+)|(\w+)_images|x|images", key.lower())  # `train_images` as in MedMNIST
        word = usual[1] or usual[2] or "" if usual else ""
        if usual and (part := part_of(word or "train")) and part not in given:
            names = (f"y_{word}", f"{word}_labels") if word else ("y", "labels")
            labels_key = next((other for other in arrays if other.lower() in names), None)
            if labels_key is None:
                raise UsageError(f"{path}: has {key} but no {names[0]}")
            try:
                labels = _as_text(flat_labels(arrays[labels_key]))
                shape: tuple[int, ...] = getattr(arrays[key], "shape", ())
                are_gray = len(shape) == 3 and shape[0] == len(labels)  # three of them are not one in colour
                images = from_array(arrays[key][..., None] if are_gray else arrays[key], size, resize)
            except ValueError as error:
                raise UsageError(f"{path}: {key} {error}") from error
            if labels.dtype.kind not in "iuU" or labels.shape != images.shape[:1]:
                got = f"{list(labels.shape)} of {labels.dtype}"
                raise UsageError(
                    f"{path}: {labels_key} should be {len(images)} integers from 0 or class names, got {got}"
                )
            given[part], labels_keys[part] = (images, labels), labels_key
            unused -= {key, labels_key}
    if not given:
        known = "(needed: x_train, y_train; optional: x_test, y_test, x_val, y_val, classes)"
        raise UsageError(f"{path}: should be (images, labels) or named arrays, has no array 'x_train' {known}")
    named = tuple(map(str, np.ravel(_as_text(to_array(arrays.get("classes", ()))))))
    values, classes = _label_values({part: labels for part, (_, labels) in given.items()}, named, classes)
    check_class_names(classes, path)
    read = {}
    for part, (images, labels) in given.items():
        if strange := set(labels.tolist()) - values.keys():
            expected = f"{len(labels)} integers from 0 to {len(classes) - 1} or class names"
            raise UsageError(f"{path}: {labels_keys[part]} should be {expected}, got {min(strange)}")
        read[part] = Dataset(images, np.array([values[label] for label in labels.tolist()], dtype=np.int64), classes)
    skipped = [f"{path}: the array {key} is not used" for key in sorted(unused)]
    present = set(read["train"].labels.tolist()) if "train" in read else range(len(classes))
    empty = [name for number, name in enumerate(classes) if number not in present]
    text = f"{path}: classes without a training image: {', '.join(empty[:MOST_CHOICES])}" + ", …" * (
        len(empty) > MOST_CHOICES
    )
    notice("\n".join(skipped + [text] * bool(empty)), quiet=quiet or not (skipped or empty))
    return assemble("arrays", read, "memory", "", skipped)


def _checked(part: Any, place: str, train: Dataset) -> Dataset:
    """Return a part of hand-made data with arrays of the right types, or raise UsageError if they do not fit."""
    if not isinstance(part, Dataset):
        raise UsageError(f"{place} should be a Dataset, got {type(part).__name__}")
    classes = tuple(map(str, () if part.classes is None else part.classes))
    images, labels, names = to_array(part.images), flat_labels(part.labels), tuple(map(str, part.names))
    check_class_names(classes, place)
    channels, side = np.shape(train.images)[1:2], np.shape(train.images)[-1:]
    if images.dtype != np.uint8 or images.shape[1:] != (*channels, *side, *side) or images.shape[1] not in (1, 3):
        got = f"{images.dtype} {list(images.shape)}. Pass (images, labels) instead, which may be of other kinds"
        raise UsageError(f"{place}.images should be uint8 [n, 1 or 3, size, size], the same in all parts, got {got}.")
    if len(names) not in (0, len(images)):
        raise UsageError(f"{place}.names should be the names of all {len(images)} images or of none, got {len(names)}")
    fits = labels.shape == images.shape[:1] and labels.dtype.kind in "iu"
    if not fits or not np.isin(labels, range(len(classes))).all():
        got = f"{labels.dtype} {list(labels.shape)}" + (f" up to {labels.max()}" if fits else "")
        raise UsageError(f"{place}.labels should be {len(images)} integers from 0 to {len(classes) - 1}, got {got}")
    if classes != tuple(map(str, train.classes)):
        raise UsageError(f"{place}.classes should be those of train, {', '.join(map(str, train.classes))}, got others")
    return Dataset(images, labels.astype(np.int64), classes, names, part.superclasses)


def flat_labels(labels: Any) -> np.ndarray:
    """Return labels [n] for labels [n], [n, 1], [1, n] or one-hot [n, classes]; others as they are."""
    array = to_array(labels)
    is_table = array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "buif"
    is_one_hot = is_table and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()
    return array.argmax(axis=1) if is_one_hot else array.ravel() if array.ndim == 2 and 1 in array.shape else array


def _as_text(values: np.ndarray) -> np.ndarray:
    """Return texts as NumPy's own: those of pandas are objects. Objects of different types stay as they are."""
    if values.dtype.kind in "OT" and len(set(map(type, listed := values.tolist()))) == 1:
        values = np.array(listed)
    return np.char.decode(values, errors="replace") if values.dtype.kind == "S" else values


def _label_values(
    parts: Mapping[str, np.ndarray], named: tuple[str, ...], network: Sequence[str]
) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Return the number of each label value and the class names. Labels are class names or count from 0 or 1.

    The classes are those that the data names, or for numbers those of a `network`, or those of the training labels.
    """
    training = parts["train"] if "train" in parts else np.concatenate(list(parts.values()))
    every = np.concatenate([labels for labels in parts.values() if labels.dtype.kind in "iu"] or [training])
    if training.dtype.kind == "U":
        values: Sequence[Any] = named or sorted(set(training.tolist()), key=natural_order)
    else:
        is_from_one = not named and tuple(network[:1]) == ("1",)  # the labels of the network's training were
        named = named or tuple(network)
        is_from_one |= bool(every.max() == len(named) if named else every.min() == 1)
        first = int(is_from_one and every.min() > 0)
        values = range(first, first + len(named) if named else min(int(training.max()) + 1, MOST_CLASSES))
    return {value: number for number, value in enumerate(values)}, named or tuple(map(str, values))
