"""Keras's layers without weights, under Keras's names: pooling, shapes, noise and what joins several values.

Each is made from the shapes of what it will get and from the settings that `kerasfile` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models import layers
from cifarlab.models.keras_graph.shapes import Shape, Windows, axis_in, from_maps, of_maps, pad, to_maps


class _Pooling(nn.Module):
    """Windows over maps, placed as Keras does."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        is_last: bool,
        *,
        pool_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
    ) -> None:
        super().__init__()
        of_maps(shapes)
        self.kernel_size, self.stride = tuple(pool_size), tuple(strides)
        # Theano's way, as Keras calls it: one less where the window is odd.
        befores = [each - 1 - (each > 2 and each % 2) if padding == "theano" else None for each in pool_size]
        self.windows = Windows(pool_size, strides, padding != "valid", befores)


class MaxPooling2D(_Pooling):
    """The largest value of each window."""

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels, h2, w2]."""
        padded = pad(maps, self.windows.edges(maps), float("-inf"))
        return F.max_pool2d(padded, self.kernel_size, self.stride)


class AveragePooling2D(_Pooling):
    """The mean of each window; places that padding added count only where Keras had it so for a while."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, counts_padding: bool, **settings: Any) -> None:
        super().__init__(shapes, is_last, **settings)
        self.counts_padding = counts_padding

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels, h2, w2]."""
        edges = self.windows.edges(maps)
        means = F.avg_pool2d(pad(maps, edges), self.kernel_size, self.stride)
        if self.counts_padding or not any(edges):
            return means
        share = pad(maps.new_ones(1, 1, *maps.shape[2:]), edges)
        return means / F.avg_pool2d(share, self.kernel_size, self.stride)


class _GlobalPooling(nn.Module):
    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, keepdims: bool) -> None:
        super().__init__()
        of_maps(shapes)
        self.keepdims = keepdims


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each map."""

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels]."""
        return maps.mean((2, 3), keepdim=self.keepdims)


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest value of each map."""

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels]."""
        return maps.amax((2, 3), keepdim=self.keepdims)


class Flatten(nn.Module):
    """All values of an image in a row, in Keras's order of axes."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, moves_channels: bool) -> None:
        """`moves_channels`: bring the first axis to the end before, as Keras does for `channels_first` since 2.1.6."""
        super().__init__()
        self.turns, self.moves_channels = is_last, moves_channels

    def forward(self, values: Tensor) -> Tensor:
        """To [b, features]."""
        values = from_maps(values) if self.turns else values
        return (values.movedim(1, -1) if self.moves_channels else values).flatten(1)


class Reshape(nn.Module):
    """The values of an image in Keras's order of axes, cut anew."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, shape: Sequence[int]) -> None:
        super().__init__()
        self.turns, self.shape = is_last, tuple(shape)

    def forward(self, values: Tensor) -> Tensor:
        """To the new shape."""
        values = from_maps(values) if self.turns else values
        values = values.reshape(values.shape[0], *self.shape)
        return to_maps(values) if self.turns else values


class Permute(nn.Module):
    """Keras's axes in another order."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, dims: Sequence[int]) -> None:
        super().__init__()
        self.turns, self.dims = is_last, (0, *dims)

    def forward(self, values: Tensor) -> Tensor:
        """The same values."""
        values = (from_maps(values) if self.turns else values).permute(self.dims)
        return to_maps(values) if self.turns else values


class ZeroPadding2D(nn.Module):
    """Zeros around maps, [[top, bottom], [left, right]]."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, edges: Sequence[Sequence[int]]) -> None:
        super().__init__()
        of_maps(shapes)
        (top, bottom), (left, right) = edges
        self.edges = (left, right, top, bottom)

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels, h2, w2]."""
        return F.pad(maps, self.edges)


class Cropping2D(nn.Module):
    """Maps without [[top, bottom], [left, right]] places."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, edges: Sequence[Sequence[int]]) -> None:
        super().__init__()
        of_maps(shapes)
        (top, bottom), (left, right) = edges
        self.edges = (-left, -right, -top, -bottom)

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels, h2, w2]."""
        return F.pad(maps, self.edges)


class UpSampling2D(nn.Module):
    """Maps enlarged."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, size: Sequence[int], interpolation: str) -> None:
        super().__init__()
        of_maps(shapes)
        self.factors, self.interpolation = tuple(size), interpolation

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, channels, h2, w2]."""
        size = [length * factor for length, factor in zip(maps.shape[2:], self.factors, strict=True)]
        if self.interpolation == "nearest":
            return F.interpolate(maps, size, mode="nearest")
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class Rescaling(nn.Module):
    """Values by a factor and plus an offset, each one number or one for each place of Keras's last axis."""

    scale: Tensor
    offset: Tensor

    def __init__(
        self, shapes: Sequence[Shape], is_last: bool, *, scale: float | list[float], offset: float | list[float]
    ) -> None:
        super().__init__()
        self.turns = is_last
        for name, value in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        scale, offset = self.scale, self.offset
        if self.turns and values.dim() == 4:
            scale, offset = scale.view(-1, 1, 1), offset.view(-1, 1, 1)
        return values * scale + offset


class Identity(nn.Identity):
    """What does nothing once a network is trained."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool) -> None:
        super().__init__()


class Dropout(layers.Dropout):
    """Drops values while training."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, rate: float) -> None:
        super().__init__(rate)


class SpatialDropout2D(nn.Dropout2d):
    """Drops whole maps while training."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, rate: float) -> None:
        super().__init__(rate)
        of_maps(shapes)


class AlphaDropout(nn.AlphaDropout):
    """Drops values while training and keeps mean and deviation, for `selu`."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, rate: float) -> None:
        super().__init__(rate)


class GaussianDropout(nn.Module):
    """Multiplies values by random numbers around 1 while training."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, rate: float) -> None:
        super().__init__()
        self.deviation = (rate / (1 - rate)) ** 0.5

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        return values * (1 + self.deviation * torch.randn_like(values)) if self.training else values


class GaussianNoise(nn.Module):
    """Adds random numbers around 0 while training."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, stddev: float) -> None:
        super().__init__()
        self.deviation = stddev

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        return values + self.deviation * torch.randn_like(values) if self.training else values


class Merge(nn.Module):
    """What joins values of one rank."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool) -> None:
        super().__init__()
        if len(shapes) < 2 or len({len(shape) for shape in shapes}) > 1:
            raise UsageError(f"takes two values or more of one rank, gets {[list(shape) for shape in shapes]}")


class Add(Merge):
    """The sum."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values as broadcast."""
        return reduce(torch.add, values)


class Subtract(Merge):
    """The first less the second."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Values as broadcast."""
        return first - second


class Multiply(Merge):
    """The product."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values as broadcast."""
        return reduce(torch.mul, values)


class Average(Merge):
    """The mean."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values as broadcast."""
        return reduce(torch.add, values) / len(values)


class Maximum(Merge):
    """The larger at each place."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values as broadcast."""
        return reduce(torch.maximum, values)


class Minimum(Merge):
    """The smaller at each place."""

    def forward(self, *values: Tensor) -> Tensor:
        """Values as broadcast."""
        return reduce(torch.minimum, values)


class Concatenate(Merge):
    """Values side by side along one axis."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, axis: int) -> None:
        super().__init__(shapes, is_last)
        self.axis, self.turns = axis, is_last

    def forward(self, *values: Tensor) -> Tensor:
        """Values longer along that axis."""
        return torch.cat(values, axis_in(self.axis, values[0], self.turns))


class TwoClasses(nn.Module):
    """Logits of two classes from one: sigmoid of z is the second's share in the softmax of [0, z]."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool) -> None:
        super().__init__()

    def forward(self, values: Tensor) -> Tensor:
        """[b, 1] to [b, 2]."""
        return torch.cat([torch.zeros_like(values), values], dim=1)
