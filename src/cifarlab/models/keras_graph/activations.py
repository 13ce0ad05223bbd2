"""Keras's activations, as functions by name and as layers under Keras's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.models.keras_graph.shapes import Shape, axis_in

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
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
    "hard_sigmoid": lambda values: (0.2 * values + 0.5).clamp(0, 1),  # until Keras 3
    "hard_sigmoid_3": F.hardsigmoid,
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
    "log": lambda values: values.clamp(min=1e-30).log(),  # of probabilities, for their logits; no name of Keras's
}
ALONG_AXIS: dict[str, Callable[[Tensor, int], Tensor]] = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}


class Activation(nn.Module):
    """An activation without settings."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, function: str) -> None:
        super().__init__()
        self.function, self.turns = function, is_last

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        if self.function in ALONG_AXIS:
            return ALONG_AXIS[self.function](values, axis_in(-1, values, self.turns))
        return FUNCTIONS[self.function](values)

    def extra_repr(self) -> str:
        return self.function


class Softmax(nn.Module):
    """Softmax along any axis, or over several at once."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, axis: int | list[int]) -> None:
        super().__init__()
        self.axes, self.turns = axis if isinstance(axis, list) else [axis], is_last

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        axes = [axis_in(axis, values, self.turns) for axis in self.axes]
        return values.softmax(axes[0]) if len(axes) == 1 else (values - values.logsumexp(axes, keepdim=True)).exp()


class ReLU(nn.Module):
    """Keras's general ReLU: linear between `threshold` and `max_value`, with another slope below."""

    def __init__(
        self,
        shapes: Sequence[Shape],
        is_last: bool,
        *,
        max_value: float | None,
        negative_slope: float,
        threshold: float,
    ) -> None:
        super().__init__()
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        above = F.relu(values) if not self.threshold else torch.where(values > self.threshold, values, 0.0)
        if self.max_value is not None:
            above = above.clamp(0.0, self.max_value)  # of two floats, which ONNX wants
        if not self.negative_slope:
            return above
        return above - self.negative_slope * F.relu(self.threshold - values)


class ThresholdedReLU(nn.Module):
    """Values above `theta` as they are, others 0."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, theta: float) -> None:
        super().__init__()
        self.theta = theta

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        return torch.where(values > self.theta, values, 0.0)


class ELU(nn.ELU):
    """Exponential below 0, down to -alpha."""

    def __init__(self, shapes: Sequence[Shape], is_last: bool, *, alpha: float) -> None:
        super().__init__(alpha)
