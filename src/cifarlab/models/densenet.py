"""DenseNets, whose layers see the maps of all layers before them: Huang et al. 2016 (arXiv 1608.06993)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.registry import register


class DenseLayer(nn.Module):
    """Add `growth` maps: a 1x1 convolution to 4 times as many, then a 3x3 convolution, each after an activation."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        narrow = [nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False)]
        wide = [nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)]
        self.path = nn.Sequential(*narrow, *wide)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b more h w"]:
        """Return the new maps, followed by those before."""
        return torch.cat([self.path(maps), maps], dim=1)


def _densenet(classes: int, in_channels: int, growth: int, depths: tuple[int, ...]) -> nn.Module:
    maps = 2 * growth
    network = nn.Sequential(nn.Conv2d(in_channels, maps, 3, padding=1, bias=False))
    for number, depth in enumerate(depths):
        if number:  # a transition halves the number of maps and their side
            network.extend([nn.BatchNorm2d(maps), nn.ReLU(), nn.Conv2d(maps, maps // 2, 1, bias=False)])
            network.append(nn.AvgPool2d(2))
            maps //= 2
        for _ in range(depth):
            network.append(DenseLayer(maps, growth))
            maps += growth
    network.extend([nn.BatchNorm2d(maps), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    return network.append(nn.Linear(maps, classes))


@register
def densenet121(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Blocks of 6, 12, 24 and 16 layers with growth 32, with a 3x3 stem (the form of kuangliu/pytorch-cifar)."""
    return _densenet(classes, in_channels, 32, (6, 12, 24, 16))


@register
def densenet_bc_100_12(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Three blocks of 16 layers with growth 12: the paper's DenseNet-BC of 100 layers."""
    return _densenet(classes, in_channels, 12, (16, 16, 16))
