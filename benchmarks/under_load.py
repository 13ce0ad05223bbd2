"""Measure training speed beside busy programs: cifarlab's own choice, every fixed choice, Keras, and a PyTorch loop.

    pip install -r benchmarks/requirements.txt
    python benchmarks/under_load.py

For each recipe and each number of busy processes, all contestants start anew, so that `cifarlab auto` measures under
that load what is fastest. They then take turns for several rounds. The results are medians in images a second, and:

- auto / best: the speed of the choice of `auto` to that of the best fixed precision and number of threads;
- auto / quiet: its speed to that without a busy process;
- auto / Keras: its speed to that of Keras on TensorFlow in its better precision. `fast90` has no twin in Keras.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Contestant, medians, one_epoch, serve
from versus_keras import RECIPES, dataloader_turn, keras_turn

IMAGES = {"relabel/cifar10": 6_400, "keras4": 1_600, "keras6": 1_600, "fast90": 1_000}  # of a turn
TWINS = {recipe: model for model, recipe in RECIPES.items()}  # networks of Keras and PyTorch
BATCH = 32  # of the twins and of the recipes that have one
PROGRAMS = ("cifarlab", "keras", "dataloader")
BUSY = "while True: pass"
Turn = Callable[[], None]


def cifarlab_turn(recipe_name: str, choice: str, images: Any, labels: Any) -> tuple[str, Turn]:
    """Return what is computed with, and a function that trains for one epoch; `choice` is `auto` or `fp32-2`."""
    import torch

    from cifarlab import recipes
    from cifarlab.data import batches
    from cifarlab.data.dataset import Dataset
    from cifarlab.device import keep_freed_memory
    from cifarlab.training import speed
    from cifarlab.training.loop import one_step
    from cifarlab.training.preparation import prepare_images
    from cifarlab.training.state import begin

    keep_freed_memory()
    recipe = recipes.load(recipe_name)
    dataset, device = Dataset(images, labels, tuple(map(str, range(10)))), torch.device("cpu")
    training, data = begin(prepare_images(recipe, dataset, device)), batches.to_device(dataset, device)
    precision, _, threads = choice.partition("-")
    if choice == "auto":
        rates = speed.measure(training, one_step(training, data), speed.choices(recipe, device), 3.0)
        computed = speed.computation(rates)
        precision, threads = computed.precision, str(computed.threads)
    speed.compute_with(training, precision, int(threads))
    return f"{precision}-{threads}", one_epoch(training, data)


def work(recipe: str, contestant: str, file: str) -> None:
    """Run a contestant in this process."""
    import numpy as np

    arrays = np.load(file)
    images, labels = (arrays[key][: IMAGES[recipe]] for key in ("images", "labels"))
    program, choice = contestant.split()
    if program == "cifarlab":
        serve(*cifarlab_turn(recipe, choice, images, labels))
    else:
        make = keras_turn if program == "keras" else dataloader_turn
        serve("", make(TWINS[recipe], choice, images, labels, BATCH)[1])


def measure(recipe: str, busy: int, file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the images per second of every contestant beside this number of busy processes, and what auto chose."""
    import torch

    from cifarlab import recipes
    from cifarlab.training import speed

    fixed = speed.choices(recipes.load(recipe), torch.device("cpu"))
    names = ["cifarlab auto", *(f"cifarlab {precision}-{threads}" for precision, threads in fixed)]
    if recipe in TWINS:
        names += ["keras fp32", "keras bf16", "dataloader fp32"]
    names = [name for name in names if name.split()[0] in arguments.programs]
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        contestants = {}
        for name in names:
            python = arguments.keras_python if name.startswith("keras") else sys.executable
            contestants[name] = Contestant([python, __file__, "--worker", recipe, name, str(file)])
        chosen = contestants["cifarlab auto"].greeting
        seconds = medians(contestants, arguments.rounds)
    finally:
        for other in others:
            other.kill()
    return {"chosen": chosen, "images/s": {name: round(IMAGES[recipe] / each) for name, each in seconds.items()}}


def main() -> None:
    """Print one JSON document for each recipe and number of busy processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(IMAGES), choices=list(IMAGES))
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keras-python", default=sys.executable, help="a Python that has Keras; default: this Python")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    import numpy as np

    from cifarlab import load_data

    train, most = load_data("cifar10", quiet=True).train, max(IMAGES.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, images=train.images[:most], labels=train.labels[:most])
        for recipe in arguments.recipes:
            quiet = None
            for busy in arguments.busy:
                result = measure(recipe, busy, file, arguments)
                rates = result["images/s"]
                auto = rates["cifarlab auto"]
                best = {
                    program: max(
                        rate for name, rate in rates.items() if name.startswith(program) and name != "cifarlab auto"
                    )
                    for program in {name.split()[0] for name in rates}
                }
                quiet = auto if busy == 0 else quiet
                ratios = {"auto / best": auto / best["cifarlab"]}
                ratios |= {"auto / quiet": auto / quiet} if quiet else {}
                ratios |= {f"auto / {name}": auto / best[name] for name in ("keras", "dataloader") if name in best}
                rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
                print(json.dumps({"recipe": recipe, "busy": busy, **result, "ratios": rounded}), flush=True)


if __name__ == "__main__":
    main()
