"""Batch normalisation over the images of all processes that train together, on processors and GPUs.

PyTorch's `SyncBatchNorm` is for GPUs alone, and takes the place of layers. Here the layers stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cifarlab.parallel.world import many, total


def of_all(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The network's forward pass with batch normalisation over the images of all processes."""
    if not many():
        return network

    def forward(images: Tensor) -> Tensor:
        with _OverAll():
            return network(images)

    return forward


class _OverAll(TorchFunctionMode):
    """Takes the place of `F.batch_norm` alone, so that no layer, and no name in a weights file, has to change."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over all processes; the names are those of that function."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    normal, mean, variance, count = _normalize(input, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = variance * (count / (count - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    places = [1, -1] + [1] * (input.ndim - 2)
    if weight is not None:
        normal = normal * weight.view(places)
    if bias is not None:
        normal = normal + bias.view(places)
    return normal.to(input.dtype)


class _Normalize(torch.autograd.Function):
    """Values [b, c, ...] to mean 0 and variance 1 for each c, over the values of all processes, in fp32.

    The mean first, then the variance from it (Chan et al. 1983, the two-pass algorithm); sums travel in fp64.
    The gradient is that of Ioffe and Szegedy 2015 (arXiv 1502.03167), with their two means over all processes too.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        over, places = _axes(values)
        wide = values.float()
        here = wide.new_tensor([wide.numel() // wide.shape[1]], dtype=torch.float64)
        sums = total(torch.cat([wide.sum(over).double(), here]))
        count = sums[-1]
        mean = (sums[:-1] / count).float()
        centred = wide - mean.view(places)
        variance = (total(centred.square().sum(over).double()) / count).float()
        inverse = (variance + epsilon).rsqrt()
        context.save_for_backward(values, mean, inverse, count)
        context.mark_non_differentiable(mean, variance, count)
        return centred.mul_(inverse.view(places)), mean, variance, count

    @staticmethod
    def backward(context: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None]:
        values, mean, inverse, count = context.saved_tensors
        over, places = _axes(values)
        normal = (values.float() - mean.view(places)) * inverse.view(places)
        sums = torch.cat([gradient.sum(over), (gradient * normal).sum(over)]).double()
        of_gradient, of_product = (total(sums) / count).float().chunk(2)
        wide = gradient - of_gradient.view(places) - normal * of_product.view(places)
        return (wide * inverse.view(places)).to(values.dtype), None


_normalize: Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor, Tensor]] = _Normalize.apply


def _axes(values: Tensor) -> tuple[list[int], list[int]]:
    """The axes of `values` that a mean of each channel is over, and the shape in which it meets them again."""
    return [0, *range(2, values.ndim)], [1, -1] + [1] * (values.ndim - 2)
