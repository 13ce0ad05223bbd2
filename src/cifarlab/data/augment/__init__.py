"""Random augmentation of a batch of training images, and samples of augmented images for figures.

`distort` changes the bytes of the images: the policies, and colour jitter. `augment` changes a network's inputs: places
and holes. `mixing` mixes inputs and labels. All of them work on the whole batch at once, on its device.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cifarlab.data.augment import operations, policies
from cifarlab.data.dataset import Dataset
from cifarlab.recipes import Augment

ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 1 / 0.3)  # of the image; height to width, as in Zhong et al. 2017
ERASING_TRIALS = 10  # of rectangles, until one fits into the image


def distort(images: UInt8[Tensor, "b c h w"], settings: Augment) -> UInt8[Tensor, "b c h w"]:
    """Return images of bytes, each changed at random by the policy and then by colour jitter.

    Colour jitter comes in a random order, which is the same for the batch.
    """
    if not settings.distorts or not len(images):
        return images
    values = images.float()
    if settings.policy == "autoaugment":
        values = policies.auto_augment(values)
    elif settings.policy == "randaugment":
        values = policies.rand_augment(values, settings.operations, settings.magnitude)
    elif settings.policy == "trivialaugment":
        values = policies.trivial_augment(values)
    jitter = [
        (operations.brightness, settings.brightness, -1.0),
        (operations.contrast, settings.contrast, -1.0),
        (operations.color, settings.saturation, -1.0),
        (operations.hue, settings.hue, -0.5),
    ]
    for number in torch.randperm(len(jitter)).tolist() if any(most for _, most, _ in jitter) else []:
        operation, most, lowest = jitter[number]
        if most:
            changes = (torch.rand(len(values), device=values.device) * 2 - 1) * most
            values = operation(values, changes.clamp(min=lowest))
    return values.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def augment(images: Float[Tensor, "b c h w"], settings: Augment) -> Float[Tensor, "b c h w"]:
    """Return the images of a batch, each changed at random. `batches` applies `alternate_flip`, which needs the epoch.

    All random numbers come from PyTorch's default generators, which `batches.seed_step` seeds.
    """
    if not len(images):  # a rank's part of a small batch may be empty
        return images
    if settings.shift or settings.rotation:
        images = _move(images, settings.shift, settings.rotation)
    if settings.crop:
        images = _crop(images, settings.crop, settings.border)
    if settings.flip:
        images = mirror(images, torch.rand(len(images), device=images.device) < 0.5)
    if settings.cutout:
        images = images.masked_fill(_squares(images, settings.cutout), 0)
    if settings.erase:
        images = images.masked_fill(_rectangles(images, settings.erase), 0)
    return images


def resized(images: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c size size"]:
    """Return images with this side in pixels, by bilinear interpolation with antialiasing."""
    if images.shape[2] == images.shape[3] == size or not len(images):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def mirror(images: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"], mirrored: Bool[Tensor, " b"]) -> Tensor:
    """Return the images, mirrored left to right where `mirrored` is True."""
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def _move(images: Tensor, shift: float, rotation: float) -> Tensor:
    """Rotate about the centre and shift, with bilinear interpolation, as Keras's ImageDataGenerator does."""
    count = len(images)
    angle = (torch.rand(count, device=images.device) * 2 - 1) * math.radians(rotation)
    by = (torch.rand(count, 2, device=images.device) * 2 - 1) * shift * 2  # coordinates of grid_sample go from -1 to 1
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos, -sin, by[:, 0], sin, cos, by[:, 1]], dim=1).view(count, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop(images: Tensor, pixels: int, border: str) -> Tensor:
    """Pad every side by `pixels` and crop each image at a random place to its old size."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels, pixels, pixels, pixels), mode="reflect" if border == "reflect" else "constant")
    top, left = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)  # [b, h]
    columns = left + torch.arange(width, device=images.device)  # [b, w]
    image = torch.arange(count, device=images.device)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # [b, h, w, c]
    return cut.permute(0, 3, 1, 2)


def _squares(images: Tensor, side: int) -> Tensor:
    """Return a mask [b, 1, h, w], True in a square around a random pixel of each image, cut off at the edges."""
    count, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - torch.randint(0, height, (count, 1), device=images.device)
    columns = torch.arange(width, device=images.device) - torch.randint(0, width, (count, 1), device=images.device)
    low, high = -(side // 2), side - side // 2
    in_rows, in_columns = (low <= rows) & (rows < high), (low <= columns) & (columns < high)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _rectangles(images: Tensor, probability: float) -> Tensor:
    """Return a mask [b, 1, h, w] of random erasing: with this probability, True in a rectangle inside the image."""
    (count, _, height, width), device = images.shape, images.device
    uniform = torch.rand(4, ERASING_TRIALS, count, device=device)
    area = (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * uniform[0]) * height * width
    ratio = torch.exp(math.log(ERASED_RATIO[0]) + math.log(ERASED_RATIO[1] / ERASED_RATIO[0]) * uniform[1])
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    chosen = fits.float().argmax(0)[None]  # the first that fits
    tall, wide, top, left = (each.gather(0, chosen)[0] for each in (heights, widths, uniform[2], uniform[3]))
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    erased = fits.any(0) & (torch.rand(count, device=device) < probability)
    return (in_rows[:, :, None] & in_columns[:, None, :] & erased[:, None, None])[:, None]


def samples(
    dataset: Dataset, columns: int, seed: int, settings: Augment | None = None
) -> list[UInt8[np.ndarray, "k c h w"]]:
    """Return random images of each class, a row per class, for figures: `columns` images, or all if there are fewer.

    With `settings`, a row is `columns` augmented versions of one image.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for label in range(len(dataset.classes)):
        members = generator.permutation(np.flatnonzero(dataset.labels == label))
        images = dataset.images[members[: columns if settings is None else 1]]
        if settings is not None:
            with torch.random.fork_rng():
                torch.manual_seed(seed + label)
                versions = distort(torch.from_numpy(images.repeat(columns, axis=0)), settings)
                versions = augment(versions.float(), settings)
            images = versions.round().clamp(0, 255).to(torch.uint8).numpy()
        rows.append(images)
    return rows
