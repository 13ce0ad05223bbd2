"""A network that learns CIFAR-10 fast: few wide convolutions on whitened patches.

After the networks of Page 2019 and Jordan 2024 (arXiv 2404.00498), with less arithmetic for a processor: docs/speed.md.
"""

from __future__ import annotations

from torch import nn

from cifarlab.models.layers import UnitConv2d, Whitening
from cifarlab.models.registry import register

BATCH_NORM_MOMENTUM = 0.15  # of the running statistics; trainings have so few steps that the usual .1 lags behind


@register
def fastnet(classes: int = 10, width: int = 64) -> nn.Module:
    """Whitened 2x2 patches, then three groups of two convolutions of 1, 4 and 4 times `width` maps.

    The first convolution of the second group has no padding: of its 13x13 places pooling makes 6x6 instead of 7x7, of
    which the last pooling would throw a row and a column away.

    Args:
        classes: number of outputs.
        width: maps of the first group.
    """
    groups = nn.Sequential()
    channels = 24
    for maps, padding in ((width, 1), (4 * width, 0), (4 * width, 1)):
        groups.extend([UnitConv2d(channels, maps, padding), nn.MaxPool2d(2), _norm(maps), nn.GELU()])
        groups.extend([UnitConv2d(maps, maps), _norm(maps), nn.GELU()])
        channels = maps
    head = nn.Linear(channels, classes, bias=False)
    nn.init.uniform_(head.weight, -(3**0.5) / channels, 3**0.5 / channels)  # deviation 1 / channels
    return nn.Sequential(
        Whitening(2),  # [b, 24, 31, 31]
        nn.GELU(),
        *groups,  # [b, width, 15, 15], [b, 4 width, 6, 6], [b, 4 width, 3, 3]
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        head,
    )


def _norm(maps: int) -> nn.BatchNorm2d:
    """Batch normalisation that learns a shift but no scale, as the next convolution does not need one."""
    norm = nn.BatchNorm2d(maps, momentum=BATCH_NORM_MOMENTUM)
    norm.weight.requires_grad_(False)
    return norm
