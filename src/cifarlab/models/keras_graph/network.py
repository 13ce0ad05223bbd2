"""The network of an imported Keras model.

Values pass from layer to layer in Keras's own order of axes. Everything that depends on that order (Flatten, Reshape,
dense layers, axes of normalisation and concatenation) is then right without reordering any weight. Layers see images as
[b, channels, h, w]; changing the order is a view and costs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.architecture import Architecture
from cifarlab.models.keras_graph.layers_with_weights import SeparableConv2D
from cifarlab.models.keras_graph.planning import build_layer, image_layout, naming_layer, plan_layers
from cifarlab.models.keras_graph.shapes import run_layer
from cifarlab.models.layers import keras_init
from cifarlab.models.registry import register


@register
def keras_graph(architecture: str, classes: int) -> nn.Module:
    """Build the network of an imported Keras model, with fresh weights.

    Args:
        architecture: the JSON of an `Architecture`.
        classes: number of outputs. If the architecture has another number, its output layers are resized.
    """
    parsed = Architecture.from_json(architecture)
    network = KerasGraph(parsed)
    if network.shapes[parsed.output][-1] != classes:
        network = KerasGraph(parsed.with_outputs(classes))
    return keras_init(network)


class KerasGraph(nn.Module):
    """A graph of layers from images to logits."""

    def __init__(self, architecture: Architecture) -> None:
        """Build the layers; raise a `UsageError` if they do not fit each other, or the network is too large."""
        super().__init__()
        self.architecture = architecture
        self.layout = image_layout(architecture.input_shape)
        inputs, self.shapes = plan_layers(architecture)
        self.layers = nn.ModuleList(
            build_layer(layer, inputs[number]) if number in inputs else nn.Identity()
            for number, layer in enumerate(architecture.layers)
        )
        self._channels_last = {number: layer_inputs.channels_last for number, layer_inputs in inputs.items()}
        self._last_use = {value: number for number, node in enumerate(architecture.nodes, 1) for value in node.inputs}

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Compute logits."""
        images = images if self.layout.channels == 3 else images.mean(1, keepdim=True)
        images = images if self.layout.channels_first else images.permute(0, 2, 3, 1)
        values = {0: images.reshape(images.shape[0], *self.architecture.input_shape)}
        for number, node in enumerate(self.architecture.nodes, 1):
            inputs = [values[value] for value in node.inputs]
            values[number] = run_layer(self.layers[node.layer], inputs, self._channels_last[node.layer])
            for value in set(node.inputs):
                if self._last_use[value] == number and value != self.architecture.output:
                    del values[value]  # frees its memory
        return values[self.architecture.output]

    @property
    def output_layers(self) -> list[nn.Module]:
        """Layers with weights for each class; fine-tuning on other classes starts them anew."""
        layers = [self.layers[number] for number in self.architecture.output_layers()]
        return [layer.pointwise if isinstance(layer, SeparableConv2D) else layer for layer in layers]

    def set_weights(self, arrays: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Copy the arrays of a file, as Keras 2 on TensorFlow stores them, by the number of the layer.

        Raises:
            UsageError: an array has another shape than its layer needs.
        """
        for number, values in arrays.items():
            layer: Any = self.layers[number]
            with naming_layer(self.architecture.layers[number]):
                try:
                    layer.set_weights(*values)
                except (TypeError, ValueError) as error:  # from reordering axes of an array of another rank
                    shapes = ", ".join(str(list(array.shape)) for array in values)
                    raise UsageError(f"the file's arrays {shapes} do not fit it") from error
