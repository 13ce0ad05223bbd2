"""Record a training step once on a GPU and repeat it as a CUDA graph.

The step of a small network is a hundred operations. Each takes the GPU microseconds, and the processor longer to
launch. A CUDA graph (`torch.cuda.CUDAGraph`) launches all of them at once. The results are the same: random numbers
come from the generator's seed at each repetition, and the learning rate is read from memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cifarlab.data.batches import Batch
from cifarlab.models import source_file
from cifarlab.training.state import Training

WARMUP_STEPS = 3  # taken one by one, while libraries and optimizer allocate the memory that they keep

Step = Callable[[Training, Batch], None]


def record_step(step: Step, training: Training) -> Step:
    """Return the step as a recorded graph where that is possible, else unchanged.

    A step is not recorded on a processor, with `compile`, in fp16 (its scaler asks the GPU in every step), with
    averaged weights, a layer that freezes or Muon (whose steps differ), for a network from the user's own file (in
    which anything may differ), and with several processes (whose sums wait for each other).
    """
    recipe = training.recipe
    repeats = recipe.optimizer != "muon" and not (recipe.compile or recipe.ema or recipe.freeze_first)
    repeats = repeats and training.world.size == 1 and source_file(recipe.model) is None
    if training.device.type != "cuda" or training.scaler.is_enabled() or not repeats:
        return step
    return _RecordedStep(step)


class _RecordedStep:
    """Takes the first steps one by one, records one, and repeats it; smaller batches are not recorded."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.count = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None
        self.rates: list[Tensor] = []

    def __call__(self, training: Training, batch: Batch) -> None:
        if len(batch.indices) < training.recipe.batch_size:
            self.step(training, batch)
        elif self.count < WARMUP_STEPS:
            self._warm_up(training, batch)
        else:
            if self.batch is None or self.graph is None:
                self._record(training, batch)
            assert self.batch is not None and self.graph is not None
            for recorded, current in zip(_tensors(self.batch), _tensors(batch), strict=True):
                recorded.copy_(current)
            for rate, group in zip(self.rates, training.optimizer.param_groups, strict=True):
                rate.fill_(group["lr"])
            self.graph.replay()
        self.count += 1

    def _warm_up(self, training: Training, batch: Batch) -> None:
        """Take a step on another stream, as PyTorch requires of the steps before a recording."""
        stream = torch.cuda.Stream(training.device)
        stream.wait_stream(torch.cuda.current_stream(training.device))
        with torch.cuda.stream(stream):
            self.step(training, batch)
        torch.cuda.current_stream(training.device).wait_stream(stream)

    def _record(self, training: Training, batch: Batch) -> None:
        """Record a step without taking it. The learning rate is a tensor meanwhile, and a number again afterwards."""
        groups = training.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        self.rates = [torch.full((), number, device=training.device) for number in numbers]
        indices, images, labels = (tensor.clone() for tensor in _tensors(batch))
        self.batch = Batch(batch.step, indices, images, labels, batch.all_indices)
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
