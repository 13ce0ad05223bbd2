"""HDF5 files, read in a process of its own: their library loops for ever or crashes on some that are damaged."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.errors import UsageError, one_line

CHILD = Path(__file__).with_name("hdf5_child.py")
LEAST_SECONDS = 20  # on a busy machine the child needs a few to begin
BYTES_A_SECOND = 2**24  # at least; it is twenty times faster
MEMORY = 2 * 2**30  # bytes of address space that the libraries take by themselves, generously
INFLATION = 20  # bytes of arrays to a byte of file; trained weights hardly compress
LEAST_ARRAYS, MOST_ARRAYS = 2**24, 2**32  # bytes of arrays that any file may have, and none


@dataclass(frozen=True)
class Hdf5:
    """What of a file matters here, by path without the leading slash; the root is the empty path."""

    attributes: Mapping[str, Mapping[str, Any]]
    """Of each group: texts, and lists of texts."""
    arrays: Mapping[str, np.ndarray]


def read_hdf5(content: bytes) -> Hdf5:
    """Reads a file's groups, attributes and arrays of numbers.

    Args:
        content: the file's bytes.

    Raises:
        UsageError: h5py is missing, or the file is damaged or holds what a file of weights does not.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UsageError("reading Keras files needs h5py: pip install 'cifarlab[keras]'")
    arrays = min(max(LEAST_ARRAYS, INFLATION * len(content)), MOST_ARRAYS)
    memory = MEMORY + 2 * len(content) + 3 * arrays
    seconds = LEAST_SECONDS + len(content) // BYTES_A_SECOND
    command = [sys.executable, "-P", str(CHILD), str(arrays), str(memory), str(seconds)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each of its threads takes address space
    try:
        ended = subprocess.run(command, input=content, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"the file is damaged: reading it takes more than {seconds} seconds") from error
    header, _, values = ended.stdout.partition(b"\n")
    try:
        found = json.loads(header)
    except ValueError as error:
        raise UsageError(f"the file is damaged: the HDF5 library fails on it ({_why(ended)})") from error
    if "error" in found:
        raise UsageError(f"the file is damaged or not what Keras writes: {one_line(found['error'])}")
    return Hdf5(found["attributes"], _arrays(found["arrays"], values))


def _arrays(told: list[list[Any]], values: bytes) -> dict[str, np.ndarray]:
    arrays, start = {}, 0
    for path, dtype, shape in told:
        count = int(np.prod(shape, dtype=np.int64))
        arrays[path] = np.frombuffer(values, dtype, count, start).reshape(shape)
        start += arrays[path].nbytes
    return arrays


def _why(ended: subprocess.CompletedProcess[bytes]) -> str:
    last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return one_line(last[0])[:200] if last else f"status {ended.returncode}"
