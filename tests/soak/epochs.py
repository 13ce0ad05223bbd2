"""The cost of an epoch in a long training: the last hundred epochs against the first, and the bytes written.

python tests/soak/epochs.py --epochs 3000
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import cifarlab

IMAGES = 200
COMPARED = 100  # epochs


class Clock:
    """Remembers when each epoch ended."""

    is_optional = True

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_epoch_end(self, run: Any, row: Any) -> None:
        self.times.append(time.monotonic())


def main() -> None:
    """Train on a few digits, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=3_000)
    given = parser.parse_args()
    digits, clock = cifarlab.load_data("digits", quiet=True).train, Clock()
    recipe = cifarlab.recipe("lenet5", epochs=given.epochs, keep="last")
    with tempfile.TemporaryDirectory() as folder:
        data = digits.images[:IMAGES], digits.labels[:IMAGES]
        run = cifarlab.train(recipe, data=data, runs=Path(folder), callbacks=[clock], quiet=True)
        epochs = len(run.history)
    times = np.array([after - before for before, after in itertools.pairwise(clock.times)])
    first, last = times[1:COMPARED].mean(), times[-COMPARED:].mean()  # the very first draws a figure
    written = int(next(line for line in Path("/proc/self/io").read_text().splitlines() if "wchar" in line).split()[1])
    result = {"epochs": epochs, "seconds an epoch, first": first, "last": last, "ratio": last / first}
    print(json.dumps({**result, "bytes written": written}, indent=2))


if __name__ == "__main__":
    main()
