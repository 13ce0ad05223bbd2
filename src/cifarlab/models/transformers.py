"""A vision transformer, and a compact convolutional transformer, for small images."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.registry import register


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int, heads: int, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        """Return a weighted mean of the tokens' values for each token."""
        batch, count, width = tokens.shape
        parts = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)  # [b, heads, n, width / heads]
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        result: Tensor = self.out(seen.transpose(1, 2).reshape(batch, count, width))
        return result


class DropPath(nn.Module):
    """Leave a residual path out for a random share of the images (Huang et al. 2016, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the values, scaled up where they are kept."""
        if not self.training or not self.rate:
            return values
        shape = (len(values), *(1,) * (values.ndim - 1))
        return values * torch.empty(shape, device=values.device).bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"{self.rate:g}"


class EncoderLayer(nn.Module):
    """Attention and a dense network of two layers, each added to its input.

    With `norm_between`, the second sum adds to the normalised tokens, as in Hassani et al. 2021.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, norm_between: bool = False, **options: Any) -> None:
        super().__init__()
        self.norm_between, self.drop_path = norm_between, DropPath(options.pop("drop_path", 0.0))
        self.norm1, self.attention = nn.LayerNorm(width, options.pop("eps", 1e-5)), Attention(width, heads, **options)
        self.norm2 = nn.LayerNorm(width, self.norm1.eps)
        self.dense = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, "b n width"]:
        """Return the new tokens."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        normalised = self.norm2(tokens)
        result: Tensor = (normalised if self.norm_between else tokens) + self.drop_path(self.dense(normalised))
        return result


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2020 (arXiv 2010.11929): a token for each patch and one for the class."""

    def __init__(
        self, classes: int, size: int, in_channels: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, (size // patch) ** 2 + 1, width))
        layers = (EncoderLayer(width, heads, 4 * width, bias=True, eps=1e-6) for _ in range(depth))
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)
        _initialise(self)
        nn.init.normal_(self.class_token, std=1e-6)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Return logits."""
        tokens = self.patches(images).flatten(2).transpose(1, 2)  # [b, n, width]
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.head(self.norm(self.layers(tokens))[:, 0])
        return logits


@register
def vit_tiny(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """A vision transformer for patches of 4x4 pixels: 12 layers of 3 heads, 192 wide (Dosovitskiy et al. 2020)."""
    return VisionTransformer(classes, size, in_channels, patch=4, width=192, depth=12, heads=3)


class CompactTransformer(nn.Module):
    """Hassani et al. 2021 (arXiv 2104.05704): tokens from a convolution, and their weighted mean for the classes."""

    def __init__(self, classes: int, size: int, in_channels: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.tokens = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.positions = nn.Parameter(torch.empty(1, ((size + 1) // 2) ** 2, width))
        rates = torch.linspace(0, 0.1, depth).tolist()  # of leaving a layer out
        options: dict[str, Any] = {"norm_between": True, "bias": False, "dropout": 0.1}
        layers = (EncoderLayer(width, heads, 2 * width, drop_path=rate, **options) for rate in rates)
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(width)
        self.pool, self.head = nn.Linear(width, 1), nn.Linear(width, classes)
        _initialise(self)
        nn.init.kaiming_normal_(conv.weight)
        nn.init.trunc_normal_(self.positions, std=0.2)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Return logits."""
        tokens = self.tokens(images).flatten(2).transpose(1, 2) + self.positions  # [b, n, width]
        tokens = self.norm(self.layers(tokens))
        weights = self.pool(tokens).softmax(dim=1)  # [b, n, 1]
        logits: Tensor = self.head((weights * tokens).sum(1))
        return logits


@register
def cct_7_3x1(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """A compact convolutional transformer: one 3x3 convolution, 7 layers of 4 heads, 256 wide (Hassani et al. 2021)."""
    return CompactTransformer(classes, size, in_channels, width=256, depth=7, heads=4)


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
