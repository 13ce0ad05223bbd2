"""VGG networks with batch normalisation and one dense layer: Simonyan and Zisserman 2014 (arXiv 1409.1556)."""

from torch import nn

from cifarlab.models.registry import register


def _vgg(classes: int, in_channels: int, depths: tuple[int, ...]) -> nn.Module:
    network = nn.Sequential()
    inputs = in_channels
    for maps, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
        for _ in range(depth):
            network.extend([nn.Conv2d(inputs, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU()])
            inputs = maps
        network.append(nn.MaxPool2d(2, ceil_mode=True))  # so that images of 28 pixels leave a place at the end
    return network.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes)])


@register
def vgg11(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Eight convolutions in five stages of 64 to 512 maps, each followed by pooling."""
    return _vgg(classes, in_channels, (1, 1, 2, 2, 2))


@register
def vgg16(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Thirteen convolutions in five stages of 64 to 512 maps, each followed by pooling."""
    return _vgg(classes, in_channels, (2, 2, 3, 3, 3))
