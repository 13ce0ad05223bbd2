"""The architecture of an imported network: layers, and how they feed each other. Weights files hold it as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cifarlab.errors import UsageError, one_line


@dataclass(frozen=True)
class LayerDescription:
    """A layer of the network."""

    name: str
    kind: str
    """Name of the layer's class in `LAYERS`."""
    settings: Mapping[str, Any]
    """Keyword arguments of the class; `data_format` is Keras's order of axes, if the layer states one."""


@dataclass(frozen=True)
class Node:
    """One call of a layer. Value 0 is the network's input; node number k computes value k + 1."""

    layer: int
    """Number of the layer."""
    inputs: tuple[int, ...]
    """Numbers of the values that the layer takes."""


@dataclass(frozen=True)
class Architecture:
    """The whole network."""

    input_shape: tuple[int, ...]
    """Shape of one image as Keras takes it, without the batch."""
    layers: tuple[LayerDescription, ...]
    nodes: tuple[Node, ...]
    output: int
    """Number of the value that the network returns."""

    @classmethod
    def from_json(cls, text: str) -> "Architecture":
        """Read an architecture that `to_json` wrote.

        Raises:
            UsageError: the text is not an architecture.
        """
        try:
            parsed = json.loads(text)
            layers = [
                LayerDescription(str(entry["name"]), entry["kind"], entry["settings"]) for entry in parsed["layers"]
            ]
            nodes = [Node(int(layer), tuple(map(int, inputs))) for layer, *inputs in parsed["nodes"]]
            return cls(tuple(map(int, parsed["input"])), tuple(layers), tuple(nodes), int(parsed["output"]))
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise UsageError(f"the architecture in the weights file is damaged ({reason})") from error

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
