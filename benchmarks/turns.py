"""Contestants of a benchmark, which take turns, so that a slow minute of the machine affects all of them.

Each contestant runs in a process of its own. Only one of them computes at a time. The others are stopped by a signal,
because threads that wait in a busy loop would slow it down.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Contestant:
    """A process that runs `serve`."""

    def __init__(self, command: list[str]) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)
        self.greeting = self._answer()
        """The first value that the process sent, such as its number of images per turn."""
        self.process.send_signal(signal.SIGSTOP)

    def turn(self) -> float:
        """Let the process take one turn, and return its duration in seconds."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = float(self._answer())
        self.process.send_signal(signal.SIGSTOP)
        return seconds

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def serve(greeting: Any, turn: Callable[[], None]) -> None:
    """Take one turn to warm up, print the greeting, then take a turn for every line on stdin and print its seconds."""
    turn()
    print(json.dumps(greeting), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        turn()
        print(json.dumps(time.perf_counter() - start), flush=True)


def one_epoch(training: Any, images: Any) -> Callable[[], None]:
    """Return a function that trains for one epoch with the steps of cifarlab's training loop.

    Args:
        training: a `cifarlab.training.state.Training`.
        images: its images, `cifarlab.data.batches.DeviceImages`.
    """
    from cifarlab.data import batches
    from cifarlab.training.loop import epoch_batches, train_step

    training.classifier.network.train()

    def turn() -> None:
        for batch in epoch_batches(training, images, epoch=0):
            batches.seed_step(training.recipe.seed, 0, batch.step)
            train_step(training, batch)

    return turn


def training_turn(recipe: Any, images: Any, labels: Any) -> tuple[int, Callable[[], None]]:
    """Return the number of parameters, and a function that trains for one epoch with cifarlab on a processor.

    Args:
        recipe: a `cifarlab.Recipe` for ten classes.
        images: uint8 [n, 3, 32, 32].
        labels: int64 [n].
    """
    import torch

    from cifarlab.data import batches
    from cifarlab.data.dataset import Dataset
    from cifarlab.device import keep_freed_memory
    from cifarlab.models.summary import count_parameters
    from cifarlab.training.preparation import prepare_images
    from cifarlab.training.state import begin

    keep_freed_memory()
    dataset, device = Dataset(images, labels, tuple(map(str, range(10)))), torch.device("cpu")
    training, data = begin(prepare_images(recipe, dataset, device)), batches.to_device(dataset, device)
    return count_parameters(training.classifier.network), one_epoch(training, data)


def medians(contestants: Mapping[Key, Contestant], rounds: int) -> dict[Key, float]:
    """Return the median seconds of each contestant's turns, and end the contestants."""
    times: dict[Key, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            times[name].append(contestant.turn())
    for contestant in contestants.values():
        contestant.end()
    return {name: statistics.median(seconds) for name, seconds in times.items()}
