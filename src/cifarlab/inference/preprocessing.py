"""Preprocessing: from image bytes to a network's input. It is fitted on training images and kept with the weights."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from cifarlab.data.dataset import sample
from cifarlab.recipes import Normalization, Preprocessing

ZCA_EPSILON = 0.01  # added to the variances; each image is first scaled to a standard deviation of 1
FIT_BATCH = 5_000  # images; a float copy of the whole data set would waste memory
ZCA_IMAGES = 50_000  # images that whitening is fitted on, at most


class Preprocess(nn.Module):
    """Convert uint8 images to the float input of a network."""

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    matrix: Tensor

    def __init__(self, settings: Preprocessing | Normalization, size: int) -> None:
        """Create preprocessing that is not fitted yet; a name is `normalize`, with defaults for the rest."""
        super().__init__()
        self.settings = Preprocessing(settings) if isinstance(settings, str) else settings
        channels = self.settings.in_channels
        values = channels * size * size if self.settings.normalize == "zca" else 0
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("centre", torch.zeros(values))
        self.register_buffer("matrix", torch.zeros(values, values))

    def fit(self, images: UInt8[np.ndarray, "n c h w"]) -> None:
        """Compute mean and standard deviation, or the whitening matrix, from the training images."""
        if constants := self.settings.constants:
            self._set(mean=torch.tensor(constants[0]), deviation=torch.tensor(constants[1]))
        elif self.settings.normalize == "standard":
            # From counts of the 256 values, because a float copy of a data set is four times its size.
            counts = np.zeros((self.settings.in_channels, 256))
            for start in range(0, len(images), FIT_BATCH):
                batch = torch.from_numpy(np.array(images[start : start + FIT_BATCH]))
                counts += np.stack([torch.bincount(c.flatten(), minlength=256) for c in self.ordered(batch).unbind(1)])
            values = np.arange(256) / 255
            share = counts / counts.sum(axis=1, keepdims=True)
            mean = share @ values
            deviation = np.sqrt(np.maximum(share @ values**2 - mean**2, 1e-12))
            self._set(mean=torch.from_numpy(mean).float(), deviation=torch.from_numpy(deviation).float())
        else:
            chosen = torch.from_numpy(np.array(sample(images, ZCA_IMAGES)))
            flat = _normalize_contrast(self.ordered(chosen).float().flatten(1))
            centre = flat.mean(0)
            flat -= centre
            values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
            self._set(centre=centre, matrix=vectors / (values.clamp(min=0) + ZCA_EPSILON).sqrt() @ vectors.T)

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b inputs h w"]:
        """Return the network's input in the memory format of `images`; `zca` returns it contiguous.

        `zca` is global contrast normalisation (Goodfellow et al. 2013) followed by ZCA whitening (Krizhevsky 2009).
        """
        images = self.ordered(images)
        if self.settings.normalize == "zca":
            flat = _normalize_contrast(images.float().flatten(1))
            return ((flat - self.centre) @ self.matrix).view(images.shape)
        return _scaled(images, 1 / (255 * self.deviation), self.mean / self.deviation)

    def ordered(self, images: UInt8[Tensor, "b c h w"]) -> UInt8[Tensor, "b inputs h w"]:
        """Return images of one channel or three with channels as the settings say."""
        if images.shape[1] == 3 and self.settings.channels in ("rgb", "bgr"):
            return images.flip(1) if self.settings.channels == "bgr" else images
        if images.shape[1] == 3:
            red, green, blue = images.float().split(1, dim=1)
            gray = (19595 * red + 38470 * green + 7471 * blue + 32768) / 65536  # 0.299, 0.587 and 0.114, as in Pillow
            images = gray.to(torch.uint8)
        if self.settings.in_channels == 1:
            return images
        return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _set(self, **values: Tensor) -> None:
        for name, value in values.items():
            self.get_buffer(name).copy_(value)


def _scaled(images: UInt8[Tensor, "b c h w"], scale: Float[Tensor, " c"], shift: Float[Tensor, " c"]) -> Tensor:
    """Return images x scale - shift, as floats, in the images' memory format.

    PyTorch is slow where types differ, or where the innermost axis has three values. So bytes become floats first, and
    with channels last in memory a whole row of pixels is the innermost axis.
    """
    values, (count, channels, height, width) = images.float(), images.shape
    if values.is_contiguous() or not values.is_contiguous(memory_format=torch.channels_last):
        return values * scale.view(-1, 1, 1) - shift.view(-1, 1, 1)
    rows = values.permute(0, 2, 3, 1).view(count * height, width * channels)
    scales, shifts = (each.expand(width, channels).reshape(-1) for each in (scale, shift))
    rows = rows.mul_(scales).sub_(shifts)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def _normalize_contrast(flat: Float[Tensor, "b values"]) -> Float[Tensor, "b values"]:
    centred = flat - flat.mean(dim=1, keepdim=True)
    return centred / centred.std(dim=1, keepdim=True).clamp(min=1e-3)
