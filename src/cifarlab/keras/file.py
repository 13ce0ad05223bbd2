"""Keras files read without Keras: the network as a plain description, and its arrays. Knows no torch, runs no code.

`read` takes models of Keras 1.2 to 3 and of tf.keras: HDF5 files, the zip archives of Keras 3, and weights with an
architecture in a file of their own. Files are hostile until they are checked: JSON, zip directories and HDF5 are all
that is ever parsed, HDF5 in a process of its own.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.keras.architecture import Description, Layer, input_shape, read_model
from cifarlab.keras.hdf5 import INFLATION, LEAST_ARRAYS, Hdf5, read_hdf5
from cifarlab.keras.layer_readers import Dialect
from cifarlab.keras.layer_settings import plain
from cifarlab.keras.weights import assign, group_of_weights, is_keras3

__all__ = ["BACKENDS", "KerasFile", "read"]

BACKENDS = ("tensorflow", "theano", "cntk", "jax", "torch")
LARGEST_FILE = 2**32  # bytes
LARGEST_JSON = 2**23  # bytes; thousands of layers
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


@dataclass(frozen=True)
class KerasFile:
    """What a file holds."""

    description: Description
    shape: list[int | None] | None
    """Of the input as Keras has it, without the batch; None where the file does not say."""
    arrays: dict[int, list[np.ndarray]]
    """Float32, by the number of the layer in the description, as Keras 2 on TensorFlow orders them."""
    version: str
    """Of the Keras that wrote it, as far as the file says."""
    backend: str
    """That it was trained on; empty where the file does not say."""


def read(path: Path, architecture: Path | None = None, backend: str | None = None) -> KerasFile:
    """Reads a model, or weights and the architecture that belongs to them.

    Args:
        path: `.h5`, `.hdf5` or `.keras`; the content decides, not the ending.
        architecture: what `model.to_json()` gave, for a file of weights.
        backend: what it was trained on, of `BACKENDS`; by default as the file says.

    Raises:
        UsageError: it is no such file, it is damaged, or it holds what cannot be read.
        CifarlabError: the file cannot be read from the disk.
    """
    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"--backend should be one of {', '.join(BACKENDS)}, got {backend!r}")
    content = _content(path, LARGEST_FILE)
    written = None if architecture is None else _content(architecture, LARGEST_JSON)
    try:
        stored, config, version = _open(content)
        if architecture is not None and written is not None:
            config = _parse(written, architecture.name)
        return _assemble(stored, config, version, backend)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        told = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UsageError(f"{path}: is not laid out as Keras writes models ({told})") from error


def _content(path: Path, most: int) -> bytes:
    if path.is_dir():
        raise UsageError(
            f"{path}: is a folder, such as a SavedModel: load it in TensorFlow and save it with model.save('x.h5')"
        )
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}")
    try:
        if path.stat().st_size > most:
            raise UsageError(f"{path}: is larger than {most / 2**20:,.0f} MB")
        return path.read_bytes()
    except OSError as error:
        raise CifarlabError(f"cannot read {path}: {error.strerror or error}") from error


def _open(content: bytes) -> tuple[Hdf5, Any, str]:
    """The stored arrays, the configuration where there is one, and the version of Keras."""
    if content.startswith(HDF5):
        stored = read_hdf5(content)
        root = stored.attributes[""]
        config = root.get("model_config")
        version = "3" if is_keras3(stored) else str(_mark(stored, "keras_version") or "1")
        return stored, None if config is None else _parse(config, "its model_config"), version
    if content.startswith(ZIP):
        return _open_archive(content)
    if content.lstrip()[:1] == b"{":
        raise UsageError("is an architecture without weights: import the weights, with --architecture and this file")
    raise UsageError("is neither HDF5 nor a Keras archive")


def _open_archive(content: bytes) -> tuple[Hdf5, Any, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = [name for name in (_CONFIG, _WEIGHTS) if name not in archive.namelist()]
            if missing:
                raise UsageError(f"is a zip archive without {missing[0]}, so that it is none of Keras")
            config = _parse(_member(archive, _CONFIG, LARGEST_JSON), _CONFIG)
            metadata = _parse(_member(archive, _METADATA, LARGEST_JSON), _METADATA)
            weights = _member(archive, _WEIGHTS, max(LEAST_ARRAYS, INFLATION * len(content)))
    except UsageError:
        raise
    except Exception as error:  # each compression has its own errors for damaged bytes
        raise UsageError(f"is a damaged zip archive ({one_line(error)})") from error
    return read_hdf5(weights), config, str(metadata.get("keras_version") or "3")


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if name not in archive.namelist():
        return b"{}"
    with archive.open(name) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UsageError(f"its {name} is far larger than the archive")
    return content


def _parse(text: str | bytes, name: str) -> dict[str, Any]:
    if len(text) > LARGEST_JSON:
        raise UsageError(f"{name} is larger than {LARGEST_JSON / 2**20:.0f} MB")
    try:
        parsed = json.loads(text, object_hook=plain)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is no JSON ({one_line(error)})") from error
    if not isinstance(parsed, dict):
        raise UsageError(f"{name} holds no model")
    return parsed


def _mark(stored: Hdf5, name: str) -> str | None:
    """`keras_version` or `backend`, as the group of weights says, else the file."""
    for path in ("model_weights", ""):
        value = stored.attributes.get(path, {}).get(name)
        if isinstance(value, str):
            return value
    return None


def _assemble(stored: Hdf5, config: Any, version: str, backend: str | None) -> KerasFile:
    if config is None:
        if not is_keras3(stored) and group_of_weights(stored) is None:
            raise UsageError("is an HDF5 file, but not one of Keras 1.2 or later")
        raise UsageError(
            "holds weights without their architecture: write that with model.to_json() into a file and give it with "
            "--architecture"
        )
    backend = backend or _mark(stored, "backend")
    written_by = str(config.get("keras_version") or version)
    layers = Dialect(_numbers(written_by), backend)
    model, description = read_model(config, layers)
    arrays = assign(model, stored, replace(layers, version=_numbers(version)))
    for layer in model.leaves():
        if layer.class_name == "PReLU":  # Keras 1 forgets to write its shared axes, which the array shows
            shared = [axis for axis, length in enumerate(arrays[layer.number][0].shape, 1) if length == 1]
            description.layers[layer.number]["settings"]["shared_axes"] = shared
    if version.startswith("1") and backend is None and _convolves(model):
        description.remarks.append(
            "Keras 1 does not say what it was trained on: TensorFlow is assumed; --backend theano mirrors the kernels"
        )
    return KerasFile(description, input_shape(config), arrays, written_by, backend or "")


def _convolves(model: Layer) -> bool:
    return any(layer.leaf is not None and layer.leaf.kind == "Conv2D" for layer in model.leaves())


def _numbers(version: str) -> tuple[int, ...]:
    """`2.2.4-tf` to (2, 2, 4)."""
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version[:20])[:3])
    if not numbers or not 1 <= numbers[0] <= 3:
        raise UsageError(f"was written by Keras {version[:20]!r}: cifarlab reads Keras 1.2 to 3")
    return numbers
