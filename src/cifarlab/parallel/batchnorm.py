"""Batch normalisation over the images of all processes that train together, on processors and GPUs.

PyTorch's `SyncBatchNorm` works on GPUs only and replaces layers. Here the layers stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cifarlab.parallel.world import World


def synchronize(network: Callable[[Tensor], Tensor], world: World) -> Callable[[Tensor], Tensor]:
    """Return the network's forward pass with batch normalisation over the images of all processes."""
    if world.size == 1:
        return network

    def forward(images: Tensor) -> Tensor:
        with _BatchNormMode(world):
            return network(images)

    return forward


class _BatchNormMode(TorchFunctionMode):
    """Replaces `F.batch_norm` alone, so that no layer, and no name in a weights file, has to change."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.batch_norm:
            return _batch_norm(self.world, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _batch_norm(
    world: World,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `F.batch_norm` over all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    normal, mean, variance, count = _normalize(input, eps, world)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (count / (count - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    shape = _axes(input)[1]
    normal = normal if weight is None else normal * weight.view(shape)
    normal = normal if bias is None else normal + bias.view(shape)
    return normal.to(input.dtype)


class _Normalize(torch.autograd.Function):
    """Normalise values [b, c, ...] to mean 0 and variance 1 for each c, over the values of all processes, in fp32.

    The mean first, then the variance from it (Chan et al. 1983, the two-pass algorithm); sums are exchanged in fp64.
    The gradient is that of Ioffe and Szegedy 2015 (arXiv 1502.03167), with its two means over all processes too.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, epsilon: float, world: World) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes, shape = _axes(values)
        wide = values.float()
        own_count = wide.new_tensor([wide.numel() // wide.shape[1]], dtype=torch.float64)
        sums = world.total(torch.cat([wide.sum(axes).double(), own_count]))
        count = sums[-1]
        mean = (sums[:-1] / count).float()
        centred = wide - mean.view(shape)
        variance = (world.total(centred.square().sum(axes).double()) / count).float()
        inverse = (variance + epsilon).rsqrt()
        context.save_for_backward(values, mean, inverse, count)
        context.world = world
        context.mark_non_differentiable(mean, variance, count)
        return centred.mul_(inverse.view(shape)), mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        values, mean, inverse, count = context.saved_tensors
        axes, shape = _axes(values)
        normal = (values.float() - mean.view(shape)) * inverse.view(shape)
        sums = torch.cat([gradient.sum(axes), (gradient * normal).sum(axes)]).double()
        mean_gradient, mean_product = (context.world.total(sums) / count).float().chunk(2)
        wide = gradient - mean_gradient.view(shape) - normal * mean_product.view(shape)
        return (wide * inverse.view(shape)).to(values.dtype), None, None


_normalize: Callable[[Tensor, float, World], tuple[Tensor, Tensor, Tensor, Tensor]] = _Normalize.apply


def _axes(values: Tensor) -> tuple[list[int], list[int]]:
    """Return the axes that a channel's mean is taken over, and the shape in which the mean meets the values again."""
    return [0, *range(2, values.ndim)], [1, -1] + [1] * (values.ndim - 2)
