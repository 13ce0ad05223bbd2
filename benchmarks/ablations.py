"""Measure how much each optimisation of the training step contributes: the speed with one of them removed.

    python benchmarks/ablations.py keras6 fast94

Every variant runs in a process of its own. The variants take turns for several rounds. The results are medians in
images per second, and their ratios to the unchanged training step.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from turns import Contestant, medians, one_epoch, serve

IMAGES = 3_200  # per turn, at least
VARIANTS = {
    "as it is": "",
    "fp32": "forward and backward passes in fp32",
    "nn.Dropout": "PyTorch's dropout, which draws its random numbers one by one",
    "ReLU before pooling": "activation before pooling, as published",
    "channels first": "PyTorch's default memory format",
    "no matrix product": "kernel gradients of small feature maps by the library's convolution, not by a matrix product",
    "memory given back": "the C library's default, which returns large blocks to the operating system",
    "one thread": "torch.set_num_threads(1)",
}


def prepare(recipe_name: str, variant: str) -> Any:
    """Return a training without one optimisation, its images, and the number of images per turn."""
    import numpy as np
    import torch
    from torch import nn

    from cifarlab import load_data, recipes
    from cifarlab.data import batches
    from cifarlab.data.dataset import Dataset
    from cifarlab.device import keep_freed_memory
    from cifarlab.models.layers import Dropout, UnitConv2d
    from cifarlab.training.preparation import prepare_images
    from cifarlab.training.state import begin

    if variant != "memory given back":
        keep_freed_memory()
    if variant == "one thread":
        torch.set_num_threads(1)
    recipe = recipes.load(recipe_name)
    if variant == "fp32":
        recipe = recipe.changed({"precision": "fp32"})
    whole, count = load_data("cifar10", quiet=True).train, max(IMAGES, 4 * recipe.batch_size)
    dataset = Dataset(np.array(whole.images[:count]), whole.labels[:count], whole.classes)
    training = begin(prepare_images(recipe, dataset, torch.device("cpu")))
    network = training.classifier.network
    if variant == "nn.Dropout":
        for layer in network.modules():
            if isinstance(layer, Dropout):
                layer.__class__ = nn.Dropout
    if variant == "ReLU before pooling":
        assert isinstance(network, nn.Sequential)
        for pool in range(len(network) - 2):
            if isinstance(network[pool], nn.MaxPool2d):
                relu = pool + (2 if isinstance(network[pool + 1], nn.Flatten) else 1)
                if isinstance(network[relu], nn.ReLU):
                    reordered = [network[relu], *(network[index] for index in range(pool, relu))]
                    for index, layer in enumerate(reordered, start=pool):
                        network[index] = layer
    if variant == "no matrix product":
        UnitConv2d.SMALL_MAP = 0
    if variant == "channels first":
        network.to(memory_format=torch.contiguous_format)
        training.forward = lambda images: network(images.contiguous())
    return training, batches.to_device(dataset, training.device), count


def work(recipe_name: str, variant: str) -> None:
    """Run a variant in this process."""
    training, data, count = prepare(recipe_name, variant)
    serve(count, one_epoch(training, data))


def compare(recipe: str, variants: list[str], rounds: int) -> dict[str, float]:
    """Return the images per second of each variant."""
    command = [sys.executable, __file__, recipe, "--work"]
    contestants = {variant: Contestant([*command, variant]) for variant in variants}
    counts = {variant: contestant.greeting for variant, contestant in contestants.items()}
    return {variant: counts[variant] / seconds for variant, seconds in medians(contestants, rounds).items()}


def main() -> None:
    """Print one JSON document per recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS)[1:], default=list(VARIANTS)[1:], help="variants")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.recipes[0], arguments.work)
        return
    for recipe in arguments.recipes:
        rates = compare(recipe, ["as it is", *arguments.only], arguments.rounds)
        ratios = {variant: round(rate / rates["as it is"], 2) for variant, rate in rates.items()}
        rounded = {variant: round(rate) for variant, rate in rates.items()}
        print(json.dumps({"recipe": recipe, "images/s": rounded, "ratios": ratios}), flush=True)


if __name__ == "__main__":
    main()
