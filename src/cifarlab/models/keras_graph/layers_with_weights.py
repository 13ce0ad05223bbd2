"""Keras's layers with weights, named as in Keras. `set_weights` takes the arrays of a file as Keras 2 stores them.

A layer here needs its reader in `cifarlab.keras.layer_readers`, which makes the settings of its constructor.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.shapes import Inputs, KerasLayer, Windows, copy_array, pad, torch_axis

EPSILON = 1e-7  # Keras's smallest divisor


class _Convolution(nn.Conv2d):
    """A convolution that pads as in Keras."""

    def __init__(
        self,
        inputs: Inputs,
        filters: int,
        groups: int,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
        dilation_rate: Sequence[int],
        use_bias: bool,
    ) -> None:
        kernel, stride, dilation = ((height, width) for height, width in (kernel_size, strides, dilation_rate))
        super().__init__(inputs.image_shape[0], filters, kernel, stride, 0, dilation, groups, use_bias)
        lengths = [(length - 1) * step + 1 for length, step in zip(kernel_size, dilation_rate, strict=True)]
        befores = [length // 2 if padding == "theano" else None for length in lengths]
        self.windows = Windows(lengths, strides, padding != "valid", befores)

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b filters h2 w2"]:
        left, right, top, bottom = edges = self.windows.edges(maps)
        even = (top, left) if top == bottom >= 0 and left == right >= 0 else None  # conv2d adds even padding itself
        maps = pad(maps, edges) if even is None else maps
        return F.conv2d(maps, self.weight, self.bias, self.stride, even or 0, self.dilation, self.groups)


class Conv2D(_Convolution):
    """A convolution."""

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Copy the kernel [h, w, channels, filters] and the bias [filters]."""
        copy_array(self.weight, kernel.transpose(3, 2, 0, 1), "kernel")
        _set_bias(self, bias)


class DepthwiseConv2D(_Convolution):
    """A convolution of each channel alone, with `depth_multiplier` output channels for each."""

    def __init__(self, inputs: Inputs, *, depth_multiplier: int, **settings: Any) -> None:
        channels = inputs.image_shape[0]
        super().__init__(inputs, channels * depth_multiplier, channels, **settings)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Copy the kernel [h, w, channels, multiplier] and the bias [channels x multiplier]."""
        height, width, channels, multiplier = kernel.shape
        kernel = kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
        copy_array(self.weight, kernel, "depthwise_kernel")
        _set_bias(self, bias)


class SeparableConv2D(KerasLayer):
    """A depthwise convolution and a 1x1 convolution after it."""

    def __init__(self, inputs: Inputs, *, filters: int, depth_multiplier: int, use_bias: bool, **settings: Any) -> None:
        super().__init__(inputs)
        self.depthwise = DepthwiseConv2D(inputs, depth_multiplier=depth_multiplier, use_bias=False, **settings)
        ones: dict[str, Any] = dict.fromkeys(("kernel_size", "strides", "dilation_rate"), (1, 1))
        between = Inputs([(inputs.image_shape[0] * depth_multiplier, 1, 1)], inputs.channels_last)
        self.pointwise = Conv2D(between, filters=filters, groups=1, padding="valid", use_bias=use_bias, **ones)

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b filters h2 w2"]:
        result: Tensor = self.pointwise(self.depthwise(maps))
        return result

    def set_weights(self, depthwise: np.ndarray, pointwise: np.ndarray, *bias: np.ndarray) -> None:
        """Copy kernels [h, w, channels, multiplier], [1, 1, channels x multiplier, filters] and bias [filters]."""
        self.depthwise.set_weights(depthwise)
        self.pointwise.set_weights(pointwise, *bias)


class Dense(nn.Linear):
    """A dense layer over Keras's last axis, for values of any rank."""

    def __init__(self, inputs: Inputs, *, units: int, use_bias: bool) -> None:
        super().__init__(inputs.shape[inputs.torch_axis(-1) - 1], units, use_bias)
        self.channels_last = inputs.channels_last

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        axis = torch_axis(-1, values.shape[1:], self.channels_last)
        return super().forward(values.movedim(axis, -1)).movedim(-1, axis)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Copy the kernel [features, units] and the bias [units]."""
        copy_array(self.weight, kernel.T, "kernel")
        _set_bias(self, bias)


def _set_bias(layer: nn.Conv2d | nn.Linear, bias: Sequence[np.ndarray]) -> None:
    for tensor, array in zip([] if layer.bias is None else [layer.bias], bias, strict=True):
        copy_array(tensor, array, "bias")


class BatchNormalization(nn.BatchNorm2d):
    """Batch normalisation along any axis, for values of any rank."""

    def __init__(
        self, inputs: Inputs, *, axis: int, epsilon: float, momentum: float, center: bool, scale: bool
    ) -> None:
        axis_of_channels = inputs.torch_axis(axis)
        super().__init__(inputs.shape[axis_of_channels - 1], epsilon, 1 - momentum)
        self.axis = axis_of_channels
        self.weight.requires_grad_(scale)
        self.bias.requires_grad_(center)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        values = values.movedim(self.axis, 1)
        images = values if values.dim() == 4 else values.reshape(*values.shape[:2], -1, 1)  # PyTorch wants four axes
        return super().forward(images).reshape(values.shape).movedim(1, self.axis)

    def set_weights(self, *arrays: np.ndarray) -> None:
        """Copy gamma and beta, if they are used, then mean and variance, each [channels]."""
        learned = [tensor for tensor in (self.weight, self.bias) if tensor.requires_grad]
        assert self.running_mean is not None and self.running_var is not None
        for tensor, array in zip([*learned, self.running_mean, self.running_var], arrays, strict=True):
            copy_array(tensor, array, "statistics")


class PReLU(KerasLayer):
    """A trained slope for the negative values of each place; places along `shared_axes` share one."""

    def __init__(self, inputs: Inputs, *, shared_axes: Sequence[int]) -> None:
        super().__init__(inputs)
        shape = list(inputs.shape)
        for axis in shared_axes:
            shape[inputs.torch_axis(axis) - 1] = 1
        self.alpha = nn.Parameter(torch.zeros(shape))
        self.permutes_arrays = inputs.channels_last and len(shape) == 3

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return values.relu() - self.alpha * (-values).relu()

    def set_weights(self, alpha: np.ndarray) -> None:
        """Copy the slopes, which are in Keras's order of axes, without the batch."""
        copy_array(self.alpha, alpha.transpose(2, 0, 1) if self.permutes_arrays else alpha, "alpha")


class Normalization(KerasLayer):
    """Subtracts a mean and divides by a standard deviation, which were measured before training; `invert` undoes it."""

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        inputs: Inputs,
        *,
        axes: Sequence[int],
        invert: bool,
        mean: float | list[float] | None = None,
        variance: float | list[float] | None = None,
    ) -> None:
        super().__init__(inputs)
        shape = inputs.shape
        kept = sorted({axis + len(shape) + 1 if axis < 0 else axis for axis in axes})  # in Keras's numbers
        sizes = [shape[inputs.torch_axis(axis) - 1] for axis in kept]
        keras_order = [sizes[kept.index(axis)] if axis in kept else 1 for axis in range(1, len(shape) + 1)]
        self.array_shape, self.keras_order = sizes, keras_order
        self.permutes_arrays = inputs.channels_last and len(shape) == 3
        torch_order = [keras_order[axis] for axis in (2, 0, 1)] if self.permutes_arrays else keras_order
        self.register_buffer("mean", torch.zeros(torch_order))
        self.register_buffer("variance", torch.ones(torch_order))
        self.invert = invert
        if mean is not None and variance is not None:
            self.set_weights(*(np.broadcast_to(np.asarray(value, np.float32), sizes) for value in (mean, variance)))

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        deviation = self.variance.sqrt().clamp(min=EPSILON)
        return self.mean + values * deviation if self.invert else (values - self.mean) / deviation

    def set_weights(self, mean: np.ndarray, variance: np.ndarray, *count: np.ndarray) -> None:
        """Copy the mean and the variance; the count of values that follows in a file is not used."""
        for tensor, array, name in ((self.mean, mean, "mean"), (self.variance, variance, "variance")):
            if list(array.shape) != self.array_shape:
                raise UsageError(f"its {name} must have the shape {self.array_shape}, the file has {list(array.shape)}")
            array = array.reshape(self.keras_order)
            copy_array(tensor, array.transpose(2, 0, 1) if self.permutes_arrays else array, name)
