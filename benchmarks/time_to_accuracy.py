"""Measure the seconds of training to 90 and 94 % on CIFAR-10, over several seeds.

    python benchmarks/time_to_accuracy.py                       # fast90 and fast94, five seeds each
    python benchmarks/time_to_accuracy.py fast90 --seeds 10 --device cuda

Each seed runs in a process of its own, `cifarlab train RECIPE --seed N`. Three times are reported:

- train: from the first step to the last, as speed-runs count it. It includes shuffling and augmentation, but not
  loading the data, validation and the final test.
- start: from the start of the process to the first step: imports, data, first weights.
- whole: the whole process, including validation after every epoch, the test, figures and the report.

Results are means with standard deviation and Student's 95 % interval. The speed of a shared machine varies, so the
convolution peak of `cifarlab bench` is measured before each training and reported too.

A long measurement can be interrupted: finished runs are not trained again, and their `start`, `whole`, `memory_gb` and
`peak` are stored in their folders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cifarlab.device import choose_device, precision_of
from cifarlab.experiments.bench import measure_peak
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.significance import estimate

TARGETS = {"fast90": 0.90, "fast94": 0.94}
SECONDS_FOR_PEAK = 3.0


def train(recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one seed in a process of its own, unless its run is finished, and return its results."""
    settings = arguments.set or []
    run = arguments.runs / "-".join([recipe, *settings, str(seed)]).replace("=", "-")
    kept = run / "process.json"
    if not (kept.exists() and RunFolder(run).status == "finished"):
        command = [sys.executable, "-m", "cifarlab", "train", recipe, "--seed", str(seed), "--device", arguments.device]
        command += ["--runs", str(arguments.runs), "--name", run.name, "--force"]
        for setting in settings:
            command += ["--set", setting]
        kept.unlink(missing_ok=True)
        device = choose_device(arguments.device)
        peak = measure_peak(precision_of("auto", device), device, SECONDS_FOR_PEAK).convolution
        measured = _watch(command) | {"peak": peak}
        kept.write_text(json.dumps(measured))
    folder = RunFolder(run)
    measured = json.loads(kept.read_text())
    return {
        "seed": seed,
        "accuracy": folder.results["test_accuracy"],
        "train": folder.results["train_seconds"],
        **measured,
        "environment": folder.record.environment.items(),
        "protocol": folder.record.protocol,
        "tta": folder.results["tta"],
    }


def _watch(command: list[str]) -> dict[str, float]:
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seconds_to_first_step = None
    for line in process.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if seconds_to_first_step is None and "protocol" in line:  # printed just before the first step
            seconds_to_first_step = time.monotonic() - start
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or seconds_to_first_step is None:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    whole, memory = time.monotonic() - start, usage.ru_maxrss * 1024 / 1e9
    return {"start": seconds_to_first_step, "whole": whole, "memory_gb": memory}


def main() -> None:
    """Train all seeds, and print one JSON document per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a recipe setting")
    parser.add_argument("--runs", type=Path, default=Path("runs/time-to-accuracy"))
    arguments = parser.parse_args()
    for recipe in arguments.recipes:
        trainings = [train(recipe, seed, arguments) for seed in range(arguments.seeds)]
        document: dict[str, Any] = {"recipe": recipe, "target": TARGETS.get(recipe), "seeds": len(trainings)}
        document |= {key: trainings[0][key] for key in ("protocol", "tta", "environment")}
        for key in ("accuracy", "train", "start", "whole", "peak"):
            document[key] = asdict(estimate([training[key] for training in trainings]))
        document["memory_gb"] = max(training["memory_gb"] for training in trainings)
        document["accuracies"] = [training["accuracy"] for training in trainings]
        print(json.dumps(document, indent=2), flush=True)


if __name__ == "__main__":
    main()
