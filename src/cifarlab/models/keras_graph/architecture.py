"""The architecture of an imported network: layers, and how they feed each other. Weights files hold it as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cifarlab.errors import UsageError, describe_error, one_line

_COUNT_SETTINGS = {"Dense": "units", "Conv2D": "filters", "SeparableConv2D": "filters"}  # settings that count outputs
_HAS_WEIGHTS_FOR_EACH_OUTPUT = (*_COUNT_SETTINGS, "BatchNormalization", "PReLU")
_NOT_RESIZABLE = ("Concatenate", "DepthwiseConv2D", "Normalization")  # their weights or sizes depend on their input


@dataclass(frozen=True)
class LayerDescription:
    """A layer of the network."""

    name: str
    kind: str  # name in `LAYERS`
    settings: Mapping[str, Any]  # `data_format` is Keras's order of axes, if the layer states one

    @property
    def label(self) -> str:
        """The layer's name and kind, for errors."""
        return f"the layer {one_line(self.name)[:80]!r} ({self.kind})"

    def with_outputs(self, outputs: int) -> "LayerDescription":
        """Return this last layer as it is if the network has another number of outputs."""
        if self.kind == "TwoClasses":  # which makes two outputs of one
            return replace(self, kind="Identity")
        change: Mapping[str, Any] = {}
        if self.kind in _COUNT_SETTINGS:
            change = {_COUNT_SETTINGS[self.kind]: outputs}
        elif self.kind == "Reshape":
            change = {"shape": [-1]}  # one axis of classes, whose number the shape may contain
        return replace(self, settings={**self.settings, **change})


@dataclass(frozen=True)
class Node:
    """One call of a layer. Value 0 is the network's input; node number k computes value k + 1."""

    layer: int  # number of the layer
    inputs: tuple[int, ...]  # numbers of the values that the layer takes


@dataclass(frozen=True)
class Architecture:
    """The whole network."""

    input_shape: tuple[int, ...]  # of one image as Keras takes it, without the batch
    layers: tuple[LayerDescription, ...]
    nodes: tuple[Node, ...]
    output: int  # number of the value that the network returns

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Read an architecture that `to_json` wrote; raise a `UsageError` if the text is not an architecture."""
        try:
            parsed = json.loads(text)
            layers = [
                LayerDescription(str(entry["name"]), entry["kind"], entry["settings"]) for entry in parsed["layers"]
            ]
            nodes = [Node(int(layer), tuple(map(int, inputs))) for layer, *inputs in parsed["nodes"]]
            return cls(tuple(map(int, parsed["input"])), tuple(layers), tuple(nodes), int(parsed["output"]))
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            raise UsageError(f"the architecture in the weights file is damaged ({describe_error(error)})") from error

    def to_json(self) -> str:
        """Return the architecture as JSON."""
        layers = [{"name": layer.name, "kind": layer.kind, "settings": layer.settings} for layer in self.layers]
        nodes = [[node.layer, *node.inputs] for node in self.nodes]
        return json.dumps({"input": self.input_shape, "layers": layers, "nodes": nodes, "output": self.output})

    def layer_of(self, value: int) -> LayerDescription:
        """Return the layer that computes a value; `value` is at least 1."""
        return self.layers[self.nodes[value - 1].layer]

    def with_layer(self, value: int, layer: LayerDescription) -> "Architecture":
        """Return an architecture in which another layer computes a value; the old layer stays for its other calls."""
        node = replace(self.nodes[value - 1], layer=len(self.layers))
        nodes = (*self.nodes[: value - 1], node, *self.nodes[value:])
        return replace(self, layers=(*self.layers, layer), nodes=nodes)

    def with_last_layer(self, layer: LayerDescription) -> "Architecture":
        """Return an architecture in which another layer follows the output."""
        nodes = (*self.nodes, Node(len(self.layers), (self.output,)))
        return replace(self, layers=(*self.layers, layer), nodes=nodes, output=len(nodes))

    def output_layers(self) -> list[int]:
        """Return the numbers of the layers that have weights for each output.

        These are dense layers and convolutions, and batch normalisations and PReLUs after them. There are several if
        the network adds or averages outputs, and none if something in between mixes the outputs.
        """
        last = self._last_layers()
        return [number for number in last if self.layers[number].kind in _HAS_WEIGHTS_FOR_EACH_OUTPUT]

    def with_outputs(self, outputs: int) -> "Architecture":
        """Return the same network with another number of outputs; raise a `UsageError` if nothing counts outputs."""
        last = self._last_layers()
        if not any(self.layers[number].kind in _COUNT_SETTINGS for number in last):
            reason = "because no dense layer or convolution computes the outputs"
            raise UsageError(f"the number of classes cannot change, {reason}")
        layers = [layer.with_outputs(outputs) if number in last else layer for number, layer in enumerate(self.layers)]
        return replace(self, layers=tuple(layers))

    def _last_layers(self) -> list[int]:
        """Return the layers between those that compute the outputs and the end; none if a layer mixes the outputs."""
        waiting, numbers = [self.output], dict[int, int]()  # values; layers by their values
        while waiting:
            value = waiting.pop()
            if not value or self.layer_of(value).kind in _NOT_RESIZABLE:
                return []
            if value not in numbers:
                node = self.nodes[value - 1]
                numbers[value] = node.layer
                if self.layer_of(value).kind not in _COUNT_SETTINGS:
                    waiting += node.inputs
        return list(numbers.values())
