"""Residual networks for small images: plain, bottleneck, pre-activation, wide and with groups."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.layers import conv_norm
from cifarlab.models.registry import register


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Residual(nn.Module):
    """The sum of two paths, then an activation: He et al. 2015 (arXiv 1512.03385)."""

    def __init__(self, path: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.path, self.shortcut, self.relu = path, shortcut, nn.ReLU()

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return relu(path + shortcut)."""
        activated: Tensor = self.relu(self.path(maps) + self.shortcut(maps))
        return activated


class PreActivation(nn.Module):
    """Activate first, then add two paths: He et al. 2016 (arXiv 1603.05027).

    The shortcut sees the activated maps where it is a convolution, and otherwise the maps themselves.
    """

    def __init__(self, first: nn.Module, path: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.first, self.path, self.shortcut = first, path, shortcut

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return path + shortcut."""
        activated = self.first(maps)
        kept = maps if isinstance(self.shortcut, nn.Identity) else self.shortcut(activated)
        total: Tensor = self.path(activated) + kept
        return total


class ZeroShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the new maps, half before and half after: option A of He et al. 2015."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new = stride, (outputs - inputs) // 2

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the thinned and padded maps."""
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))


Block = Callable[[int, int, int], nn.Module]  # from inputs, width and stride to a block


def _basic(inputs: int, width: int, stride: int) -> nn.Module:
    return Residual(_two_convolutions(inputs, width, stride), _projection(inputs, width, stride))


def _basic_with_zeros(inputs: int, width: int, stride: int) -> nn.Module:
    same = inputs == width and stride == 1
    shortcut = nn.Identity() if same else ZeroShortcut(inputs, width, stride)
    return Residual(_two_convolutions(inputs, width, stride), shortcut)


def _two_convolutions(inputs: int, width: int, stride: int) -> nn.Module:
    return nn.Sequential(*conv_norm(inputs, width, 3, stride), nn.ReLU(), *conv_norm(width, width, 3))


def _bottleneck(inputs: int, width: int, stride: int) -> nn.Module:
    return _narrowed(inputs, width, 4 * width, stride, groups=1)


def _narrowed(inputs: int, width: int, outputs: int, stride: int, groups: int) -> nn.Module:
    path = [*conv_norm(inputs, width, 1), nn.ReLU(), *conv_norm(width, width, 3, stride, groups), nn.ReLU()]
    return Residual(nn.Sequential(*path, *conv_norm(width, outputs, 1)), _projection(inputs, outputs, stride))


def _pre_activated(inputs: int, width: int, stride: int) -> nn.Module:
    path = [_conv(inputs, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(), _conv(width, width, 3)]
    same = inputs == width and stride == 1
    shortcut = nn.Identity() if same else _conv(inputs, width, 1, stride)
    return PreActivation(nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()), nn.Sequential(*path), shortcut)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


def _stages(
    block: Block, inputs: int, widths: Sequence[int], depths: Sequence[int], expansion: int = 1
) -> list[nn.Module]:
    """Return stages of blocks; the first block of each stage but the first halves the side of the maps."""
    stages: list[nn.Module] = []
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for place in range(depth):
            blocks.append(block(inputs, width, 2 if number and not place else 1))
            inputs = expansion * width
        stages.append(nn.Sequential(*blocks))
    return stages


def _head(inputs: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]


def _thin(classes: int, in_channels: int, depth: int) -> nn.Module:
    """Return a network of He et al. 2015, section 4.2: three stages of 16, 32 and 64 maps."""
    network = nn.Sequential(
        *conv_norm(in_channels, 16, 3),
        nn.ReLU(),
        *_stages(_basic_with_zeros, 16, (16, 32, 64), 3 * ((depth - 2) // 6,)),
        *_head(64, classes),
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return network


@register
def resnet20(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Three blocks in each of three stages, with shortcuts that have no weights (He et al. 2015, section 4.2)."""
    return _thin(classes, in_channels, 20)


@register
def resnet32(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet20`, with five blocks a stage."""
    return _thin(classes, in_channels, 32)


@register
def resnet56(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet20`, with nine blocks a stage."""
    return _thin(classes, in_channels, 56)


@register
def resnet110(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet20`, with eighteen blocks a stage."""
    return _thin(classes, in_channels, 110)


def _wide_start(block: Block, depths: Sequence[int], classes: int, in_channels: int, expansion: int = 1) -> nn.Module:
    """Return a network for ImageNet with a 3x3 stem and no pooling after it, so that it suits small images."""
    widths = (64, 128, 256, 512)
    stages = _stages(block, 64, widths, depths, expansion)
    return nn.Sequential(*conv_norm(in_channels, 64, 3), nn.ReLU(), *stages, *_head(512 * expansion, classes))


@register
def resnet18(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Two blocks in each of four stages of 64 to 512 maps, with a 3x3 stem (the form of kuangliu/pytorch-cifar)."""
    return _wide_start(_basic, (2, 2, 2, 2), classes, in_channels)


@register
def resnet34(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet18`, with 3, 4, 6 and 3 blocks."""
    return _wide_start(_basic, (3, 4, 6, 3), classes, in_channels)


@register
def resnet50(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet34`, with bottleneck blocks of three convolutions."""
    return _wide_start(_bottleneck, (3, 4, 6, 3), classes, in_channels, expansion=4)


@register
def preact_resnet18(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """As `resnet18`, with normalisation and activation before each convolution."""
    return nn.Sequential(
        _conv(in_channels, 64, 3), *_stages(_pre_activated, 64, (64, 128, 256, 512), (2, 2, 2, 2)), *_head(512, classes)
    )


def _wide(classes: int, in_channels: int, depth: int, factor: int) -> nn.Module:
    widths = [factor * width for width in (16, 32, 64)]
    stages = _stages(_pre_activated, 16, widths, 3 * ((depth - 4) // 6,))
    return nn.Sequential(
        _conv(in_channels, 16, 3), *stages, nn.BatchNorm2d(widths[-1]), nn.ReLU(), *_head(widths[-1], classes)
    )


@register
def wide_resnet16_4(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Pre-activated blocks, two a stage, four times as wide (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""
    return _wide(classes, in_channels, 16, 4)


@register
def wide_resnet28_10(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Pre-activated blocks, four a stage, ten times as wide (Zagoruyko and Komodakis 2016, arXiv 1605.07146)."""
    return _wide(classes, in_channels, 28, 10)


def _grouped(classes: int, in_channels: int, stem: int, groups: int, width: int) -> nn.Module:
    """Return three stages of three blocks with `groups` groups of `width` maps, doubled twice."""

    def block(inputs: int, maps: int, stride: int) -> nn.Module:
        return _narrowed(inputs, groups * width * maps // 256, maps, stride, groups)

    stages = _stages(block, 64, (256, 512, 1024), (3, 3, 3))
    return nn.Sequential(*conv_norm(in_channels, 64, stem), nn.ReLU(), *stages, *_head(1024, classes))


@register
def resnext29_8x64d(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Bottleneck blocks with 8 groups of 64 maps (Xie et al. 2016, arXiv 1611.05431)."""
    return _grouped(classes, in_channels, 3, 8, 64)


@register
def resnext29_2x64d(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Bottleneck blocks with 2 groups of 64 maps, and a 1x1 stem (the form of kuangliu/pytorch-cifar)."""
    return _grouped(classes, in_channels, 1, 2, 64)


@register
def resnext29_32x4d(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Bottleneck blocks with 32 groups of 4 maps, and a 1x1 stem (the form of kuangliu/pytorch-cifar)."""
    return _grouped(classes, in_channels, 1, 32, 4)
