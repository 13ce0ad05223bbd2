"""Read HDF5 files in a child process, because the HDF5 library loops for ever or crashes on some damaged files."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.errors import UsageError
from cifarlab.limited.reading import read_limited

CHILD = Path(__file__).with_name("hdf5_child.py")
MAX_INFLATION = 20  # bytes of arrays for each byte of the file; trained weights hardly compress
SMALL_ARRAYS, MAX_ARRAYS = 2**24, 2**32  # bytes of arrays: always allowed, and never exceeded


@dataclass(frozen=True)
class Hdf5:
    """The content of a file by path, without the leading slash; the root is the empty path."""

    attributes: Mapping[str, Mapping[str, Any]]  # of each group: texts and lists of texts
    arrays: Mapping[str, np.ndarray]


def read_hdf5(content: bytes) -> Hdf5:
    """Read the groups, attributes and numeric arrays of a file; refuse a damaged file, and what no weights need."""
    if importlib.util.find_spec("h5py") is None:
        raise UsageError("reading Keras files needs h5py: pip install 'cifarlab[keras]'")
    max_bytes = min(max(SMALL_ARRAYS, MAX_INFLATION * len(content)), MAX_ARRAYS)
    try:
        answer, values = read_limited(CHILD, content, max_bytes, most_bytes=3 * max_bytes)
    except UsageError as error:
        raise UsageError(f"the file is damaged or not what Keras writes: {error}") from error
    arrays = {
        path: np.frombuffer(part, dtype).reshape(shape)
        for (path, dtype, shape), part in zip(answer["arrays"], values, strict=True)
    }
    return Hdf5(answer["attributes"], arrays)
