"""The process in which HDF5 files are read: bytes in, a line of JSON and the arrays' bytes out.

It is run as a file and imports nothing of the package. What a file of weights does not hold is refused: links to other
files, arrays in other files, arrays that are far larger than the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any

MOST_OBJECTS = 100_000
DEEPEST = 32  # groups in groups
WANTED = ("layer_names", "weight_names", "keras_version", "backend", "model_config")
UNWANTED = ("optimizer_weights", "optimizer")  # groups at the root


def main(most_bytes: int, memory: int, seconds: int) -> None:
    """Reads standard input and answers on standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits, or lets them be set
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    arrays: list[tuple[str, Any]] = []
    try:
        attributes = read(sys.stdin.buffer.read(), arrays, most_bytes)
        told = [(path, array.dtype.str, array.shape) for path, array in arrays]
        answer = json.dumps({"attributes": attributes, "arrays": told})
    except Exception as error:  # whatever a damaged file makes of the library
        arrays, answer = [], json.dumps({"error": f"{type(error).__name__}: {error}"})
    output = sys.stdout.buffer
    output.write(answer.encode() + b"\n")
    for _, array in arrays:
        output.write(array.tobytes())
    output.flush()


def read(content: bytes, arrays: list[tuple[str, Any]], most_bytes: int) -> dict[str, dict[str, Any]]:
    """The groups' attributes by path; the arrays go into `arrays`."""
    import h5py

    attributes: dict[str, dict[str, Any]] = {}
    with h5py.File(io.BytesIO(content), "r") as file:
        waiting, seen, left = [("", file, 0)], 0, most_bytes
        while waiting:
            path, group, depth = waiting.pop()
            attributes[path] = {name: text(group.attrs[name]) for name in group.attrs if name.startswith(WANTED)}
            is_listed = any(name.startswith("layer_names") for name in attributes[path])  # then these are layers' names
            unwanted = UNWANTED if depth == 0 and not is_listed else ()
            for name in group:
                seen += 1
                if seen > MOST_OBJECTS or depth > DEEPEST:
                    raise ValueError("it holds more groups than any model")
                if name in unwanted:
                    continue
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{name} is a link")
                item, place = group[name], f"{path}/{name}".lstrip("/")
                if isinstance(item, h5py.Group):
                    waiting.append((place, item, depth + 1))
                elif isinstance(item, h5py.Dataset) and holds_numbers(item):
                    if item.external or item.is_virtual:
                        raise ValueError(f"{name} is stored in another file")
                    left -= int(item.size) * item.dtype.itemsize
                    if left < 0:
                        raise ValueError("its arrays are far larger than the file")
                    arrays.append((place, numbers(item)))
    return attributes


def holds_numbers(dataset: Any) -> bool:
    """Whether a dataset is an array of numbers; Keras 3 stores bfloat16 as bytes that NumPy does not know."""
    if dataset.shape is None:
        return False
    return dataset.dtype.kind in "fiu" or (dataset.dtype == "V2" and text(dataset.attrs.get("dtype")) == "bfloat16")


def numbers(dataset: Any) -> Any:
    """A dataset as an array in the machine's own byte order; bfloat16 becomes float32."""
    import numpy as np

    array = np.asarray(dataset[()])
    if array.dtype.kind == "V":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def text(value: Any) -> Any:
    """An attribute as text or a list of texts, whatever kind of string the writer chose."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    return [text(each) for each in value] if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
