"""The layer table of a network: a row per layer with its shape, weights and multiply-adds, and a drawing of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cifarlab.models.layers import SparseConv2d

_NOT_LISTED = (nn.Identity,)


@dataclass(frozen=True)
class LayerRow:
    """A layer, measured on one image."""

    operation: str  # kind and main settings, such as `Conv2d 3x3`
    output_shape: tuple[int, ...]  # without the batch: (channels, height, width) or (features,)
    weights: int  # number of trainable parameters
    macs: int  # multiply-adds for one image; 0 for all but convolutions and dense layers


def layer_table(network: nn.Module, size: int = 32, in_channels: int = 3) -> list[LayerRow]:
    """Return the layers of any network in the order in which they run on one black image.

    A layer is a module without children or with weights of its own. Plain functions between layers are not listed.
    """
    rows: list[LayerRow] = []
    counted: set[nn.Parameter] = set()

    def record(layer: nn.Module, inputs: Any, result: Any) -> None:
        while isinstance(result, tuple | list) and result:  # recurrent layers return tuples of tuples
            result = result[0]
        output = result if isinstance(result, Tensor) else torch.zeros(1, 0)
        own = [value for value in layer.parameters(recurse=False) if value not in counted and value.requires_grad]
        counted.update(own)  # weights used twice count once
        weights = sum(value.numel() for value in own)
        rows.append(LayerRow(_operation(layer), tuple(output.shape[1:]), weights, _macs(layer, output)))

    layers = [
        layer
        for layer in network.modules()
        if (not list(layer.children()) or list(layer.parameters(recurse=False))) and not isinstance(layer, _NOT_LISTED)
    ]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, in_channels, size, size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters; shared ones count once."""
    return sum(value.numel() for value in network.parameters() if value.requires_grad)


def count_macs(network: nn.Module, size: int = 32, in_channels: int = 3) -> int:
    """Return the multiply-adds of convolutions and dense layers for one image of `size` x `size` pixels."""
    return sum(row.macs for row in layer_table(network, size, in_channels))


def draw(name: str, rows: Sequence[LayerRow], size: int = 32, in_channels: int = 3) -> str:
    """Draw the layers as text of at most 80 columns: bars for the data, and the operations between them."""
    total = max(1, sum(row.weights for row in rows))
    head = f"{'OPERATION':>24}   {'DATA DIMENSIONS':<22}{'WEIGHTS':>12}{'SHARE':>8}{'MULT-ADDS':>11}"
    lines = [name, "", head, _data_line("Input", (in_channels, size, size))]
    for row in rows:
        share = f"{row.weights / total:.1%}" if row.weights else "-"
        weights = f"{row.weights:,}" if row.weights else "-"
        lines.append(f"{row.operation:>24}   {'  |':<22}{weights:>12}{share:>8}{_short_number(row.macs):>11}")
        lines.append(_data_line("", row.output_shape))
    macs = sum(row.macs for row in rows)
    lines += ["", f"{sum(row.weights for row in rows):,} trainable parameters, {macs:,} multiply-adds an image"]
    return "\n".join(lines)


def _data_line(label: str, shape: tuple[int, ...]) -> str:
    count = math.prod(shape)
    bar = "#" * max(1, min(5, round(math.log10(max(count, 1)))))  # one mark for each digit of the count
    return f"{label:>24}   {bar:<6}{' x '.join(map(str, shape))}"


def _operation(layer: nn.Module) -> str:
    """Return a layer's kind with its kernel, stride and dropout rate, such as `Conv2d 3x3 /2`."""
    kind: str = layer._get_name()
    kernel = getattr(layer, "kernel_size", getattr(layer, "kernel", None))
    if kernel:
        kind += " " + "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1):
        kind += f" /{layer.stride[0]}"
    if isinstance(layer, nn.Dropout):
        kind += f" {layer.p:g}"
    return kind


def _macs(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        return output[0].numel() * layer.weight[0].numel()
    if isinstance(layer, SparseConv2d):
        return output[0, 0].numel() * layer.weight.numel()
    if isinstance(layer, nn.Linear):
        return output[0].numel() * layer.in_features
    return 0


def _short_number(count: int) -> str:
    if not count:
        return "-"
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count:,}"
