"""What `torchrun` starts for test_distributed.py: the pieces of a training, by several processes, written to a file.

torchrun --nproc-per-node 3 tests/distributed_worker.py OUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cifarlab import load_data
from cifarlab.data import batches
from cifarlab.data.dataset import Dataset
from cifarlab.inference.classifier import make_classifier
from cifarlab.inference.evaluation import evaluate
from cifarlab.parallel import batchnorm
from cifarlab.parallel.world import SINGLE, World, open_world
from cifarlab.recipes import Recipe, load
from cifarlab.training.loop import epoch_batches, train_step
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import Training, begin

CPU = torch.device("cpu")
STEPS = {"firststeps": 61, "keras4": 62, "lenet5": 2}  # images of the first batch of each network
VALIDATION = 1_203
VALUES = 30_000  # of each channel, in the check of batch normalisation


def recipe_of(model: str) -> Recipe:
    """Nothing random but the order of the images."""
    recipe = load(model).changed({"dataset": "digits", "precision": "fp32", "batch_size": STEPS[model]})
    return recipe.changed({"input_dropout": 0, "augment": {}, "class_weights": "balanced", "skip_easy": 0.5})


def begun(model: str, images: Dataset, world: World = SINGLE) -> Training:
    training = begin(prepare_images(recipe_of(model), images, CPU, world))
    training.classifier.network.train()
    for layer in training.classifier.network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return training


def first_batch(training: Training, images: Dataset) -> batches.Batch:
    return next(epoch_batches(training, batches.to_device(images, CPU), 0))


def first_step(model: str, images: Dataset, world: World) -> dict[str, Any]:
    """Return the gradient of the first step, and what it counts."""
    training = begun(model, images, world)
    if model == "firststeps":  # in fp64, since fp32 rounds some equal values that pooling chooses from apart
        network = training.classifier.network.double()
        training.forward = batchnorm.synchronize(lambda images: network(images.double()), world)
    train_step(training, first_batch(training, images))
    weights = [weight for weight in training.classifier.network.parameters() if weight.requires_grad]
    losses = world.total(training.losses)
    assert torch.equal(losses, world.total(world.own_part(losses)))
    return {
        "gradient": torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None]),
        "loss_sum": world.total(training.loss_sum),
        "correct": world.total(training.correct),
        "losses": losses,
    }


def trained_on(images: Dataset, world: World) -> dict[str, Any]:
    """Return the places of all images of an epoch, and how many each process had of each batch."""
    data = batches.to_device(images, CPU)
    own = [batch.indices.tolist() for batch in batches.batches(data, 64, 0, 0, part=(world.rank, world.size))]
    ranks = world.gather(own)
    return {
        "indices": [index for rank in ranks for indices in rank for index in indices],
        "sizes": [[len(indices) for indices in rank] for rank in ranks],
    }


def validated(images: Dataset, world: World = SINGLE) -> dict[str, Any]:
    """Return the logits of an odd number of images, and how many the networks of all processes looked at."""
    classifier = make_classifier("lenet5", {}, images.classes, 32, "unit")
    for number, weight in enumerate(classifier.network.parameters()):
        nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(number))
    seen = []
    classifier.network.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    ticks: list[int] = []
    few = images.select(np.arange(VALIDATION))
    judged = evaluate(classifier, few, world=world, tick=ticks.append)
    assert sum(ticks) == VALIDATION
    return {"logits": judged.logits, "seen": world.total(torch.tensor(sum(seen)))}


def values_of_all() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(VALUES, 3, 1, 1, generator=generator) * torch.tensor([0.1, 1.0, 10.0]).view(1, 3, 1, 1) + 3
    return values, torch.randn(values.shape, generator=generator)


def normalized(world: World) -> dict[str, Any]:
    """Return statistics and gradients of a batch-normalisation layer."""
    values, weights = (tensor.tensor_split(world.size)[world.rank] for tensor in values_of_all())
    values = values.clone().requires_grad_()
    layer = nn.BatchNorm2d(3, momentum=1.0)
    out = batchnorm.synchronize(layer, world)(values)
    (out * weights).sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None and values.grad is not None
    return {
        "mean": layer.running_mean,
        "variance": layer.running_var,
        "of_weight": world.total(layer.weight.grad),
        "of_bias": world.total(layer.bias.grad),
        "of_values": np.concatenate(world.gather(values.grad.numpy())),
    }


def main(out: Path) -> None:
    images = load_data("digits").train
    with open_world() as world:
        found: dict[str, Any] = {
            f"{model}.{key}": value for model in STEPS for key, value in first_step(model, images, world).items()
        }
        pieces = {
            "trained": trained_on(images, world),
            "validated": validated(images, world),
            "norm": normalized(world),
        }
        for name, part in pieces.items():
            found |= {f"{name}.{key}": value for key, value in part.items()}
        received = [15] if world.rank == 1 else []
        world.share_signals(received)
        found["received"] = world.gather(received)
        found["clocks"] = world.gather(world.clock())
        try:
            world.call_first(lambda: load("no-such-recipe"))
        except Exception as error:
            found["error"] = world.gather(f"{type(error).__name__}: {error}")
        if world.is_first:
            arrays: dict[str, Any] = {key: np.asarray(value) for key, value in found.items()}
            np.savez(out, **arrays)
    names = [thread.read_text().strip() for thread in Path("/proc/self/task").glob("*/comm")]
    assert "pt_gloo_runloop" not in names, names  # a thread that lives on may abort the process at its end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
