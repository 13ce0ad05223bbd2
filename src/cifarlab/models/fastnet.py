"""A network that learns CIFAR-10 fast: few wide convolutions on whitened patches.

The network of Jordan 2024 (arXiv 2404.00498), which goes back to Page 2019. What was tried instead:
docs/internals/speed.md.
"""

from __future__ import annotations

from torch import nn

from cifarlab.models.layers import UnitConv2d, Whitening
from cifarlab.models.registry import register

SCALE = 1.7  # of what goes into an activation: hardswish of 1.7 x is near 1.7 GELU of x, at a third of its cost
BATCH_NORM_MOMENTUM = 0.15  # of the running statistics; trainings have so few steps that the usual .1 lags behind


@register
def fastnet(classes: int = 10, width: int = 64) -> nn.Module:
    """Whitened 2x2 patches, then three groups of two convolutions of 1, 4 and 4 times `width` maps.

    Args:
        classes: number of outputs.
        width: maps of the first group.
    """
    groups = nn.Sequential()
    channels = 24
    for maps in (width, 4 * width, 4 * width):
        groups.extend([UnitConv2d(channels, maps, pooled=True), nn.MaxPool2d(2), _norm(maps), nn.Hardswish()])
        groups.extend([UnitConv2d(maps, maps), _norm(maps), nn.Hardswish()])
        channels = maps
    head = nn.Linear(channels, classes, bias=False)
    bound = 3**0.5 / (SCALE * channels)  # so that outputs start with a deviation of about 1 / channels
    nn.init.uniform_(head.weight, -bound, bound)
    return nn.Sequential(
        Whitening(2, SCALE),  # [b, 24, 31, 31]
        nn.Hardswish(),
        *groups,  # [b, width, 15, 15], [b, 4 width, 7, 7], [b, 4 width, 3, 3]
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        head,
    )


def _norm(maps: int) -> nn.BatchNorm2d:
    """Batch normalisation to the deviation `SCALE`; it learns a shift alone, as the next layer needs no other scale."""
    norm = nn.BatchNorm2d(maps, momentum=BATCH_NORM_MOMENTUM)
    nn.init.constant_(norm.weight, SCALE).requires_grad_(False)
    return norm
