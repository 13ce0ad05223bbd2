"""List the images of a CSV table: of labels, and of files or gray pixels."""

import contextlib
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cifarlab.data.image_files import from_array
from cifarlab.data.own.array_files import to_png
from cifarlab.data.own.image_list import PARTS, ImageFile, classes_of, files_in, is_image, part_of
from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.progress import notice

# names of columns, in order of preference, without spaces and signs
LABELS = ("label", "labels", "classid", "class", "classname", "target", "category", "breed", "species")
IMAGES = ("path", "filepath", "imagepath", "file", "filename", "image", "imagename", "img", "imageid", "id")
FEWEST_PIXELS = 64  # columns


def list_table(path: Path, quiet: bool) -> tuple[list[ImageFile], tuple[str, ...]]:
    """Return the images and the class names of a table, separated by commas, semicolons or tabs."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        files = _list_rows(((row, reader.line_num) for row in reader), path, quiet)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a table in UTF-8 ({one_line(error)})") from error
    return files, classes_of(files)


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
            raise UsageError(f"{place}: {unknown('split', cells[split or 0], PARTS)}")
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
        files = [replace(file, source=to_png(array)) for file, array in zip(files, arrays, strict=True)]
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
    is_square = len(numbers) >= FEWEST_PIXELS and math.isqrt(len(numbers)) ** 2 == len(numbers)
    pixels, split = sorted(numbers, key=numbers.__getitem__) * is_square, keys.get("split", keys.get("subset"))
    images = pixels or [keys[key] for key in IMAGES if key in keys]
    others = [number for number in keys.values() if number != split and number not in (pixels or images[:1])]
    labels = [keys[key] for key in LABELS if key in keys] or (others if len(others) == 1 else [])
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
        if is_image(file):
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
