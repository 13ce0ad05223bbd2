"""Add the weights of finished runs to those that ship with the package, in half precision.

    python docs/write_weights.py RUN...

A file is named after its network, or after its recipe if that is for another data set than CIFAR-10. Its metadata hold
recipe, seed, protocol, data, and the accuracy of the rounded weights on the test images.
"""

from __future__ import annotations

import sys

import torch

import cifarlab
from cifarlab.inference import weights
from cifarlab.inference.weights_file import save_weights


def main(names: list[str]) -> None:
    """Write one weights file for each run."""
    for name in names:
        classifier = cifarlab.load(name)
        about = classifier.about
        stem = classifier.model if about["dataset"] == "cifar10" else about["recipe"]
        path = weights.FOLDER / f"{stem}.safetensors"
        save_weights(classifier, path, dtype=torch.float16)
        accuracy = cifarlab.evaluate(path).accuracy
        save_weights(classifier, path, {**about, "test_accuracy": accuracy}, dtype=torch.float16)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main(sys.argv[1:])
