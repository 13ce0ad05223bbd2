"""What a study costs beside its trainings: the same runs by a loop over `cifarlab.train` and as a study, in turns.

    python benchmarks/study_overhead.py --runs 4 --epochs 20 --rounds 3

Both are processes of their own, timed from start to end. The study has one worker. Prints JSON: the seconds of every
turn, and the ratio of the medians, study over loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

LOOP = """import sys, cifarlab
runs, settings = int(sys.argv[1]), dict(dataset=sys.argv[2], epochs=int(sys.argv[3]))
for seed in range(runs):
    cifarlab.train(cifarlab.recipe("lenet5", seed=seed, **settings), name=f"seed={seed}", quiet=True)
"""
STUDY = """import sys, cifarlab
runs, settings = int(sys.argv[1]), dict(dataset=sys.argv[2], epochs=int(sys.argv[3]))
found = cifarlab.run_study("lenet5", set=settings, vary={"seed": range(runs)}, quiet=True)
assert not found.failed
"""


def seconds_of(script: str, arguments: list[str]) -> float:
    """How long a script takes in a new process and an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", script, *arguments], cwd=folder, check=True)
        return time.perf_counter() - began


def main() -> None:
    """Takes turns, the first of each pair changing, and prints what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4, help="trainings in a turn")
    parser.add_argument("--epochs", type=int, default=20, help="of each")
    parser.add_argument("--data", default="digits", help="digits or cifar10")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way")
    chosen = parser.parse_args()
    arguments = [str(chosen.runs), chosen.data, str(chosen.epochs)]
    taken: dict[str, list[float]] = {"loop": [], "study": []}
    for turn in range(chosen.rounds):
        pair = [("loop", LOOP), ("study", STUDY)]
        for name, script in pair if turn % 2 == 0 else reversed(pair):
            taken[name].append(seconds_of(script, arguments))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    print(json.dumps({"seconds": taken, "study / loop": medians["study"] / medians["loop"], **vars(chosen)}))


if __name__ == "__main__":
    main()
