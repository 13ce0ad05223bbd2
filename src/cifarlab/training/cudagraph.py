"""A training step that a GPU records once and then repeats by itself.

A small network's step is a hundred operations that take the GPU microseconds each and the processor longer to ask for.
A CUDA graph (`torch.cuda.CUDAGraph`) asks for all of them at once. The numbers are the same: random numbers are those
that the generator's seed gives at each repetition, and the learning rate is read from memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cifarlab.data.batches import Batch
from cifarlab.models import is_from_file
from cifarlab.training.state import Training

STEPS_BEFORE = 3  # done one by one, in which libraries and optimizer take the memory that they keep

Step = Callable[[Training, Batch], None]


def record_step(step: Step, training: Training) -> Step:
    """The step as it is to be done: recorded where that is possible, else as it came.

    Not recorded: on a processor, with `compile`, in fp16 (whose scaler asks the GPU in every step), with averaged
    weights, a layer that freezes or Muon (whose steps differ), networks of one's own, in which anything may differ, and
    where several processes train together (their sums wait for each other).
    """
    recipe = training.recipe
    same = recipe.optimizer != "muon" and not (recipe.compile or recipe.ema or recipe.freeze_first)
    same = same and training.world.size == 1
    if training.device.type != "cuda" or training.scaler.is_enabled() or not same or is_from_file(recipe.model):
        return step
    return _Recorded(step)


class _Recorded:
    """Does the first steps one by one, records one, and repeats it with other images; a smaller batch is done alone."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.done = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None
        self.rates: list[Tensor] = []

    def __call__(self, training: Training, batch: Batch) -> None:
        if len(batch.indices) < training.recipe.batch_size:
            self.step(training, batch)
        elif self.done < STEPS_BEFORE:
            self._beside(training, batch)
        else:
            if self.batch is None or self.graph is None:
                self._record(training, batch)
            assert self.batch is not None and self.graph is not None
            for kept, given in zip(_tensors(self.batch), _tensors(batch), strict=True):
                kept.copy_(given)
            for rate, group in zip(self.rates, training.optimizer.param_groups, strict=True):
                rate.fill_(group["lr"])
            self.graph.replay()
        self.done += 1

    def _beside(self, training: Training, batch: Batch) -> None:
        """A step on another stream, as PyTorch wants the steps before a recording to be."""
        stream = torch.cuda.Stream(training.device)
        stream.wait_stream(torch.cuda.current_stream(training.device))
        with torch.cuda.stream(stream):
            self.step(training, batch)
        torch.cuda.current_stream(training.device).wait_stream(stream)

    def _record(self, training: Training, batch: Batch) -> None:
        """Records a step, which does not do it. The learning rate is a tensor in it, and a number again afterwards."""
        groups = training.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        self.rates = [torch.full((), number, device=training.device) for number in numbers]
        which, images, labels = (given.clone() for given in _tensors(batch))
        self.batch = Batch(batch.step, which, images, labels, batch.all_indices)
        self.graph = torch.cuda.CUDAGraph()
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            with torch.cuda.graph(self.graph):
                self.step(training, self.batch)
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number


def _tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.indices, batch.images, batch.labels
