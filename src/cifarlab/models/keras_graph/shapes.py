"""Axes, shapes and padding as Keras counts them.

Keras stores images as [h, w, channels] or [channels, h, w], and a file says for each layer which. The layers here take
[b, channels, h, w]; `channels_last` says that Keras has the channels of a layer's values last.
"""

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


@dataclass(frozen=True)
class Inputs:
    """The inputs from which a layer is built, at its first call."""

    shapes: Sequence[Shape]
    channels_last: bool

    @property
    def shape(self) -> Shape:
        """Shape of the only input."""
        (shape,) = self.shapes
        return shape

    @property
    def image_shape(self) -> Shape:
        """Shape (channels, h, w) of the only input; raises a `UsageError` if the input has another rank."""
        if len(self.shape) != 3:
            raise UsageError(f"takes images with channels, got values of the shape {list(self.shape)}")
        return self.shape

    def torch_axis(self, axis: int) -> int:
        """Return the axis of the only input, batch included, that Keras calls `axis`."""
        return torch_axis(axis, self.shape, self.channels_last)


class KerasLayer(nn.Module):
    """A layer that computes what the layer of this name computes in Keras."""

    takes_several_inputs = False

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.channels_last = inputs.channels_last

    def torch_axis(self, axis: int, values: Tensor) -> int:
        """Return the axis of `values` that Keras calls `axis`; their rank may differ from call to call."""
        return torch_axis(axis, values.shape[1:], self.channels_last)

    def in_keras_order(self, values: Tensor) -> Tensor:
        """View values in Keras's order of axes."""
        return to_channels_last(values) if self.channels_last else values

    def from_keras_order(self, values: Tensor) -> Tensor:
        """View values in Keras's order of axes as [b, channels, h, w]."""
        return to_channels_first(values) if self.channels_last else values


class ImageLayer(KerasLayer):
    """A layer that takes images [b, channels, h, w]."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self.channels = inputs.image_shape[0]


def to_channels_first(values: Tensor) -> Tensor:
    """View [b, h, w, channels] as [b, channels, h, w]; return values of another rank unchanged."""
    return values.permute(0, 3, 1, 2) if values.dim() == 4 else values


def to_channels_last(values: Tensor) -> Tensor:
    """View [b, channels, h, w] as [b, h, w, channels]; return values of another rank unchanged."""
    return values.permute(0, 2, 3, 1) if values.dim() == 4 else values


def torch_axis(axis: int, shape: Shape, channels_last: bool) -> int:
    """Return the axis of values [b, *shape] that Keras calls `axis`, which may be negative; 0 is the batch.

    Raises:
        UsageError: there is no such axis, or it is the batch.
    """
    rank = len(shape) + 1
    positive = axis + rank if axis < 0 else axis
    if not 0 < positive < rank:
        raise UsageError(f"axis must be one of the axes after the batch of values {list(shape)}, got {axis}")
    return (0, 2, 3, 1)[positive] if channels_last and rank == 4 else positive


def copy_array(tensor: Tensor, array: np.ndarray, name: str) -> None:
    """Copy an array of a file into a tensor; raise a `UsageError` if the shapes differ."""
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
    """Add positions around [b, channels, h, w], within `MAX_VALUES`, or cut them off if their number is negative."""
    if not any(edges):
        return maps
    left, right, top, bottom = edges
    channels, height, width = maps.shape[1:]
    if channels * (height + top + bottom) * (width + left + right) > MAX_VALUES:
        raise UsageError("its windows are far too large for small images")
    return F.pad(maps, edges, value=value)
