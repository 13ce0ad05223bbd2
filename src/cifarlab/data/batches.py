"""From a data set in memory to batches on a device: shuffle, cut, augment.

No worker processes: images this small stay on the device as bytes, and every operation takes a whole batch. All random
numbers of a step are drawn after `seed_step`, so that they depend on (seed, epoch, step) alone: resuming needs nothing
saved, not even in the middle of an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from cifarlab.data.augment import mirror
from cifarlab.data.dataset import Dataset


@dataclass(frozen=True)
class DeviceImages:
    """A data set on a device."""

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def to_device(dataset: Dataset, device: torch.device) -> DeviceImages:
    """Copies a data set to a device, images with channels last, which the convolutions here compute fastest in."""
    images = torch.from_numpy(np.array(dataset.images))  # a copy: a memory-mapped file cannot be a tensor's memory
    labels = torch.from_numpy(dataset.labels)
    return DeviceImages(images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device))


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed of 64 bits for one purpose of a run, unlike those for all others."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_step(seed: int, epoch: int, step: int, part: tuple[int, int] = (0, 1)) -> None:
    """Sets PyTorch's generators, of every device, to the numbers of one training step (augmentation, dropout).

    Args:
        seed: of the run.
        epoch: counts from 0.
        step: of the epoch, counts from 0.
        part: which of how many processes draws; each draws other numbers.
    """
    number = seed_for(seed, "step", epoch, step, *part[:1] * (part[1] > 1))
    # Not `torch.manual_seed`, which takes longer than a step of a small network where there is no GPU.
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        generator.manual_seed(number)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many batches `batches` cuts from so many images."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or images == 1)


@dataclass(frozen=True)
class Batch:
    """What one step trains on."""

    step: int
    """Its number in the epoch, from 0."""
    which: Int64[Tensor, " b"]
    """The images' numbers in the data set."""
    images: UInt8[Tensor, "b 3 h w"]
    labels: Int64[Tensor, " b"]
    whole: Int64[Tensor, " all"]
    """The images' numbers over all processes: `which` where there is one."""


def without_easy(losses: Float[Tensor, " n"], share: float, seed: int, epoch: int) -> Int64[Tensor, " kept"]:
    """The images that an epoch trains on when it leaves easy ones out: Qin et al. 2024 (InfoBatch).

    Args:
        losses: of each image, when it was last seen.
        share: of all images to leave out, drawn at random from those with less than the mean loss; no others go.
        seed: of the run.
        epoch: draws anew in each.
    """
    easy = (losses < losses.mean()).cpu().nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed_for(seed, "easy", epoch))
    left_out = easy[torch.randperm(len(easy), generator=generator)[: round(share * len(losses))]]
    kept = torch.ones(len(losses), dtype=torch.bool)
    kept[left_out] = False
    return kept.nonzero()[:, 0].to(losses.device)


def batches(
    data: DeviceImages,
    batch_size: int,
    seed: int,
    epoch: int,
    first: int = 0,
    *,
    alternate_flip: bool = False,
    kept: Int64[Tensor, " kept"] | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The batches of one epoch in their random order.

    The last may be smaller. A single image left over waits for another epoch, because batch normalisation cannot work
    with one.

    Args:
        data: all training images.
        batch_size: images a batch.
        seed: of the run.
        epoch: counts from 0; each has an order of its own.
        first: the number of the first batch wanted, to go on in the middle.
        alternate_flip: mirror half of the images, chosen by the seed, in even epochs, and the other half in odd ones.
        kept: the numbers of the images to train on; all by default.
        part: which of how many parts of each batch to give; they differ by one image at most, and may be empty.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "order", epoch))
    order = torch.randperm(len(data) if kept is None else len(kept), generator=generator).to(data.labels.device)
    order = order if kept is None else kept[order]
    if alternate_flip:
        coins = torch.Generator().manual_seed(seed_for(seed, "flip"))
        mirrored = (torch.rand(len(data), generator=coins) < 0.5).to(data.labels.device) ^ bool(epoch % 2)
    for step in range(first, steps_per_epoch(len(order), batch_size)):
        whole = order[step * batch_size : (step + 1) * batch_size]
        chosen = whole.tensor_split(part[1])[part[0]]
        images = data.images[chosen]
        if alternate_flip:
            images = mirror(images, mirrored[chosen])
        yield Batch(step, chosen, images, data.labels[chosen], whole)
