"""Batches on a device: copy a data set there, shuffle it for each epoch, and cut it into batches.

No worker processes: images this small stay on the device as bytes, and every operation takes a whole batch. All random
numbers of a step depend on (seed, epoch, step) alone, so that resuming in the middle of an epoch needs nothing saved.
"""

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

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)


def to_device(dataset: Dataset, device: torch.device) -> DeviceImages:
    """Copy a data set to a device, with channels last in memory, because convolutions are fastest so."""
    images = torch.from_numpy(np.array(dataset.images))  # a copy, because a tensor cannot use a memory-mapped file
    labels = torch.from_numpy(dataset.labels)
    return DeviceImages(images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device))


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed below 2**63 for one purpose of a run, independent of the seeds for its other purposes."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_step(seed: int, epoch: int, step: int, part: tuple[int, int] = (0, 1)) -> None:
    """Seed PyTorch's default generators on every device for one step; `part` is rank and number of ranks."""
    number = seed_for(seed, "step", epoch, step, *part[:1] * (part[1] > 1))
    # `torch.manual_seed` would take longer than a step of a small network on machines without a GPU.
    for generator in (torch.default_generator, *torch.cuda.default_generators):
        generator.manual_seed(number)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return how many batches `batches` makes of this number of images."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or images == 1)


@dataclass(frozen=True)
class Batch:
    """One step's images. With several processes, each holds its part of the batch."""

    step: int  # number of the batch in the epoch, from 0
    indices: Int64[Tensor, " b"]  # places of the images in the data set
    images: UInt8[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]
    all_indices: Int64[Tensor, " all"]  # those of all processes

    def first(self, count: int) -> "Batch":
        """Return a batch of only this number of images, of one process."""
        return Batch(self.step, *(each[:count] for each in (self.indices, self.images, self.labels, self.all_indices)))

    def mean(self, values: Float[Tensor, " b"]) -> Float[Tensor, ""]:
        """Return this process's summand of the mean over the images of all processes."""
        if len(values) == len(self.all_indices):
            return values.mean()
        return values.sum() / len(self.all_indices)


def without_easy(losses: Float[Tensor, " n"], share: float, seed: int, epoch: int) -> Int64[Tensor, " kept"]:
    """Return the indices of an epoch's images when easy images are left out at random, after Qin et al. 2024.

    From the images whose last known loss is below the mean, a `share` of all images is drawn, or all of them if they
    are fewer. Each epoch draws anew.
    """
    easy = (losses < losses.mean()).cpu().nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed_for(seed, "easy", epoch))
    left_out = easy[torch.randperm(len(easy), generator=generator)[: round(share * len(losses))]]
    kept = torch.ones(len(losses), dtype=torch.bool)
    kept[left_out] = False
    return kept.nonzero()[:, 0].to(losses.device)


def batches(
    data: DeviceImages,
    batch_size: int,  # over all ranks
    seed: int,
    epoch: int,
    first: int = 0,  # number of the first batch to yield, to continue in the middle of an epoch
    *,
    alternate_flip: bool = False,  # mirror a random half of the images in even epochs, the other half in odd epochs
    kept: Int64[Tensor, " kept"] | None = None,  # indices of the images to train on; by default all
    part: tuple[int, int] = (0, 1),  # rank and number of ranks
) -> Iterator[Batch]:
    """Yield the batches of one epoch in random order, or one rank's parts of them, of which some may be empty.

    The last batch may be smaller. A single image left over is not used in this epoch, because batch normalisation needs
    at least two.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "order", epoch))
    order = torch.randperm(len(data) if kept is None else len(kept), generator=generator).to(data.labels.device)
    order = order if kept is None else kept[order]
    if alternate_flip:
        coins = torch.Generator().manual_seed(seed_for(seed, "flip"))
        mirrored = (torch.rand(len(data), generator=coins) < 0.5).to(data.labels.device) ^ bool(epoch % 2)
    for step in range(first, steps_per_epoch(len(order), batch_size)):
        all_indices = order[step * batch_size : (step + 1) * batch_size]
        chosen = all_indices.tensor_split(part[1])[part[0]]
        images = data.images[chosen]
        if alternate_flip:
            images = mirror(images, mirrored[chosen])
        yield Batch(step, chosen, images, data.labels[chosen], all_indices)
