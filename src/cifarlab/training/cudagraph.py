"""Record a training step once on a GPU and repeat it as a CUDA graph.

The step of a small network is a hundred operations. Each takes the GPU microseconds, and the processor longer to
launch. A CUDA graph (`torch.cuda.CUDAGraph`) launches all of them at once. The results are the same: random numbers
come from the generator's seed at each repetition, and the learning rate is read from memory.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cifarlab.data.batches import Batch
from cifarlab.models import source_file
from cifarlab.training.state import Training

WARMUP_STEPS = 3  # taken one by one, while libraries and optimizer allocate the memory that they keep
TENSORS = ("indices", "images", "labels", "all_indices")  # of a batch, which a recorded step reads

Step = Callable[[Training, Batch], None]


def record_step(step: Step, training: Training) -> Step:
    """Return the step as a recorded graph where that is possible, else unchanged.

    A step is not recorded on a processor, with `compile`, in fp16 (its scaler asks the GPU in every step), with
    averaged weights, augmentation policies, mixed images, sharpness-aware minimisation, a layer that freezes,
    progressive resizing or Muon (whose steps differ), for a network from the user's own file (in which anything may
    differ), and with several processes (whose sums wait for each other).
    """
    recipe = training.recipe
    repeats = recipe.optimizer != "muon" and not (recipe.compile or recipe.ema or recipe.freeze_first)
    varies = recipe.sam or recipe.swa or recipe.progressive_resizing or recipe.augment.distorts or recipe.augment.mixes
    repeats = repeats and not varies and training.world.size == 1 and source_file(recipe.model) is None
    if training.device.type != "cuda" or training.scaler.is_enabled() or not repeats:
        return step
    return _RecordedStep(step)


class _RecordedStep:
    """Takes the first steps one by one, records one, and repeats it; smaller batches are not recorded."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.count = 0
        self.recorded: tuple[torch.cuda.CUDAGraph, Batch, list[Tensor]] | None = None  # with a tensor per learning rate

    def __call__(self, training: Training, batch: Batch) -> None:
        if len(batch.indices) < training.recipe.batch_size:
            self.step(training, batch)
        elif self.count < WARMUP_STEPS:
            stream = torch.cuda.Stream(training.device)  # another one, as PyTorch requires before a recording
            stream.wait_stream(torch.cuda.current_stream(training.device))
            with torch.cuda.stream(stream):
                self.step(training, batch)
            torch.cuda.current_stream(training.device).wait_stream(stream)
        else:
            self.recorded = self.recorded or self._record(training, batch)
            graph, inputs, rates = self.recorded
            for name in TENSORS:
                getattr(inputs, name).copy_(getattr(batch, name))
            for rate, group in zip(rates, training.optimizer.param_groups, strict=True):
                rate.fill_(group["lr"])
            graph.replay()
        self.count += 1

    def _record(self, training: Training, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, list[Tensor]]:
        """Record a step without taking it. The learning rate is a tensor meanwhile, and a number again afterwards."""
        groups, graph = training.optimizer.param_groups, torch.cuda.CUDAGraph()
        inputs = replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})
        numbers = [group["lr"] for group in groups]
        rates = [torch.full((), number, device=training.device) for number in numbers]
        try:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            with torch.cuda.graph(graph):
                self.step(training, inputs)
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number
        return graph, inputs, rates
