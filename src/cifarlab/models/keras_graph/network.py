"""The network that a Keras file describes: layers that feed each other as the file says.

What goes from layer to layer is in Keras's own order of axes, so that everything that depends on that order (Flatten,
Reshape, dense layers, axes of normalisation and concatenation) is right without any weight being reordered. Layers see
maps as [b, channels, h, w]; turning them is a view and costs nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError, one_line
from cifarlab.models.keras_graph import activations, layers_with_weights, layers_without_weights
from cifarlab.models.keras_graph.output_layers import output_layers, with_outputs
from cifarlab.models.keras_graph.shapes import MOST_VALUES, Shape, from_maps, to_maps
from cifarlab.models.layers import keras_init
from cifarlab.models.registry import register

MOST_WEIGHTS = 2**28  # VGG-19 on 224 pixels has 1.4 x 10^8
MOST_WORK = 25 * 10**9  # multiply-adds and comparisons for one image; VGG-19 on 224 pixels needs 2 x 10^10
MOST_NODES = 5_000
LONGEST_NAME = 80  # letters of a layer's that an error shows

LAYERS: dict[str, type[nn.Module]] = {
    name: value
    for module in (activations, layers_without_weights, layers_with_weights)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, nn.Module) and not name.startswith("_")
}


@register
def keras_graph(architecture: str, classes: int) -> nn.Module:
    """A network read from a Keras file; `architecture` is JSON, as `kerasimport` writes it.

    With another number of classes than it was read with, what makes its outputs is made anew, for fine-tuning.
    """
    described = json.loads(architecture)
    network = KerasGraph(described)
    if network.shapes[network.output][-1] != classes:
        network = KerasGraph(with_outputs(described, classes))
    return keras_init(network)


@dataclass(frozen=True)
class _Plan:
    """How a layer is to be made."""

    kind: str
    settings: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    is_last: bool

    def make(self) -> nn.Module:
        """The layer with fresh weights."""
        settings = {key: value for key, value in self.settings.items() if key != "data_format"}
        layer = LAYERS[self.kind](self.shapes, self.is_last, **settings)
        layer.is_last = self.is_last  # type: ignore[assignment]  # torch takes it for a tensor
        return layer


class KerasGraph(nn.Module):
    """A graph of layers from one image to logits."""

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        """Makes the network.

        Args:
            architecture: `input`, Keras's shape of the input without the batch; `layers`, each with `name`, `kind` and
                `settings`; `nodes`, each the number of a layer and those of the values that it takes; `output`, the
                number of a value. Value 0 is the input, node k makes value k + 1.

        Raises:
            UsageError: the layers do not fit each other, or are too large.
        """
        super().__init__()
        self.shape = tuple(architecture["input"])
        self.size, self.channels, self.is_first = image_layout(self.shape)
        self.nodes = [(int(layer), [int(each) for each in inputs]) for layer, *inputs in architecture["nodes"]]
        self.output = int(architecture["output"])
        plans, self.shapes = plan(architecture)
        self.names = [str(each["name"]) for each in architecture["layers"]]
        numbers = range(len(architecture["layers"]))
        self.layers = nn.ModuleList(plans[number].make() if number in plans else nn.Identity() for number in numbers)
        self._outputs = output_layers(architecture)
        self._last_use = {place: number for number, (_, inputs) in enumerate(self.nodes, 1) for place in inputs}

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Logits of images."""
        values = {0: self._enter(images)}
        for number, (layer, inputs) in enumerate(self.nodes, 1):
            values[number] = _run(self.layers[layer], [values[place] for place in inputs])
            for place in set(inputs):
                if self._last_use[place] == number and place != self.output:
                    del values[place]  # its memory is free for the next
        return values[self.output]

    @property
    def output_layers(self) -> list[nn.Module]:
        """What has weights for each class: what fine-tuning on other classes begins anew."""
        layers = [self.layers[number] for number in self._outputs]
        return [
            layer.pointwise if isinstance(layer, layers_with_weights.SeparableConv2D) else layer for layer in layers
        ]

    def _enter(self, images: Float[Tensor, "b 3 h w"]) -> Tensor:
        """Images as the file's first layer takes them; those of one channel are the mean of red, green and blue."""
        images = images if self.channels == 3 else images.mean(1, keepdim=True)
        images = images if self.is_first else images.permute(0, 2, 3, 1)
        return images.reshape(images.shape[0], *self.shape)

    def set_weights(self, arrays: Mapping[int, Sequence[np.ndarray]]) -> None:
        """Takes over the arrays of a file, by the number of a layer, as Keras 2 on TensorFlow orders them.

        Raises:
            UsageError: an array has another shape than its layer needs.
        """
        for number, values in arrays.items():
            name = _shown(self.names[number])
            try:
                self.layers[number].set_weights(*values)  # type: ignore[operator]  # a ModuleList forgets kinds
            except UsageError as error:
                raise UsageError(f"the layer {name}: {error}") from error
            except (TypeError, ValueError) as error:  # arrays of another rank than they are turned in
                shapes = ", ".join(str(list(each.shape)) for each in values)
                raise UsageError(f"the layer {name}: the file's arrays {shapes} do not fit it") from error


def _run(layer: nn.Module, values: Sequence[Tensor]) -> Tensor:
    result: Tensor = layer(*map(to_maps, values)) if layer.is_last else layer(*values)
    return from_maps(result) if layer.is_last else result


def image_layout(shape: Sequence[int]) -> tuple[int, int, bool]:
    """Side of the images in pixels, number of channels, and whether channels come first.

    Args:
        shape: of Keras's input, without the batch. Besides [h, w, channels] and [channels, h, w], [h, w] is grey, and
            flat values are images row by row, their channels last.

    Raises:
        UsageError: no square image of one or three channels has this shape.
    """
    values = math.prod(shape)
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]:
        return shape[1], shape[0], True
    for channels in (3, 1):
        size = math.isqrt(values // channels)
        if list(shape) in ([size, size, channels], [values]) and size**2 * channels == values:
            return size, channels, False
    if len(shape) == 2 and shape[0] == shape[1]:
        return shape[0], 1, False
    raise UsageError(
        f"its input has the shape {list(shape)}: cifarlab's images are square and have three channels, or one"
    )


def plan(architecture: Mapping[str, Any]) -> tuple[dict[int, _Plan], list[Shape]]:
    """How each layer is to be made, by its number, and the shape of every value in Keras's order.

    The network is made and run on tensors without memory, so that no file can ask for more than there is.

    Raises:
        UsageError: the layers do not fit each other, or are too large; it names the layer.
    """
    described, shape = architecture["layers"], architecture["input"]
    usual = next((each["settings"]["data_format"] for each in described if "data_format" in each["settings"]), "")
    are_last = [not image_layout(shape)[2] if len(shape) == 3 else usual != "channels_first"]  # of each value
    plans: dict[int, _Plan] = {}
    layers: dict[int, nn.Module] = {}
    budget = _Budget()
    if not 0 <= architecture["output"] <= len(architecture["nodes"]):
        raise UsageError("its output is not there")
    with torch.device("meta"), torch.no_grad():
        values = [torch.zeros(1, *shape)]
        for number, *inputs in architecture["nodes"]:
            if not 0 <= number < len(described) or not all(0 <= place < len(values) for place in inputs):
                raise UsageError("a step refers to what is not there")
            taken = [values[place] for place in inputs]
            with _naming(described[number]):
                if number not in plans:
                    inherited = [are_last[place] for place in inputs if values[place].dim() == 4]
                    plans[number] = _plan(described[number], taken, [*inherited, usual != "channels_first"][0])
                    layers[number] = plans[number].make().eval()
                    budget.add_weights(layers[number])
                values.append(_run(layers[number], taken))
                budget.add_work(layers[number], values[-1])
            are_last.append(plans[number].is_last)
    return plans, [tuple(value.shape[1:]) for value in values]


def _plan(described: Mapping[str, Any], taken: Sequence[Tensor], inherited: bool) -> _Plan:
    """`inherited` says what holds for a layer that does not care itself; a wrong guess changes no value."""
    if len(taken) != 1 and not issubclass(LAYERS[described["kind"]], layers_without_weights.Merge):
        raise UsageError(f"takes one value, gets {len(taken)}")
    settings = described["settings"]
    is_last = settings["data_format"] == "channels_last" if "data_format" in settings else inherited
    shapes = tuple(tuple((to_maps(value) if is_last else value).shape[1:]) for value in taken)
    return _Plan(described["kind"], settings, shapes, is_last)


@dataclass
class _Budget:
    """What a network may need."""

    nodes: int = 0
    weights: int = 0
    work: int = 0

    def add_weights(self, layer: nn.Module) -> None:
        self.weights += sum(value.numel() for value in layer.state_dict().values())
        if self.weights > MOST_WEIGHTS:
            raise UsageError(f"the network would have more than {MOST_WEIGHTS:,} weights")

    def add_work(self, layer: nn.Module, result: Tensor) -> None:
        self.nodes += 1
        products = [each.weight for each in layer.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
        if products:
            self.work += result.numel() // products[-1].shape[0] * sum(weight.numel() for weight in products)
        else:
            self.work += result.numel() * math.prod(getattr(layer, "kernel_size", (1,)))
        if not result.numel():
            raise UsageError("it leaves nothing of the image")
        if result.numel() > MOST_VALUES or self.work > MOST_WORK or self.nodes > MOST_NODES:
            raise UsageError("the network is far too large for small images")


@contextmanager
def _naming(described: Mapping[str, Any]) -> Iterator[None]:
    """Puts the layer before what is wrong with it."""
    try:
        yield
    except Exception as error:  # PyTorch has many kinds for sizes that do not fit
        told = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UsageError(f"the layer {_shown(described['name'])} ({described['kind']}): {told}") from error


def _shown(name: object) -> str:
    return repr(one_line(name)[:LONGEST_NAME])
