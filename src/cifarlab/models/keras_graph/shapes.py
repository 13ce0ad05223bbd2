"""Axes, shapes and padding as Keras counts them.

Keras stores images as [b, h, w, channels] or [b, channels, h, w], and a file says for each layer which. The layers here
take [b, channels, h, w]; `channels_last` says that Keras has the channels of a layer's values last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlab.errors import UsageError

MAX_VALUES = 2**25  # values that a layer may compute for one image, padding included


@dataclass(frozen=True)
class Inputs:
    """The input of a layer's first call, from which the layer is built."""

    shape: tuple[int, ...]  # in Keras's order of axes, without the batch
    channels_last: bool

    @property
    def channels(self) -> int:
        """Number of channels of images."""
        return self.shape[-1 if self.channels_last else 0]

    @property
    def order(self) -> tuple[int, ...]:
        """Keras's axes, counted without the batch, in the order in which PyTorch has them."""
        return (2, 0, 1) if self.channels_last and len(self.shape) == 3 else tuple(range(len(self.shape)))

    def index(self, axis: int) -> int:
        """Return the index in `shape` of an axis that Keras counts with the batch, or from the end."""
        return torch_axis(axis, self.shape, channels_last=False) - 1


def to_channels_first(values: Tensor) -> Tensor:
    """View [b, h, w, channels] as [b, channels, h, w]; return values of another rank unchanged."""
    return values.permute(0, 3, 1, 2) if values.dim() == 4 else values


def to_channels_last(values: Tensor) -> Tensor:
    """View [b, channels, h, w] as [b, h, w, channels]; return values of another rank unchanged."""
    return values.permute(0, 2, 3, 1) if values.dim() == 4 else values


def run_layer(layer: Callable[..., Tensor], values: Sequence[Tensor], channels_last: bool) -> Tensor:
    """Run a layer on values in Keras's order of axes, and return its result in the same order."""
    return to_channels_last(layer(*map(to_channels_first, values))) if channels_last else layer(*values)


def in_keras_order(function: Callable[..., Tensor], values: Sequence[Tensor], channels_last: bool) -> Tensor:
    """Call a function that needs Keras's order of axes on a layer's values; the reverse of `run_layer`."""
    return to_channels_first(function(*map(to_channels_last, values))) if channels_last else function(*values)


def torch_axis(axis: int, shape: Sequence[int], channels_last: bool) -> int:
    """Return the axis of values [b, *shape] that Keras calls `axis`, which may be negative but not the batch."""
    rank = len(shape) + 1
    if axis == 0 or not -rank < axis < rank:
        raise UsageError(f"axis must be one of the axes after the batch of values {list(shape)}, got {axis}")
    return (0, 2, 3, 1)[axis] if channels_last and rank == 4 else axis % rank


def copy_array(tensor: Tensor, array: np.ndarray, name: str) -> None:
    """Copy an array of a file into a tensor; raise a `UsageError` if the shapes differ."""
    if array.shape != tuple(tensor.shape):
        raise UsageError(f"its {name} must have the shape {list(tensor.shape)}, the file has {list(array.shape)}")
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(array)))


def same_padding(size: int, kernel: int, stride: int, before: int | None = None) -> tuple[int, int]:
    """Return the positions that `padding="same"` adds before and after an axis of length `size`.

    TensorFlow splits them evenly, with one more after the axis if their number is odd. Theano's number `before` depends
    on the kernel alone, so that the number after may be negative: cut so many positions off. `kernel` is the kernel's
    length with dilation.
    """
    missing = (-(-size // stride) - 1) * stride + kernel - size
    if before is None:
        missing = max(0, missing)
        before = missing // 2
    return before, missing - before


def window_edges(
    maps: Tensor, lengths: Sequence[int], strides: Sequence[int], padding: str, befores: Sequence[int]
) -> tuple[int, int, int, int]:
    """Return the positions that padding adds on the left, on the right, above and below [b, channels, h, w].

    Windows have the height and width `lengths`, dilation included; `padding` is `valid`, `same` or `theano`, which adds
    `befores` above and on the left.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    axes = zip(maps.shape[2:], lengths, strides, befores if padding == "theano" else (None, None), strict=True)
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
