"""MixUp and CutMix: each image of a batch is mixed with another one, and so are their labels."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cifarlab.recipes import Augment


class Mixed(NamedTuple):
    """A batch in which a share of each image, and of its loss, belongs to its own label, and the rest to another."""

    images: Float[Tensor, "b c h w"]
    others: Int64[Tensor, " b"]  # labels of the images that were mixed in
    share: float


def mix(images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"], settings: Augment) -> Mixed | None:
    """Mix the images of a batch at random; return None if the settings ask for neither way. With both, one is drawn.

    The share of the own image is drawn from a beta distribution, once for the batch, as in the papers' code.
    """
    ways = [(alpha, way) for alpha, way in ((settings.mixup, _mixup), (settings.cutmix, _cutmix)) if alpha]
    if not ways or len(images) < 2:
        return None
    alpha, way = ways[int(torch.randint(len(ways), ()))]
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(images), device=images.device)
    mixed, share = way(images, images[order], share)
    return Mixed(mixed, labels[order], share)


def _mixup(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Add the two images, weighted: Zhang et al. 2017 (arXiv 1710.09412)."""
    return share * images + (1 - share) * others, share


def _cutmix(images: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """Put a rectangle of the other image into each: Yun et al. 2019 (arXiv 1905.04899)."""
    height, width = images.shape[2:]
    side = (1 - share) ** 0.5
    middle_y, middle_x = int(torch.randint(height, ())), int(torch.randint(width, ()))
    cut_height, cut_width = int(side * height), int(side * width)
    top, bottom = max(0, middle_y - cut_height // 2), min(height, middle_y + cut_height // 2)
    left, right = max(0, middle_x - cut_width // 2), min(width, middle_x + cut_width // 2)
    images = images.clone()
    images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)
