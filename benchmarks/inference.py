"""Compare the inference speed of cifarlab and onnxruntime with the same weights and images.

    pip install -r benchmarks/requirements.txt
    python benchmarks/inference.py
    python benchmarks/inference.py --batch 1 --images 100      # single pictures

Each network is exported to ONNX, and all programs must compute the same logits. Each runs in a process of its own, and
they take turns for several rounds; the results are medians. onnxruntime computes in fp32 on all cores, with its own
graph optimisations. cifarlab computes in fp32, in bf16 if the processor supports it, and by the ONNX file that
`cifarlab export` writes. cifarlab gets images as bytes and normalises them within the measured time; onnxruntime gets
normalised float arrays.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from turns import Contestant, medians, serve

PEER = "onnxruntime fp32"
PROGRAMS = (PEER, "cifarlab fp32", "cifarlab bf16", "cifarlab ONNX")
COMPARED = 8  # images whose logits are compared
# Of a logit less the first one, as a part of the largest of these.
TOLERANCE = {"cifarlab fp32": 1e-3, "cifarlab bf16": 0.1, "cifarlab ONNX": 1e-3}


def onnxruntime_turn(network: Any, floats: np.ndarray, batch: int) -> Callable[[], np.ndarray]:
    """Return a function that classifies all images with onnxruntime."""
    import onnxruntime
    import torch

    file, example = io.BytesIO(), torch.from_numpy(floats[:batch])
    with warnings.catch_warnings(action="ignore"):  # this exporter, which PyTorch advises against, takes no time
        torch.onnx.export(network.eval(), (example,), file, dynamo=False, input_names=["images"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    pieces = [floats[start : start + batch] for start in range(0, len(floats), batch)]
    return lambda: np.concatenate([session.run(None, {"images": piece})[0] for piece in pieces])


def prepare(recipe_name: str, program: str, batch: int, count: int) -> Callable[[], np.ndarray]:
    """Return a function that classifies `count` images with a program."""
    import torch

    from cifarlab import export, load, load_data, recipes
    from cifarlab.data.batches import DeviceImages
    from cifarlab.device import keep_freed_memory
    from cifarlab.inference.classifier import make_classifier, to_device
    from cifarlab.inference.prediction import predict_logits

    keep_freed_memory()
    torch.manual_seed(0)
    recipe = recipes.load(recipe_name)
    normalize = "unit" if recipe.normalize == "zca" else recipe.normalize  # fitting ZCA takes longer than all the rest
    classes = tuple(map(str, range(10)))
    classifier = make_classifier(recipe.model, recipe.model_options, classes, recipe.size, normalize)
    images = np.array(load_data("cifar10", quiet=True).test.images[:count])
    classifier.preprocess.fit(images)
    pixels = torch.from_numpy(images)
    if program == PEER:
        with torch.no_grad():
            return onnxruntime_turn(classifier.network, classifier.preprocess(pixels).numpy(), batch)
    if program == "cifarlab ONNX":
        with tempfile.TemporaryDirectory() as folder:
            classifier = load(export(classifier, f"{folder}/network.onnx").path)
    to_device(classifier, torch.device("cpu"))
    data = DeviceImages(pixels.contiguous(memory_format=torch.channels_last), torch.zeros(count, dtype=torch.int64))
    precision = "bf16" if program == "cifarlab bf16" else "fp32"
    return lambda: predict_logits(classifier, data, batch=batch, precision=precision)


def compare(recipe: str, programs: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of each program."""
    command = [sys.executable, __file__, "--batch", str(arguments.batch), "--images", str(arguments.images)]
    contestants = {program: Contestant([*command, "--worker", recipe, program]) for program in programs}
    logits = {program: np.array(contestant.greeting) for program, contestant in contestants.items()}
    for program, tolerance in TOLERANCE.items():
        if program in logits:
            difference = np.abs(logits[program] - logits[PEER]).max() / np.abs(logits[PEER]).max()
            assert difference < tolerance, f"{recipe}: logits of {program} differ by {difference:.1%}"
    return {name: arguments.images / seconds for name, seconds in medians(contestants, arguments.rounds).items()}


def main() -> None:
    """Print one JSON document per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: one for each network")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--images", type=int, default=1_000, help="a multiple of the batch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run = prepare(*arguments.worker, arguments.batch, arguments.images)
        logits = run()[:COMPARED]
        serve((logits - logits[:, :1]).tolist(), run)  # those of an ONNX file are logarithms of probabilities
        return
    import torch

    from cifarlab.device import has_fast_bf16
    from cifarlab.experiments.bench import one_recipe_per_network

    programs = [each for each in PROGRAMS if each != "cifarlab bf16" or has_fast_bf16(torch.device("cpu"))]
    for recipe in arguments.recipes or [each.name for each in one_recipe_per_network()]:
        rates = compare(recipe, programs, arguments)
        ratios = {name: round(rate / rates[PEER], 2) for name, rate in rates.items() if name != PEER}
        rounded = {name: round(rate) for name, rate in rates.items()}
        print(
            json.dumps({"recipe": recipe, "batch": arguments.batch, "images/s": rounded, "ratios": ratios}), flush=True
        )


if __name__ == "__main__":
    main()
