"""What several networks share: Keras's ways of starting weights, and layers that PyTorch does not have.

A layer may have a method `constrain`, which is called after every step of the optimizer, and a method `fit`, which is
called once with training images before the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab.errors import UsageError


def keras_init(network: nn.Module) -> nn.Module:
    """Starts every convolution and dense layer as Keras does: Glorot-uniform weights, zero biases.

    Glorot and Bengio 2010: uniform within sqrt(6 / (inputs + outputs)), a convolution's counted with its kernel area.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def he_uniform(layer: nn.Conv2d | nn.Linear) -> None:
    """Starts a layer as Keras's `he_uniform` does (He et al. 2015): uniform within sqrt(6 / inputs), zero bias."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def flat_features(features: nn.Sequential, size: int) -> int:
    """How many numbers `features` makes of one image of `size` x `size` pixels.

    Raises:
        UsageError: the image is too small for the layers.
    """
    try:
        with torch.no_grad():
            count = features.eval()(torch.zeros(1, 3, size, size)).numel()
    except RuntimeError as error:
        raise UsageError(f"images of {size}x{size} pixels are too small for its layers") from error
    features.train()
    return int(count)


class Dropout(nn.Dropout):
    """`nn.Dropout` with masks drawn eight at a time, where that is faster: on the CPU.

    A value stays where a random byte is at least `round(256 p)`, so that the share dropped is a multiple of 1/256, and
    what stays is scaled by the share that it really is. The bytes are those of 64-bit numbers from PyTorch's generator.
    """

    def forward(self, values: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """`values` with some set to zero and the others scaled up, while training; else unchanged."""
        return dropout(values, self.p) if self.training else values


def dropout(values: Float[Tensor, ...], p: float) -> Float[Tensor, ...]:
    """Sets a share `p` of the values to zero and scales the others up, as `Dropout` says."""
    if not p:
        return values
    if values.device.type != "cpu":
        return F.dropout(values, p)
    return _drop(values, round(256 * p))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, threshold: int) -> Tensor:
        scaled = torch.empty_like(values)  # of the values' own type: PyTorch multiplies two types slowly
        scaled.copy_(random_bytes(scaled).ge_(threshold)).mul_(256 / (256 - threshold) if threshold < 256 else 0)
        context.save_for_backward(scaled)
        return values * scaled

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (scaled,) = context.saved_tensors
        return gradient * scaled, None


_drop: Callable[[Tensor, int], Tensor] = _Dropout.apply


def random_bytes(like: Tensor) -> UInt8[Tensor, ...]:
    """Random bytes on the CPU, in the shape and memory order of `like`, which may have no gaps.

    PyTorch draws numbers one by one; a number of 64 bits is eight bytes.
    """
    numbers = torch.empty(-(-like.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
    return numbers.view(torch.uint8)[: like.numel()].as_strided(like.shape, like.stride())


class Whitening(nn.Conv2d):
    """A convolution whose kernels whiten small patches, each kernel and its negative; only its bias trains.

    The kernels are the eigenvectors of the covariance of the training images' patches, divided by the square root of
    their eigenvalues: Page 2019, as Jordan 2024 (arXiv 2404.00498) uses it.
    """

    EPSILON = 5e-4  # added to the eigenvalues, of pixels with mean 0 and deviation 1

    def __init__(self, kernel: int, scale: float = 1.0) -> None:
        """Makes the layer.

        Args:
            kernel: side of the patches in pixels.
            scale: deviation of its outputs.
        """
        super().__init__(3, 6 * kernel**2, kernel)
        self.scale = scale
        self.weight.requires_grad_(False)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def fit(self, images: Float[Tensor, "n 3 h w"]) -> None:
        """Sets the kernels from training images, as the network sees them."""
        kernel = self.kernel_size[0]
        patches = F.unfold(images, kernel).transpose(1, 2).reshape(-1, 3 * kernel**2)  # [n x places, 12]
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (self.scale * vectors / (values + self.EPSILON).sqrt()).T.view(-1, 3, kernel, kernel)
        self.weight.copy_(torch.cat([filters, -filters]))


class _FewPlaces(torch.autograd.Function):
    """A 3x3 convolution whose kernels get their gradient from one matrix product of bfloat16 numbers.

    For few places and many maps that is faster than the gradient of the library behind `F.conv2d`.
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
        of_maps = F.conv_transpose2d(gradient, kernels, padding=padding)
        patches = F.pad(maps, (padding, padding, padding, padding)).permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * inputs)  # [b x places, 3 x 3 x inputs]
        of_kernels = gradient.permute(0, 2, 3, 1).reshape(-1, outputs).T @ patches
        return of_maps, of_kernels.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2), None


_convolve: Callable[[Tensor, Tensor, int], Tensor] = _FewPlaces.apply


class UnitConv2d(nn.Conv2d):
    """A 3x3 convolution without bias whose weights keep the norm sqrt(outputs), to be followed by a normalisation.

    The normalisation takes the scale out again, so that this changes no value, but keeps the size of a step relative to
    the weights. It starts as the identity on as many maps as it gets (Jordan 2024).
    """

    FEW_PLACES = 36  # of its output, up to which a matrix product is faster for the gradient of its kernels

    def __init__(self, inputs: int, outputs: int, pooled: bool = False) -> None:
        """Makes the layer.

        Args:
            inputs: number of input maps.
            outputs: number of output maps.
            pooled: what follows is 2x2 pooling. Of an odd number of rows and columns it drops the last, so that the
                layer does not compute them: 6x6 places instead of 7x7 are a quarter less work.
        """
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.pooled = pooled
        nn.init.dirac_(self.weight[:inputs].data)
        self.constrain()

    def forward(self, maps: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        """Convolves; height and width stay, but for the places that pooling drops."""
        padding = 1
        if self.pooled and maps.shape[2] % 2 and maps.shape[3] % 2:
            maps, padding = F.pad(maps, (1, 0, 1, 0)), 0
        places = (maps.shape[2] + 2 * padding - 2) * (maps.shape[3] + 2 * padding - 2)
        if places <= self.FEW_PLACES and maps.dtype == torch.bfloat16 and maps.device.type == "cpu":
            return _convolve(maps, self.weight.to(maps.dtype), padding)
        return F.conv2d(maps, self.weight, padding=padding)

    @torch.no_grad()
    def constrain(self) -> None:
        """Scales the weights to their norm."""
        self.weight.mul_(self.out_channels**0.5 / self.weight.norm())


class MaxNormLinear(nn.Linear):
    """A dense layer in which the weights into each unit keep a norm of at most `limit` (Srivastava et al. 2014).

    `constrain` is called after every step of the optimizer.
    """

    def __init__(self, inputs: int, outputs: int, limit: float) -> None:
        super().__init__(inputs, outputs)
        self.limit = limit

    @torch.no_grad()
    def constrain(self) -> None:
        """Scales down the weights of units whose norm is above the limit."""
        on_gpu = self.weight.device.type == "cuda"  # where to ask takes longer
        if on_gpu or bool((torch.linalg.vector_norm(self.weight, dim=1) > self.limit).any()):  # seldom, and it is slow
            self.weight.copy_(torch.renorm(self.weight, p=2, dim=0, maxnorm=self.limit))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, limit={self.limit}"


class SparseConv2d(nn.Module):
    """A convolution in which each output map sees only some of the input maps, without padding.

    Weights exist for the connected pairs alone, [pairs, kernel, kernel]; the bias is per output map.
    """

    pairs: Tensor

    def __init__(self, inputs: int, connections: Sequence[Sequence[int]], kernel: int) -> None:
        """Makes the layer.

        Args:
            inputs: number of input maps.
            connections: for each output map, the numbers of the input maps that it sees.
            kernel: side of the kernel in pixels.
        """
        super().__init__()
        self.in_channels, self.out_channels, self.kernel = inputs, len(connections), kernel
        pairs = [(output, origin) for output, origins in enumerate(connections) for origin in origins]
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous(), persistent=False)  # [2, pairs]
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(len(connections)))
        for (output, _), weight in zip(pairs, self.weight.data, strict=True):
            bound = (len(connections[output]) * kernel * kernel) ** -0.5  # as PyTorch starts a convolution
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, maps: Float[Tensor, "b inputs h w"]) -> Float[Tensor, "b outputs h2 w2"]:
        """Convolves as a full convolution whose missing kernels are zero."""
        full = self.weight.new_zeros(self.out_channels, self.in_channels, self.kernel, self.kernel)
        full = full.index_put((self.pairs[0], self.pairs[1]), self.weight)
        return F.conv2d(maps, full, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, pairs={self.pairs.shape[1]}, kernel={self.kernel}"
