"""Compare the inference speed of cifarlab and onnxruntime with the same weights and images.

    pip install -r benchmarks/requirements.txt
    python benchmarks/inference.py

Each network is exported to ONNX, and both programs must compute the same logits. They take turns for several rounds;
the results are medians. onnxruntime computes in fp32 on all cores, with its own graph optimisations. cifarlab
computes in fp32, in bf16 if the processor supports it, and by the ONNX file that `cifarlab export` writes. cifarlab
gets images as bytes and normalises them within the measured time; onnxruntime gets normalised float arrays.

`--batch 1 --images 200` measures single pictures.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch

from cifarlab import export, load, load_data
from cifarlab.data.batches import DeviceImages
from cifarlab.device import has_fast_bf16, keep_freed_memory
from cifarlab.experiments.bench import one_recipe_per_network
from cifarlab.inference.classifier import Classifier, make_classifier, to_device
from cifarlab.inference.prediction import predict_logits

TOLERANCE = 1e-3  # of logits, because the two sum in different orders


def session(classifier: Classifier, batch: int) -> Any:
    """Return the network as an onnxruntime session for batches of this size."""
    file = io.BytesIO()
    example = torch.zeros(batch, 3, classifier.size, classifier.size)
    torch.onnx.export(classifier.network.eval(), (example,), file, dynamo=False, input_names=["images"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def compare(classifier: Classifier, images: Any, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the images per second of each program and precision."""
    runtime = session(classifier, arguments.batch)
    with tempfile.TemporaryDirectory() as folder:
        exported = load(export(classifier, f"{folder}/network.onnx").path)
    to_device(classifier, torch.device("cpu"))
    pixels = torch.from_numpy(images)
    data = DeviceImages(
        pixels.contiguous(memory_format=torch.channels_last), torch.zeros(len(images), dtype=torch.int64)
    )
    with torch.no_grad():
        floats = classifier.preprocess(pixels).numpy()

    def run_onnxruntime() -> np.ndarray:
        pieces = [floats[start : start + arguments.batch] for start in range(0, len(floats), arguments.batch)]
        return np.concatenate([runtime.run(None, {"images": piece})[0] for piece in pieces])

    contestants: dict[str, Callable[[], np.ndarray]] = {
        "onnxruntime fp32": run_onnxruntime,
        "cifarlab fp32": lambda: predict_logits(classifier, data, batch=arguments.batch),
        "cifarlab ONNX": lambda: predict_logits(exported, data, batch=arguments.batch),
    }
    if has_fast_bf16(torch.device("cpu")):
        contestants["cifarlab bf16"] = lambda: predict_logits(classifier, data, batch=arguments.batch, precision="bf16")
    difference = np.abs(contestants["onnxruntime fp32"]() - contestants["cifarlab fp32"]()).max()
    assert difference < TOLERANCE, f"logits differ by {difference}"
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: len(images) / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Print one JSON document per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--images", type=int, default=2_000, help="a multiple of the batch")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    images = np.array(load_data("cifar10").test.images[: arguments.images])
    for recipe in one_recipe_per_network():
        torch.manual_seed(0)
        classifier = make_classifier(
            recipe.model, recipe.model_options, tuple(map(str, range(10))), recipe.size, recipe.normalize
        )
        if recipe.normalize != "zca":  # fitting ZCA takes longer than the whole benchmark
            classifier.preprocess.fit(images)
        rates = compare(classifier, images, arguments)
        peer = rates["onnxruntime fp32"]
        ratios = {name: round(rate / peer, 2) for name, rate in rates.items() if name.startswith("cifarlab")}
        rounded = {name: round(rate) for name, rate in rates.items()}
        print(
            json.dumps({"recipe": recipe.name, "batch": arguments.batch, "images/s": rounded, "ratios": ratios}),
            flush=True,
        )


if __name__ == "__main__":
    main()
