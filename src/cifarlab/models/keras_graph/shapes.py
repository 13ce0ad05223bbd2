"""Axes and shapes as Keras counts them.

Keras has images as [h, w, channels] or [channels, h, w], and its files say for each layer which. Layers here work on
[b, channels, h, w]; `is_last` says that Keras has the channels of a layer's values last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlab.errors import UsageError

MOST_VALUES = 2**25  # that a layer may make of one image, what it pads included

Shape = tuple[int, ...]
"""Of values in [b, channels, h, w] or of any other rank, without the batch."""


def to_maps(values: Tensor) -> Tensor:
    """[b, h, w, channels] as [b, channels, h, w], without a copy; what has not four axes as it is."""
    return values.permute(0, 3, 1, 2) if values.dim() == 4 else values


def from_maps(values: Tensor) -> Tensor:
    """[b, channels, h, w] as [b, h, w, channels], without a copy; what has not four axes as it is."""
    return values.permute(0, 2, 3, 1) if values.dim() == 4 else values


def axis_of(axis: int, shape: Shape, is_last: bool) -> int:
    """Which axis of a layer's input, batch counted, is Keras's `axis`; `shape` is without the batch."""
    rank = len(shape) + 1
    place = axis + rank if axis < 0 else axis
    if not 0 < place < rank:
        raise UsageError(f"there is no axis {axis} besides the batch in {list(shape)}")
    return (0, 2, 3, 1)[place] if is_last and rank == 4 else place


def axis_in(axis: int, values: Tensor, is_last: bool) -> int:
    """The same for values with their batch; layers that are used more than once may get several ranks."""
    return axis_of(axis, tuple(values.shape[1:]), is_last)


def set_value(tensor: Tensor, array: np.ndarray, name: str) -> None:
    """Copies an array of exactly that shape.

    Raises:
        UsageError: the shape is another.
    """
    if array.shape != tuple(tensor.shape):
        raise UsageError(f"its {name} should be {list(tensor.shape)}, the file has {list(array.shape)}")
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(array)))


def same_edges(size: int, kernel: int, stride: int, before: int | None = None) -> tuple[int, int]:
    """Places that `padding="same"` adds before and after an axis; TensorFlow adds the odd one after.

    Args:
        size: of the axis.
        kernel: how far a window reaches, dilation counted.
        stride: from window to window.
        before: what Theano adds before; what follows then may be negative, and cuts.
    """
    missing = (-(-size // stride) - 1) * stride + kernel - size
    if before is None:
        missing = max(0, missing)
        before = missing // 2
    return before, missing - before


@dataclass(frozen=True)
class Windows:
    """How windows lie over maps. Their size is asked each time, because a layer may be used on maps of several."""

    reach: Sequence[int]
    """Of a window in height and width, dilation counted."""
    strides: Sequence[int]
    pads: bool
    befores: Sequence[int | None] = (None, None)
    """As `same_edges` takes it."""

    def edges(self, maps: Tensor) -> tuple[int, int, int, int]:
        """Places left, right, above and below of [b, channels, h, w] that the padding adds."""
        if not self.pads:
            return 0, 0, 0, 0
        axes = zip(maps.shape[2:], self.reach, self.strides, self.befores, strict=True)
        (top, bottom), (left, right) = (same_edges(*axis) for axis in axes)
        return left, right, top, bottom


def pad(maps: Tensor, edges: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """[b, channels, h, w] with more places, or fewer where their number is negative.

    Raises:
        UsageError: that would be far larger than the maps.
    """
    if not any(edges):
        return maps
    left, right, top, bottom = edges
    channels, height, width = maps.shape[1:]
    if channels * (height + top + bottom) * (width + left + right) > MOST_VALUES:
        raise UsageError("its windows are far too large for small images")
    return F.pad(maps, edges, value=value)


def of_maps(shapes: Sequence[Shape]) -> Shape:
    """The one shape that a layer gets, which should be (channels, h, w)."""
    (shape,) = shapes
    if len(shape) != 3:
        raise UsageError(f"takes images with channels, gets values of the shape {list(shape)}")
    return shape
