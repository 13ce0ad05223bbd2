"""What several networks share: Keras's ways of starting weights, and layers that PyTorch does not have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
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
