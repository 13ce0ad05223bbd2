"""A network that learns CIFAR-10 fast: few wide convolutions on whitened patches.

The network of Jordan 2024 (arXiv 2404.00498), which goes back to Page 2019. docs/internals/speed.md measures variants.
"""

from torch import nn

from cifarlab.models.layers import UnitConv2d, Whitening
from cifarlab.models.registry import register

SCALE = 1.7  # standard deviation of an activation's inputs: hardswish(1.7 x) is near 1.7 GELU(x) at a third of its cost
BATCH_NORM_MOMENTUM = 0.15  # trainings have so few steps that running statistics with the usual 0.1 lag behind


@register
def fastnet(classes: int = 10, width: int = 64, in_channels: int = 3) -> nn.Module:
    """Whitened 2x2 patches, then three groups of two convolutions with 1, 4 and 4 times `width` channels."""
    groups = nn.Sequential()
    inputs = 8 * in_channels  # of the whitening: a filter for each of the 2 x 2 x channels of a patch, and its negative
    for out_channels in (width, 4 * width, 4 * width):
        groups.extend([UnitConv2d(inputs, out_channels, before_pooling=True), nn.MaxPool2d(2)])
        groups.extend([_norm(out_channels), nn.Hardswish()])
        groups.extend([UnitConv2d(out_channels, out_channels), _norm(out_channels), nn.Hardswish()])
        inputs = out_channels
    head = nn.Linear(inputs, classes, bias=False)
    bound = 3**0.5 / (SCALE * inputs)  # standard deviation 1 / (SCALE inputs), so that logits start small
    nn.init.uniform_(head.weight, -bound, bound)
    return nn.Sequential(
        Whitening(2, SCALE, in_channels),  # [b, 24, 31, 31]
        nn.Hardswish(),
        *groups,  # [b, width, 15, 15], [b, 4 width, 7, 7], [b, 4 width, 3, 3]
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        head,
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation to the standard deviation `SCALE`, which stays fixed: only the shift is trained."""
    norm = nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM)
    nn.init.constant_(norm.weight, SCALE).requires_grad_(False)
    return norm
