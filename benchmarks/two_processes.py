"""Compare the accuracy of training with one process and with several, by a test over seeds.

    python benchmarks/two_processes.py lenet5 --seeds 5 --set epochs=5

Every seed is trained in both ways. Each training runs in processes of its own with one thread each, started by torchrun
if there are several. Prints JSON: test accuracies and seconds of both ways, and Welch's t-test of their difference.
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
    """Train a recipe once, and return its results."""
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
    """Train all seeds, and print accuracies, seconds and their test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="lenet5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe setting")
    arguments = parser.parse_args()
    results: dict[int, list[dict[str, Any]]] = {1: [], arguments.processes: []}
    for seed in range(arguments.seeds):
        for processes, rows in results.items():
            rows.append(trained(arguments.recipe, seed, processes, arguments.set))
    accuracies = {processes: [row["test_accuracy"] for row in rows] for processes, rows in results.items()}
    seconds = {processes: [row["train_seconds"] for row in rows] for processes, rows in results.items()}
    difference = asdict(welch(accuracies[1], accuracies[arguments.processes]))
    print(json.dumps({"accuracy": accuracies, "seconds": seconds, "difference": difference, **vars(arguments)}))


if __name__ == "__main__":
    main()
