"""Augmentation policies on whole batches: which operations change an image, and how strongly."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cifarlab.data.augment import operations
from cifarlab.data.augment.operations import Images

OPERATIONS = {
    "identity": operations.identity,
    "shear-x": operations.shear_x,
    "shear-y": operations.shear_y,
    "translate-x": operations.translate_x,
    "translate-y": operations.translate_y,
    "rotate": operations.rotate,
    "brightness": operations.brightness,
    "color": operations.color,
    "contrast": operations.contrast,
    "sharpness": operations.sharpness,
    "posterize": operations.posterize,
    "solarize": operations.solarize,
    "autocontrast": operations.autocontrast,
    "equalize": operations.equalize,
    "invert": operations.invert,
}
NAMES = tuple(OPERATIONS)
CHOSEN_FROM = tuple(name for name in NAMES if name != "invert")  # by RandAugment and TrivialAugment
LEVELS = 31  # of RandAugment and TrivialAugment, counted from 0
AUTO_LEVELS = 10


class Range(NamedTuple):
    """The strengths of an operation: that of the lowest and of the highest level, and whether the sign is random."""

    lowest: float
    highest: float
    signed: bool = True


def _ranges(shear: float, translate: float, rotate: float, blend: float, bits: int) -> dict[str, Range]:
    moves = {"shear-x": shear, "shear-y": shear, "translate-x": translate, "translate-y": translate, "rotate": rotate}
    blends = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend)
    signed = {name: Range(0.0, most) for name, most in (moves | blends).items()}
    return signed | {"posterize": Range(8, bits, signed=False), "solarize": Range(255.0, 0.0, signed=False)}


# AutoAugment for CIFAR-10 (Cubuk et al. 2018, arXiv 1805.09501, table 7): two operations, with probability and level.
AUTOAUGMENT = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate-x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear-y", 0.5, 8), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear-y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate-x", 0.5, 8)),
    (("equalize", 0.3, 7), ("autocontrast", 0.4, 8)),
    (("translate-y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("autocontrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 3)),
    (("translate-y", 0.9, 9), ("translate-y", 0.7, 9)),
    (("autocontrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate-y", 0.7, 9), ("autocontrast", 0.9, 1)),
)


def rand_augment(images: Images, count: int, level: int) -> Images:
    """Apply `count` random operations at one level from 0 to 30: Cubuk et al. 2019 (arXiv 1909.13719)."""
    side = images.shape[3]
    ranges = _ranges(0.3, 150 / 331 * side, 30.0, 0.9, bits=4)
    levels = torch.full((len(images),), float(level), device=images.device)
    for _ in range(count):
        chosen = torch.randint(len(CHOSEN_FROM), (len(images),), device=images.device)
        images = _apply(images, chosen, levels / (LEVELS - 1), ranges)
    return images


def trivial_augment(images: Images) -> Images:
    """Apply one random operation at a random level: TrivialAugment, wide (Müller and Hutter 2021, arXiv 2103.10158)."""
    ranges = _ranges(0.99, 32.0, 135.0, 0.99, bits=2)
    chosen = torch.randint(len(CHOSEN_FROM), (len(images),), device=images.device)
    levels = torch.randint(LEVELS, (len(images),), device=images.device)
    return _apply(images, chosen, levels / (LEVELS - 1), ranges)


def auto_augment(images: Images) -> Images:
    """Apply one of 25 pairs of operations, each operation with its probability and level: `AUTOAUGMENT`."""
    ranges = _ranges(0.3, 150 / 331 * images.shape[3], 30.0, 0.9, bits=4)
    pairs = torch.randint(len(AUTOAUGMENT), (len(images),), device=images.device)
    for place in (0, 1):
        steps = [pair[place] for pair in AUTOAUGMENT]
        chosen = torch.tensor([NAMES.index(name) for name, _, _ in steps], device=images.device)[pairs]
        likely = torch.tensor([probability for _, probability, _ in steps], device=images.device)[pairs]
        levels = torch.tensor([level for _, _, level in steps], device=images.device)[pairs]
        chosen = torch.where(torch.rand(len(images), device=images.device) < likely, chosen, NAMES.index("identity"))
        images = _apply(images, chosen, levels / (AUTO_LEVELS - 1), ranges)
    return images


def _apply(
    images: Images, chosen: Int64[Tensor, " n"], levels: Float[Tensor, " n"], ranges: Mapping[str, Range]
) -> Images:
    """Apply to each image its operation, the number of a name, at its level, a share of the highest."""
    signs = 1 - 2 * torch.randint(2, levels.shape, device=levels.device)
    images = images.clone()
    for number in chosen.unique().tolist():
        members = (chosen == number).nonzero()[:, 0]
        lowest, highest, signed = ranges.get(NAMES[number], Range(0.0, 0.0))
        strengths = lowest + (highest - lowest) * levels[members]
        strengths = strengths * signs[members] if signed else strengths
        images[members] = OPERATIONS[NAMES[number]](images[members], strengths)
    return images
