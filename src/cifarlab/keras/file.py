"""Read Keras files without Keras and without torch: the model as a graph of layers, and the arrays of each layer.

No code in a file is ever run. Files are hostile until they are checked, and only JSON, zip directories and HDF5 are
parsed, HDF5 in a process of its own.
"""

import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab import files
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.keras.architecture import Graph, input_shape, read_model
from cifarlab.keras.hdf5 import MAX_INFLATION, SMALL_ARRAYS, Hdf5, read_hdf5
from cifarlab.keras.layer_readers import Origin
from cifarlab.keras.weights import assign_arrays, group_of_weights, is_keras3

BACKENDS = ("tensorflow", "theano", "cntk", "jax", "torch")
MAX_FILE = 2**32  # bytes
MAX_JSON = 2**23  # bytes; thousands of layers
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


@dataclass(frozen=True)
class KerasFile:
    """The content of a file."""

    graph: Graph
    input_shape: list[int | None] | None  # without the batch; None for axes of any length, or if the file has no shape
    arrays: dict[int, list[np.ndarray]]  # float32, as Keras 2 on TensorFlow stores them, by the layer's number
    version: str  # of the Keras that wrote the file
    backend: str  # on which the model was trained; empty if the file does not say


def read_keras_file(path: Path, architecture: Path | None = None, backend: str | None = None) -> KerasFile:
    """Read a model of Keras 1.2 to 3 or of tf.keras, whatever its file is called; arguments as for `import_keras`."""
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"--backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    content = _read_bytes(path, MAX_FILE)
    architecture_content = _read_bytes(architecture, MAX_JSON) if architecture else b""
    try:
        stored, config, version = _parse_file(content)
        if architecture:
            config = _parse_json(architecture_content, architecture.name)
        return _assemble(stored, config, version, backend)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UsageError(f"{path}: the file is not laid out as Keras writes models ({reason})") from error


def identify_keras(path: Path) -> tuple[str, bool]:
    """Return the version of Keras that wrote a file, and True if the file holds an architecture."""
    stored, config, version = _parse_file(_read_bytes(path, MAX_FILE))
    if config is None:
        _check_weights(stored)
    return str((config or {}).get("keras_version") or version), config is not None


def _read_bytes(path: Path, maximum: int) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path} is {files.other_format(path) or 'a folder, but must be a Keras file'}")
    if not path.is_file():
        raise UsageError(f"the file {str(path)!r} does not exist")
    if path.stat().st_size > maximum:
        raise UsageError(f"{path} must have at most {maximum / 2**20:,.0f} MB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CifarlabError(f"cannot read {path}: {error.strerror or error}") from error


def _parse_file(content: bytes) -> tuple[Hdf5, dict[str, Any] | None, str]:
    """Return the stored arrays, the configuration (None if there is none), and the version of Keras."""
    if content.startswith(HDF5):
        stored = read_hdf5(content)
        config = stored.attributes[""].get("model_config")
        version = "3" if is_keras3(stored) else _text_attribute(stored, "keras_version") or "1"
        return stored, None if config is None else _parse_json(config, "its model_config"), version
    other = files.other_format(content, "Keras")
    if not content.startswith(ZIP):
        raise UsageError(f"the file is {other or 'neither HDF5 nor a Keras archive'}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = [name for name in (_CONFIG, _WEIGHTS) if name not in archive.namelist()]
            if missing:
                raise UsageError(
                    f"the file is {other or f'a zip archive without {missing[0]}, so not a Keras archive'}"
                )
            config = _parse_json(_read_member(archive, _CONFIG, MAX_JSON), _CONFIG)
            metadata = _parse_json(_read_member(archive, _METADATA, MAX_JSON), _METADATA)
            weights = _read_member(archive, _WEIGHTS, max(SMALL_ARRAYS, MAX_INFLATION * len(content)))
    except UsageError:
        raise
    except Exception as error:  # every compression method has its own errors for damaged bytes
        raise UsageError(f"the file is a damaged zip archive ({one_line(error)})") from error
    return read_hdf5(weights), config, str(metadata.get("keras_version") or "3")


def _read_member(archive: zipfile.ZipFile, name: str, maximum: int) -> bytes:
    if name not in archive.namelist():
        return b"{}"  # only the metadata may be missing
    with archive.open(name) as file:
        content = file.read(maximum + 1)
    if len(content) > maximum:
        raise UsageError(f"its {name} is far larger than the archive")
    return content


def _parse_json(text: str | bytes, name: str) -> dict[str, Any]:
    if len(text) > MAX_JSON:
        raise UsageError(f"{name} must have at most {MAX_JSON / 2**20:.0f} MB")
    try:
        parsed = json.loads(text, object_hook=unwrap)
        if isinstance(parsed, str):  # as json.dump(model.to_json(), file) writes
            parsed = json.loads(parsed, object_hook=unwrap)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON ({one_line(error)})") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"{name} does not hold a model: it must be a JSON object, got {one_line(text)[:40]!r}")
    return parsed


def unwrap(value: dict[str, Any]) -> Any:
    """Return the tuple or array in one of Keras's wrappers, or the dictionary itself; for `json.loads`."""
    kind = value.get("class_name")
    if kind in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
        return value["items"]
    if kind in ("__numpy__", "__tensor__") and isinstance(value.get("config"), Mapping):
        return value["config"].get("value")
    return value["value"] if value.get("type") == "ndarray" and "value" in value else value


def _text_attribute(stored: Hdf5, name: str) -> str | None:
    """Return an attribute of the group of weights or else of the file, or None if it is not a text."""
    values = (stored.attributes.get(path, {}).get(name) for path in ("model_weights", ""))
    return next((value for value in values if isinstance(value, str)), None)


def _assemble(stored: Hdf5, config: dict[str, Any] | None, version: str, backend: str | None) -> KerasFile:
    """Read the model from its configuration, and assign the stored arrays to its layers."""
    if config is None:
        _check_weights(stored)
        how_to_fix = "write model.to_json() to a file and name it with --architecture"
        raise UsageError(f"the file holds weights without their architecture: {how_to_fix}")
    backend = backend or _text_attribute(stored, "backend")
    version_of_config = str(config.get("keras_version") or version)
    origin = Origin(_version_numbers(version_of_config), backend)
    model, graph = read_model(config, origin)
    arrays = assign_arrays(model, stored, replace(origin, version=_version_numbers(version)))
    for layer in model.with_arrays():
        if layer.kind == "PReLU":  # Keras 1 does not write the shared axes; they have length 1 in the array
            shape = arrays[layer.number][0].shape
            layer.settings["shared_axes"] = [axis for axis, length in enumerate(shape, 1) if length == 1]
    if version.startswith("1") and backend is None and any(layer.kind == "Conv2D" for layer in graph.layers):
        graph.remarks.append(
            "Keras 1 does not write the backend that a model was trained on, so TensorFlow is assumed; "
            "--backend theano mirrors the kernels"
        )
    return KerasFile(graph, input_shape(config), arrays, version_of_config, backend or "")


def _check_weights(stored: Hdf5) -> None:
    if not is_keras3(stored) and group_of_weights(stored) is None:
        raise UsageError("the file is HDF5, but not a file of Keras 1.2 or later")


def _version_numbers(version: str) -> tuple[int, ...]:
    """Return (2, 2, 4) for `2.2.4-tf`."""
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version[:20])[:3])
    if not numbers or not 1 <= numbers[0] <= 3:
        raise UsageError(f"the version of Keras must be from 1.2 to 3, got {version[:20]!r}")
    return numbers
