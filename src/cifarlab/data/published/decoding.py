"""Decode the file formats of published data sets into records: the label or labels, then the pixels of an image.

Each function gets the content of the files of one piece, and may raise any error for damaged content.
"""

import io
import json
import pickle
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cifarlab.data.own import array_files
from cifarlab.data.own.huggingface import read_table
from cifarlab.data.published.description import Piece, PublishedData
from cifarlab.errors import CifarlabError, one_line
from cifarlab.limited.reading import read_limited

IDX_IMAGES, IDX_LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"  # unsigned bytes in three axes and in one
IDX_HEADERS = (16, 8)  # bytes before the images and before the labels
SVHN_MEMORY = 2 * 10**9  # bytes, to unpack the training images twice


def binary(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Return records that are published as such."""
    return contents[0]


def python_batch(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode a batch of the Python version of CIFAR-10 or CIFAR-100, a pickle; nothing in it is run."""
    batch = _DataUnpickler(io.BytesIO(contents[0]), encoding="bytes").load()
    _, shape, dtype, is_fortran, content = batch[b"data"].state  # as ndarray.__setstate__ takes it
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError("pixels are not unsigned bytes")
    pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")
    keys = (b"labels",) if data.label_bytes == 1 else (b"coarse_labels", b"fine_labels")
    return _records(data, piece, pixels, *(batch[key] for key in keys))


def png_batch(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode a picture with an image in each row, and a JSON file with the labels of all pieces of the same part."""
    part = [other for other in data.pieces if other.is_test == piece.is_test]
    first = sum(other.images for other in part[: part.index(piece)])
    with Image.open(io.BytesIO(contents[0]), formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"))  # [10000, 1024, 3]
    planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
    return _records(data, piece, planes, json.loads(contents[1])[first : first + piece.images])


def parquet(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode a Parquet file of PNG files and labels, as on the Hugging Face hub; it holds all pieces of a part."""
    table, images = read_table(contents[0], is_parquet=True)
    part = [other for other in data.pieces if other.is_test == piece.is_test]
    first = sum(other.images for other in part[: part.index(piece)])
    rows = slice(first, first + piece.images)
    pixels = np.stack([_png(bytes(image), data) for image in images[rows]])
    labels = np.array(table["labels"][rows])
    coarse = () if data.label_bytes == 1 else (np.array(superclass_labels(data))[labels],)
    return _records(data, piece, pixels, *coarse, labels)


def _png(content: bytes, data: PublishedData) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.size != (data.size, data.size):
            raise ValueError(f"an image of {image.width} x {image.height} pixels")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def idx(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode images and labels in MNIST's format, with or without compression by gzip."""
    sizes = (piece.images * data.pixel_bytes, piece.images)
    images, labels = (
        _unzipped(content, header + size) for content, header, size in zip(contents, IDX_HEADERS, sizes, strict=True)
    )
    counts = np.frombuffer(images[4:16] + labels[4:8], ">u4").tolist()
    if (images[:4], labels[:4]) != (IDX_IMAGES, IDX_LABELS) or counts != [piece.images, *data.shape[1:], piece.images]:
        raise ValueError(f"not {piece.images:,} images and labels in the IDX format")
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(piece.images, -1)
    return _records(data, piece, pixels, np.frombuffer(labels, np.uint8, offset=8))


def _unzipped(content: bytes, size: int) -> bytes:
    """Return content that may be compressed by gzip, which must have this size when it is not."""
    if content.startswith(b"\x1f\x8b"):
        unpacking = zlib.decompressobj(wbits=31)
        content = unpacking.decompress(content, size + 1)
        if len(content) == size and not unpacking.eof:
            unpacking.decompress(unpacking.unconsumed_tail, 1)  # reads the checksum at the end
        if not unpacking.eof:
            raise ValueError("the compressed content is cut or too long")
    if len(content) != size:
        raise ValueError(f"{len(content):,} bytes instead of {size:,}")
    return content


def mat(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode a MATLAB file of SVHN: X [h, w, 3, n], and y [n, 1], where 10 is the digit 0."""
    shape, (pixels, classes) = read_limited(array_files.CHILD, contents[0], most_bytes=SVHN_MEMORY)
    images, labels = np.frombuffer(pixels, np.uint8).reshape(shape), np.frombuffer(classes, np.int64)
    if not set(labels.tolist()) <= set(range(1, 11)):
        raise ValueError("labels are not from 1 to 10")
    return _records(data, piece, images.transpose(0, 3, 1, 2), labels % 10)


def column_major(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode STL-10's files: pixels channel by channel and column by column, and labels that count from 1."""
    channels, height, width = data.shape
    pixels = np.frombuffer(contents[0], np.uint8).reshape(-1, channels, width, height)
    labels = np.frombuffer(contents[1], np.uint8)
    return _records(data, piece, pixels.transpose(0, 1, 3, 2), labels.astype(np.int64) - 1)


def npy(data: PublishedData, piece: Piece, contents: Sequence[bytes]) -> bytes:
    """Decode NumPy files of images [n, h, w, 3] and of labels [n]."""
    images, labels = (np.load(io.BytesIO(content), allow_pickle=False) for content in contents)
    if images.dtype != np.uint8:
        raise ValueError(f"pixels are {images.dtype}")
    return _records(data, piece, images.transpose(0, 3, 1, 2), labels)


def superclass_labels(data: PublishedData) -> list[int]:
    """Return the label of the superclass of each class; superclasses are numbered in alphabetical order."""
    names = sorted(set(data.superclasses.values()))
    return [names.index(data.superclasses[name]) for name in data.classes]


def _records(data: PublishedData, piece: Piece, pixels: Any, *labels: Any) -> bytes:
    """Return images [n, …] and their labels as records."""
    count, size = piece.images, f"{data.size}x{data.size}"
    fits = np.shape(pixels)[:1] == (count,) and np.size(pixels) == count * data.pixel_bytes
    if not fits or any(np.shape(each) != (count,) for each in labels):
        raise CifarlabError(f"{piece.name} should contain {count:,} images of {size} pixels and their labels")
    table = np.empty((count, data.record_bytes), np.uint8)
    for position, each in enumerate(labels):
        values = np.asarray(each)
        if values.dtype.kind not in "iu" or values.min(initial=0) < 0 or values.max(initial=0) > 255:
            raise ValueError("labels are not numbers from 0 to 255")
        table[:, position] = values
    table[:, data.label_bytes :] = np.asarray(pixels).reshape(count, -1)
    return table.tobytes()


class _PickledCall:
    """Stand-in for NumPy's functions in a pickle, which would read a forged one's bytes as addresses of objects."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DataUnpickler(pickle.Unpickler):
    """Unpickles arrays, lists, strings and numbers; refuses everything else, which could be code."""

    def find_class(self, module: str, name: str) -> Any:
        is_numpy = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if is_numpy and name in ("ndarray", "dtype", "_reconstruct"):
            return _PickledCall
        if (module, name) == ("_codecs", "encode"):  # how newer versions of Python write bytes into an old protocol
            return lambda text, encoding: text.encode("latin1")
        raise CifarlabError(one_line(f"the pickle asks for {module}.{name}, which is not data: refused"))
