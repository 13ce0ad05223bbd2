"""MobileNetV2: Sandler et al. 2018 (arXiv 1801.04381), with less stride for small images."""

from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.layers import conv_norm
from cifarlab.models.registry import register

# Expansion, maps, blocks, and stride of the first block, as in kuangliu/pytorch-cifar: the paper also has strides of 2
# in the stem and in the second row.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, convolve each map on its own, and narrow; without stride, add the input."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.path = nn.Sequential(
            *conv_norm(inputs, wide, 1),
            nn.ReLU(),
            *conv_norm(wide, wide, 3, stride, groups=wide),
            nn.ReLU(),
            *conv_norm(wide, outputs, 1),
        )
        self.adds = stride == 1
        changes = self.adds and inputs != outputs
        self.shortcut = nn.Sequential(*conv_norm(inputs, outputs, 1)) if changes else nn.Identity()

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the narrow maps."""
        narrow: Tensor = self.path(maps)
        return narrow + self.shortcut(maps) if self.adds else narrow


@register
def mobilenetv2(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Seventeen inverted residual blocks of depthwise convolutions (the form of kuangliu/pytorch-cifar)."""
    network = nn.Sequential(*conv_norm(in_channels, 32, 3), nn.ReLU())
    inputs = 32
    for expansion, maps, blocks, stride in STAGES:
        for place in range(blocks):
            network.append(InvertedResidual(inputs, maps, expansion, 1 if place else stride))
            inputs = maps
    network.extend([*conv_norm(inputs, 1280, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return network.append(nn.Linear(1280, classes))
