"""Keras's activations: functions by name, and layers named as in Keras.

A function or layer here needs its reader in `cifarlab.keras.layer_readers`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.keras_graph.shapes import Inputs, KerasLayer

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
AXIS_FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
}


class Activation(KerasLayer):
    """An activation without settings."""

    def __init__(self, inputs: Inputs, *, function: str) -> None:
        super().__init__(inputs)
        self.function = function

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        if self.function in AXIS_FUNCTIONS:
            axis = self.torch_axis(-1, values)
            return AXIS_FUNCTIONS[self.function](values, axis)
        return FUNCTIONS[self.function](values)

    def extra_repr(self) -> str:
        return self.function


class Softmax(KerasLayer):
    """Softmax along any axis, or over several axes at once."""

    def __init__(self, inputs: Inputs, *, axis: int | list[int]) -> None:
        super().__init__(inputs)
        self.axes = axis if isinstance(axis, list) else [axis]

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        axes = [self.torch_axis(axis, values) for axis in self.axes]
        return values.softmax(axes[0]) if len(axes) == 1 else (values - values.logsumexp(axes, keepdim=True)).exp()


class ReLU(KerasLayer):
    """Keras's general ReLU: linear from `threshold` to `max_value`, with slope `negative_slope` below."""

    def __init__(self, inputs: Inputs, *, max_value: float | None, negative_slope: float, threshold: float) -> None:
        super().__init__(inputs)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        above = F.relu(values) if not self.threshold else torch.where(values > self.threshold, values, 0.0)
        if self.max_value is not None:
            above = above.clamp(0.0, self.max_value)  # ONNX needs both limits as floats
        if not self.negative_slope:
            return above
        return above - self.negative_slope * F.relu(self.threshold - values)


class ThresholdedReLU(KerasLayer):
    """Keeps values above `theta`, and sets all others to 0."""

    def __init__(self, inputs: Inputs, *, theta: float) -> None:
        super().__init__(inputs)
        self.theta = theta

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        return torch.where(values > self.theta, values, 0.0)


class ELU(nn.ELU):
    """Exponential below 0, down to -alpha."""

    def __init__(self, inputs: Inputs, *, alpha: float) -> None:
        super().__init__(alpha)
