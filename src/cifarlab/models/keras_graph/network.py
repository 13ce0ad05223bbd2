"""The network of an imported Keras model.

Values pass from layer to layer in Keras's own order of axes. Everything that depends on that order (Flatten, Reshape,
dense layers, axes of normalisation and concatenation) is then right without reordering any weight. Layers see images as
[b, channels, h, w]; changing the order is a view and costs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.architecture import Architecture
from cifarlab.models.keras_graph.layers_with_weights import SeparableConv2D
from cifarlab.models.keras_graph.output_layers import output_layers, with_outputs
from cifarlab.models.keras_graph.planning import build_layer, image_layout, plan_layers, run_layer, shortened
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
    if network.shapes[network.output][-1] != classes:
        network = KerasGraph(with_outputs(parsed, classes))
    return keras_init(network)


class _TakesArrays(Protocol):
    def set_weights(self, *arrays: np.ndarray) -> None: ...


class KerasGraph(nn.Module):
    """A graph of layers from images to logits."""

    def __init__(self, architecture: Architecture) -> None:
        """Build the layers.

        Raises:
            UsageError: the layers do not fit each other, or the network is too large.
        """
        super().__init__()
        self.input_shape = architecture.input_shape
        self.size, self.channels, self.channels_first = image_layout(self.input_shape)
        self.nodes, self.output = architecture.nodes, architecture.output
        inputs, self.shapes = plan_layers(architecture)
        self.names = [layer.name for layer in architecture.layers]
        self.layers = nn.ModuleList(
            build_layer(layer, inputs[number]) if number in inputs else nn.Identity()
            for number, layer in enumerate(architecture.layers)
        )
        self._channels_last = {number: layer_inputs.channels_last for number, layer_inputs in inputs.items()}
        self._output_layers = output_layers(architecture)
        self._last_use = {value: number for number, node in enumerate(self.nodes, 1) for value in node.inputs}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Compute logits."""
        values = {0: self._to_keras(images)}
        for number, node in enumerate(self.nodes, 1):
            inputs = [values[value] for value in node.inputs]
            values[number] = run_layer(self.layers[node.layer], inputs, self._channels_last[node.layer])
            for value in set(node.inputs):
                if self._last_use[value] == number and value != self.output:
                    del values[value]  # frees its memory
        return values[self.output]

    @property
    def output_layers(self) -> list[nn.Module]:
        """Layers with weights for each class; fine-tuning on other classes starts them anew."""
        layers = [self.layers[number] for number in self._output_layers]
        return [layer.pointwise if isinstance(layer, SeparableConv2D) else layer for layer in layers]

    def _to_keras(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        """Return images in the shape of Keras's input; a single channel is the mean of red, green and blue."""
        images = images if self.channels == 3 else images.mean(1, keepdim=True)
        images = images if self.channels_first else images.permute(0, 2, 3, 1)
        return images.reshape(images.shape[0], *self.input_shape)

    def set_weights(self, arrays: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Copy the arrays of a file, as Keras 2 on TensorFlow stores them, by the number of the layer.

        Raises:
            UsageError: an array has another shape than its layer needs.
        """
        for number, values in arrays.items():
            name = shortened(self.names[number])
            try:
                cast(_TakesArrays, self.layers[number]).set_weights(*values)
            except UsageError as error:
                raise UsageError(f"the layer {name}: {error}") from error
            except (TypeError, ValueError) as error:  # from reordering axes of an array of another rank
                shapes = ", ".join(str(list(array.shape)) for array in values)
                raise UsageError(f"the layer {name}: the file's arrays {shapes} do not fit it") from error
