"""Whether training by several processes reaches what one reaches: each seed both ways, and a test over seeds.

    python benchmarks/two_processes.py lenet5 --seeds 5 --set epochs=5

Every training is a process (or several, by torchrun) of its own with one thread. Prints JSON: accuracies on the test
images and seconds of both ways, and Welch's test of their difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifarlab.statistics.significance import welch


def trained(recipe: str, seed: int, processes: int, settings: list[str]) -> dict[str, Any]:
    """The results of one training."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [*start, "cifarlab", "train", recipe, "--seed", str(seed), "--name", "run", "--json"]
    for setting in settings:
        command += ["--set", setting]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        results: dict[str, Any] = json.loads((Path(folder) / "runs" / "run" / "run.json").read_text())["results"]
    return results


def main() -> None:
    """Trains seed by seed, and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="lenet5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; repeatable")
    asked = parser.parse_args()
    ways: dict[int, list[dict[str, Any]]] = {1: [], asked.processes: []}
    for seed in range(asked.seeds):
        for processes, found in ways.items():
            found.append(trained(asked.recipe, seed, processes, asked.set))
    accuracies = {processes: [each["test_accuracy"] for each in found] for processes, found in ways.items()}
    seconds = {processes: [each["train_seconds"] for each in found] for processes, found in ways.items()}
    difference = asdict(welch(accuracies[1], accuracies[asked.processes]))
    print(json.dumps({"accuracy": accuracies, "seconds": seconds, "difference": difference, **vars(asked)}))


if __name__ == "__main__":
    main()
