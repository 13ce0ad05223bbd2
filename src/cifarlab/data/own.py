"""One's own pictures as a data set.

    folder:DIR  a folder per class, in `train`, `test` and `validation` or not
    csv:FILE    a table of files and classes
    hf:DIR      a data set of Hugging Face on disk: its Parquet or Arrow files, which hold the pictures
    npz:FILE    arrays

Files that cannot be read are named and left out. Without a test part, a fifth is kept for testing.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cifarlab.data import images as pictures
from cifarlab.data.dataset import Data, Dataset, sha256_of, split
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.progress import task

TEST_FRACTION = 0.2  # of data that comes without a test set
LONGEST_NAME = 100  # letters of a class
MOST_CLASSES = 10_000
LARGEST_NPZ = 500_000_000  # bytes of arrays; more only where the file itself is large
MOST_UNPACKED = 100  # times the file's size
TEST_SEED = 0  # which part is the test set belongs to the data set, not to a run
_PARTS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "valid": "validation"}


class Item(NamedTuple):
    """A picture of a data set, not read yet."""

    picture: Path | bytes
    label: str
    part: str
    """`train`, `validation` or `test`."""
    name: str
    """For messages."""


def _folder(root: Path) -> tuple[list[Item], tuple[str, ...]]:
    if not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r}" + (", it is a file" if root.exists() else ""))
    inner = {child.name.lower(): child for child in root.iterdir() if child.is_dir()}
    train_root = inner.get("train", root)
    classes = _class_folders(train_root)
    roots = {_PARTS[name]: inner[name] for name in _PARTS if name in inner} if "train" in inner else {"train": root}
    return [item for part, place in roots.items() for item in _in_folder(place, part, classes)], classes


def _class_folders(root: Path) -> tuple[str, ...]:
    names = [child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")]
    if len(names) < 2:
        raise UsageError(f"{root}: should hold a folder of images per class, at least two; it has {len(names)}")
    return tuple(sorted(names, key=_natural))


def _in_folder(root: Path, part: str, classes: tuple[str, ...]) -> list[Item]:
    for child in root.iterdir():
        if child.is_dir() and not child.name.startswith(".") and child.name not in classes:
            raise UsageError(f"{root}: {unknown('class folder', child.name, classes)}")
    return [
        Item(path, name, part, str(path))
        for name in classes
        for path in sorted((root / name).rglob("*"), key=lambda path: _natural(path.relative_to(root).as_posix()))
        if path.is_file() and not any(piece.startswith(".") for piece in path.relative_to(root).parts)
    ]


def _csv(path: Path) -> tuple[list[Item], tuple[str, ...]]:
    """A table with the columns `path` and `label` and perhaps `split`; paths count from the table's folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {str(path)!r}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not in UTF-8: save it so") from error
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path}: not a table ({one_line(error)})") from error
    if not rows:
        raise UsageError(f"{path}: has no row under its columns")
    columns = list(rows[0])
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        told = ", ".join(map(str, columns))[:200]
        raise UsageError(f"{path}: should have the columns path and label (and perhaps split), has {told}")
    items = []
    for number, row in enumerate(rows, start=2):
        picture, label, part = (row.get(name) or "" for name in ("path", "label", "split"))
        if not picture or not label:
            raise UsageError(f"{path}, line {number}: {'path' if not picture else 'label'} is empty")
        items.append(Item(path.parent / picture, label, _part(part, f"{path}, line {number}"), one_line(picture)))
    return items, _classes(items, path)


def _huggingface(root: Path) -> tuple[list[Item], tuple[str, ...]]:
    """A folder as the hub has it, with Parquet files, or as `save_to_disk` writes it, with Arrow files."""
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ModuleNotFoundError as error:
        raise UsageError(f"hf: needs {error.name}: pip install 'cifarlab[hf]'") from error
    if not root.is_dir():
        raise UsageError(f"there is no folder {str(root)!r}")
    found = [path for kind in ("parquet", "arrow") for path in root.rglob(f"*.{kind}") if "cache-" not in path.name]
    if not found:
        raise UsageError(f"{root}: holds no Parquet and no Arrow file")
    items: list[Item] = []
    named: list[str] = []
    for path in sorted(found, key=lambda path: _natural(path.relative_to(root).as_posix())):
        try:
            if path.suffix == ".parquet":
                table = parquet.read_table(path)
            else:
                with pyarrow.memory_map(str(path)) as file:
                    table = ipc.open_stream(file).read_all()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"{path}: not a file that Arrow reads ({one_line(error)[:200]})") from error
        more, names = _in_table(table, path, root)
        items += more
        named += [name for name in names if name not in named]
    classes = _classes(items, root)
    return items, tuple(name for name in named if name in classes) if named else classes


def _in_table(table: Any, path: Path, root: Path) -> tuple[list[Item], list[str]]:
    """The pictures of a table: its one column of bytes, or of structures with `bytes`, beside one of labels.

    And the classes in the table's own order, where it names them.
    """
    types = {field.name: str(field.type) for field in table.schema}
    images = [name for name, kind in types.items() if kind == "binary" or kind.startswith("struct<bytes: binary")]
    labels = [name for name in ("label", "labels", "fine_label", "class", "target") if name in types]
    if len(images) != 1 or not labels:
        told = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        raise UsageError(f"{path}: should have a column of images and one called label, has {told}")
    names = _class_names(table.schema.metadata, labels[0])
    relative = path.relative_to(root)
    pieces = [*relative.parts[:-1], re.split(r"[-_.]", relative.name)[0]]
    part = next((_PARTS[piece] for piece in pieces if piece in _PARTS), "train")
    columns = zip(table.column(images[0]).to_pylist(), table.column(labels[0]).to_pylist(), strict=True)
    items = []
    for number, (image, label) in enumerate(columns):
        content = image["bytes"] if isinstance(image, dict) else image
        if label is None or label == -1 or (names is not None and label not in range(len(names))):
            raise UsageError(f"{relative}, row {number}: its label is {label}, which names no class")
        name = str(label) if names is None else names[label]
        items.append(Item(content or b"", name, part, f"{relative}, row {number}"))
    return items, names or []


def _class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str] | None:
    """What Hugging Face writes beside the columns: names for numbers."""
    try:
        described = json.loads((metadata or {})[b"huggingface"])
        names = described["info"]["features"][column]["names"]
        return list(map(str, names))
    except (KeyError, ValueError, TypeError):
        return None


def _part(name: str, where: str) -> str:
    if name and name.lower() not in _PARTS:
        raise UsageError(f"{where}: {unknown('split', name, _PARTS)}")
    return _PARTS[name.lower()] if name else "train"


def _classes(items: Sequence[Item], path: Path) -> tuple[str, ...]:
    """Those of the training pictures, sorted as people would."""
    classes = tuple(sorted({item.label for item in items if item.part == "train"}, key=_natural))
    if len(classes) < 2:
        raise UsageError(f"{path}: should have at least two classes, has {len(classes)}")
    return classes


def load(name: str, size: int, quiet: bool) -> Data:
    """A data set of one's own.

    Args:
        name: `KIND:PATH`, the kind one of `KINDS`.
        size: side of the images, in pixels.
        quiet: show no progress.

    Raises:
        UsageError: it is none, no picture of a class can be read, or a part has a class that the training has not.
    """
    kind, _, place = name.partition(":")
    path = Path(place)
    if kind == "npz":
        return _npz(path, size)
    items, classes = _LISTED[kind](path)
    _check_names(classes, path)
    skipped: list[str] = []
    parts = {part: _read_part(items, part, classes, size, skipped, quiet) for part in ("train", "validation", "test")}
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    absent = [each for label, each in enumerate(classes) if train is None or label not in train.labels]
    if train is None or absent:
        raise UsageError(f"{path}: no readable image in {absent[0]!r}")
    if test is None:
        train, test = split(train, TEST_FRACTION, TEST_SEED)
    sha256 = sha256_of(train, test, *([validation] if validation is not None else []))
    return Data(name, train, test, sha256, kind, str(path.resolve()), validation, tuple(skipped))


def _check_names(classes: Sequence[str], path: Path) -> None:
    if len(set(classes)) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    for name in classes:
        if len(name) > LONGEST_NAME or not name.isprintable() or not name.strip():
            told = one_line(name)[:40]
            raise UsageError(f"{path}: the class {told!r} should have a plain name of at most {LONGEST_NAME} letters")


def listed(name: str) -> tuple[list[Item], tuple[str, ...]]:
    """The pictures of a data set, not read, and its classes; empty for arrays. Raises as `load`."""
    kind, _, place = name.partition(":")
    return _LISTED[kind](Path(place)) if kind in _LISTED else ([], ())


def _read_part(
    items: Sequence[Item], part: str, classes: tuple[str, ...], size: int, skipped: list[str], quiet: bool
) -> Dataset | None:
    chosen = [item for item in items if item.part == part]
    images, labels, damaged = [], [], 0
    if not chosen:
        return None
    with task(f"reading {part}", len(chosen), quiet=quiet) as shown:
        for item in chosen:
            if item.label not in classes:
                raise UsageError(f"{item.name}: {unknown('class', item.label, classes)}")
            try:
                images.append(pictures.read_image(item.picture, size))
                labels.append(classes.index(item.label))
            except UsageError as error:
                damaged += 1
                told = str(error) if isinstance(item.picture, Path) else f"{item.name}: {error}"
                skipped.append(told)
                shown.say(f"skipped: {told}")
            shown.advance(1)
        if damaged:
            shown.say(f"{part}: {damaged} of {len(chosen)} files skipped")
    if not images:
        raise UsageError(f"{chosen[0].name}: no image of the part {part} can be read")
    return Dataset(np.stack(images), np.array(labels, dtype=np.int64), classes)


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorts `2` before `10`, numbers before letters, and equals such as `1` and `01` in the same way everywhere."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts], name


def _npz(path: Path, size: int) -> Data:
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}" + (", it is a folder" if path.is_dir() else ""))
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            assert archive.zip is not None  # so while it is open
            unpacked = sum(part.file_size for part in archive.zip.infolist())
            if unpacked > LARGEST_NPZ and unpacked > MOST_UNPACKED * path.stat().st_size:
                raise ValueError("it unpacks to far more than it is")
            arrays = {key: archive[key] for key in archive.files}
    except Exception as error:  # archives with damage, a password or a rare compression raise many kinds
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
    if highest >= MOST_CLASSES:
        raise UsageError(f"{path}: y_train should be below {MOST_CLASSES:,}, has {highest:,}")
    named = arrays.get("classes", np.arange(highest + 1))
    classes = tuple(str(name) for name in np.ravel(named))
    if len(classes) < 2:
        raise UsageError(f"{path}: fewer than two classes")
    _check_names(classes, path)
    train = _npz_part(path, arrays, "train", classes, size)
    if "x_test" not in arrays:
        return with_test(train, f"npz:{path}", "file", str(path))
    test = _npz_part(path, arrays, "test", classes, size)
    return Data(f"npz:{path}", train, test, sha256_of(train, test), "file", str(path))


def _npz_part(path: Path, arrays: Mapping[str, Any], part: str, classes: tuple[str, ...], size: int) -> Dataset:
    if f"y_{part}" not in arrays:
        raise UsageError(f"{path}: has x_{part} and no y_{part}")
    labels = np.ravel(arrays[f"y_{part}"])
    try:
        images = pictures.from_array(arrays[f"x_{part}"], size)
    except ValueError as error:
        raise UsageError(f"{path}: x_{part} {error}") from error
    whole = np.issubdtype(labels.dtype, np.integer)
    if len(labels) != len(images) or not whole or labels.min() < 0 or labels.max() >= len(classes):
        told = f"{len(labels)} of {labels.dtype}" + (f" from {labels.min()} to {labels.max()}" if len(labels) else "")
        raise UsageError(
            f"{path}: y_{part} should be {len(images)} whole numbers from 0 to {len(classes) - 1}, got {told}"
        )
    return Dataset(images, labels.astype(np.int64), classes)


def with_test(whole: Dataset, name: str, source: str, path: str) -> Data:
    """A data set that comes in one piece, a fifth of which becomes the test part."""
    train, test = split(whole, TEST_FRACTION, TEST_SEED)
    return Data(name, train, test, sha256_of(train, test), source, path)


_LISTED: dict[str, Callable[[Path], tuple[list[Item], tuple[str, ...]]]] = {
    "folder": _folder,
    "csv": _csv,
    "hf": _huggingface,
}
KINDS = (*_LISTED, "npz")
