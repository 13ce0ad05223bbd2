"""Random changes of a batch of training images, and examples of them for a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from cifarlab.data.dataset import Dataset


def augment(
    images: Float[Tensor, "b c h w"],
    *,
    flip: bool = False,
    shift: float = 0.0,
    rotation: float = 0.0,
    crop: int = 0,
    border: str = "zero",
    cutout: int = 0,
) -> Float[Tensor, "b c h w"]:
    """Changes each image of a batch at random; the arguments mean what they mean in `recipes.Augment`."""
    if not len(images):  # a part of a small batch
        return images
    if shift or rotation:
        images = _move(images, shift, rotation)
    if crop:
        images = _crop(images, crop, border)
    if flip:
        images = mirror(images, torch.rand(len(images), device=images.device) < 0.5)
    if cutout:
        images = images.masked_fill(_squares(images, cutout), 0)
    return images


def mirror(images: Float[Tensor, "b c h w"] | UInt8[Tensor, "b c h w"], which: Bool[Tensor, " b"]) -> Tensor:
    """Return the images, those where `which` is True mirrored left to right."""
    return torch.where(which.view(-1, 1, 1, 1), images.flip(3), images)


def _move(images: Tensor, shift: float, rotation: float) -> Tensor:
    """Rotates about the centre and shifts, between pixels bilinearly, as Keras's image generator does."""
    count = len(images)
    angle = (torch.rand(count, device=images.device) * 2 - 1) * math.radians(rotation)
    by = (torch.rand(count, 2, device=images.device) * 2 - 1) * shift * 2  # grid_sample's image is 2 wide
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos, -sin, by[:, 0], sin, cos, by[:, 1]], dim=1).view(count, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _crop(images: Tensor, pixels: int, border: str) -> Tensor:
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels, pixels, pixels, pixels), mode="reflect" if border == "reflect" else "constant")
    top, left = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)  # [b, h]
    columns = left + torch.arange(width, device=images.device)  # [b, w]
    image = torch.arange(count, device=images.device)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # [b, h, w, c]
    return cut.permute(0, 3, 1, 2)


def _squares(images: Tensor, side: int) -> Tensor:
    """A mask [b, 1, h, w], true in a square around a random pixel of each image; it may reach over the edge."""
    count, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - torch.randint(0, height, (count, 1), device=images.device)
    columns = torch.arange(width, device=images.device) - torch.randint(0, width, (count, 1), device=images.device)
    low, high = -(side // 2), side - side // 2
    in_rows, in_columns = (low <= rows) & (rows < high), (low <= columns) & (columns < high)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def samples(
    dataset: Dataset, columns: int, seed: int, changes: Mapping[str, Any] | None = None
) -> list[UInt8[np.ndarray, "k 3 h w"]]:
    """Random images of each class, for a picture.

    Args:
        dataset: to choose from.
        columns: images of each class; fewer where there are fewer.
        seed: decides which.
        changes: what `augment` takes, to see so many versions of one image of each class instead.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for label in range(len(dataset.classes)):
        members = generator.permutation(np.flatnonzero(dataset.labels == label))
        images = dataset.images[members[: columns if changes is None else 1]]
        rows.append(images if changes is None else _versions(images, columns, seed + label, changes))
    return rows


def _versions(
    image: UInt8[np.ndarray, "1 3 h w"], count: int, seed: int, changes: Mapping[str, Any]
) -> UInt8[np.ndarray, "count 3 h w"]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        changed = augment(torch.from_numpy(np.repeat(image, count, axis=0)).float(), **changes)
    return changed.round().clamp(0, 255).to(torch.uint8).numpy()
