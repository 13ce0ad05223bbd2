"""Networks of the field in the layouts of public repositories: their names and their order, written independently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)


def through(network: nn.Module, stage: str, count: int, x: Tensor) -> Any:
    for number in range(1, count + 1):
        x = getattr(network, f"{stage}{number}")(x)
    return x


def fill(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network random weights, and statistics of batch normalisation that differ from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "num_batches_tracked")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5)
        else:
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1 + name.endswith("weight"))
    return network.eval()


class Basic(nn.Module):
    """A block of kuangliu's; with `shortcut="downsample"` of torchvision's; `first` puts the shortcut first."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, first: bool) -> None:
        super().__init__()
        self.name = shortcut if stride > 1 or inputs != outputs else ""
        side = [convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)]
        if self.name and first:
            setattr(self, shortcut, nn.Sequential(*side))
        self.conv1, self.bn1 = convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        if self.name and not first:
            setattr(self, shortcut, nn.Sequential(*side))

    def forward(self, x: Tensor) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (getattr(self, self.name)(x) if self.name else x))


class Bottleneck(nn.Module):
    """A block of three convolutions, of torchvision's."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str, first: bool) -> None:
        super().__init__()
        outputs = 4 * width
        self.name = shortcut if stride > 1 or inputs != outputs else ""
        if self.name and first:
            setattr(self, shortcut, nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))
        self.conv1, self.bn1 = convolution(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, outputs, 1), nn.BatchNorm2d(outputs)
        if self.name and not first:
            setattr(self, shortcut, nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (getattr(self, self.name)(x) if self.name else x))


class ResNet(nn.Module):
    """ResNets for small images, from `conv1` to `fc` or `linear`."""

    def __init__(
        self, block: Any, depths: tuple[int, ...], head: str = "linear", shortcut: str = "shortcut", first: bool = False
    ) -> None:
        super().__init__()
        self.head, inputs = head, 64
        self.conv1, self.bn1 = convolution(3, 64, 3), nn.BatchNorm2d(64)
        for number, depth in enumerate(depths, start=1):
            blocks = []
            for place in range(depth):
                width, stride = 32 * 2**number, 2 if number > 1 and not place else 1
                blocks.append(block(inputs, width, stride, shortcut, first))
                inputs = width * (4 if block is Bottleneck else 1)
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(inputs, 10))

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        x = through(self, "layer", 4, x)
        return getattr(self, self.head)(x.mean((2, 3)))


class ThinBlock(nn.Module):
    """A block of akamaster's, whose shortcut has no weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.more = outputs // inputs, outputs - inputs
        self.conv1, self.bn1 = convolution(inputs, outputs, 3, self.stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Any:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        half = self.more // 2
        return F.relu(y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half)))


class ThinResNet(nn.Module):
    """ResNets of He et al. for CIFAR-10 (6n + 2 layers), as akamaster names their layers."""

    def __init__(self, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 16, 3), nn.BatchNorm2d(16)
        for number, (inputs, width) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            blocks = [ThinBlock(inputs if not place else width, width) for place in range(depth)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Any:
        x = through(self, "layer", 3, F.relu(self.bn1(self.conv1(x))))
        return self.linear(x.mean((2, 3)))


class PreBlock(nn.Module):
    """A pre-activated block; the shortcut is `shortcut.0` of kuangliu's or `convShortcut` of xternalz's."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.name = shortcut if stride > 1 or inputs != outputs else ""
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), convolution(outputs, outputs, 3)
        side = convolution(inputs, outputs, 1, stride)
        if self.name:
            setattr(self, shortcut, nn.Sequential(side) if shortcut == "shortcut" else side)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.bn1(x))
        kept = getattr(self, self.name)(y) if self.name else x
        return kept + self.conv2(F.relu(self.bn2(self.conv1(y))))


class PreActResNet18(nn.Module):
    """As kuangliu's: without normalisation after the stem and before the output layer."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, inputs = convolution(3, 64, 3), 64
        for number, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [
                PreBlock(inputs, width, 1 if number == 1 else 2, "shortcut"),
                PreBlock(width, width, 1, "shortcut"),
            ]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Any:
        x = through(self, "layer", 4, self.conv1(x))
        return self.linear(x.mean((2, 3)))


class Group(nn.Module):
    """The blocks of a stage under the name `layer`."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class WideResNet(nn.Module):
    """As xternalz's: `block1.layer.0.convShortcut`, and at the top `bn1` after all blocks, and `fc`."""

    def __init__(self, depth: int = 16, factor: int = 4, classes: int = 10) -> None:
        super().__init__()
        widths, count = [16, 16 * factor, 32 * factor, 64 * factor], (depth - 4) // 6
        self.conv1 = convolution(3, 16, 3)
        for number in (1, 2, 3):
            inputs, width = widths[number - 1], widths[number]
            first = PreBlock(inputs, width, 1 if number == 1 else 2, "convShortcut")
            others = [PreBlock(width, width, 1, "convShortcut") for _ in range(count - 1)]
            setattr(self, f"block{number}", Group(first, *others))
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Any:
        x = through(self, "block", 3, self.conv1(x))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class VGG16(nn.Module):
    """As kuangliu's: `features.0` to `features.40`, and `classifier`."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features, inputs = nn.Sequential(), 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers = [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                self.features.extend(layers)
                inputs = width
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Any:
        return self.classifier(self.features(x).flatten(1))


class InvertedResidual(nn.Module):
    """A block of kuangliu's MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        self.stride, wide = stride, expansion * inputs
        self.conv1, self.bn1 = convolution(inputs, wide, 1), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = convolution(wide, wide, 3, stride, groups=wide), nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = convolution(wide, outputs, 1), nn.BatchNorm2d(outputs)
        is_projected = stride == 1 and inputs != outputs
        side = [convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs)] if is_projected else []
        self.shortcut = nn.Sequential(*side)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.stride == 1 else y


class MobileNetV2(nn.Module):
    """As kuangliu's: the blocks in `layers`, and `conv2` and `bn2` after them."""

    ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 32, 3), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for expansion, outputs, count, stride in self.ROWS:
            for place in range(count):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if not place else 1))
                inputs = outputs
        self.layers = nn.Sequential(*blocks)
        self.conv2, self.bn2 = convolution(320, 1280, 1), nn.BatchNorm2d(1280)
        self.linear = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Any:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class DenseLayer(nn.Module):
    """A layer of kuangliu's DenseNet: the new maps come first, or last as in torchvision's."""

    def __init__(self, inputs: int, growth: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), convolution(inputs, 4 * growth, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), convolution(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, y] if self.last else [y, x], 1)


class Transition(nn.Module):
    """A transition of kuangliu's DenseNet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), convolution(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Any:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """As kuangliu's: `dense1`, `trans1`, `dense2` and so on."""

    def __init__(self, last: bool = False, depths: tuple[int, ...] = (16, 16, 16), growth: int = 12) -> None:
        super().__init__()
        maps, self.count = 2 * growth, len(depths)
        self.conv1 = convolution(3, maps, 3)
        for number, depth in enumerate(depths, start=1):
            layers = [DenseLayer(maps + place * growth, growth, last) for place in range(depth)]
            setattr(self, f"dense{number}", nn.Sequential(*layers))
            maps += depth * growth
            if number < len(depths):
                setattr(self, f"trans{number}", Transition(maps, maps // 2))
                maps //= 2
        self.bn, self.linear = nn.BatchNorm2d(maps), nn.Linear(maps, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.conv1(x)
        for number in range(1, self.count + 1):
            x = getattr(self, f"dense{number}")(x)
            x = getattr(self, f"trans{number}")(x) if number < self.count else x
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


LAYOUTS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "resnet18 of kuangliu": ("resnet18", lambda: ResNet(Basic, (2, 2, 2, 2))),
    "resnet18 of torchvision": ("resnet18", lambda: ResNet(Basic, (2, 2, 2, 2), "fc", "downsample")),
    "resnet18, shortcuts first": ("resnet18", lambda: ResNet(Basic, (2, 2, 2, 2), "fc", "skip", first=True)),
    "resnet18, other words first": ("resnet18", lambda: ResNet(Basic, (2, 2, 2, 2), "fc", "branch", first=True)),
    "resnet50 of torchvision": ("resnet50", lambda: ResNet(Bottleneck, (3, 4, 6, 3), "fc", "downsample")),
    "resnet50, shortcuts first": ("resnet50", lambda: ResNet(Bottleneck, (3, 4, 6, 3), "fc", "downsample", first=True)),
    "resnet20 of akamaster": ("resnet20", ThinResNet),
    "resnet20, 100 classes": ("resnet20", lambda: ThinResNet(classes=100)),
    "preact-resnet18 of kuangliu": ("preact-resnet18", PreActResNet18),
    "wide-resnet16-4 of xternalz": ("wide-resnet16-4", WideResNet),
    "vgg16 of kuangliu": ("vgg16", VGG16),
    "mobilenetv2 of kuangliu": ("mobilenetv2", MobileNetV2),
    "densenet of kuangliu": ("densenet-bc-100-12", DenseNet),
}
"""Name of the network here, and a function that builds the network there."""
