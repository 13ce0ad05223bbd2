"""Find the layers that compute a network's outputs, and change the number of outputs for fine-tuning."""

from dataclasses import replace

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.architecture import Architecture, LayerDescription

_COUNT_SETTINGS = {"Dense": "units", "Conv2D": "filters", "SeparableConv2D": "filters"}  # settings that count outputs
_HAS_WEIGHTS_FOR_EACH_OUTPUT = (*_COUNT_SETTINGS, "BatchNormalization", "PReLU")
_NOT_RESIZABLE = ("Concatenate", "DepthwiseConv2D", "Normalization")  # their weights or sizes depend on their input


def output_layers(architecture: Architecture) -> list[int]:
    """Return the numbers of the layers that have weights for each output.

    These are dense layers and convolutions, and batch normalisations and PReLUs after them. There are several if the
    network adds or averages outputs, and none if something in between mixes the outputs.
    """
    numbers = _layers_up_to_the_output(architecture)
    return [number for number in numbers if architecture.layers[number].kind in _HAS_WEIGHTS_FOR_EACH_OUTPUT]


def with_outputs(architecture: Architecture, outputs: int) -> Architecture:
    """Return the same network with another number of outputs.

    Raises:
        UsageError: no dense layer or convolution computes the outputs.
    """
    numbers = _layers_up_to_the_output(architecture)
    layers = list(architecture.layers)
    if not any(layers[number].kind in _COUNT_SETTINGS for number in numbers):
        raise UsageError(
            "the number of classes cannot change, because no dense layer or convolution computes the outputs"
        )
    for number in numbers:
        layers[number] = _resized(layers[number], outputs)
    return replace(architecture, layers=tuple(layers))


def _resized(layer: LayerDescription, outputs: int) -> LayerDescription:
    if layer.kind in _COUNT_SETTINGS:
        return replace(layer, settings={**layer.settings, _COUNT_SETTINGS[layer.kind]: outputs})
    if layer.kind == "TwoClasses":
        return replace(layer, kind="Identity")
    if layer.kind == "Reshape":  # to a single axis of classes
        return replace(layer, settings={**layer.settings, "shape": [-1]})
    return layer


def _layers_up_to_the_output(architecture: Architecture) -> list[int]:
    """Return the layers between those that compute the outputs and the end; none if a layer mixes the outputs."""
    waiting, visited, numbers = [architecture.output], set(), []
    while waiting:
        value = waiting.pop()
        if value in visited:
            continue
        visited.add(value)
        if not value or architecture.layer_of(value).kind in _NOT_RESIZABLE:
            return []
        node = architecture.nodes[value - 1]
        numbers.append(node.layer)
        if architecture.layer_of(value).kind not in _COUNT_SETTINGS:
            waiting += node.inputs
    return numbers
