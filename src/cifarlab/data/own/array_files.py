"""List the images of a folder with the IDX files of MNIST or the .mat files of SVHN."""

import gzip
import io
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.data.own.image_list import ImageFile, part_of
from cifarlab.errors import UsageError
from cifarlab.files import read_regular, why_unreadable
from cifarlab.limited.reading import read_limited
from cifarlab.progress import notice

LARGEST_FILE = 500_000_000  # bytes of arrays; more only if the file itself is a hundredth of that
CHILD = Path(__file__).with_name("mat_child.py")
NAMES = re.compile(r"(images|labels)[-.]idx[13]|\.mat$")  # of files as of MNIST and SVHN


def array_files(root: Path) -> tuple[dict[tuple[str, str], Path], list[str]]:
    """Return a folder's IDX files as of MNIST and .mat files as of SVHN by part and kind, and names of unused ones."""
    used, unused = dict[tuple[str, str], Path](), list[str]()
    for path in sorted(root.iterdir()):  # an unpacked file comes before its .gz
        if (kind := NAMES.search(path.name)) and path.is_file():
            part = next(filter(None, map(part_of, re.split(r"[-_.]", path.name))), "")
            if not part or used.setdefault((part, kind[1] or "mat"), path) not in (path, path.with_suffix("")):
                unused.append(path.name)
    return used, unused


def list_array_files(root: Path, quiet: bool) -> list[ImageFile]:
    """Return the images in a folder's arrays; none if it holds no such files."""
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
            files.append(ImageFile(to_png(image), str(label), part, f"{root}, {part} image {number}"))
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
        shape, (pixels, classes) = read_limited(CHILD, read_regular(path.resolve()), most_bytes=most_bytes)
    except (OSError, UsageError) as error:
        reason = why_unreadable(path, error)
        raise UsageError(f"{path}: not a file as of SVHN, with X [h, w, 3, n] and y ({reason})") from error
    images, labels = np.frombuffer(pixels, np.uint8).reshape(shape), np.frombuffer(classes, np.int64)
    return {"images": images, "labels": labels % 10 if set(labels) <= set(range(1, 11)) else labels}


def to_png(pixels: np.ndarray) -> bytes:
    """Return gray or coloured pixels, uint8 [h, w] or [h, w, 3], as the content of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
