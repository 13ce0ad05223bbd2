"""Read HDF5 files in a child process, because the HDF5 library loops for ever or crashes on some damaged files."""

import importlib.util
import json
import math
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
MIN_SECONDS = 20  # time limit for small files; on a busy machine the child takes a few seconds to start
MIN_BYTES_PER_SECOND = 2**24  # a twentieth of the usual speed
LIBRARY_MEMORY = 2 * 2**30  # bytes of address space, more than the libraries take by themselves
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
    memory = LIBRARY_MEMORY + 2 * len(content) + 3 * max_bytes
    seconds = MIN_SECONDS + len(content) // MIN_BYTES_PER_SECOND
    command = [sys.executable, "-P", str(CHILD), str(max_bytes), str(memory), str(seconds)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # every thread takes address space
    try:
        ended = subprocess.run(command, input=content, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"the file is damaged: reading it takes more than {seconds} seconds") from error
    header, _, values = ended.stdout.partition(b"\n")
    try:
        answer = json.loads(header)
    except ValueError as error:
        message = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {ended.returncode}"]
        reason = one_line(message[0])[:200]
        raise UsageError(f"the file is damaged: the HDF5 library fails on it ({reason})") from error
    if "error" in answer:
        raise UsageError(f"the file is damaged or not what Keras writes: {one_line(answer['error'])}")
    arrays, start = {}, 0
    for path, dtype, shape in answer["arrays"]:
        arrays[path] = np.frombuffer(values, dtype, math.prod(shape), start).reshape(shape)
        start += arrays[path].nbytes
    return Hdf5(answer["attributes"], arrays)
