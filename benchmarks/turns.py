"""Contestants in processes of their own that take turns, so that a slow minute of the machine hits all of them.

Only the one whose turn it is computes: the others are stopped, because threads that wait by spinning would slow it.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


class Contestant:
    """A process that runs `serve`."""

    def __init__(self, command: list[str]) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)
        self.greeting = self._answer()
        """What it said of itself before its first turn."""
        self.process.send_signal(signal.SIGSTOP)

    def turn(self) -> float:
        """Seconds of one turn."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = float(self._answer())
        self.process.send_signal(signal.SIGSTOP)
        return seconds

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def serve(greeting: Any, turn: Callable[[], None]) -> None:
    """Greets, takes one turn to warm up, then one for every line on stdin, each answered with its seconds on stdout."""
    turn()
    print(json.dumps(greeting), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        turn()
        print(json.dumps(time.perf_counter() - began), flush=True)


def one_epoch(training: Any, images: Any) -> Callable[[], None]:
    """A function that trains once over the images, as this package's loop does.

    Args:
        training: a `cifarlab.training.state.Training`.
        images: its `cifarlab.data.batches.DeviceImages`.
    """
    from cifarlab.data import batches
    from cifarlab.training.loop import train_step

    recipe = training.recipe
    training.classifier.network.train()

    def turn() -> None:
        flips = recipe.augment.alternate_flip
        for batch in batches.batches(images, recipe.batch_size, recipe.seed, 0, alternate_flip=flips):
            batches.seed_step(recipe.seed, 0, batch.step)
            train_step(training, batch)

    return turn


def medians(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, float]:
    """The median seconds of each contestant's turns; they have ended then."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            taken[name].append(contestant.turn())
    for contestant in contestants.values():
        contestant.end()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
