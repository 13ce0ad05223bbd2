"""Which arrays of a file belong to which layer, in the layout of Keras 2 whatever wrote them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from cifarlab.errors import UsageError
from cifarlab.keras.architecture import MODELS, Layer
from cifarlab.keras.hdf5 import Hdf5
from cifarlab.keras.layer_readers import Dialect

Arrays = list[np.ndarray]
_LISTS_LAYERS = re.compile("layer_names[0-9]*$")
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # of Keras 3, and of TensorFlow 2.12 and 2.13


def group_of_weights(stored: Hdf5) -> str | None:
    """The path of the group that lists layers with their arrays, as all files do but those of Keras 3's own format."""
    groups = (path for path in ("model_weights", "") if path in stored.attributes)
    return next((path for path in groups if any(map(_LISTS_LAYERS.match, stored.attributes[path]))), None)


def is_keras3(stored: Hdf5) -> bool:
    """Whether arrays lie under `layers/conv2d/vars/0`, by class and number instead of by name."""
    return group_of_weights(stored) is None and any(each in stored.attributes for each in _CONTAINERS)


def assign(model: Layer, stored: Hdf5, dialect: Dialect) -> dict[int, Arrays]:
    """The arrays of each layer that has any, by the layer's number in the description.

    Args:
        model: from `read_model`.
        stored: the file.
        dialect: what wrote the arrays.

    Raises:
        UsageError: they are not those of the model.
    """
    found = dict(_by_class(model, stored) if is_keras3(stored) else _by_name(model, stored, dialect))
    return {number: _modern(leaf, found[number], dialect) for number, leaf in _weighted(model)}


def _weighted(model: Layer) -> Iterator[tuple[int, Layer]]:
    return ((layer.number, layer) for layer in model.leaves() if layer.leaf is not None and layer.leaf.variables)


def _by_class(model: Layer, stored: Hdf5, path: str = "") -> Iterator[tuple[int, Arrays]]:
    container = next((each for each in _CONTAINERS if path + each in stored.attributes), _CONTAINERS[0])
    seen: Counter[str] = Counter()
    for layer in model.layers:
        name = _snake_case(layer.class_name)
        place = f"{path}{container}/{name}_{seen[name]}" if seen[name] else f"{path}{container}/{name}"
        seen[name] += 2 if container == _CONTAINERS[1] and any(_weighted(layer)) else 1  # it listed those twice
        if layer.class_name in MODELS:
            yield from _by_class(layer, stored, f"{place}/")
        elif layer.leaf is not None and layer.leaf.variables:
            paths = (f"{place}/vars/{number}" for number in count())
            arrays: Arrays = []
            while (each := next(paths)) in stored.arrays:
                arrays.append(stored.arrays[each])
            yield layer.number, _right_number(layer, arrays)


def _snake_case(name: str) -> str:
    """As Keras makes it of a class name: `SeparableConv2D` to `separable_conv2d`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _by_name(model: Layer, stored: Hdf5, dialect: Dialect) -> Iterator[tuple[int, Arrays]]:
    group = group_of_weights(stored)
    if group is None:
        raise UsageError("holds no weights that Keras 1.2 or later has written")
    prefix = f"{group}/" if group else ""
    every = {name: _names(stored, prefix + name, "weight_names") for name in _names(stored, group, "layer_names")}
    listed = {name: names for name, names in every.items() if names}
    top = [layer for layer in model.layers if any(_weighted(layer))]
    flat = [layer for _, layer in _weighted(model)]  # as Keras 1 stored models in a Sequential
    layers = top if len(top) == len(listed) else flat
    if len(layers) != len(listed):
        raise UsageError(f"its weights are those of {len(listed)} layers, but the model has {len(top)} with weights")
    by_name = {layer.name: layer for layer in layers}
    same = by_name.keys() == listed.keys()  # otherwise Keras goes by their order, too
    for (name, names), layer in zip(listed.items(), layers, strict=True):
        paths = [f"{prefix}{name}/{each}" for each in names]
        missing = [path for path in paths if path not in stored.arrays]
        if missing:
            raise UsageError(f"the array {missing[0]!r} that it lists is not there")
        of, arrays = by_name[name] if same else layer, [stored.arrays[path] for path in paths]
        # Keras 3 has all that a frozen model holds in the order of its layers, whatever of it is trained.
        yield from _split(of, names, arrays, trained_first=dialect.major < 3 or of.is_trainable)


def _names(stored: Hdf5, path: str, attribute: str) -> list[str]:
    """A list in an attribute, or, where that was too long for HDF5, in several that are numbered."""
    attributes = stored.attributes.get(path, {})
    if attribute in attributes:
        return list(attributes[attribute])
    pieces = (attributes.get(f"{attribute}{number}") for number in range(len(attributes)))
    return [name for piece in pieces if piece is not None for name in piece]


def _split(layer: Layer, names: Sequence[str], arrays: Arrays, *, trained_first: bool) -> Iterator[tuple[int, Arrays]]:
    """Gives a model's arrays to its layers: mostly first what all of them train, then everything else."""
    leaves = [each for _, each in _weighted(layer)]
    parts: dict[int, list[int]] = {each.number: [] for each in leaves}
    places = iter(range(len(arrays)))
    for wants_trained in (True, False):
        for each in leaves:
            assert each.leaf is not None  # so for every leaf
            trained = each.leaf.trained if trained_first and each.is_trainable else 0
            wanted = trained if wants_trained else len(each.leaf.variables) - trained
            parts[each.number] += [place for _, place in zip(range(wanted), places, strict=False)]
    if next(places, None) is not None:
        raise UsageError(f"{layer.where}: the file holds more arrays than its layers have")
    for each in leaves:
        _check_names(each, [names[place] for place in parts[each.number]])
        yield each.number, _right_number(each, [arrays[place] for place in parts[each.number]])


def _check_names(layer: Layer, names: list[str]) -> None:
    """That the arrays are the layer's own, where their names say it."""
    assert layer.leaf is not None
    own = [re.split(r"[:/]", name.removesuffix(":0"))[-1] for name in names]
    known = {"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"}
    for name, variable in zip(own, layer.leaf.variables, strict=False):
        if name in known and not variable.endswith(name):
            raise UsageError(f"{layer.where}: the file's arrays are in an unexpected order, {name} for {variable}")


def _right_number(layer: Layer, arrays: Arrays) -> Arrays:
    assert layer.leaf is not None
    if len(arrays) != len(layer.leaf.variables):
        wanted = f"{len(layer.leaf.variables)} ({', '.join(layer.leaf.variables)})"
        raise UsageError(f"{layer.where}: the file holds {len(arrays)} of its arrays, not {wanted}")
    return arrays


def _modern(layer: Layer, arrays: Arrays, dialect: Dialect) -> Arrays:
    """Float32 arrays as Keras 2 on TensorFlow has them: kernels [height, width, inputs, outputs], not mirrored."""
    assert layer.leaf is not None
    converted = []
    for variable, array in zip(layer.leaf.variables, arrays, strict=True):
        if variable.endswith("kernel") and array.ndim == 4:
            if dialect.major == 1 and layer.leaf.settings.get("data_format") == "channels_first":
                array = array.transpose(2, 3, 1, 0)
            if dialect.backend == "theano" and layer.leaf.kind == "Conv2D":
                array = array[::-1, ::-1]  # Theano convolves where others correlate
        with np.errstate(over="ignore"):
            converted.append(np.array(array, np.float32, order="C"))
        if not np.isfinite(converted[-1]).all():
            raise UsageError(f"{layer.where}: its {variable} holds what is no number; its training has diverged")
    return converted
