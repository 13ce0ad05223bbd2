"""Plan the layers of an imported network and check its size, on tensors without memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cifarlab.errors import UsageError, describe_error
from cifarlab.models.keras_graph.architecture import Architecture, LayerDescription
from cifarlab.models.keras_graph.layers_with_weights import LAYERS_WITH_WEIGHTS
from cifarlab.models.keras_graph.layers_without_weights import IMAGE_FUNCTIONS, LAYERS_WITHOUT_WEIGHTS, MERGES
from cifarlab.models.keras_graph.shapes import MAX_VALUES, Inputs, run_layer

MAX_WEIGHTS = 2**28  # VGG-19 on 224 pixels has 1.4 x 10^8
MAX_OPERATIONS = 25 * 10**9  # multiply-adds and comparisons for one image; VGG-19 on 224 pixels needs 2 x 10^10
MAX_NODES = 5_000

# Each has settings in cifarlab.keras.layer_settings, except TwoClasses, which the import adds.
LAYERS: dict[str, Callable[..., nn.Module]] = {**LAYERS_WITH_WEIGHTS, **LAYERS_WITHOUT_WEIGHTS}
_TAKES_IMAGES = (*IMAGE_FUNCTIONS, "Conv2D", "DepthwiseConv2D", "SeparableConv2D")


def build_layer(layer: LayerDescription, inputs: Inputs) -> nn.Module:
    """Build a layer with fresh weights."""
    settings = {name: value for name, value in layer.settings.items() if name != "data_format"}
    return LAYERS[layer.kind](inputs, **settings)


class ImageLayout(NamedTuple):
    """Shape and layout of the images that a network takes."""

    size: int  # side of the images in pixels
    channels: int
    channels_first: bool


def image_layout(shape: Sequence[int]) -> ImageLayout:
    """Return how a network with an input of this shape takes images; raise a `UsageError` for other inputs.

    Args:
        shape: Keras's shape of the input without the batch: [h, w, channels], [channels, h, w], [h, w] for grey
            images, or [values] for images row by row with their channels last. Images are square and have one or three
            channels.
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


def plan_layers(architecture: Architecture) -> tuple[dict[int, Inputs], list[tuple[int, ...]]]:
    """Return the input of every layer's first call, by the layer's number, and the shapes of all values.

    Shapes are in Keras's order of axes. The layers are built and run on tensors without memory, so no file can ask for
    more memory than there is.

    Raises:
        UsageError: the layers do not fit each other, or the network is too large; the text names the layer.
    """
    layers, shape = architecture.layers, architecture.input_shape
    formats = [layer.settings["data_format"] for layer in layers if "data_format" in layer.settings]
    usually_last = not formats or formats[0] != "channels_first"
    are_last = [not image_layout(shape).channels_first if len(shape) == 3 else usually_last]  # for each value
    plans: dict[int, Inputs] = {}
    built: dict[int, nn.Module] = {}
    weights = operations = 0
    if not 0 <= architecture.output <= len(architecture.nodes):
        raise UsageError("its output does not exist")
    with torch.device("meta"), torch.no_grad():
        values = [torch.zeros(1, *shape)]
        for node in architecture.nodes:
            if not 0 <= node.layer < len(layers) or not all(0 <= number < len(values) for number in node.inputs):
                raise UsageError("a node refers to a layer or value that does not exist")
            layer, inputs = layers[node.layer], [values[number] for number in node.inputs]
            with naming_layer(layer):
                _check_inputs(layer.kind, inputs)
                if node.layer not in plans:
                    inherited = [are_last[number] for number in node.inputs if values[number].dim() == 4]
                    data_format = layer.settings.get("data_format")
                    channels_last = data_format == "channels_last" if data_format else [*inherited, usually_last][0]
                    plans[node.layer] = Inputs(tuple(inputs[0].shape[1:]), channels_last)
                    built[node.layer] = build_layer(layer, plans[node.layer]).eval()
                    weights += sum(value.numel() for value in built[node.layer].state_dict().values())
                values.append(run_layer(built[node.layer], inputs, plans[node.layer].channels_last))
                operations += _operations(built[node.layer], values[-1])
                _check_size(weights, operations, values)
            are_last.append(plans[node.layer].channels_last)
    return plans, [tuple(value.shape[1:]) for value in values]


def _check_inputs(kind: str, inputs: Sequence[Tensor]) -> None:
    shapes = [list(value.shape[1:]) for value in inputs]
    if kind in MERGES:
        if len(shapes) < 2 or len(set(map(len, shapes))) > 1:
            raise UsageError(f"takes two values or more of one rank, got {shapes}")
    elif len(shapes) != 1:
        raise UsageError(f"takes one value, got {len(shapes)}")
    elif kind in _TAKES_IMAGES and len(shapes[0]) != 3:
        raise UsageError(f"takes images with channels, got values of the shape {shapes[0]}")


def _operations(layer: nn.Module, result: Tensor) -> int:
    """Return the number of multiply-adds or comparisons of a layer for one image."""
    kernels = [part.weight for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    if kernels:
        return result.numel() // kernels[-1].shape[0] * sum(kernel.numel() for kernel in kernels)
    return result.numel() * math.prod(getattr(layer, "kernel_size", ()))


def _check_size(weights: int, operations: int, values: Sequence[Tensor]) -> None:
    """Raise an error when a network that has computed these values passes a limit."""
    if weights > MAX_WEIGHTS:
        raise UsageError(f"the network would have more than {MAX_WEIGHTS:,} weights")
    if not values[-1].numel():
        raise UsageError("nothing of the image is left after it")
    if values[-1].numel() > MAX_VALUES or operations > MAX_OPERATIONS or len(values) - 1 > MAX_NODES:
        raise UsageError("the network is far too large for small images")


@contextmanager
def naming_layer(layer: LayerDescription) -> Iterator[None]:
    """Add the layer's name and kind to an error."""
    try:
        yield
    except Exception as error:  # PyTorch raises many kinds of errors for sizes that do not fit
        raise UsageError(f"{layer.label}: {describe_error(error)}") from error
