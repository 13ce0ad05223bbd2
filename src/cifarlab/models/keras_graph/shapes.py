"""Axes, shapes and padding as Keras counts them.

Keras stores images as [h, w, channels] or [channels, h, w], and a file says for each layer which. The layers here take
[b, channels, h, w]; `channels_last` says that Keras has the channels of a layer's values last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.errors import UsageError

MAX_VALUES = 2**25  # values that a layer may compute for one image, padding included

Shape = tuple[int, ...]
"""Shape of a value without the batch: (channels, h, w), or any other rank."""


class KerasLayer(nn.Module):
    """A layer that is built from the shapes of its inputs and from the settings in a Keras file."""

    takes_several_inputs = False

    def __init__(self, shapes: Sequence[Shape], channels_last: bool) -> None:
        super().__init__()
        self.channels_last = channels_last


class ImageLayer(KerasLayer):
    """A layer that takes images [b, channels, h, w]."""

    def __init__(self, shapes: Sequence[Shape], channels_last: bool) -> None:
        super().__init__(shapes, channels_last)
        image_shape(shapes)


def image_shape(shapes: Sequence[Shape]) -> Shape:
    """Return the shape (channels, h, w) of the only input of a layer.

    Raises:
        UsageError: the input has another rank.
    """
    (shape,) = shapes
    if len(shape) != 3:
        raise UsageError(f"takes images with channels, got values of the shape {list(shape)}")
    return shape


def to_channels_first(values: Tensor) -> Tensor:
    """View [b, h, w, channels] as [b, channels, h, w]; return values of another rank unchanged."""
    return values.permute(0, 3, 1, 2) if values.dim() == 4 else values


def to_channels_last(values: Tensor) -> Tensor:
    """View [b, channels, h, w] as [b, h, w, channels]; return values of another rank unchanged."""
    return values.permute(0, 2, 3, 1) if values.dim() == 4 else values


def torch_axis(axis: int, shape: Shape, channels_last: bool) -> int:
    """Return the axis of a layer's input, batch included, that Keras calls `axis`.

    Args:
        axis: Keras's number, batch included; may be negative.
        shape: shape of the input without the batch. Layers that are used twice may get inputs of different ranks.
        channels_last: Keras's order of the input's axes.

    Raises:
        UsageError: there is no such axis.
    """
    rank = len(shape) + 1
    positive = axis + rank if axis < 0 else axis
    if not 0 < positive < rank:
        raise UsageError(f"axis must be one of the axes after the batch of values {list(shape)}, got {axis}")
    return (0, 2, 3, 1)[positive] if channels_last and rank == 4 else positive


def copy_array(tensor: Tensor, array: np.ndarray, name: str) -> None:
    """Copy an array of a file into a tensor.

    Raises:
        UsageError: the shapes differ.
    """
    if array.shape != tuple(tensor.shape):
        raise UsageError(f"its {name} must have the shape {list(tensor.shape)}, the file has {list(array.shape)}")
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(array)))


def same_padding(size: int, kernel: int, stride: int, before: int | None = None) -> tuple[int, int]:
    """Return the positions that `padding="same"` adds before and after an axis; TensorFlow adds an odd one after.

    Args:
        size: length of the axis.
        kernel: length of a window, dilation included.
        stride: distance between windows.
        before: positions that Theano adds before; the number after may then be negative, which cuts positions off.
    """
    missing = (-(-size // stride) - 1) * stride + kernel - size
    if before is None:
        missing = max(0, missing)
        before = missing // 2
    return before, missing - before


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution or pooling. The padding depends on the image, because a layer may be used twice."""

    lengths: Sequence[int]
    """Height and width of a window, dilation included."""
    strides: Sequence[int]
    pads: bool
    befores: Sequence[int | None] = (None, None)
    """Positions that Theano adds above and on the left."""

    def edges(self, maps: Tensor) -> tuple[int, int, int, int]:
        """Return the positions that padding adds on the left, on the right, above and below [b, channels, h, w]."""
        if not self.pads:
            return 0, 0, 0, 0
        axes = zip(maps.shape[2:], self.lengths, self.strides, self.befores, strict=True)
        (top, bottom), (left, right) = (same_padding(*axis) for axis in axes)
        return left, right, top, bottom


def pad(maps: Tensor, edges: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Add positions around [b, channels, h, w], or cut them off if their number is negative.

    Raises:
        UsageError: the result would be far larger than any small image.
    """
    if not any(edges):
        return maps
    left, right, top, bottom = edges
    channels, height, width = maps.shape[1:]
    if channels * (height + top + bottom) * (width + left + right) > MAX_VALUES:
        raise UsageError("its windows are far too large for small images")
    return F.pad(maps, edges, value=value)
