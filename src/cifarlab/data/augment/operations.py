"""Operations on whole batches of images, each with a strength for every image: what augmentation policies choose from.

Images are floats with whole numbers from 0 to 255. The results are those of Pillow, which the published policies used.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Images = Float[Tensor, "n c h w"]
Strengths = Float[Tensor, " n"]


def blend(plain: Float[Tensor, "n ..."], images: Images, factors: Strengths) -> Images:
    """Return plain + factor x (images - plain), cut to whole numbers from 0 to 255; 1 changes nothing."""
    factors = factors.view(-1, 1, 1, 1)
    return (plain + factors * (images - plain)).clamp(0, 255).floor()


def gray(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Return the brightness of each pixel (ITU-R 601-2), rounded as in Pillow."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    brightness: Tensor = 19595 * red + 38470 * green + 7471 * blue + 32768
    return (brightness / 65536).floor()


def brightness(images: Images, changes: Strengths) -> Images:
    """Scale the values by 1 + change."""
    return blend(torch.zeros_like(images), images, 1 + changes)


def color(images: Images, changes: Strengths) -> Images:
    """Move the colours away from gray, or towards it; -1 leaves gray alone."""
    return blend(gray(images), images, 1 + changes)


def contrast(images: Images, changes: Strengths) -> Images:
    """Move the values away from the image's mean brightness, or towards it."""
    mean = (gray(images).mean((1, 2, 3), keepdim=True) + 0.5).floor()
    return blend(mean, images, 1 + changes)


def sharpness(images: Images, changes: Strengths) -> Images:
    """Move the values away from a smoothed image, or towards it; the outermost pixels are not smoothed."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    smooth = images.clone()
    inner = F.conv2d(images, kernel.expand(channels := images.shape[1], 1, 3, 3), groups=channels)
    smooth[:, :, 1:-1, 1:-1] = (inner + 0.5).floor().clamp(0, 255)
    return blend(smooth, images, 1 + changes)


def posterize(images: Images, bits: Strengths) -> Images:
    """Keep the highest bits of each value."""
    steps = 2 ** (8 - bits.round()).view(-1, 1, 1, 1)
    return (images / steps).floor() * steps


def solarize(images: Images, thresholds: Strengths) -> Images:
    """Invert the values from a threshold on."""
    return torch.where(images < thresholds.view(-1, 1, 1, 1), images, 255 - images)


def invert(images: Images, _: Strengths) -> Images:
    """Replace each value by 255 minus the value."""
    return 255 - images


def identity(images: Images, _: Strengths) -> Images:
    """Change nothing."""
    return images


def autocontrast(images: Images, _: Strengths) -> Images:
    """Stretch the values of each channel to the range from 0 to 255."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    white = torch.full_like(high, 255, dtype=torch.float64)  # as Pillow, which computes in double precision
    scale = white / (high - low).clamp(min=1)
    stretched = (images * scale - low * scale).trunc().clamp(0, 255).to(images.dtype)
    return torch.where(high > low, stretched, images)


def equalize(images: Images, _: Strengths) -> Images:
    """Spread the values of each channel so that all parts of the range have about as many pixels."""
    count, channels, height, width = images.shape
    values = images.long().reshape(count * channels, height * width)
    histogram = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    largest = histogram.gather(1, values.amax(1, keepdim=True))
    step = (height * width - largest) // 255
    before = histogram.cumsum(1) - histogram  # pixels with smaller values
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    spread = table.gather(1, values).view(images.shape).to(images.dtype)
    return torch.where((step > 0).view(count, channels, 1, 1), spread, images)


def shear_x(images: Images, slopes: Strengths) -> Images:
    """Move each row to the left by its number times the slope."""
    return _moved(images, x=lambda x, y: x + slopes.view(-1, 1, 1) * y)


def shear_y(images: Images, slopes: Strengths) -> Images:
    """Move each column up by its number times the slope."""
    return _moved(images, y=lambda x, y: y + slopes.view(-1, 1, 1) * x)


def translate_x(images: Images, pixels: Strengths) -> Images:
    """Move the image to the left."""
    return _moved(images, x=lambda x, y: x + pixels.trunc().view(-1, 1, 1) + 0 * y)


def translate_y(images: Images, pixels: Strengths) -> Images:
    """Move the image up."""
    return _moved(images, y=lambda x, y: y + pixels.trunc().view(-1, 1, 1) + 0 * x)


def rotate(images: Images, degrees: Strengths) -> Images:
    """Rotate about the centre, counterclockwise."""
    middle_y, middle_x = images.shape[2] / 2, images.shape[3] / 2
    cos, sin = torch.deg2rad(degrees).cos().view(-1, 1, 1), torch.deg2rad(degrees).sin().view(-1, 1, 1)
    return _moved(
        images,
        x=lambda x, y: cos * (x - middle_x) - sin * (y - middle_y) + middle_x,
        y=lambda x, y: sin * (x - middle_x) + cos * (y - middle_y) + middle_y,
    )


Coordinate = Callable[[Tensor, Tensor], Tensor]  # of a source, from the x [1, 1, w] and y [1, h, 1] of a result


def _moved(images: Images, x: Coordinate = lambda x, y: x + 0 * y, y: Coordinate = lambda x, y: y + 0 * x) -> Images:
    """Return images whose pixels come from other places, the nearest pixel each; black where there is none."""
    count, channels, height, width = images.shape
    places_x = torch.arange(width, device=images.device).view(1, 1, width) + 0.5
    places_y = torch.arange(height, device=images.device).view(1, height, 1) + 0.5
    source_x, source_y = (each(places_x, places_y).floor().long().expand(count, height, width) for each in (x, y))
    inside: Tensor = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    index: Int64[Tensor, "n hw"] = (source_y.clamp(0, height - 1) * width + source_x.clamp(0, width - 1)).flatten(1)
    taken = images.flatten(2).gather(2, index[:, None].expand(count, channels, height * width))
    return taken.view(images.shape) * inside[:, None]


def hue(images: Images, turns: Strengths) -> Images:
    """Turn the hue of every pixel by this part of the colour circle; saturation and value (HSV) stay."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value, lowest = images.amax(1), images.amin(1)
    spread = (value - lowest).clamp(min=1e-6)
    by_green = torch.where(value == green, 2 + (blue - red) / spread, 4 + (red - green) / spread)
    sixths = torch.where(value == red, (green - blue) / spread, by_green) + 6 * turns.view(-1, 1, 1)
    parts = []
    for offset in (5, 3, 1):  # of red, green and blue: value - spread x clamp(min(k, 4 - k), 0, 1)
        k = (offset + sixths) % 6
        parts.append(value - (value - lowest) * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(parts, dim=1).round().clamp(0, 255)
