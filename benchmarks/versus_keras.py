"""Compare the training speed of the same networks in cifarlab, Keras 3 on TensorFlow, and a plain PyTorch loop.

    pip install -r benchmarks/requirements.txt
    python benchmarks/versus_keras.py
    python benchmarks/versus_keras.py --accuracy      # test accuracy of 10 epochs in fp32 and bf16, 3 seeds each

Every contestant runs in a process of its own with the same CIFAR-10 images in memory. The contestants take turns of a
quarter of an epoch for several rounds. The results are medians over the rounds, and their ratios. Measured are `fit`
in Keras, the usual loop over a `DataLoader` in PyTorch, and the steps of cifarlab's loop, but not building, compiling
and the first turn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from turns import Contestant, medians, serve, training_turn

RECIPES = {"lenet5-3x3": "relabel/cifar10", "keras4": "keras4", "keras6": "keras6"}
CONTESTANTS = ("cifarlab fp32", "cifarlab bf16", "keras fp32", "keras bf16", "dataloader fp32")
PARAMETERS = {"lenet5-3x3": 71_919, "keras4": 1_250_858, "keras6": 2_395_434}
Turn = Callable[[], None]


def cifarlab_turn(model: str, precision: str, images: Any, labels: Any, batch: int) -> tuple[int, Turn]:
    """Return the number of parameters, and a function that trains for one epoch with cifarlab."""
    from cifarlab import recipes

    same = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "schedule": "constant"}  # as in the others
    recipe = recipes.load(RECIPES[model]).changed({"precision": precision, "batch_size": batch, **same})
    return training_turn(recipe, images, labels)


def dataloader_turn(model: str, precision: str, images: Any, labels: Any, batch: int) -> tuple[int, Turn]:
    """Return the number of parameters, and a function that trains for one epoch as a PyTorch tutorial does.

    Images are floats from a `DataLoader`; layers and memory format are PyTorch's defaults.
    """
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    network = _torch_network(model)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(images).float() / 255, torch.from_numpy(labels)), batch, shuffle=True
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def turn() -> None:
        for inputs, truth in loader:
            optimizer.zero_grad()
            criterion(network(inputs), truth).backward()
            optimizer.step()

    return sum(weight.numel() for weight in network.parameters()), turn


def _torch_network(model: str) -> Any:
    from torch import nn

    if model == "lenet5-3x3":
        return nn.Sequential(
            *[nn.Conv2d(3, 30, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(30, 13, 3), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Flatten(), nn.Linear(468, 120), nn.ReLU(), nn.Linear(120, 86), nn.ReLU(), nn.Linear(86, 10)],
        )
    layers: list[nn.Module] = []
    channels = 3
    for maps in (32, 64) if model == "keras4" else (32, 64, 128):
        layers += [nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU()]
        if model == "keras4":
            layers += [nn.Conv2d(maps, maps, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)]
        else:
            layers += [nn.Dropout(0.2), nn.Conv2d(maps, maps, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = maps
    layers.append(nn.Flatten())
    if model == "keras4":
        return nn.Sequential(*layers, nn.Linear(2304, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10))
    dense = [nn.Dropout(0.2), nn.Linear(2048, 1024), nn.ReLU(), nn.Dropout(0.2), nn.Linear(1024, 10)]
    return nn.Sequential(*layers, *dense)


def keras_turn(model: str, precision: str, images: Any, labels: Any, batch: int) -> tuple[int, Turn]:
    """Return the number of parameters, and a function that trains for one epoch with `fit` of Keras on TensorFlow."""
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    keras = importlib.import_module("keras")
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bf16" else "float32")
    conv, pool, dense, drop = (getattr(keras.layers, n) for n in ("Conv2D", "MaxPooling2D", "Dense", "Dropout"))
    network = keras.Sequential([keras.Input((32, 32, 3))])
    if model == "lenet5-3x3":
        layers = [conv(30, 3, activation="relu"), pool(), conv(13, 3, activation="relu"), pool()]
        layers += [keras.layers.Flatten(), dense(120, activation="relu"), dense(86, activation="relu")]
    elif model == "keras4":
        layers = []
        for maps in (32, 64):
            layers += [conv(maps, 3, padding="same", activation="relu"), conv(maps, 3, activation="relu")]
            layers += [pool(), drop(0.25)]
        layers += [keras.layers.Flatten(), dense(512, activation="relu"), drop(0.5)]
    else:
        layers = []
        for maps in (32, 64, 128):
            layers += [conv(maps, 3, padding="same", activation="relu"), drop(0.2)]
            layers += [conv(maps, 3, padding="same", activation="relu"), pool()]
        limit = keras.constraints.MaxNorm(3)
        layers += [keras.layers.Flatten(), drop(0.2), dense(1024, activation="relu", kernel_constraint=limit)]
        layers += [drop(0.2)]
    for layer in [*layers, dense(10, activation="softmax", dtype="float32")]:
        network.add(layer)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    floats = images.transpose(0, 2, 3, 1).astype("float32") / 255

    def turn() -> None:
        network.fit(floats, labels, batch_size=batch, epochs=1, verbose=0)

    return network.count_params(), turn


def work(arguments: argparse.Namespace) -> None:
    """Run a contestant in this process."""
    import numpy as np

    framework, precision = arguments.worker.split()
    arrays = np.load(arguments.images)
    makers = {"cifarlab": cifarlab_turn, "keras": keras_turn, "dataloader": dataloader_turn}
    parameters, turn = makers[framework](
        arguments.model, precision, arrays["images"], arrays["labels"], arguments.batch
    )
    serve(parameters, turn)


def speeds(model: str, images: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of every contestant."""
    contestants = {}
    for name in arguments.contestants or CONTESTANTS:
        python = arguments.keras_python if name.startswith("keras") else sys.executable
        command = [python, __file__, "--worker", name, "--model", model, "--images", str(images)]
        contestants[name] = Contestant([*command, "--batch", str(arguments.batch)])
        parameters = contestants[name].greeting
        assert parameters == PARAMETERS[model], f"{name} {model} has {parameters} parameters"
    return {
        name: arguments.images_per_turn / seconds for name, seconds in medians(contestants, arguments.rounds).items()
    }


def accuracies(model: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return cifarlab's test accuracies in each precision, one per seed.

    The measurement can be interrupted: finished runs are not trained again, and stopped ones are resumed.
    """
    import cifarlab
    from cifarlab.api import Run

    by_precision: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        for precision in ("fp32", "bf16"):
            recipe = cifarlab.recipe(RECIPES[model], epochs=arguments.epochs, seed=seed, precision=precision)
            run = Run(arguments.runs / f"{model}-{arguments.epochs}-{precision}-s{seed}")
            if not (run.path / "run.json").exists():
                run = cifarlab.train(recipe, runs=arguments.runs, name=run.name, quiet=True)
            elif run.status != "finished":
                run = cifarlab.resume(run, quiet=True)
            by_precision.setdefault(precision, []).append(run.results["test_accuracy"])
            print(f"{model} {precision} seed {seed}: {by_precision[precision][-1]:.4f}", file=sys.stderr, flush=True)
    return by_precision


def main() -> None:
    """Measure speeds or accuracies, and print one JSON document per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, help="default: all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images-per-turn", type=int, default=12_800)
    parser.add_argument("--keras-python", default=sys.executable, help="a Python that has Keras; default: this Python")
    parser.add_argument("--accuracy", action="store_true", help="compare accuracies instead of speeds")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each training for --accuracy")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds for --accuracy")
    parser.add_argument("--runs", type=Path, default=Path("runs/versus-keras"), help="folder of runs for --accuracy")
    for hidden in ("--worker", "--model", "--images"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    if arguments.accuracy:
        for model in arguments.models:
            summary = {
                precision: {"mean": statistics.mean(values), "sd": statistics.stdev(values), "all": values}
                for precision, values in accuracies(model, arguments).items()
            }
            print(json.dumps({"model": model, "epochs": arguments.epochs, "test accuracy": summary}), flush=True)
        return
    import numpy as np

    from cifarlab import load_data

    train = load_data("cifar10").train
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        np.savez(
            images, images=train.images[: arguments.images_per_turn], labels=train.labels[: arguments.images_per_turn]
        )
        for model in arguments.models:
            rates = speeds(model, images, arguments)
            ratios = {
                f"{ours} / {theirs}": round(rates[ours] / rates[theirs], 2)
                for ours in rates
                if ours.startswith("cifarlab")
                for theirs in rates
                if not theirs.startswith("cifarlab")
            }
            rounded = {name: round(rate) for name, rate in rates.items()}
            print(
                json.dumps({"model": model, "batch": arguments.batch, "images/s": rounded, "ratios": ratios}),
                flush=True,
            )


if __name__ == "__main__":
    main()
