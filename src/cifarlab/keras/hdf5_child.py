"""The child process that reads HDF5 files: bytes in, a line of JSON and the bytes of the arrays out.

It runs as a script and imports nothing of the package. It refuses what no file of weights holds: links, arrays in other
files, and arrays that are far larger than the file.
"""

import contextlib
import io
import json
import sys
from typing import Any

MAX_OBJECTS = 100_000
MAX_DEPTH = 32  # levels of groups in groups
ATTRIBUTES = ("layer_names", "weight_names", "keras_version", "backend", "model_config")
IGNORED_GROUPS = ("optimizer_weights", "optimizer")  # at the root


def main(max_bytes: int, memory: int, seconds: int) -> None:
    """Read a file on standard input and write its content to standard output."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has limits or allows setting them
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    arrays: dict[str, Any] = {}
    try:
        attributes = read(sys.stdin.buffer.read(), arrays, max_bytes)
        descriptions = [(path, array.dtype.str, array.shape) for path, array in arrays.items()]
        answer = json.dumps({"attributes": attributes, "arrays": descriptions})
    except Exception as error:  # the library raises any kind for damaged files
        arrays, answer = {}, json.dumps({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.buffer.write(answer.encode() + b"\n")
    for array in arrays.values():
        sys.stdout.buffer.write(array.tobytes())


def read(content: bytes, arrays: dict[str, Any], max_bytes: int) -> dict[str, dict[str, Any]]:
    """Return the attributes of all groups by path, and add the arrays to `arrays`."""
    import h5py

    attributes: dict[str, dict[str, Any]] = {}
    with h5py.File(io.BytesIO(content), "r") as file:
        waiting, objects, remaining_bytes = [("", file, 0)], 0, max_bytes
        while waiting:
            path, group, depth = waiting.pop()
            attributes[path] = {name: text(group.attrs[name]) for name in group.attrs if name.startswith(ATTRIBUTES)}
            # In a group that lists layers, these may be names of layers.
            lists_layers = any(name.startswith("layer_names") for name in attributes[path])
            ignored = IGNORED_GROUPS if depth == 0 and not lists_layers else ()
            for name in group:
                objects += 1
                if objects > MAX_OBJECTS or depth > MAX_DEPTH:
                    raise ValueError("it holds more groups than any model")
                if name in ignored:
                    continue
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{name} is a link")
                place = name if lists_layers or depth else name.replace("\\", "/")  # tf.keras on Windows
                item, place = group[name], f"{path}/{place}".lstrip("/")
                if isinstance(item, h5py.Group):
                    waiting.append((place, item, depth + 1))
                elif isinstance(item, h5py.Dataset) and holds_numbers(item):
                    if item.external or item.is_virtual:
                        raise ValueError(f"{name} is stored in another file")
                    remaining_bytes -= int(item.size) * item.dtype.itemsize
                    if remaining_bytes < 0:
                        raise ValueError("its arrays are far larger than the file")
                    arrays[place] = numbers(item)
    return attributes


def holds_numbers(dataset: Any) -> bool:
    """Return True for an array of numbers; Keras 3 stores bfloat16 as two bytes of no NumPy type."""
    is_bfloat16 = dataset.dtype == "V2" and text(dataset.attrs.get("dtype")) == "bfloat16"
    return dataset.shape is not None and (dataset.dtype.kind in "fiu" or is_bfloat16)


def numbers(dataset: Any) -> Any:
    """Return a dataset as an array in the byte order of this machine; bfloat16 becomes float32."""
    import numpy as np

    array = np.asarray(dataset[()])
    if array.dtype.kind == "V":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def text(value: Any) -> Any:
    """Return an attribute, in any of HDF5's kinds of strings, as a text or list of texts."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, bytes):
        return value.decode()
    return [text(item) for item in value] if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
