"""Assign the arrays of a file to its layers, in the layout of Keras 2 on TensorFlow."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice, takewhile

import numpy as np

from cifarlab.errors import UsageError
from cifarlab.keras.architecture import MODELS
from cifarlab.keras.hdf5 import Hdf5
from cifarlab.keras.layer_readers import STATISTICS, Layer, Origin

Arrays = list[np.ndarray]
_LISTS_LAYERS = re.compile("layer_names[0-9]*$")
_CONTAINERS = ("layers/", "_layer_checkpoint_dependencies/")  # groups of Keras 3, and of TensorFlow 2.12 and 2.13


def group_of_weights(stored: Hdf5) -> str | None:
    """Return the path of the group that lists layers with their arrays, or None for Keras 3's own format."""
    groups = (path for path in ("model_weights", "") if path in stored.attributes)
    return next((path for path in groups if any(map(_LISTS_LAYERS.match, stored.attributes[path]))), None)


def is_keras3(stored: Hdf5) -> bool:
    """Return True if arrays lie under `layers/conv2d/vars/0`, by class and number instead of by name."""
    return group_of_weights(stored) is None and any(path.startswith(_CONTAINERS) for path in stored.arrays)


def assign_arrays(model: Layer, stored: Hdf5, origin: Origin) -> dict[int, Arrays]:
    """Return the arrays of each layer by its number in the graph; refuse arrays that are not those of the model."""
    arrays = dict(_by_class(model, stored) if is_keras3(stored) else _by_name(model, stored, origin))
    return {layer.number: _convert(layer, arrays[layer.number], origin) for layer in model.with_arrays()}


def _by_class(model: Layer, stored: Hdf5, path: str = "") -> Iterator[tuple[int, Arrays]]:
    """Yield arrays that are stored under the classes of their layers, with numbers for layers of one class."""
    container = next((name for name in _CONTAINERS if any(key.startswith(path + name) for key in stored.arrays)), "")
    next_numbers: Counter[str] = Counter()
    for layer in model.layers:
        name = _snake_case(layer.class_name)
        number = next_numbers[name]
        place = f"{path}{container}{name}_{number}" if number else f"{path}{container}{name}"
        # TensorFlow 2.12 and 2.13 list layers with weights twice.
        next_numbers[name] += 2 if container == _CONTAINERS[1] and any(layer.with_arrays()) else 1
        if layer.class_name in MODELS:
            yield from _by_class(layer, stored, f"{place}/")
        elif layer.arrays:
            paths = takewhile(stored.arrays.__contains__, (f"{place}/vars/{index}" for index in count()))
            yield layer.number, _check_count(layer, [stored.arrays[array] for array in paths])


def _snake_case(name: str) -> str:
    """Return a class name as Keras writes it in paths: `separable_conv2d` for `SeparableConv2D`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _by_name(model: Layer, stored: Hdf5, origin: Origin) -> Iterator[tuple[int, Arrays]]:
    """Yield arrays that are stored under the names of their layers."""
    group = group_of_weights(stored)
    if group is None:
        raise UsageError("the file holds no weights of Keras 1.2 or later")
    prefix = f"{group}/" if group else ""
    listed = {layer: _names(stored, prefix + layer, "weight_names") for layer in _names(stored, group, "layer_names")}
    names_by_layer = {layer: names for layer, names in listed.items() if names}
    top = [layer for layer in model.layers if any(layer.with_arrays())]
    flat = list(model.with_arrays())  # as Keras 1 lists the layers of models in a Sequential
    layers = top if len(top) == len(names_by_layer) else flat
    if len(layers) != len(names_by_layer):
        raise UsageError(f"the file has weights of {len(names_by_layer)} layers, the model has {len(top)} with weights")
    by_name = {layer.name: layer for layer in layers}
    has_same_names = by_name.keys() == names_by_layer.keys()  # otherwise the order counts, as in Keras
    for (name, names), layer_in_order in zip(names_by_layer.items(), layers, strict=True):
        paths = [f"{prefix}{name}/{array_name}" for array_name in names]
        missing = [path for path in paths if path not in stored.arrays]
        if missing:
            raise UsageError(f"the file lists the array {missing[0]!r} but does not hold it")
        layer = by_name[name] if has_same_names else layer_in_order
        # Keras lists the trainable arrays of a model first. Keras 3 lists those of a frozen model layer by layer.
        trained_first = origin.major < 3 or layer.is_trainable
        yield from _split(layer, names, [stored.arrays[path] for path in paths], trained_first=trained_first)


def _names(stored: Hdf5, path: str, attribute: str) -> list[str]:
    """Return a list in an attribute, or in several numbered attributes if it was too long for HDF5."""
    attributes = stored.attributes.get(path, {})
    pieces = [attribute, *(f"{attribute}{number}" for number in range(len(attributes)))]
    return [name for piece in pieces for name in attributes.get(piece, [])]


def _split(layer: Layer, names: Sequence[str], arrays: Arrays, *, trained_first: bool) -> Iterator[tuple[int, Arrays]]:
    """Yield the arrays of each layer of a model; mostly all trained arrays come before all others."""
    parts = list(layer.with_arrays())
    pairs = iter(zip(names, arrays, strict=True))
    pairs_by_part: dict[int, list[tuple[str, np.ndarray]]] = {part.number: [] for part in parts}
    for takes_trained in (True, False):
        for part in parts:
            trained = sum(name not in STATISTICS for name in part.arrays) if trained_first and part.is_trainable else 0
            expected_count = trained if takes_trained else len(part.arrays) - trained
            pairs_by_part[part.number] += islice(pairs, expected_count)
    if next(pairs, None) is not None:
        raise UsageError(f"{layer}: the file holds more arrays than its layers have")
    known = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
    for part in parts:
        for (path, _), expected in zip(pairs_by_part[part.number], part.arrays, strict=False):
            name = re.split(r"[:/]", path.removesuffix(":0"))[-1]
            if name in known and not expected.endswith(name):
                raise UsageError(f"{part}: the file's arrays are in an unexpected order, {name} for {expected}")
        yield part.number, _check_count(part, [array for _, array in pairs_by_part[part.number]])


def _check_count(layer: Layer, arrays: Arrays) -> Arrays:
    if len(arrays) != len(layer.arrays):
        expected = f"{len(layer.arrays)} ({', '.join(layer.arrays)})"
        raise UsageError(f"{layer}: the file must hold {expected} of its arrays, but holds {len(arrays)}")
    return arrays


def _convert(layer: Layer, arrays: Arrays, origin: Origin) -> Arrays:
    """Return float32 arrays as in Keras 2 on TensorFlow: kernels [height, width, inputs, outputs], not mirrored."""
    converted = []
    for name, array in zip(layer.arrays, arrays, strict=True):
        if name.endswith("kernel") and array.ndim == 4:
            if origin.major == 1 and layer.settings.get("data_format") == "channels_first":
                array = array.transpose(2, 3, 1, 0)
            if origin.backend == "theano" and layer.kind == "Conv2D":
                array = array[::-1, ::-1]  # Theano mirrors kernels
        with np.errstate(over="ignore"):
            converted.append(np.array(array, np.float32, order="C"))
        if not np.isfinite(converted[-1]).all():
            raise UsageError(f"{layer}: its {name} holds NaN or infinity, because its training has diverged")
    return converted
