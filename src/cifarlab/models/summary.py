"""The layer table of a network: a row per layer with its shape, weights and multiply-adds, and a drawing of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cifarlab.models.layers import SparseConv2d

_NOT_LISTED = (nn.Identity,)


@dataclass(frozen=True)
class LayerRow:
    """A layer, measured on one image."""

    operation: str
    """Kind and main settings, such as `Conv2d 3x3`."""
    output_shape: tuple[int, ...]
    """Shape without the batch: (channels, height, width) or (features,)."""
    weights: int
    """Number of trainable parameters."""
    macs: int
    """Multiply-adds for one image; 0 for all but convolutions and dense layers."""


def layer_table(network: nn.Module, size: int = 32, channels: int = 3) -> list[LayerRow]:
    """Return the layers of any network in the order in which they run on one black image.

    A layer is a module without children or with weights of its own. Plain functions between layers are not listed.
    """
    rows: list[LayerRow] = []
    counted: set[int] = set()

    def record(layer: nn.Module, inputs: Any, result: Any) -> None:
        output = next(_tensors(result), torch.zeros(1, 0))
        weights = sum(
            value.numel()
            for value in layer.parameters(recurse=False)
            if value.requires_grad and id(value) not in counted
        )
        counted.update(id(value) for value in layer.parameters(recurse=False))  # weights used twice count once
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
            network.eval()(torch.zeros(1, channels, size, size))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return rows


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters; shared ones count once."""
    return sum(value.numel() for value in network.parameters() if value.requires_grad)


def count_macs(network: nn.Module, size: int = 32) -> int:
    """Return the multiply-adds of convolutions and dense layers for one image of `size` x `size` pixels."""
    return sum(row.macs for row in layer_table(network, size))


def draw(name: str, rows: Sequence[LayerRow], size: int = 32, channels: int = 3) -> str:
    """Draw the layers as text of at most 80 columns: bars for the data, and the operations between them.

    Args:
        name: the title.
        rows: from `layer_table`.
        size: side of the input in pixels.
        channels: number of channels of the input.
    """
    total = max(1, sum(row.weights for row in rows))
    head = f"{'OPERATION':>24}   {'DATA DIMENSIONS':<22}{'WEIGHTS':>12}{'SHARE':>8}{'MULT-ADDS':>11}"
    lines = [name, "", head, _data_line("Input", (channels, size, size))]
    for row in rows:
        share = f"{row.weights / total:.1%}" if row.weights else "-"
        weights = f"{row.weights:,}" if row.weights else "-"
        lines.append(f"{row.operation:>24}   {'  |':<22}{weights:>12}{share:>8}{_short_number(row.macs):>11}")
        lines.append(_data_line("", row.output_shape))
    macs = sum(row.macs for row in rows)
    lines += ["", f"{sum(row.weights for row in rows):,} trainable parameters, {macs:,} multiply-adds an image"]
    return "\n".join(lines)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors that a layer returned; recurrent layers return tuples of tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _data_line(label: str, shape: tuple[int, ...]) -> str:
    count = math.prod(shape)
    bar = "#" * max(1, min(5, round(math.log10(max(count, 1)))))  # one mark for each digit of the count
    return f"{label:>24}   {bar:<6}{' x '.join(map(str, shape))}"


def _operation(layer: nn.Module) -> str:
    """Return a layer's kind with its kernel, stride and dropout rate, such as `Conv2d 3x3 /2`."""
    kind = type(layer).__name__
    kernel = getattr(layer, "kernel_size", getattr(layer, "kernel", None))
    if kernel is not None:
        kind += " " + "x".join(map(str, kernel if isinstance(kernel, tuple) else (kernel, kernel)))
    stride = getattr(layer, "stride", 1)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    if isinstance(layer, nn.Conv2d) and steps != (1, 1):
        kind += f" /{steps[0]}"
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
