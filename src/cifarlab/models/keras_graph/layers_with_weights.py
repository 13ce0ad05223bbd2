"""Keras's layers with weights, named as in Keras. `set_weights` takes the arrays of a file as Keras 2 stores them.

The settings of a layer are listed in `cifarlab.keras.layer_settings`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.models.keras_graph.shapes import Inputs, copy_array, in_keras_order, pad, window_edges

EPSILON = 1e-7  # Keras's smallest divisor
Numbers = float | list[float] | None  # one number, or one for each place


class Conv2D(nn.Conv2d):
    """A convolution that pads as in Keras."""

    def __init__(
        self,
        inputs: Inputs,
        *,
        filters: int,
        groups: int,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        padding: str,
        dilation_rate: Sequence[int],
        use_bias: bool,
    ) -> None:
        kernel, stride, dilation = ((height, width) for height, width in (kernel_size, strides, dilation_rate))
        super().__init__(inputs.channels, filters, kernel, stride, 0, dilation, groups, use_bias)
        self.keras_padding = padding
        self.window = [(length - 1) * step + 1 for length, step in zip(kernel, dilation, strict=True)]

    def forward(self, maps: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b filters h2 w2"]:
        befores = [length // 2 for length in self.window]
        edges = window_edges(maps, self.window, self.stride, self.keras_padding, befores)
        left, right, top, bottom = edges
        even = (top, left) if top == bottom >= 0 and left == right >= 0 else None  # conv2d adds even padding itself
        maps = pad(maps, edges) if even is None else maps
        return F.conv2d(maps, self.weight, self.bias, self.stride, even or 0, self.dilation, self.groups)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Copy the kernel [h, w, channels, filters] and the bias [filters]."""
        copy_array(self.weight, kernel.transpose(3, 2, 0, 1), "kernel")
        _set_bias(self, bias)


class DepthwiseConv2D(Conv2D):
    """A convolution of each channel alone, with `depth_multiplier` output channels for each."""

    def __init__(self, inputs: Inputs, *, depth_multiplier: int, **settings: Any) -> None:
        super().__init__(inputs, filters=inputs.channels * depth_multiplier, groups=inputs.channels, **settings)

    def set_weights(self, kernel: np.ndarray, *bias: np.ndarray) -> None:
        """Copy the kernel [h, w, channels, multiplier] and the bias [channels x multiplier]."""
        height, width, channels, multiplier = kernel.shape
        super().set_weights(kernel.reshape(height, width, 1, channels * multiplier), *bias)


class SeparableConv2D(nn.Module):
    """A depthwise convolution and a 1x1 convolution after it."""

    def __init__(self, inputs: Inputs, *, filters: int, depth_multiplier: int, use_bias: bool, **settings: Any) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv2D(inputs, depth_multiplier=depth_multiplier, use_bias=False, **settings)
        ones: dict[str, Any] = dict.fromkeys(("kernel_size", "strides", "dilation_rate"), (1, 1))
        between = Inputs((self.depthwise.out_channels, 1, 1), channels_last=False)
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
        super().__init__(inputs.shape[-1], units, use_bias)
        self.channels_last = inputs.channels_last

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return in_keras_order(super().forward, [values], self.channels_last)

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
        super().__init__(inputs.shape[inputs.index(axis)], epsilon, 1 - momentum)
        self.axis = inputs.order.index(inputs.index(axis)) + 1
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


class PReLU(nn.Module):
    """A trained slope for the negative values of each place; places along `shared_axes` share one."""

    def __init__(self, inputs: Inputs, *, shared_axes: Sequence[int]) -> None:
        super().__init__()
        self.order = inputs.order
        shared = [inputs.index(axis) for axis in shared_axes]
        self.alpha = nn.Parameter(torch.zeros([1 if index in shared else inputs.shape[index] for index in self.order]))

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return values.relu() - self.alpha * (-values).relu()

    def set_weights(self, alpha: np.ndarray) -> None:
        """Copy the slopes, which are in Keras's order of axes, without the batch."""
        copy_array(self.alpha, alpha.transpose(self.order), "alpha")


class Normalization(nn.Module):
    """Subtracts a mean and divides by a standard deviation, which were measured before training; `invert` undoes it."""

    mean: Tensor
    variance: Tensor

    def __init__(
        self, inputs: Inputs, *, axes: Sequence[int], invert: bool, mean: Numbers = None, variance: Numbers = None
    ) -> None:
        super().__init__()
        kept = sorted({inputs.index(axis) for axis in axes})
        self.array_shape = [inputs.shape[index] for index in kept]
        self.keras_shape = [length if index in kept else 1 for index, length in enumerate(inputs.shape)]
        self.order, self.invert = inputs.order, invert
        torch_shape = [self.keras_shape[index] for index in self.order]
        self.register_buffer("mean", torch.zeros(torch_shape))
        self.register_buffer("variance", torch.ones(torch_shape))
        if mean is not None and variance is not None:
            arrays = (np.broadcast_to(np.asarray(value, np.float32), self.array_shape) for value in (mean, variance))
            self.set_weights(*arrays)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        deviation = self.variance.sqrt().clamp(min=EPSILON)
        return self.mean + values * deviation if self.invert else (values - self.mean) / deviation

    def set_weights(self, mean: np.ndarray, variance: np.ndarray, *count: np.ndarray) -> None:
        """Copy the mean and the variance; the count of values that follows in a file is not used."""
        for tensor, array, name in ((self.mean, mean, "mean"), (self.variance, variance, "variance")):
            if list(array.shape) != self.array_shape:
                raise UsageError(f"its {name} must have the shape {self.array_shape}, the file has {list(array.shape)}")
            copy_array(tensor, array.reshape(self.keras_shape).transpose(self.order), name)


class Rescaling(nn.Module):
    """Values times `scale` plus `offset`, which are numbers or lists with a number for each place of the last axis."""

    scale: Tensor
    offset: Tensor

    def __init__(self, inputs: Inputs, *, scale: float | list[float], offset: float | list[float]) -> None:
        super().__init__()
        self.channels_last = inputs.channels_last
        for name, value in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return in_keras_order(lambda values: values * self.scale + self.offset, [values], self.channels_last)


_LAYERS = (Conv2D, DepthwiseConv2D, SeparableConv2D, Dense, BatchNormalization, PReLU, Normalization, Rescaling)
LAYERS_WITH_WEIGHTS: dict[str, type[nn.Module]] = {layer.__name__: layer for layer in _LAYERS}
