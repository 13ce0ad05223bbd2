"""Keras's layers without weights, named as in Keras: pooling, reshaping, padding, noise, and merging of several values.

A layer here needs its reader in `cifarlab.keras.layer_readers`, which makes the settings of its constructor.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models import layers
from cifarlab.models.keras_graph.shapes import ImageLayer, Inputs, KerasLayer, Windows, pad


class _Pooling(ImageLayer):
    """Pooling over windows that are placed as in Keras."""

    def __init__(self, inputs: Inputs, *, pool_size: Sequence[int], strides: Sequence[int], padding: str) -> None:
        super().__init__(inputs)
        self.kernel_size, self.stride = tuple(pool_size), tuple(strides)
        # Theano pads by one less than the window, and Keras makes that one less again for odd windows above 2.
        befores = [size - 1 - (size > 2 and size % 2) if padding == "theano" else None for size in pool_size]
        self.windows = Windows(pool_size, strides, padding != "valid", befores)


class MaxPooling2D(_Pooling):
    """The largest value of each window."""

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h2 w2"]:
        padded = pad(maps, self.windows.edges(maps), float("-inf"))
        return F.max_pool2d(padded, self.kernel_size, self.stride)


class AveragePooling2D(_Pooling):
    """The mean of each window."""

    def __init__(self, inputs: Inputs, *, counts_padding: bool, **settings: Any) -> None:
        """Create the layer; `counts_padding` includes padded zeros in the mean, as some versions of Keras do."""
        super().__init__(inputs, **settings)
        self.counts_padding = counts_padding

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h2 w2"]:
        edges = self.windows.edges(maps)
        means = F.avg_pool2d(pad(maps, edges), self.kernel_size, self.stride)
        if self.counts_padding or not any(edges):
            return means
        share = pad(maps.new_ones(1, 1, *maps.shape[2:]), edges)
        return means / F.avg_pool2d(share, self.kernel_size, self.stride)


class _GlobalPooling(ImageLayer):
    def __init__(self, inputs: Inputs, *, keepdims: bool) -> None:
        super().__init__(inputs)
        self.keepdims = keepdims


class GlobalAveragePooling2D(_GlobalPooling):
    """The mean of each channel."""

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels ..."]:
        return maps.mean((2, 3), keepdim=self.keepdims)


class GlobalMaxPooling2D(_GlobalPooling):
    """The largest value of each channel."""

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels ..."]:
        return maps.amax((2, 3), keepdim=self.keepdims)


class Flatten(KerasLayer):
    """All values of an image in Keras's order of axes."""

    def __init__(self, inputs: Inputs, *, moves_channels: bool) -> None:
        """Create the layer; `moves_channels` first moves the first axis to the end.

        Keras does so for `channels_first` since version 2.1.6.
        """
        super().__init__(inputs)
        self.moves_channels = moves_channels

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b features"]:
        values = self.in_keras_order(values)
        return (values.movedim(1, -1) if self.moves_channels else values).flatten(1)


class Reshape(KerasLayer):
    """The values of an image, in Keras's order of axes, in another shape."""

    def __init__(self, inputs: Inputs, *, shape: Sequence[int]) -> None:
        super().__init__(inputs)
        self.shape = tuple(shape)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        values = self.in_keras_order(values)
        values = values.reshape(values.shape[0], *self.shape)
        return self.from_keras_order(values)


class Permute(KerasLayer):
    """Keras's axes in another order."""

    def __init__(self, inputs: Inputs, *, dims: Sequence[int]) -> None:
        super().__init__(inputs)
        self.dims = (0, *dims)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        values = self.in_keras_order(values).permute(self.dims)
        return self.from_keras_order(values)


class ZeroPadding2D(ImageLayer):
    """Zeros around images."""

    def __init__(self, inputs: Inputs, *, edges: Sequence[Sequence[int]]) -> None:
        """Create the layer; `edges` are the pixels [[top, bottom], [left, right]] to add."""
        super().__init__(inputs)
        (top, bottom), (left, right) = edges
        self.edges = (left, right, top, bottom)

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h2 w2"]:
        return F.pad(maps, self.edges)


class Cropping2D(ZeroPadding2D):
    """Images without the pixels [[top, bottom], [left, right]] at their edges."""

    def __init__(self, inputs: Inputs, *, edges: Sequence[Sequence[int]]) -> None:
        super().__init__(inputs, edges=[[-pixels for pixels in side] for side in edges])


class UpSampling2D(ImageLayer):
    """Enlarged images."""

    def __init__(self, inputs: Inputs, *, size: Sequence[int], interpolation: str) -> None:
        super().__init__(inputs)
        self.factors, self.interpolation = tuple(size), interpolation

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h2 w2"]:
        size = [length * factor for length, factor in zip(maps.shape[2:], self.factors, strict=True)]
        if self.interpolation == "nearest":
            return F.interpolate(maps, size, mode="nearest")
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)


class Rescaling(KerasLayer):
    """Values times `scale` plus `offset`, which are numbers or lists with a number for each place of the last axis."""

    scale: Tensor
    offset: Tensor

    def __init__(self, inputs: Inputs, *, scale: float | list[float], offset: float | list[float]) -> None:
        super().__init__(inputs)
        for name, value in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        scale, offset = self.scale, self.offset
        if self.channels_last and values.dim() == 4:
            scale, offset = scale.view(-1, 1, 1), offset.view(-1, 1, 1)
        return values * scale + offset


class Identity(nn.Identity):
    """A layer that does nothing once a network is trained."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()


class Dropout(layers.Dropout):
    """Drops values in training mode."""

    def __init__(self, inputs: Inputs, *, rate: float) -> None:
        super().__init__(rate)


class SpatialDropout2D(nn.Dropout2d):
    """Drops whole channels in training mode."""

    def __init__(self, inputs: Inputs, *, rate: float) -> None:
        super().__init__(rate)
        self.channels = inputs.image_shape[0]  # raises an error for other inputs


class AlphaDropout(nn.AlphaDropout):
    """Drops values in training mode and keeps mean and standard deviation, for `selu`."""

    def __init__(self, inputs: Inputs, *, rate: float) -> None:
        super().__init__(rate)


class GaussianDropout(KerasLayer):
    """Multiplies values by random numbers with mean 1 in training mode."""

    def __init__(self, inputs: Inputs, *, rate: float) -> None:
        super().__init__(inputs)
        self.deviation = (rate / (1 - rate)) ** 0.5

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return values * (1 + self.deviation * torch.randn_like(values)) if self.training else values


class GaussianNoise(KerasLayer):
    """Adds random numbers with mean 0 in training mode."""

    def __init__(self, inputs: Inputs, *, stddev: float) -> None:
        super().__init__(inputs)
        self.deviation = stddev

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return values + self.deviation * torch.randn_like(values) if self.training else values


class _Merge(KerasLayer):
    """A layer that takes several values of one rank, whose shapes are broadcast."""

    takes_several_inputs = True

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        if len(inputs.shapes) < 2 or len({len(shape) for shape in inputs.shapes}) > 1:
            shapes = [list(shape) for shape in inputs.shapes]
            raise UsageError(f"takes two values or more of one rank, got {shapes}")


class Add(_Merge):
    """The sum."""

    def forward(self, *values: Tensor) -> Tensor:
        return reduce(torch.add, values)


class Subtract(_Merge):
    """The first value minus the second."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first - second


class Multiply(_Merge):
    """The product."""

    def forward(self, *values: Tensor) -> Tensor:
        return reduce(torch.mul, values)


class Average(_Merge):
    """The mean."""

    def forward(self, *values: Tensor) -> Tensor:
        return reduce(torch.add, values) / len(values)


class Maximum(_Merge):
    """The largest value, element by element."""

    def forward(self, *values: Tensor) -> Tensor:
        return reduce(torch.maximum, values)


class Minimum(_Merge):
    """The smallest value, element by element."""

    def forward(self, *values: Tensor) -> Tensor:
        return reduce(torch.minimum, values)


class Concatenate(_Merge):
    """Values side by side along one axis."""

    def __init__(self, inputs: Inputs, *, axis: int) -> None:
        super().__init__(inputs)
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, self.torch_axis(self.axis, values[0]))


class TwoClasses(KerasLayer):
    """Logits of two classes from one: sigmoid(z) is the share of the second class in the softmax of [0, z].

    The import appends this layer; it is not in Keras.
    """

    def forward(self, values: Float[Tensor, "b 1"]) -> Float[Tensor, "b 2"]:
        return torch.cat([torch.zeros_like(values), values], dim=1)
