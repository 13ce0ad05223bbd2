"""Your own images as a data set.

    folder:DIR  a folder of images per class, in the folders `train`, `test` and `validation` or in none
    csv:FILE    a table of files and classes
    hf:DIR      a Hugging Face data set on disk: Parquet or Arrow files that contain the images
    npz:FILE    NumPy arrays

Files that cannot be read are reported and skipped. Without a test set, a fifth of the images is kept for testing.
"""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.data.dataset import Data, Dataset, sha256_of, split_off_test
from cifarlab.data.image_files import from_array, read_image, to_array
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.progress import task

GivenData = Data | Mapping[str, Any] | Sequence[Any]  # see `in_memory`
LONGEST_CLASS_NAME = 100  # letters
MOST_CLASSES = 10_000
LARGEST_NPZ = 500_000_000  # bytes of arrays; a larger total is accepted only if the file itself is large
LARGEST_NPZ_RATIO = 100  # bytes of arrays divided by bytes of the file
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")  # names that Hugging Face data sets use
_PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "valid": "validation"}


@dataclass(frozen=True)
class ImageFile:
    """An image of a data set that has not been read yet."""

    source: Path | bytes  # path of the file, or its content
    label: str
    part: str  # `train`, `validation` or `test`
    name: str  # in messages


def load_files(name: str, size: int, quiet: bool) -> Data:
    """Return the data set in a folder, a table or a Hugging Face folder, with images of `size` pixels a side."""
    kind, _, location = name.partition(":")
    files, classes = list_files(name)
    read: dict[str, list[tuple[np.ndarray, int]]] = {part: [] for part in _PARTS.values()}  # images and labels
    skipped: list[str] = []
    with task("reading images", len(files), quiet=quiet) as progress:
        for file in files:
            if file.label not in classes:
                raise UsageError(f"{file.name}: {unknown('class', file.label, classes)}")
            try:
                read[file.part].append((read_image(file.source, size, file.name), classes.index(file.label)))
            except UsageError as error:
                skipped.append(str(error))
                progress.say(f"skipped: {error}")
            progress.advance(1)
        if skipped:
            progress.say(f"{len(skipped)} of {len(files)} files skipped")
    if empty := set(range(len(classes))) - {label for _, label in read["train"]}:
        raise UsageError(f"{location}: no readable image in {classes[min(empty)]!r}")
    parts = {}
    for part in {file.part for file in files}:
        if not read[part]:
            raise UsageError(f"{location}: no image of the part {part} can be read")
        images, labels = zip(*read[part], strict=True)
        parts[part] = Dataset(np.stack(images), np.array(labels, dtype=np.int64), classes)
    train, validation, test = parts["train"], parts.get("validation"), parts.get("test")
    if test is None:
        train, test = split_off_test(train)
    sha256 = sha256_of(train, test, *([validation] if validation else []))
    return Data(name, train, test, sha256, kind, str(Path(location).resolve()), validation, tuple(skipped))


def load_npz(name: str, size: int, quiet: bool = False) -> Data:
    """Return the data set in the arrays `x_train`, `y_train` and, optionally, `x_test`, `y_test`, `classes`."""
    path = _path_of(name)
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            assert archive.zip is not None  # true of an archive that is open
            unpacked = sum(member.file_size for member in archive.zip.infolist())
            if unpacked > LARGEST_NPZ and unpacked > LARGEST_NPZ_RATIO * path.stat().st_size:
                raise ValueError("unpacks to far more than its size")
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # damage, passwords and rare compressions raise errors of many kinds
        raise UsageError(f"{path}: not an .npz file of plain arrays") from error
    return replace(in_memory(arrays, size, path=path), name=f"npz:{path}", source="file", path=str(path))


def in_memory(data: GivenData, size: int, classes: Sequence[str] = (), path: Path | str = "data") -> Data:
    """Return the data set of (images, labels), of two such pairs for training and test, or of arrays as in `npz:`.

    With the `classes` of a network to evaluate, a single pair is a test set. `path` is for errors.
    """
    if isinstance(data, Data):
        return data if data.sha256 else replace(data, sha256=sha256_of(data.train, data.test))
    if isinstance(data, tuple | list) and len(data) == 2:
        pairs = data if isinstance(data[0], tuple) else [data, data] if classes else [data]
        data = dict(zip(("x_train", "y_train", "x_test", "y_test"), chain(*pairs), strict=False))
    arrays = ({"classes": classes} if classes else {}) | (dict(data) if isinstance(data, Mapping) else {})
    if missing := [key for key in ("x_train", "y_train") if key not in arrays]:
        known = "(needed: x_train, y_train; optional: x_test, y_test, classes)"
        raise UsageError(f"{path}: should be (images, labels) or named arrays, has no array {missing[0]!r} {known}")
    labels = flat_labels(arrays["y_train"])
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{path}: y_train should be integers from 0, got {labels.dtype}")
    numbers = np.arange(min(int(labels.max(initial=0)) + 1, MOST_CLASSES))
    classes = tuple(map(str, np.ravel(arrays.get("classes", numbers))))
    _check_classes(classes, path)
    train = _part(path, arrays, "train", classes, size)
    train, test = (train, _part(path, arrays, "test", classes, size)) if "x_test" in arrays else split_off_test(train)
    return Data("arrays", train, test, sha256_of(train, test))


def list_files(name: str) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return the images of a data set, not read, and its class names. Both are empty for a data set without files."""
    kind = name.partition(":")[0]
    if kind not in _LISTERS:
        return [], ()
    files, classes = _LISTERS[kind](path := _path_of(name))
    _check_classes(classes, path)
    return files, classes


def _path_of(name: str) -> Path:
    """Return the path in a name such as `folder:DIR`, which must be an existing folder or file."""
    kind, _, location = name.partition(":")
    path = Path(location)
    wanted, other = ("folder", "file") if kind in ("folder", "hf") else ("file", "folder")
    if not path.exists() or path.is_dir() != (wanted == "folder"):
        raise UsageError(f"there is no {wanted} {location!r}" + (f", it is a {other}" if path.exists() else ""))
    return path


def _list_folder(root: Path) -> tuple[list[ImageFile], tuple[str, ...]]:
    folders = {child.name.lower(): child for child in root.iterdir() if child.is_dir()}
    parts = {part: folders[name] for name, part in _PARTS.items() if name in folders}
    if "train" not in parts:
        parts = {"train": root}
    classes = _class_folders(parts["train"])
    if len(classes) < 2:
        text = f"should contain a folder of images per class, at least two, got {len(classes)}"
        raise UsageError(f"{parts['train']}: {text}")
    files = []
    for part, folder in parts.items():
        for name in _class_folders(folder):
            if name not in classes:
                raise UsageError(f"{folder}: {unknown('class folder', name, classes)}")
            for path in _in_natural_order((folder / name).rglob("*"), folder):
                if path.is_file() and not any(piece.startswith(".") for piece in path.relative_to(folder).parts):
                    files.append(ImageFile(path, name, part, str(path)))
    return files, classes


def _class_folders(root: Path) -> tuple[str, ...]:
    names = (child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return tuple(sorted(names, key=_natural_order))


def _list_csv(path: Path) -> tuple[list[ImageFile], tuple[str, ...]]:
    """List a table with the columns `path`, `label` and optionally `split`; paths start from the table's folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a table in UTF-8 ({one_line(error)})") from error
    if not rows:
        raise UsageError(f"{path}: has no rows below its column names")
    if not {"path", "label"} <= rows[0].keys():
        names = ", ".join(map(str, rows[0]))[:200]
        raise UsageError(f"{path}: should have the columns path and label (and optionally split), got {names}")
    files = []
    for number, row in enumerate(rows, start=2):
        image, label, part = row["path"], row["label"], (row.get("split") or "train").lower()
        if not image or not label:
            raise UsageError(f"{path}, line {number}: {'label' if image else 'path'} is empty")
        if part not in _PARTS:
            raise UsageError(f"{path}, line {number}: {unknown('split', part, _PARTS)}")
        files.append(ImageFile(path.parent / image, label, _PARTS[part], one_line(image)))
    return files, _classes_of(files)


def _list_huggingface(root: Path) -> tuple[list[ImageFile], tuple[str, ...]]:
    """List a folder of Parquet files, as on the hub, or of Arrow files, as `save_to_disk` writes them."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ModuleNotFoundError as error:
        raise UsageError(f"hf: needs {error.name}: pip install 'cifarlab[hf]'") from error
    paths = [path for kind in ("parquet", "arrow") for path in root.rglob(f"*.{kind}") if "cache-" not in path.name]
    if not paths:
        raise UsageError(f"{root}: contains no Parquet and no Arrow file")
    files: list[ImageFile] = []
    class_order: list[str] = []
    for path in _in_natural_order(paths, root):
        try:
            is_parquet = path.suffix == ".parquet"
            table = parquet.read_table(path) if is_parquet else ipc.open_stream(path.read_bytes()).read_all()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{path}: not a Parquet or Arrow file ({one_line(error)[:200]})") from error
        table_files, names = _list_table(table, path.relative_to(root))
        files += table_files
        class_order += names
    classes = _classes_of(files)
    return files, tuple(name for name in dict.fromkeys(class_order) if name in classes) or classes


def _list_table(table: Any, path: Path) -> tuple[list[ImageFile], list[str]]:
    """Return the images of an Arrow table, and the class names in its metadata or none."""
    types = {field.name: str(field.type) for field in table.schema}
    images = [name for name, kind in types.items() if kind == "binary" or kind.startswith("struct<bytes: binary")]
    labels = [name for name in LABEL_COLUMNS if name in types]
    if len(images) != 1 or not labels:
        described = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        raise UsageError(f"{path}: should have one column of images and one called label, got {described}")
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = list(map(str, features[labels[0]]["names"]))
    except (KeyError, ValueError, TypeError):
        names = []
    words = [*path.parts[:-1], re.split(r"[-_.]", path.name)[0]]  # `train` of train-00000-of-00001.parquet
    part = next((_PARTS[word] for word in words if word in _PARTS), "train")
    files = []
    columns = zip(table.column(images[0]).to_pylist(), table.column(labels[0]).to_pylist(), strict=True)
    for number, (image, label) in enumerate(columns):
        place = f"{path}, row {number}"
        content = image["bytes"] if isinstance(image, dict) else image
        if label is None or label == -1 or (names and label not in range(len(names))):
            raise UsageError(f"{place}: the label {label} is not a class")
        files.append(ImageFile(content or b"", names[label] if names else str(label), part, place))
    return files, names


def _classes_of(files: Sequence[ImageFile]) -> tuple[str, ...]:
    return tuple(sorted({file.label for file in files if file.part == "train"}, key=_natural_order))


def _check_classes(classes: Sequence[str], path: Path | str) -> None:
    if len(classes) < 2:
        raise UsageError(f"{path}: should have at least two classes, got {len(classes)}")
    if len(set(classes)) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    for name in classes:
        if len(name) > LONGEST_CLASS_NAME or not name.isprintable() or not name.strip():
            limit = f"at most {LONGEST_CLASS_NAME} printable letters"
            raise UsageError(f"{path}: a class name should have {limit}, got {one_line(name)[:40]!r}")


def _in_natural_order(paths: Iterable[Path], root: Path) -> list[Path]:
    return sorted(paths, key=lambda path: _natural_order(path.relative_to(root).as_posix()))


def _natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that puts `2` before `10` and numbers before letters; the text decides between `1` and `01`."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts], name


def flat_labels(labels: Any) -> np.ndarray:
    """Return labels [n] for labels [n], [n, 1] or one-hot [n, classes]; others as they are."""
    array = to_array(labels)
    is_table = array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "buif"
    is_one_hot = is_table and np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()
    return array.argmax(axis=1) if is_one_hot else array.ravel() if array.shape[1:] == (1,) else array


def _part(path: Path | str, arrays: Mapping[str, Any], part: str, classes: tuple[str, ...], size: int) -> Dataset:
    labels = flat_labels(arrays.get(f"y_{part}", ()))
    try:
        images = from_array(arrays[f"x_{part}"], size)
    except ValueError as error:
        raise UsageError(f"{path}: x_{part} {error}") from error
    are_integers = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not are_integers or labels.min() < 0 or labels.max() >= len(classes):
        values = f" from {labels.min()} to {labels.max()}" if labels.size else ""
        expected = f"{len(images)} integers from 0 to {len(classes) - 1}"
        raise UsageError(f"{path}: y_{part} should be {expected}, got {list(labels.shape)} of {labels.dtype}{values}")
    return Dataset(images, labels.astype(np.int64), classes)


_LISTERS = {"folder": _list_folder, "csv": _list_csv, "hf": _list_huggingface}
