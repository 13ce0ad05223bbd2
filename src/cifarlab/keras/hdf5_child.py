"""Read HDF5 files, in a child process; see `limited`. Nothing of the package is imported.

What no file of weights holds is refused: links, arrays in other files, and arrays that are far larger than the file.
"""

import io
from typing import Any

MAX_OBJECTS = 100_000
MAX_DEPTH = 32  # levels of groups in groups
ATTRIBUTES = ("layer_names", "weight_names", "keras_version", "backend", "model_config")
IGNORED_GROUPS = ("optimizer_weights", "optimizer")  # at the root


def read(content: bytes, max_bytes: int) -> tuple[dict[str, Any], list[bytes]]:
    """Return the attributes of all groups by path, the path, type and shape of the arrays, and their bytes."""
    import h5py

    attributes: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Any] = {}
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
    descriptions = [(path, array.dtype.str, array.shape) for path, array in arrays.items()]
    return {"attributes": attributes, "arrays": descriptions}, [array.tobytes() for array in arrays.values()]


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
