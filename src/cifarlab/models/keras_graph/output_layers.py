"""The layers that make a network's outputs, and the same network with another number of them, for fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarlab.errors import UsageError

_COUNTS = {"Dense": "units", "Conv2D": "filters", "SeparableConv2D": "filters"}
_MIXING = ("Concatenate", "DepthwiseConv2D", "Normalization")  # their weights or sizes would not follow


def output_layers(architecture: Mapping[str, Any]) -> list[int]:
    """The numbers of the layers whose weights are one to each output; several where a network adds or averages.

    Args:
        architecture: as `KerasGraph` takes it.

    Returns:
        Dense layers and convolutions, and what has weights for each output after them; empty where there are none.
    """
    return [number for number in _to_the_outputs(architecture) if _has_counts(architecture["layers"][number])]


def with_outputs(architecture: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """The same network for another number of classes.

    Args:
        architecture: as `KerasGraph` takes it.
        outputs: how many there should be.

    Raises:
        UsageError: what makes its outputs is no layer that could make more or fewer.
    """
    layers = [{**each, "settings": dict(each["settings"])} for each in architecture["layers"]]
    found = _to_the_outputs(architecture)
    if not any(layers[number]["kind"] in _COUNTS for number in found):
        raise UsageError("its outputs come of no dense layer or convolution, so that there cannot be more or fewer")
    for number in found:
        layer = layers[number]
        if layer["kind"] in _COUNTS:
            layer["settings"][_COUNTS[layer["kind"]]] = outputs
        elif layer["kind"] == "TwoClasses":
            layer["kind"] = "Identity"
        elif layer["kind"] == "Reshape":  # to one axis of classes, whatever there was beside it
            layer["settings"]["shape"] = [-1]
    return {**architecture, "layers": layers}


def _has_counts(layer: Mapping[str, Any]) -> bool:
    return layer["kind"] in (*_COUNTS, "BatchNormalization", "PReLU")


def _to_the_outputs(architecture: Mapping[str, Any]) -> list[int]:
    """The layers from those that make the outputs on; empty where something comes between."""
    layers, nodes = architecture["layers"], architecture["nodes"]
    waiting, seen, found = [int(architecture["output"])], set(), []
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        number, *inputs = nodes[value - 1] if value else (-1,)
        if not value or layers[number]["kind"] in _MIXING:
            return []
        found.append(number)
        if layers[number]["kind"] not in _COUNTS:
            waiting += inputs
    return found
