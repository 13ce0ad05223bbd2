"""Keras files for the tests: files that real libraries wrote, and files written with h5py."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Written:
    """A file in `tests/keras/files`, and the probabilities that its library computed for `images`."""

    archive: Path
    file: str
    architecture: str | None
    size: int
    expected: list[list[float]]

    @property
    def backend(self) -> str | None:
        """The backend, if the file does not state it: Keras 1 does not."""
        return "theano" if "keras-1.2.2-theano" in self.archive.name else None

    def unpack(self, folder: Path) -> tuple[Path, Path | None]:
        """Unpack the file, and the file of its architecture if there is one."""
        with zipfile.ZipFile(self.archive) as archive:
            archive.extractall(folder)
        return folder / self.file, None if self.architecture is None else folder / self.architecture

    def __str__(self) -> str:
        return f"{self.archive.stem}-{self.file}"


def written() -> list[Written]:
    """Return all files in `tests/keras/files`."""
    files = []
    for archive in sorted(FILES.glob("*.zip")):
        with zipfile.ZipFile(archive) as opened:
            files += [Written(archive, **record) for record in json.loads(opened.read("expected.json"))]
    return files


def images(size: int, count: int = 16) -> np.ndarray:
    """Return the uint8 images [n, 3, h, w] for which the libraries computed probabilities."""
    drawn = np.random.default_rng(7).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return np.ascontiguousarray(drawn.transpose(0, 3, 1, 2))


def layer(class_name: str, name: str = "", **config: Any) -> dict[str, Any]:
    """Return a layer as Keras 2 writes it."""
    return {"class_name": class_name, "config": {"name": name or class_name.lower(), **config}}


def conv(filters: int = 2, **config: Any) -> dict[str, Any]:
    """Return a first convolution for images of 8 pixels."""
    return layer("Conv2D", filters=filters, kernel_size=[3, 3], batch_input_shape=[None, 8, 8, 3], **config)


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return a sequential model."""
    return {"class_name": "Sequential", "config": {"name": "model", "layers": list(layers)}}


def small(*between: dict[str, Any]) -> dict[str, Any]:
    """Return a valid model with other layers in it."""
    ending = layer("Dense", units=3, activation="softmax")
    return sequential(conv(), *between, layer("GlobalAveragePooling2D"), ending)


SMALL_WEIGHTS = {"conv2d": {"kernel:0": (3, 3, 3, 2), "bias:0": (2,)}, "dense": {"kernel:0": (2, 3), "bias:0": (3,)}}


def write_h5(
    path: Path,
    config: Mapping[str, Any] | str | None,
    weights: Mapping[str, Mapping[str, Sequence[int]]] = SMALL_WEIGHTS,
    **marks: str,
) -> Path:
    """Write a file as Keras 2 does, with random arrays of these shapes by layer and name."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file if config is None else file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = (config if isinstance(config, str) else json.dumps(config)).encode()
        for name, value in {"keras_version": "2.2.4", "backend": "tensorflow", **marks}.items():
            file.attrs[name] = group.attrs[name] = value.encode()
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            place = group.create_group(name)
            place.attrs["weight_names"] = [f"{name}/{each}".encode() for each in arrays]
            for each, shape in arrays.items():
                place.create_dataset(f"{name}/{each}", data=generator.normal(0, 0.3, tuple(shape)).astype(np.float32))
    return path


def write_keras(path: Path, config: Any, **members: bytes) -> Path:
    """Write a zip archive as Keras 3 does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config if isinstance(config, str | bytes) else json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        for name, content in members.items():
            archive.writestr(name, content)
    return path
