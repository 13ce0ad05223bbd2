"""A recorded step does what the same step does by itself; where there is no GPU, nothing is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cifarlab import Data
from cifarlab.data import batches
from cifarlab.device import choose_device
from cifarlab.recipes import Recipe, load
from cifarlab.training import cudagraph
from cifarlab.training.loop import set_training_mode, train_step
from cifarlab.training.optim import set_learning_rate
from cifarlab.training.preparation import prepare_images
from cifarlab.training.state import Training, begin

STEPS = 12
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
EVERYTHING = {
    "augment.shift": 0.1,
    "augment.rotation": 5,
    "augment.flip": True,
    "augment.crop": 2,
    "input_dropout": 0.1,
}


def trained(recipe: Recipe, data: Data, device: torch.device, *, recorded: bool) -> Training:
    training = begin(prepare_images(recipe, data.train, device))
    images = batches.to_device(data.train, device)
    step = cudagraph.record_step(train_step, training) if recorded else train_step
    assert (step is train_step) == (not recorded or device.type == "cpu")
    set_training_mode(training)
    steps = batches.steps_per_epoch(len(images), recipe.batch_size)
    for epoch in range(-(-STEPS // steps)):
        for batch in batches.batches(images, recipe.batch_size, recipe.seed, epoch):
            batches.seed_step(recipe.seed, epoch, batch.step)
            set_learning_rate(training.optimizer, recipe, epoch * steps + batch.step, steps)
            step(training, batch)
    return training


def of_digits(name: str, **changes: Any) -> Recipe:
    return load(name).changed({"dataset": "digits", "epochs": 2, "batch_size": 128, "precision": "fp32", **changes})


def test_a_step_on_the_processor_stays_as_it_is(digits: Data) -> None:
    training = begin(prepare_images(of_digits("lenet5"), digits.train, torch.device("cpu")))
    assert cudagraph.record_step(train_step, training) is train_step


@ON_GPU
@pytest.mark.parametrize(
    "recipe",
    [
        of_digits("keras4", seed=1),
        of_digits("keras6", schedule="cosine", **EVERYTHING),
        of_digits("firststeps", gradient_clip=0.5, skip_easy=0.3, precision="bf16"),
        of_digits("lenet5", optimizer="adamw", learning_rate=0.001, weight_decay=0.1),
        of_digits("allcnn-c", weight_decay=0.001, nesterov=True),
    ],
    ids=lambda recipe: recipe.model,
)
def test_a_recorded_step_does_what_the_step_does(recipe: Recipe, digits: Data) -> None:
    one, other = (trained(recipe, digits, choose_device("cuda"), recorded=recorded) for recorded in (False, True))
    assert float(one.loss_sum) == pytest.approx(float(other.loss_sum), rel=1e-3)
    for left, right in zip(one.classifier.network.parameters(), other.classifier.network.parameters(), strict=True):
        difference = float(((left - right).norm() / left.norm()).detach())
        assert difference < 5e-3, difference  # sums in another order, over twelve steps
    assert np.isfinite(float(one.loss_sum))
