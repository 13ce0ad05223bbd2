"""Plan the layers of an imported network and check its size, on tensors without memory."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cifarlab.errors import UsageError, one_line
from cifarlab.models.keras_graph import activations, layers_with_weights, layers_without_weights
from cifarlab.models.keras_graph.architecture import Architecture, LayerDescription
from cifarlab.models.keras_graph.shapes import MAX_VALUES, Inputs, Shape, to_channels_first, to_channels_last

MAX_WEIGHTS = 2**28  # VGG-19 on 224 pixels has 1.4 x 10^8
MAX_OPERATIONS = 25 * 10**9  # multiply-adds and comparisons for one image; VGG-19 on 224 pixels needs 2 x 10^10
MAX_NODES = 5_000
MAX_NAME_LENGTH = 80  # letters of a layer's name in an error

# Each has a reader in cifarlab.keras.layer_readers, except TwoClasses, which the import adds.
LAYERS: dict[str, type[nn.Module]] = {
    name: value
    for module in (activations, layers_without_weights, layers_with_weights)
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
}


def build_layer(layer: LayerDescription, inputs: Inputs) -> nn.Module:
    """Build a layer with fresh weights."""
    settings = {name: value for name, value in layer.settings.items() if name != "data_format"}
    return LAYERS[layer.kind](inputs, **settings)


def run_layer(layer: nn.Module, values: Sequence[Tensor], channels_last: bool) -> Tensor:
    """Run a layer on values in Keras's order of axes, and return its result in the same order."""
    result: Tensor = layer(*map(to_channels_first, values)) if channels_last else layer(*values)
    return to_channels_last(result) if channels_last else result


class ImageLayout(NamedTuple):
    """Shape and layout of the images that a network takes."""

    size: int
    """Side of the images in pixels."""
    channels: int
    channels_first: bool


def image_layout(shape: Sequence[int]) -> ImageLayout:
    """Return how a network with an input of this shape takes images.

    Args:
        shape: Keras's shape of the input without the batch: [h, w, channels], [channels, h, w], [h, w] for grey
            images, or [values] for images row by row with their channels last.

    Raises:
        UsageError: the input is not a square image with one or three channels.
    """
    values = math.prod(shape)
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]:
        return ImageLayout(shape[1], shape[0], True)
    for channels in (3, 1):
        size = math.isqrt(values // channels)
        if list(shape) in ([size, size, channels], [values]) and size**2 * channels == values:
            return ImageLayout(size, channels, False)
    if len(shape) == 2 and shape[0] == shape[1]:
        return ImageLayout(shape[0], 1, False)
    raise UsageError(f"the input must be a square image with three channels or one, got the shape {list(shape)}")


def plan_layers(architecture: Architecture) -> tuple[dict[int, Inputs], list[Shape]]:
    """Return the inputs of every layer's first call, by the layer's number, and the shapes of all values.

    Shapes of values are in Keras's order of axes. The layers are built and run on tensors without memory, so no file
    can ask for more memory than there is.

    Raises:
        UsageError: the layers do not fit each other, or the network is too large; the text names the layer.
    """
    layers, shape = architecture.layers, architecture.input_shape
    formats = [layer.settings["data_format"] for layer in layers if "data_format" in layer.settings]
    usually_last = not formats or formats[0] != "channels_first"
    are_last = [not image_layout(shape).channels_first if len(shape) == 3 else usually_last]  # for each value
    plans: dict[int, Inputs] = {}
    built: dict[int, nn.Module] = {}
    size = _NetworkSize()
    if not 0 <= architecture.output <= len(architecture.nodes):
        raise UsageError("its output does not exist")
    with torch.device("meta"), torch.no_grad():
        values = [torch.zeros(1, *shape)]
        for node in architecture.nodes:
            if not 0 <= node.layer < len(layers) or not all(0 <= number < len(values) for number in node.inputs):
                raise UsageError("a node refers to a layer or value that does not exist")
            inputs = [values[number] for number in node.inputs]
            with _naming_layer(layers[node.layer]):
                if node.layer not in plans:
                    inherited = [are_last[number] for number in node.inputs if values[number].dim() == 4]
                    plans[node.layer] = _plan_layer(layers[node.layer], inputs, [*inherited, usually_last][0])
                    built[node.layer] = build_layer(layers[node.layer], plans[node.layer]).eval()
                    size.add_layer(built[node.layer])
                values.append(run_layer(built[node.layer], inputs, plans[node.layer].channels_last))
                size.add_call(built[node.layer], values[-1])
            are_last.append(plans[node.layer].channels_last)
    return plans, [tuple(value.shape[1:]) for value in values]


def _plan_layer(layer: LayerDescription, inputs: Sequence[Tensor], inherited: bool) -> Inputs:
    """Return what a layer is built from; `inherited` is the order of axes of its inputs, for layers that state none."""
    if len(inputs) != 1 and not getattr(LAYERS[layer.kind], "takes_several_inputs", False):
        raise UsageError(f"takes one value, got {len(inputs)}")
    data_format = layer.settings.get("data_format")
    channels_last = inherited if data_format is None else data_format == "channels_last"
    shapes = [tuple((to_channels_first(value) if channels_last else value).shape[1:]) for value in inputs]
    return Inputs(shapes, channels_last)


@dataclass
class _NetworkSize:
    """The size of a network so far; raises an error when a limit is passed."""

    nodes: int = 0
    weights: int = 0
    operations: int = 0

    def add_layer(self, layer: nn.Module) -> None:
        self.weights += sum(value.numel() for value in layer.state_dict().values())
        if self.weights > MAX_WEIGHTS:
            raise UsageError(f"the network would have more than {MAX_WEIGHTS:,} weights")

    def add_call(self, layer: nn.Module, result: Tensor) -> None:
        self.nodes += 1
        kernels = [part.weight for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        if kernels:
            self.operations += result.numel() // kernels[-1].shape[0] * sum(kernel.numel() for kernel in kernels)
        else:
            self.operations += result.numel() * math.prod(getattr(layer, "kernel_size", (1,)))
        if not result.numel():
            raise UsageError("nothing of the image is left after it")
        if result.numel() > MAX_VALUES or self.operations > MAX_OPERATIONS or self.nodes > MAX_NODES:
            raise UsageError("the network is far too large for small images")


@contextmanager
def _naming_layer(layer: LayerDescription) -> Iterator[None]:
    """Add the layer's name and kind to an error."""
    try:
        yield
    except Exception as error:  # PyTorch raises many kinds of errors for sizes that do not fit
        is_plain = isinstance(error, UsageError)
        reason = str(error) if is_plain else f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UsageError(f"the layer {shortened(layer.name)} ({layer.kind}): {reason}") from error


def shortened(name: str) -> str:
    """Return a layer's name as an error shows it."""
    return repr(one_line(name)[:MAX_NAME_LENGTH])
