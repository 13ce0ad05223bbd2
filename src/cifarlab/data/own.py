"""Your own image files as a data set; `arrays` has images in memory and in NumPy files.

    folder:DIR  a folder of images per class, in a folder per part (training, validation, test) or in none;
                or the files of MNIST (IDX) or SVHN (.mat)
    csv:FILE    a table of classes, and of files or pixels
    hf:DIR      a Hugging Face data set on disk: Parquet or Arrow files that contain the images

Files that cannot be read are reported and skipped. Without a test set, a fifth of the images is kept for testing.
`part_of` has the names of the parts, which are the same for folders, tables, files and arrays.
"""

import contextlib
import csv
import gzip
import importlib.util
import io
import math
import mimetypes
import os
import re
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unicodedata import normalize

import numpy as np
from PIL import Image

from cifarlab.data import picture_cache
from cifarlab.data.dataset import Data, Dataset, sha256_of, split_off_test
from cifarlab.data.image_files import from_array, read_image
from cifarlab.errors import UsageError, one_line, readable, unknown
from cifarlab.files import other_format, read_regular, why_unreadable, with_home
from cifarlab.limited.reading import read_limited
from cifarlab.progress import notice, task
from cifarlab.recipes import Resize

LONGEST_CLASS_NAME = 100  # letters
MOST_NAMED = 3  # files that are skipped for one reason
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")  # names that Hugging Face data sets use
# names of a table's columns, in order of preference, without spaces and signs
_LABELS = ("label", "labels", "classid", "class", "classname", "target", "category", "breed", "species")
_IMAGES = ("path", "filepath", "imagepath", "file", "filename", "image", "imagename", "img", "imageid", "id")
_FEWEST_PIXELS = 64  # columns
LARGEST_FILE = 500_000_000  # bytes of arrays; more only if the file itself is a hundredth of that
ARROW_CHILD, MAT_CHILD = (Path(__file__).with_name(f"{name}_child.py") for name in ("arrow", "mat"))
MAX_INFLATION = 20  # bytes of memory for each byte of a table; images hardly compress further
SMALL_TABLE = 2**26  # bytes of memory that are always allowed
RUN_FILES = {"run.json", "study.toml", "tuning.json"}  # mark folders of runs, whose figures are no data
JUNK = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}  # what archives, network drives and Windows add
_ARRAYS = re.compile(r"(images|labels)[-.]idx[13]|\.mat$")  # names of files as of MNIST and SVHN
_PARTS = dict.fromkeys(("train", "training"), "train")
_PARTS |= dict.fromkeys(("test", "testing", "eval", "evaluation", "t10k"), "test")
_PARTS |= dict.fromkeys(("validation", "val", "valid", "dev", "development"), "validation")


@dataclass(frozen=True)
class ImageFile:
    """An image of a data set that has not been read yet."""

    source: Path | bytes  # path of the file, or its content
    label: str
    part: str  # `train`, `validation` or `test`
    name: str  # in messages

    @property
    def place(self) -> str:
        """The path of the file, or the name of an image without one."""
        return readable(self.source) if isinstance(self.source, Path) else self.name


def load_files(name: str, size: int, quiet: bool, resize: Resize = "crop") -> Data:
    """Return the data set in a folder, a table or a Hugging Face folder, with images of `size` pixels a side."""
    kind, _, location = name.partition(":")
    files, classes = list_files(name, quiet)
    read: dict[str, list[tuple[np.ndarray, int, str]]] = {part: [] for part in _PARTS.values()}
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
        parts[part] = Dataset(np.stack(images), np.array(labels, dtype=np.int64), classes, places)
    if not parts:
        raise UsageError(f"{location}: no readable image in {classes[0]!r}")
    return assemble(name, parts, kind, str(Path(location).resolve()), errors)


def check_trainable(data: Data) -> None:
    """Raise UsageError if a data set has no training images, fewer than two classes, or a class without an image."""
    present = set(data.train.labels.tolist())
    if not present or len(data.classes) < 2:
        raise UsageError(f"{data.name}: should have training images of at least two classes, got {len(present)}")
    empty = set(range(len(data.classes))) - present
    if empty and data.source in _LISTERS:  # arrays may name classes that they do not use
        raise UsageError(f"{data.path}: no readable image in {data.classes[min(empty)]!r}")


def assemble(name: str, parts: dict[str, Dataset], source: str, path: str, skipped: Sequence[str]) -> Data:
    """Return the parts as a data set. Without test images, a fifth of the training images becomes the test set."""
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
    if kind not in _LISTERS:
        return [], ()
    files, classes = _LISTERS[kind](path := path_of(with_home(name)), quiet)
    check_class_names(classes, path)
    return files, classes


def part_of(name: str) -> str | None:
    """Return the part that a name such as `train`, `Test_Set` or `DEV` stands for: train, validation, test or None."""
    word = re.sub(r"[\W_]", "", name.casefold())
    return _PARTS.get(re.sub("(set|split|data|images)$", "", word))


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and its subfolders in natural order, without hidden files and run folders.

    Links are followed; a folder that several links lead to is read once, and a link to a folder above it is listed.
    """
    found, seen = list[Path](), set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or RUN_FILES & set(names) or _is_loop(Path(place)):
            found += [Path(place)] * (real not in seen and _is_loop(Path(place)))  # cannot be read, which is said
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in JUNK)
        found += [Path(place, name) for name in names if not name.startswith(".") and name not in JUNK]
    return _in_natural_order(found, folder)


def _is_loop(path: Path) -> bool:
    """Return True for a link to a folder that contains the link, and thus other classes."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


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


def _list_folder(root: Path, quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    folders, unused = _subfolders(root)
    parts: dict[str, Path] = {}
    for folder in folders:
        images = any(map(_is_image, folder.iterdir()))
        if (part := part_of(folder.name)) and not images and _subfolders(folder)[0]:  # else a class called `train`
            if part in parts:
                both = f"{parts[part].name} and {folder.name}"
                raise UsageError(f"{root}: {both} are both folders of the part {part}. Move one elsewhere.")
            parts[part] = folder
    if parts:
        unused += [folder for folder in folders if folder not in parts.values()]
    for place in (root, *parts.values()) if folders else ():
        _say_oddities(place, quiet)
    files, classes = list[ImageFile](), dict[str, str]()  # classes by their name in Unicode's composed form
    for part, folder in sorted((parts or {"train": root}).items(), key=lambda pair: pair[0] != "train"):
        class_folders, others = _subfolders(folder)
        unused += others if parts else []
        for path in class_folders:
            label = readable(path.name)
            if part != "train" and "train" in parts and normalize("NFC", label) not in classes:
                reason = unknown("class folder", label, classes.values())
                raise UsageError(f"{folder}: {reason} (the classes are the folders in {parts['train']})")
            label = classes.setdefault(normalize("NFC", label), label)
            files += [ImageFile(file, label, part, one_line(file)) for file in files_in(path)]
    if not classes:
        if files := _list_array_files(root, quiet):
            return files, _classes_of(files)
        raise UsageError(f"{root}: should contain a folder of images per class, at least two, got 0")
    paths = [file.source for file in files if isinstance(file.source, Path)]
    if (arrays := [path for path in paths if _ARRAYS.search(path.name)]) and not any(map(_is_image, paths)):
        raise UsageError(f"{root}: the files of the data set are deeper, in folder:{arrays[0].parent}")
    files += [ImageFile(path, next(iter(classes.values())), files[0].part, one_line(path)) for path in unused if files]
    return files, tuple(sorted(classes.values(), key=natural_order))


def _say_oddities(folder: Path, quiet: bool) -> None:
    """Name files of pictures beside folders, and folders whose names differ in Unicode's normal form alone."""
    if loose := [path.name for path in folder.iterdir() if _is_image(path) or _ARRAYS.search(path.name)]:
        text = f"{len(loose)} files beside the folders are not used, such as {one_line(min(loose))}"
        notice(f"{folder}: {text}", quiet=quiet)
    names = [normalize("NFC", readable(path.name)) for path in _subfolders(folder)[0]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        notice(f"{folder}: the folders called {name!r}, spelt in different bytes, are one class", quiet=quiet)


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and (mimetypes.guess_type(path)[0] or "").startswith("image/")


def _subfolders(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders in `root` that may hold images, in natural order, and its folders of runs and broken links."""
    folders, others = list[Path](), list[Path]()
    for path in _in_natural_order(root.iterdir(), root):
        if path.name.startswith(".") or path.name in JUNK or (path.exists() and not path.is_dir()):
            continue
        runs = any(next(path.glob(f"{place}{name}"), None) for place in ("", "*/") for name in RUN_FILES)
        (others if runs or not path.exists() or _is_loop(path) else folders).append(path)
    return folders, others


def _list_csv(path: Path, quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        files = _list_rows(((row, reader.line_num) for row in reader), path, quiet)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a table in UTF-8 ({one_line(error)})") from error
    return files, _classes_of(files)


def _list_rows(rows: Iterator[tuple[list[str], int]], table: Path, quiet: bool) -> list[ImageFile]:
    """List a table with columns of labels, of files or of gray pixels row by row, and optionally of parts (`split`).

    Rows come with the number of their last line.
    """
    names, end = next(rows, (list[str](), 0))
    header = list(map(str.strip, names))
    pixels, images, labels, split = _columns(header, table)
    side = math.isqrt(len(pixels))
    if (header[images[0]], header[labels[0]]) != ("path", "label"):
        what = f"{side} x {side} pixels in columns" if pixels else f"files in the column {header[images[0]]!r}"
        notice(f"{table}: {what}, labels in the column {header[labels[0]]!r}", quiet=quiet)
    files, values, spaces, places = list[ImageFile](), list[np.ndarray](), 0, dict[str, list[Path]]()
    for row, last in rows:
        number, end = end + 1, last
        if not any(row):
            continue
        cells = [cell.strip() for cell in row] + [""] * (len(header) - len(row))
        image, label, place = cells[images[0]], cells[labels[0]], f"{table}, line {number}"
        if not image or not label:
            raise UsageError(f"{place}: {header[labels[0] if image else images[0]]} is empty")
        if not (part := part_of(cells[split] or "train" if split is not None else "train")):
            raise UsageError(f"{place}: {unknown('split', cells[split or 0], _PARTS)}")
        spaces += label != row[labels[0]]
        if pixels:
            try:
                values.append(np.array([float(cells[pixel]) for pixel in pixels], np.float32))
            except ValueError as error:
                raise UsageError(f"{place}: a pixel should be a number from 0 to 255 ({error})") from error
        source = b"" if pixels else _file_named(image, part, table.parent, places)
        files.append(ImageFile(source, label, part, place if pixels else one_line(image)))
    if not files:
        raise UsageError(f"{table}: has no rows below its column names")
    notice(f"{table}: {spaces} labels have spaces around them, which are left out", quiet=quiet or not spaces)
    if pixels:
        try:
            arrays = from_array(np.stack(values).reshape(-1, side, side), side)[:, 0]
        except ValueError as error:
            raise UsageError(f"{table}: {error}") from error
        files = [replace(file, source=_png(array)) for file, array in zip(files, arrays, strict=True)]
    return files


def _columns(header: list[str], table: Path) -> tuple[list[int], list[int], list[int], int | None]:
    """Return the columns of pixels in their order, of images (or pixels), of labels, the best first, and of parts."""
    words = [re.sub(r"[\W_]", "", name.casefold()) for name in header]
    keys = {word: number for number, word in enumerate(words)}
    numbers = {  # of a pixel, or of its row and column
        column: tuple(map(int, re.findall(r"\d+", name)))
        for column, name in enumerate(header)
        if re.fullmatch(r"(pixel)?[\W_]*\d{1,9}([\W_x]+\d{1,9})?", name.casefold())
    }
    is_square = len(numbers) >= _FEWEST_PIXELS and math.isqrt(len(numbers)) ** 2 == len(numbers)
    pixels, split = sorted(numbers, key=numbers.__getitem__) * is_square, keys.get("split", keys.get("subset"))
    images = pixels or [keys[key] for key in _IMAGES if key in keys]
    others = [number for number in keys.values() if number != split and number not in (pixels or images[:1])]
    labels = [keys[key] for key in _LABELS if key in keys] or (others if len(others) == 1 else [])
    if not images or not labels:
        wanted = "path and label (and optionally split), or label and a square number of pixels (pixel0, pixel1, …)"
        raise UsageError(f"{table}: should have the columns {wanted}, got {', '.join(header)[:200]}")
    counts = Counter([*words, *numbers.values()])
    used = [*(pixels or images[:1]), labels[0], *([] if split is None else [split])]
    if twice := [header[column] for column in used if counts[numbers.get(column, words[column])] > 1]:
        raise UsageError(f"{table}: two columns are called {twice[0]!r}, of which one is needed")
    return pixels, images, labels, split


def _file_named(name: str, part: str, folder: Path, places: dict[str, list[Path]]) -> Path:
    """Return the file with a name that may lack folders and its ending; `places` keeps the images in the folder."""
    path = folder / name.replace("\\", "/")
    with contextlib.suppress(OSError, ValueError):  # too long, or with a null byte: an image that cannot be read
        if path.is_file():
            return path
    for file in files_in(folder) if not places else ():
        places[""] = []  # so that they are looked for once
        if _is_image(file):
            for key in {file.name, file.stem}:
                places.setdefault(key, []).append(file)
    ending = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts
    same = [
        file
        for file in places.get(path.name, ())
        if ending in (file.parts[-len(ending) :], file.with_suffix("").parts[-len(ending) :])
    ]
    found = [file for file in same if part in map(part_of, file.relative_to(folder).parts[:-1])] or same
    if len(found) > 1:
        raise UsageError(f"{name!r} may be {one_line(found[0])} or {one_line(found[1])}")
    return found[0] if found else path


def array_files(root: Path) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """Return a folder's IDX files as of MNIST and .mat files as of SVHN by part and kind, and names of unused ones."""
    used, unused = dict[tuple[str, str], Path](), list[str]()
    for path in sorted(root.iterdir()):  # an unpacked file comes before its .gz
        if (kind := _ARRAYS.search(path.name)) and path.is_file():
            part = next(filter(None, map(part_of, re.split(r"[-_.]", path.name))), "")
            if not part or used.setdefault((part, kind[1] or "mat"), path) not in (path, path.with_suffix("")):
                unused.append(path.name)
    return used, unused


def _list_array_files(root: Path, quiet: bool) -> list[ImageFile]:
    read: dict[str, dict[str, np.ndarray]] = {}  # images and labels by part
    used, unused = array_files(root)
    for (part, kind), path in sorted(used.items(), reverse=True):
        read.setdefault(part, {}).update(_read_mat(path) if kind == "mat" else {kind: _read_idx(path)})
    files = list[ImageFile]()
    for part, arrays in read.items():
        images, labels = (arrays.get(kind, np.zeros(0)) for kind in ("images", "labels"))
        if len(images) != len(labels) or images.ndim not in (3, 4) or labels.ndim != 1:
            got = f"{list(images.shape)} and {list(labels.shape)}"
            raise UsageError(f"{root}: should have images and as many labels for the part {part}, got {got}")
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            files.append(ImageFile(_png(image), str(label), part, f"{root}, {part} image {number}"))
    others = f"; not used: {', '.join(unused)}" if unused else ""
    notice(f"{root}: images in arrays, of {', '.join(read)}{others}", quiet=quiet or not read)
    return files


def _read_idx(path: Path) -> np.ndarray:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            kind, axes = struct.unpack(">3sB", file.read(4))
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            if kind != b"\0\0\x08" or not 0 < math.prod(shape) <= max(LARGEST_FILE, 100 * path.stat().st_size):
                raise ValueError("no bytes, none at all or too many")
            return np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UsageError(f"{path}: not an IDX file as of MNIST ({why_unreadable(path, error)})") from error


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    """Return images and labels of a MATLAB file as of SVHN: X [h, w, 3, n], and y [n, 1], where 10 is the digit 0."""
    most_bytes = max(LARGEST_FILE, 100 * path.stat().st_size)
    try:
        shape, (pixels, classes) = read_limited(MAT_CHILD, read_regular(path.resolve()), most_bytes=most_bytes)
    except (OSError, UsageError) as error:
        reason = why_unreadable(path, error)
        raise UsageError(f"{path}: not a file as of SVHN, with X [h, w, 3, n] and y ({reason})") from error
    images, labels = np.frombuffer(pixels, np.uint8).reshape(shape), np.frombuffer(classes, np.int64)
    return {"images": images, "labels": labels % 10 if set(labels) <= set(range(1, 11)) else labels}


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _list_huggingface(root: Path, _quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    """List a folder of Parquet files, as on the hub, or of Arrow files, as `save_to_disk` writes them."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("hf: needs pyarrow: pip install 'cifarlab[hf]'")
    paths = [path for path in files_in(root) if path.suffix in (".parquet", ".arrow") and "cache-" not in path.name]
    if not paths:
        raise UsageError(f"{root}: contains no Parquet and no Arrow file")
    files: list[ImageFile] = []
    class_order: list[str] = []
    for path in paths:
        table_files, names = _list_table(path, path.relative_to(root))
        files += table_files
        class_order += names
    classes = _classes_of(files)
    return files, tuple(name for name in dict.fromkeys(class_order) if name in classes) or classes


def _list_table(file: Path, path: Path) -> tuple[list[ImageFile], list[str]]:
    """Return the images of a table, and the class names in its metadata or none; `path` is for messages."""
    try:
        content = read_regular(file.resolve())
        limit = max(SMALL_TABLE, MAX_INFLATION * len(content))
        arguments = file.suffix == ".parquet", LABEL_COLUMNS, limit
        table, images = read_limited(ARROW_CHILD, content, *arguments, most_bytes=2 * limit)
    except (OSError, UsageError) as error:
        raise UsageError(f"{file}: not a Parquet or Arrow file ({why_unreadable(file, error)})") from error
    if "types" in table:
        described = ", ".join(f"{name} ({kind})" for name, kind in table["types"].items())
        raise UsageError(f"{path}: should have one column of images and one called label, got {described}")
    names = table["names"]
    words = [*path.parts[:-1], re.split(r"[-_.]", path.name)[0]]  # `train` of train-00000-of-00001.parquet
    part = next(filter(None, map(part_of, words)), "train")
    files = []
    for number, (image, label) in enumerate(zip(images, table["labels"], strict=True)):
        place = f"{path}, row {number}"
        if label is None or label == -1 or (names and label not in range(len(names))):
            raise UsageError(f"{place}: the label {label} is not a class")
        files.append(ImageFile(bytes(image), names[label] if names else str(label), part, place))
    return files, names


def _classes_of(files: Sequence[ImageFile]) -> tuple[str, ...]:
    """Return the classes of the training images, or of all images if there are none to train on."""
    training = {file.label for file in files if file.part == "train"}
    return tuple(sorted(training or {file.label for file in files}, key=natural_order))


def check_class_names(classes: Sequence[str], path: Path | str) -> None:
    """Check that there are classes, with distinct and printable names."""
    if not classes:
        raise UsageError(f"{path}: should have at least two classes, got 0")
    if len(set(classes)) < len(classes):
        raise UsageError(f"{path}: two classes have the same name")
    for name in classes:
        if len(name) > LONGEST_CLASS_NAME or not name.isprintable() or not name.strip():
            limit = f"at most {LONGEST_CLASS_NAME} printable letters"
            raise UsageError(f"{path}: a class name should have {limit}, got {one_line(name)[:40]!r}")


def _in_natural_order(paths: Iterable[Path], root: Path) -> list[Path]:
    return sorted(paths, key=lambda path: natural_order(path.relative_to(root).as_posix()))


def natural_order(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that puts `2` before `10` and numbers before letters; the text decides between `1` and `01`."""
    parts = [part for part in re.split(r"(\d{1,4000})", name) if part]  # Python refuses to read longer numbers
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts], name


_LISTERS = {"folder": _list_folder, "csv": _list_csv, "hf": _list_huggingface}
