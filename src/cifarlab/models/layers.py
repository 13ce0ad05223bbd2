"""Layers that PyTorch does not have, and Keras's initialisation of weights.

A layer may have a method `constrain`, which training calls after every step of the optimizer, and a method `fit`, which
training calls once with training images before the first step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab.errors import UsageError

ROUNDING = 0.05  # largest relative change of a dropout rate, or of the share that is kept


def keras_init(network: nn.Module) -> nn.Module:
    """Initialise every convolution and dense layer as Keras does: Glorot-uniform weights, zero biases.

    Glorot and Bengio 2010: uniform within sqrt(6 / (inputs + outputs)), both multiplied by the area of the kernel.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def flat_features(features: nn.Sequential, size: int, in_channels: int = 3) -> int:
    """Return the number of values that `features` computes for one image of `size` x `size` pixels."""
    try:
        with torch.no_grad():
            count = features.eval()(torch.zeros(1, in_channels, size, size)).numel()
    except RuntimeError as error:
        raise UsageError(f"images of {size}x{size} pixels are too small for its layers. Set a larger size.") from error
    features.train()
    return int(count)


class Dropout(nn.Dropout):
    """`nn.Dropout` that draws eight mask values at a time on the CPU, which is faster.

    A value is kept if a random byte is at least `round(256 p)`, so the dropped share is a multiple of 1/256, and kept
    values are divided by the exact share that is kept. The bytes come from 64-bit numbers of PyTorch's generator. Rates
    near 0 and 1 that this would change by more than `ROUNDING` are left to PyTorch.
    """

    def forward(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop and scale values in training mode; return them unchanged in evaluation mode."""
        return dropout(values, self.p) if self.training else values


def dropout(values: Float[Tensor, "..."], p: float) -> Float[Tensor, "..."]:
    """Set a share `p` of the values to zero and scale the others up, as `Dropout` describes."""
    if not p:
        return values
    threshold = round(256 * p)
    if values.device.type != "cpu" or abs(threshold / 256 - p) > ROUNDING * min(p, 1 - p):
        return F.dropout(values, p)
    scales = torch.empty_like(values)  # same type as the values: PyTorch multiplies mixed types slowly
    scales.copy_(random_bytes(scales).ge_(threshold)).mul_(256 / (256 - threshold) if threshold < 256 else 0)
    return values * scales


def random_bytes(like: Tensor) -> UInt8[Tensor, "..."]:
    """Return uniform random bytes on the CPU, in the shape and memory order of `like`, which must have no gaps.

    PyTorch draws numbers one by one, and a 64-bit number is eight bytes.
    """
    numbers = torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    return numbers.view(torch.uint8)[: like.numel()].as_strided(like.shape, like.stride())


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the side, but for its stride, and batch normalisation in place of a bias."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Whitening(nn.Conv2d):
    """A convolution that whitens small patches with every kernel and its negative; only its bias is trained.

    The kernels are the eigenvectors of the covariance of patches of training images, divided by the square roots of
    their eigenvalues (Page 2019, in the form of Jordan 2024, arXiv 2404.00498).
    """

    EPSILON = 5e-4  # added to the eigenvalues, for pixels with mean 0 and standard deviation 1

    def __init__(self, kernel: int, scale: float = 1.0, in_channels: int = 3) -> None:
        """Create the layer for patches of `kernel` x `kernel` pixels; `scale` is the outputs' standard deviation."""
        super().__init__(in_channels, 2 * in_channels * kernel**2, kernel)
        self.scale = scale
        self.weight.requires_grad_(False)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "n c h w"]) -> None:
        """Compute the kernels from preprocessed training images."""
        kernel = self.kernel_size[0]
        patches = F.unfold(images, kernel).transpose(1, 2)
        patches = patches.reshape(-1, self.in_channels * kernel**2)  # [n x positions, channels x kernel^2]
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (self.scale * vectors / (values + self.EPSILON).sqrt()).T.view(-1, self.in_channels, kernel, kernel)
        self.weight.copy_(torch.cat([filters, -filters]))


class _SmallMapConvolution(torch.autograd.Function):
    """A 3x3 convolution that computes the gradient of its kernels as one matrix product in bfloat16.

    For small images and many channels this is faster than the gradient of `F.conv2d`.
    """

    @staticmethod
    def forward(context: Any, maps: Tensor, kernels: Tensor, padding: int) -> Tensor:
        context.save_for_backward(maps, kernels)
        context.padding = padding
        return F.conv2d(maps, kernels, padding=padding)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        maps, kernels = context.saved_tensors
        padding, (outputs, inputs) = context.padding, kernels.shape[:2]
        gradient_of_maps = F.conv_transpose2d(gradient, kernels, padding=padding)
        patches = F.pad(maps, (padding, padding, padding, padding)).permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * inputs)  # [b x positions, 3 x 3 x inputs]
        gradient_of_kernels = gradient.permute(0, 2, 3, 1).reshape(-1, outputs).T @ patches
        return gradient_of_maps, gradient_of_kernels.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2), None


_convolve_small_map: Callable[[Tensor, Tensor, int], Tensor] = _SmallMapConvolution.apply


class UnitConv2d(nn.Conv2d):
    """A 3x3 convolution without bias whose weights keep the norm sqrt(outputs); a normalisation must follow it.

    The normalisation removes the scale, so a fixed norm changes no value; it keeps the size of a step relative to the
    weights constant. The first `inputs` output channels start as the identity (Jordan 2024).
    """

    SMALL_MAP = 36  # output positions up to which a matrix product computes the gradient of the kernels faster

    def __init__(self, inputs: int, outputs: int, before_pooling: bool = False) -> None:
        """Create the layer; `before_pooling` says that 2x2 pooling follows.

        Pooling drops the last of an odd number of rows and columns, so the layer does not compute them: 6x6 positions
        instead of 7x7 are a quarter less work.
        """
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.before_pooling = before_pooling
        nn.init.dirac_(self.weight[:inputs].data)
        self.constrain()

    def forward(self, maps: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        """Convolve; height and width stay the same, except for the row and column that pooling would drop."""
        padding = 1
        if self.before_pooling and maps.shape[2] % 2 and maps.shape[3] % 2:
            maps, padding = F.pad(maps, (1, 0, 1, 0)), 0
        positions = (maps.shape[2] + 2 * padding - 2) * (maps.shape[3] + 2 * padding - 2)
        if positions <= self.SMALL_MAP and maps.dtype == torch.bfloat16 and maps.device.type == "cpu":
            return _convolve_small_map(maps, self.weight.to(maps.dtype), padding)
        return F.conv2d(maps, self.weight, padding=padding)

    @torch.no_grad()
    def constrain(self) -> None:
        """Scale the weights to the norm sqrt(outputs)."""
        self.weight.mul_(self.out_channels**0.5 / self.weight.norm())


class MaxNormLinear(nn.Linear):
    """A dense layer whose weights into each unit keep a norm of at most `limit` (Srivastava et al. 2014)."""

    def __init__(self, inputs: int, outputs: int, limit: float) -> None:
        super().__init__(inputs, outputs)
        self.limit = limit

    @torch.no_grad()
    def constrain(self) -> None:
        """Scale down the weights of units whose norm is above the limit."""
        # renorm is slow and seldom needed on a CPU. On a GPU, reading the norms back would take longer than renorm.
        is_on_gpu = self.weight.device.type == "cuda"
        if is_on_gpu or bool((torch.linalg.vector_norm(self.weight, dim=1) > self.limit).any()):
            self.weight.copy_(torch.renorm(self.weight, p=2, dim=0, maxnorm=self.limit))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, limit={self.limit}"


class SparseConv2d(nn.Module):
    """A convolution without padding whose output channels each see only some of the input channels.

    It has weights [pairs, kernel, kernel] for the connected pairs of channels, and a bias for each output channel.
    """

    pairs: Tensor

    def __init__(self, inputs: int, connections: Sequence[Sequence[int]], kernel: int) -> None:
        """Create the layer; `connections` are the input channels that each output channel sees."""
        super().__init__()
        self.in_channels, self.out_channels, self.kernel = inputs, len(connections), kernel
        pairs = [(output, seen) for output, inputs_seen in enumerate(connections) for seen in inputs_seen]
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous(), persistent=False)  # [2, pairs]
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(len(connections)))
        for (output, _), weight in zip(pairs, self.weight.data, strict=True):
            bound = (len(connections[output]) * kernel * kernel) ** -0.5  # as PyTorch initialises a convolution
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, maps: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        """Convolve with a full kernel that is zero for the pairs that are not connected."""
        full = self.weight.new_zeros(self.out_channels, self.in_channels, self.kernel, self.kernel)
        full = full.index_put((self.pairs[0], self.pairs[1]), self.weight)
        return F.conv2d(maps, full, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, pairs={self.pairs.shape[1]}, kernel={self.kernel}"
