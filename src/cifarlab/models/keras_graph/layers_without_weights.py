"""Keras's layers without weights: functions by the name of Keras's layer, whose keyword arguments are its settings.

The settings of a layer are listed in `cifarlab.keras.layer_settings`.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.keras_graph.shapes import Inputs, in_keras_order, pad, torch_axis, window_edges
from cifarlab.models.layers import Dropout

Lengths = list[int] | tuple[int, ...]  # of the height and the width

ELEMENTWISE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda values: values,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda values: F.leaky_relu(values, 0.2),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda values: (0.2 * values + 0.5).clamp(0, 1),  # Keras 1 and 2
    "hard_sigmoid_3": F.hardsigmoid,  # Keras 3
    "hard_silu": F.hardswish,
    "hard_tanh": F.hardtanh,
    "log_sigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "exponential": torch.exp,
    "mish": F.mish,
    "soft_shrink": F.softshrink,
    "hard_shrink": F.hardshrink,
    "tanh_shrink": F.tanhshrink,
    "squareplus": lambda values: (values + (values.square() + 4).sqrt()) / 2,
    "log": lambda values: values.clamp(min=1e-30).log(),  # makes logits of probabilities; not in Keras
}
AXIS_ACTIVATIONS = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}


def _activation(values: Float[Tensor, "b ..."], function: str, axes: list[int]) -> Float[Tensor, "b ..."]:
    if function in AXIS_ACTIVATIONS:
        return AXIS_ACTIVATIONS[function](values, axes[0])
    return ELEMENTWISE_ACTIVATIONS[function](values)


def _softmax(values: Float[Tensor, "b ..."], axes: list[int]) -> Float[Tensor, "b ..."]:
    return values.softmax(axes[0]) if len(axes) == 1 else (values - values.logsumexp(axes, keepdim=True)).exp()


def _relu(
    values: Float[Tensor, "b ..."], max_value: float | None, negative_slope: float, threshold: float
) -> Float[Tensor, "b ..."]:
    """Compute a ReLU that is linear from `threshold` to `max_value`, with slope `negative_slope` below."""
    above = F.relu(values) if not threshold else torch.where(values > threshold, values, 0.0)
    if max_value is not None:
        above = above.clamp(0.0, max_value)  # ONNX needs both limits as floats
    return above - negative_slope * F.relu(threshold - values) if negative_slope else above


def _pooling_edges(maps: Tensor, pool_size: Lengths, strides: Lengths, padding: str) -> tuple[int, int, int, int]:
    # Theano pads by one less than the window, and Keras makes that one less again for odd windows above 2.
    befores = [size - 1 - (size > 2 and size % 2) for size in pool_size]
    return window_edges(maps, pool_size, strides, padding, befores)


def _max_pooling(
    maps: Float[Tensor, "b channels h w"], pool_size: Lengths, strides: Lengths, padding: str
) -> Float[Tensor, "b channels h2 w2"]:
    padded = pad(maps, _pooling_edges(maps, pool_size, strides, padding), float("-inf"))
    result: Tensor = F.max_pool2d(padded, pool_size, strides)
    return result


def _average_pooling(
    maps: Float[Tensor, "b channels h w"], pool_size: Lengths, strides: Lengths, padding: str, counts_padding: bool
) -> Float[Tensor, "b channels h2 w2"]:
    """Compute the mean of each window, with padded zeros if `counts_padding`, as in some versions of Keras."""
    edges = _pooling_edges(maps, pool_size, strides, padding)
    means = F.avg_pool2d(pad(maps, edges), pool_size, strides)
    if counts_padding or not any(edges):
        return means
    share = pad(maps.new_ones(1, 1, *maps.shape[2:]), edges)
    return means / F.avg_pool2d(share, pool_size, strides)


def _zero_padding(
    maps: Float[Tensor, "b channels h w"], edges: Sequence[Sequence[int]], sign: int = 1
) -> Float[Tensor, "b channels h2 w2"]:
    """Add pixels [[top, bottom], [left, right]], or cut them off if `sign` is -1."""
    (top, bottom), (left, right) = edges
    return F.pad(maps, [sign * pixels for pixels in (left, right, top, bottom)])


def _upsampling(
    maps: Float[Tensor, "b channels h w"], size: Lengths, interpolation: str
) -> Float[Tensor, "b channels h2 w2"]:
    lengths = [length * factor for length, factor in zip(maps.shape[2:], size, strict=True)]
    return F.interpolate(maps, lengths, mode=interpolation, align_corners=None if interpolation == "nearest" else False)


IMAGE_FUNCTIONS: dict[str, Callable[..., Tensor]] = {  # of images [b, channels, h, w]
    "MaxPooling2D": _max_pooling,
    "AveragePooling2D": _average_pooling,
    "GlobalAveragePooling2D": lambda maps, keepdims: maps.mean((2, 3), keepdim=keepdims),
    "GlobalMaxPooling2D": lambda maps, keepdims: maps.amax((2, 3), keepdim=keepdims),
    "ZeroPadding2D": _zero_padding,
    "Cropping2D": partial(_zero_padding, sign=-1),
    "UpSampling2D": _upsampling,
    "SpatialDropout2D": lambda maps, rate: F.dropout2d(maps, rate),
}
MERGES: dict[str, Callable[..., Tensor]] = {  # of several values of one rank, whose shapes are broadcast
    "Add": lambda *values: reduce(torch.add, values),
    "Subtract": operator.sub,
    "Multiply": lambda *values: reduce(torch.mul, values),
    "Average": lambda *values: reduce(torch.add, values) / len(values),
    "Maximum": lambda *values: reduce(torch.maximum, values),
    "Minimum": lambda *values: reduce(torch.minimum, values),
    "Concatenate": lambda *values, axes: torch.cat(values, *axes),
}
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **IMAGE_FUNCTIONS,
    **MERGES,
    "Activation": _activation,
    "Softmax": _softmax,
    "ReLU": _relu,
    "ThresholdedReLU": lambda values, theta: torch.where(values > theta, values, 0.0),
    "ELU": F.elu,
    "Flatten": lambda values, moves_channels: (values.movedim(1, -1) if moves_channels else values).flatten(1),
    "Reshape": lambda values, shape: values.reshape(values.shape[0], *shape),
    "Permute": lambda values, dims: values.permute(0, *dims),
    "AlphaDropout": lambda values, rate: F.alpha_dropout(values, rate, training=True),
    "GaussianDropout": lambda values, rate: values * (1 + (rate / (1 - rate)) ** 0.5 * torch.randn_like(values)),
    "GaussianNoise": lambda values, stddev: values + stddev * torch.randn_like(values),
    # Sigmoid(z) is the share of the second class in the softmax of [0, z]. The import appends this layer.
    "TwoClasses": lambda logits: torch.cat([torch.zeros_like(logits), logits], dim=1),
}
_ALONG_AXES = ("Activation", "Softmax", "Concatenate")  # functions of `axes`, PyTorch's numbers of Keras's axes
_IN_KERAS_ORDER = ("Flatten", "Reshape", "Permute")  # functions of values in Keras's order of axes
_IN_TRAINING_ONLY = ("SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise")


class FunctionLayer(nn.Module):
    """A layer without weights, which calls one of `FUNCTIONS`."""

    def __init__(self, kind: str, inputs: Inputs, **settings: Any) -> None:
        super().__init__()
        self.kind, self.channels_last, self.settings = kind, inputs.channels_last, settings
        self.kernel_size = tuple(settings.get("pool_size", ()))  # as PyTorch's pooling has it

    def forward(self, *values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        if self.kind in _IN_TRAINING_ONLY and not self.training:
            return values[0]
        settings = dict(self.settings)
        if self.kind in _ALONG_AXES:
            axis = settings.pop("axis", -1)
            axes = axis if isinstance(axis, list) else [axis]
            settings["axes"] = [torch_axis(each, values[0].shape[1:], self.channels_last) for each in axes]
        function = partial(FUNCTIONS[self.kind], **settings)
        return in_keras_order(function, values, self.channels_last and self.kind in _IN_KERAS_ORDER)

    def _get_name(self) -> str:
        return self.kind  # the name in the layer table and in `repr`

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items())


LAYERS_WITHOUT_WEIGHTS: dict[str, Callable[..., nn.Module]] = {
    **{kind: partial(FunctionLayer, kind) for kind in FUNCTIONS},
    "Identity": nn.Identity,
    "Dropout": lambda inputs, rate: Dropout(rate),
}
