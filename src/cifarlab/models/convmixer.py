"""ConvMixer, which mixes places and maps of image patches in turn: Trockman and Kolter 2022 (arXiv 2201.09792)."""

from jaxtyping import Float
from torch import Tensor, nn

from cifarlab.models.registry import register


class Mixer(nn.Module):
    """Convolve each map on its own and add the result to the input, then mix the maps at each place."""

    def __init__(self, maps: int, kernel: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(maps, maps, kernel, padding=kernel // 2, groups=maps)
        self.places = nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(maps))
        self.maps = nn.Sequential(nn.Conv2d(maps, maps, 1), nn.GELU(), nn.BatchNorm2d(maps))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the mixed maps."""
        mixed: Tensor = self.maps(self.places(maps) + maps)
        return mixed


@register
def convmixer_256_8(classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Patches of 2x2 pixels and eight mixers of 256 maps with 5x5 kernels (Trockman and Kolter 2022, 2201.09792)."""
    stem = [nn.Conv2d(in_channels, 256, 2, 2), nn.GELU(), nn.BatchNorm2d(256)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes)]
    return nn.Sequential(*stem, *(Mixer(256, 5) for _ in range(8)), *head)
