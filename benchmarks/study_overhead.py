"""Measure the overhead of a study: the same runs one by one and as a study with one worker, in turns.

    python benchmarks/study_overhead.py --runs 6 --epochs 3 --rounds 3

There are two ways to train one by one: the command `cifarlab train` for each run, and one Python process with a loop
over `cifarlab.train`. Times are measured from the start of the processes to their end. Prints JSON: the seconds of
every turn, and the ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = """import subprocess, sys
runs, data, epochs = sys.argv[1:]
for seed in range(int(runs)):
    command = ["train", "lenet5", "--data", data, "--set", f"epochs={epochs}", "--seed", str(seed), "--json"]
    subprocess.run([sys.executable, "-m", "cifarlab", *command], check=True, capture_output=True)
"""
LOOP = """import sys, cifarlab
runs, settings = int(sys.argv[1]), dict(dataset=sys.argv[2], epochs=int(sys.argv[3]))
for seed in range(runs):
    cifarlab.train(cifarlab.recipe("lenet5", seed=seed, **settings), name=f"seed={seed}", quiet=True)
"""
STUDY = """import sys, cifarlab
runs, settings = int(sys.argv[1]), dict(dataset=sys.argv[2], epochs=int(sys.argv[3]))
study = cifarlab.run_study("lenet5", set=settings, vary={"seed": range(runs)}, quiet=True)
assert not study.failed
"""


def seconds_of(script: str, arguments: list[str]) -> float:
    """Return the seconds that a script takes in a new process and an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, *arguments], cwd=folder, check=True)
        return time.perf_counter() - start


def main() -> None:
    """Run all ways in turns, in alternating order, and print their times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6, help="trainings per turn")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training")
    parser.add_argument("--data", default="cifar10", help="cifar10 or digits")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each way")
    chosen = parser.parse_args()
    arguments = [str(chosen.runs), chosen.data, str(chosen.epochs)]
    ways = {"commands": COMMANDS, "loop": LOOP, "study": STUDY}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(chosen.rounds):
        for name in ways if turn % 2 == 0 else reversed(ways):
            times[name].append(seconds_of(ways[name], arguments))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratios = {f"study / {name}": medians["study"] / medians[name] for name in ("commands", "loop")}
    print(json.dumps({"seconds": times, **ratios, **vars(chosen)}))


if __name__ == "__main__":
    main()
