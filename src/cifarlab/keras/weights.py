"""Assign the arrays of a file to its layers, in the layout of Keras 2 on TensorFlow."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from cifarlab.errors import UsageError
from cifarlab.keras.architecture import MODELS, Layer
from cifarlab.keras.hdf5 import Hdf5
from cifarlab.keras.layer_readers import Origin, ReadLayer

Arrays = list[np.ndarray]
_LISTS_LAYERS = re.compile("layer_names[0-9]*$")
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # groups of Keras 3, and of TensorFlow 2.12 and 2.13


def group_of_weights(stored: Hdf5) -> str | None:
    """Return the path of the group that lists layers with their arrays, or None for Keras 3's own format."""
    groups = (path for path in ("model_weights", "") if path in stored.attributes)
    return next((path for path in groups if any(map(_LISTS_LAYERS.match, stored.attributes[path]))), None)


def is_keras3(stored: Hdf5) -> bool:
    """Return True if arrays lie under `layers/conv2d/vars/0`, by class and number instead of by name."""
    return group_of_weights(stored) is None and any(container in stored.attributes for container in _CONTAINERS)


def assign_arrays(model: Layer, stored: Hdf5, origin: Origin) -> dict[int, Arrays]:
    """Return the arrays of each layer that has any, by the layer's number in the graph.

    Raises:
        UsageError: the arrays are not those of the model.
    """
    stored_arrays = dict(_by_class(model, stored) if is_keras3(stored) else _by_name(model, stored, origin))
    return {
        layer.number: _convert(layer, content, stored_arrays[layer.number], origin)
        for layer, content in _with_arrays(model)
    }


def _with_arrays(model: Layer) -> Iterator[tuple[Layer, ReadLayer]]:
    return ((layer, content) for layer, content in model.with_content() if content.arrays)


def _by_class(model: Layer, stored: Hdf5, path: str = "") -> Iterator[tuple[int, Arrays]]:
    """Yield arrays that are stored under the classes of their layers, with numbers for layers of one class."""
    container = next((name for name in _CONTAINERS if path + name in stored.attributes), _CONTAINERS[0])
    next_numbers: Counter[str] = Counter()
    for layer in model.layers:
        name = _snake_case(layer.class_name)
        number = next_numbers[name]
        place = f"{path}{container}/{name}_{number}" if number else f"{path}{container}/{name}"
        # TensorFlow 2.12 and 2.13 list layers with weights twice.
        next_numbers[name] += 2 if container == _CONTAINERS[1] and any(_with_arrays(layer)) else 1
        if layer.class_name in MODELS:
            yield from _by_class(layer, stored, f"{place}/")
        elif layer.content is not None and layer.content.arrays:
            paths = (f"{place}/vars/{number}" for number in count())
            arrays: Arrays = []
            while (array_path := next(paths)) in stored.arrays:
                arrays.append(stored.arrays[array_path])
            yield layer.number, _check_count(layer, layer.content, arrays)


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
    names_by_layer = {
        layer: names
        for layer in _names(stored, group, "layer_names")
        if (names := _names(stored, prefix + layer, "weight_names"))
    }
    top = [layer for layer in model.layers if any(_with_arrays(layer))]
    flat = [layer for layer, _ in _with_arrays(model)]  # Keras 1 stored models in a Sequential like this
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
        # Keras 3 stores the arrays of a frozen model in the order of its layers, trained or not.
        trained_first = origin.major < 3 or layer.is_trainable
        yield from _split(layer, names, [stored.arrays[path] for path in paths], trained_first=trained_first)


def _names(stored: Hdf5, path: str, attribute: str) -> list[str]:
    """Return a list in an attribute, or in several numbered attributes if it was too long for HDF5."""
    attributes = stored.attributes.get(path, {})
    if attribute in attributes:
        return list(attributes[attribute])
    pieces = (attributes.get(f"{attribute}{number}") for number in range(len(attributes)))
    return [name for piece in pieces if piece is not None for name in piece]


def _split(layer: Layer, names: Sequence[str], arrays: Arrays, *, trained_first: bool) -> Iterator[tuple[int, Arrays]]:
    """Yield the arrays of each layer of a model; mostly all trained arrays come before all others."""
    parts = list(_with_arrays(layer))
    indices_by_part: dict[int, list[int]] = {part.number: [] for part, _ in parts}
    indices = iter(range(len(arrays)))
    for takes_trained in (True, False):
        for part, content in parts:
            trained = content.trained if trained_first and part.is_trainable else 0
            expected_count = trained if takes_trained else len(content.arrays) - trained
            indices_by_part[part.number] += [index for _, index in zip(range(expected_count), indices, strict=False)]
    if next(indices, None) is not None:
        raise UsageError(f"{layer.label}: the file holds more arrays than its layers have")
    for part, content in parts:
        own = indices_by_part[part.number]
        _check_names(part, content, [names[index] for index in own])
        yield part.number, _check_count(part, content, [arrays[index] for index in own])


def _check_names(layer: Layer, content: ReadLayer, names: list[str]) -> None:
    """Check that the arrays are the layer's own, as far as their names say it."""
    last_parts = [re.split(r"[:/]", name.removesuffix(":0"))[-1] for name in names]
    known = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
    for name, expected in zip(last_parts, content.arrays, strict=False):
        if name in known and not expected.endswith(name):
            raise UsageError(f"{layer.label}: the file's arrays are in an unexpected order, {name} for {expected}")


def _check_count(layer: Layer, content: ReadLayer, arrays: Arrays) -> Arrays:
    if len(arrays) != len(content.arrays):
        expected = f"{len(content.arrays)} ({', '.join(content.arrays)})"
        raise UsageError(f"{layer.label}: the file must hold {expected} of its arrays, but holds {len(arrays)}")
    return arrays


def _convert(layer: Layer, content: ReadLayer, arrays: Arrays, origin: Origin) -> Arrays:
    """Return float32 arrays as in Keras 2 on TensorFlow: kernels [height, width, inputs, outputs], not mirrored."""
    converted = []
    for name, array in zip(content.arrays, arrays, strict=True):
        if name.endswith("kernel") and array.ndim == 4:
            if origin.major == 1 and content.settings.get("data_format") == "channels_first":
                array = array.transpose(2, 3, 1, 0)
            if origin.backend == "theano" and content.kind == "Conv2D":
                array = array[::-1, ::-1]  # Theano mirrors kernels
        with np.errstate(over="ignore"):
            converted.append(np.array(array, np.float32, order="C"))
        if not np.isfinite(converted[-1]).all():
            raise UsageError(f"{layer.label}: its {name} holds NaN or infinity, because its training has diverged")
    return converted
