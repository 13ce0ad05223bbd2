"""Keras's layers with weights, under Keras's names, computing what Keras computes.

Each is made from the shapes of what it will get and from the settings that `kerasfile` reads. `set_weights` takes
arrays as Keras 2 on TensorFlow orders them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.shapes import Shape, Windows, axis_in, axis_of, of_maps, pad, set_value

EPSILON = 1e-7  # Keras's, where nothing may be divided by 0


class _Convolution(nn.Conv2d):
    """A convolution that pads as Keras does."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        filters: int,
        groups: int,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
        dilation_rate: Sequence[int],
        use_bias: bool,
    ) -> None:
        super().__init__(
            of_maps(shapes)[0],
            filters,
            (kernel_size[0], kernel_size[1]),
            (strides[0], strides[1]),
            0,
            (dilation_rate[0], dilation_rate[1]),
            groups,
            use_bias,
        )
        reach = [(length - 1) * gap + 1 for length, gap in zip(kernel_size, dilation_rate, strict=True)]
        befores = [length // 2 if padding == "theano" else None for length in reach]
        self.windows = Windows(reach, strides, padding != "valid", befores)

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, filters, h2, w2]."""
        left, right, top, bottom = edges = self.windows.edges(maps)
        even = (top, left) if top == bottom >= 0 and left == right >= 0 else None  # which the convolution adds itself
        maps = pad(maps, edges) if even is None else maps
        return F.conv2d(maps, self.weight, self.bias, self.stride, even or 0, self.dilation, self.groups)


class Conv2D(_Convolution):
    """A convolution."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, **settings: Any) -> None:
        super().__init__(shapes, **settings)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Kernel [h, w, channels, filters], bias [filters]."""
        set_value(self.weight, kernel.transpose(3, 2, 0, 1), "kernel")
        _set_bias(self, bias)


class DepthwiseConv2D(_Convolution):
    """A convolution of each channel by itself, with `depth_multiplier` results each."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, depth_multiplier: int, **settings: Any) -> None:
        channels = of_maps(shapes)[0]
        super().__init__(shapes, channels * depth_multiplier, channels, **settings)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Kernel [h, w, channels, multiplier], bias [channels x multiplier]."""
        height, width, channels, multiplier = kernel.shape
        turned = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        set_value(self.weight, turned, "depthwise_kernel")
        _set_bias(self, bias)


class SeparableConv2D(nn.Module):
    """A depthwise convolution and one of single places after it."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        is_last: bool,
        *,
        filters: int,
        depth_multiplier: int,
        use_bias: bool,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2D(shapes, is_last, depth_multiplier=depth_multiplier, use_bias=False, **settings)
        ones: dict[str, Any] = dict.fromkeys(("kernel_size", "strides", "dilation_rate"), (1, 1))
        between = (of_maps(shapes)[0] * depth_multiplier, 1, 1)
        self.pointwise = Conv2D(
            [between], is_last, filters=filters, groups=1, padding="valid", use_bias=use_bias, **ones
        )

    def forward(self, maps: Tensor) -> Tensor:
        """[b, channels, h, w] to [b, filters, h2, w2]."""
        result: Tensor = self.pointwise(self.depthwise(maps))
        return result

    def set_weights(self, depthwise: np.ndarray, pointwise: np.ndarray, *bias: np.ndarray) -> None:
        """Kernels [h, w, channels, multiplier] and [1, 1, channels x multiplier, filters], bias [filters]."""
        self.depthwise.set_weights(depthwise)
        self.pointwise.set_weights(pointwise, *bias)


class Dense(nn.Linear):
    """A dense layer over what is Keras's last axis."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, units: int, use_bias: bool) -> None:
        super().__init__(shapes[0][axis_of(-1, shapes[0], is_last) - 1], units, use_bias)
        self.turns = is_last

    def forward(self, values: Tensor) -> Tensor:
        """[…, features, …] to […, units, …]."""
        axis = axis_in(-1, values, self.turns)
        return super().forward(values.movedim(axis, -1)).movedim(-1, axis)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Kernel [features, units], bias [units]."""
        set_value(self.weight, kernel.T, "kernel")
        _set_bias(self, bias)


def _set_bias(layer: nn.Conv2d | nn.Linear, bias: Sequence[np.ndarray]) -> None:
    for tensor, array in zip([] if layer.bias is None else [layer.bias], bias, strict=True):
        set_value(tensor, array, "bias")


class BatchNormalization(nn.BatchNorm2d):
    """Batch normalisation along any axis of values of any rank."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        is_last: bool,
        *,
        axis: int,
        epsilon: float,
        momentum: float,
        center: bool,
        scale: bool,
    ) -> None:
        shape = shapes[0]
        place = axis_of(axis, shape, is_last)
        super().__init__(shape[place - 1], epsilon, 1 - momentum)
        self.axis = place
        self.weight.requires_grad_(scale)
        self.bias.requires_grad_(center)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any is right

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        return super().forward(values.movedim(self.axis, 1)).movedim(1, self.axis)

    def set_weights(self, *arrays: np.ndarray) -> None:
        """Gamma and beta as far as they are used, mean and variance, each [channels]."""
        learned = [tensor for tensor in (self.weight, self.bias) if tensor.requires_grad]
        assert self.running_mean is not None and self.running_var is not None
        for tensor, array in zip([*learned, self.running_mean, self.running_var], arrays, strict=True):
            set_value(tensor, array, "statistics")


class PReLU(nn.Module):
    """A slope of its own for the negative values of each place, but for the axes that share one."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, shared_axes: Sequence[int]) -> None:
        super().__init__()
        shape = list(shapes[0])
        for axis in shared_axes:
            shape[axis_of(axis, tuple(shape), is_last) - 1] = 1
        self.alpha = nn.Parameter(torch.zeros(shape))
        self.turns = is_last and len(shape) == 3

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        return values.relu() - self.alpha * (-values).relu()

    def set_weights(self, alpha: np.ndarray) -> None:
        """Slopes in Keras's order of axes, without the batch."""
        set_value(self.alpha, alpha.transpose(2, 0, 1) if self.turns else alpha, "alpha")


class Normalization(nn.Module):
    """Less a mean and by a deviation, both measured before the training."""

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        shapes: Sequence[Shape],
        is_last: bool,
        *,
        axes: Sequence[int],
        invert: bool,
        mean: float | list[float] | None = None,
        variance: float | list[float] | None = None,
    ) -> None:
        super().__init__()
        shape = shapes[0]
        kept = sorted({axis + len(shape) + 1 if axis < 0 else axis for axis in axes})  # as Keras counts
        sizes = [shape[axis_of(axis, shape, is_last) - 1] for axis in kept]
        keras_order = [sizes[kept.index(axis)] if axis in kept else 1 for axis in range(1, len(shape) + 1)]
        self.kept, self.spread, self.turns = sizes, keras_order, is_last and len(shape) == 3
        turned = [keras_order[axis] for axis in (2, 0, 1)] if self.turns else keras_order
        self.register_buffer("mean", torch.zeros(turned))
        self.register_buffer("variance", torch.ones(turned))
        self.invert = invert
        if mean is not None and variance is not None:
            self.set_weights(*(np.broadcast_to(np.asarray(each, np.float32), sizes) for each in (mean, variance)))

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        deviation = self.variance.sqrt().clamp(min=EPSILON)
        return self.mean + values * deviation if self.invert else (values - self.mean) / deviation

    def set_weights(self, mean: np.ndarray, variance: np.ndarray, *count: np.ndarray) -> None:
        """Mean and variance over the axes that are kept; of how many values does not matter."""
        for tensor, array, name in ((self.mean, mean, "mean"), (self.variance, variance, "variance")):
            if list(array.shape) != self.kept:
                raise UsageError(f"its {name} should be {self.kept}, the file has {list(array.shape)}")
            spread = array.reshape(self.spread)
            set_value(tensor, spread.transpose(2, 0, 1) if self.turns else spread, name)
