"""Corrections of labels: a table beside the data, and the data with its labels corrected.

The table is a CSV file with the columns `image` and `label`. An image is named as `cifarlab data issues` names it:
by its file's path below the data set's folder, or such as `train image 5`. An empty label leaves the image out.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifarlab import files
from cifarlab.data.dataset import Data, Dataset
from cifarlab.errors import UsageError, one_line, unknown

COLUMNS = ("image", "label")
LARGEST_TABLE = 10_000_000  # bytes


def read_labels(path: Path) -> dict[str, str]:
    """Return the label of each image in a table of corrections; an empty label leaves the image out."""
    path = Path(files.with_home(path))
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise UsageError(f"--labels {path}: should have at most {LARGEST_TABLE // 1_000_000} MB")
        rows = list(csv.reader(io.StringIO(files.read_regular(path).decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"--labels {path}: not a table in UTF-8 ({reason})") from error
    if not rows or tuple(rows[0][:2]) != COLUMNS:
        raise UsageError(
            f"--labels {path}: should begin with the line image,label, got {','.join(rows[0] if rows else [])[:80]!r}"
        )
    labels: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) < 2 or not row[0]:
            raise UsageError(f"--labels {path}: row {number} should be an image and its label, got {','.join(row)!r}")
        if row[0] in labels:
            raise UsageError(f"--labels {path}: row {number} has the image {row[0]!r} again. Delete one of the rows.")
        labels[row[0]] = row[1].strip()
    return labels


def write_labels(path: Path, labels: Mapping[str, str]) -> None:
    """Write a table of corrections."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *labels.items()])
    files.write_text(path, text.getvalue())


def image_names(data: Data) -> dict[str, tuple[str, ...]]:
    """Return the names of the images of each part (`train`, `validation`, `test`), as corrections name them."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    root = Path(data.path) if data.path else None
    if root and root.is_file():
        root = root.parent
    return {part: _names(images, part, root) for part, images in parts.items() if images is not None}


def _names(images: Dataset, part: str, root: Path | None) -> tuple[str, ...]:
    if not images.names:
        return tuple(f"{part} image {number}" for number in range(len(images)))
    return tuple(below(name, root) for name in images.names)


def below(name: str, root: Path | None) -> str:
    """Return the path of a file below the data set's folder; other names are left as they are."""
    path = Path(name)
    return path.relative_to(root).as_posix() if root and path.is_relative_to(root) else name


def correct_labels(data: Data, labels: Mapping[str, str]) -> Data:
    """Return the data with other labels, and without the images whose new label is empty.

    Args:
        data: the data set before classes are dropped or merged. Its checksum stays, because its files are the same.
        labels: the class of each image that is corrected, by the image's name; see `image_names`.

    Raises:
        UsageError: there is no such image or class.
    """
    if not labels:
        return data
    names = image_names(data)
    places = {name: (part, number) for part, all_names in names.items() for number, name in enumerate(all_names)}
    parts = {part: getattr(data, part) for part in names}
    new_labels = {part: images.labels.copy() for part, images in parts.items()}
    root = Path(data.path) if data.path else None
    for name, label in labels.items():
        place = places.get(name) or places.get(below(name, root))
        if place is None:
            raise unknown("image in the corrected labels", name, places)
        if label and label not in data.classes:
            raise unknown(f"class, the corrected label of {name},", label, data.classes)
        new_labels[place[0]][place[1]] = data.classes.index(label) if label else -1
    corrected = {}
    for part, images in parts.items():
        kept = np.flatnonzero(new_labels[part] >= 0)
        corrected[part] = replace(images, labels=new_labels[part])
        if len(kept) < len(images):
            corrected[part] = corrected[part].select(kept)
    return replace(data, **corrected)
