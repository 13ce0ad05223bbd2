"""Averaged weights are evaluated with batch statistics of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cifarlab import Data, Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.training.loop import fit, set_training_mode
from cifarlab.training.preparation import new_record, prepare
from cifarlab.training.session import Session
from cifarlab.training.state import Training, begin, measure_batch_statistics


@pytest.fixture
def few(digits: Data) -> Data:
    return dataclasses.replace(digits, train=digits.train.select(np.arange(300)))


@pytest.fixture
def averaging(small: Recipe) -> Recipe:
    options = {"model": "fastnet", "model_options": {"width": 8}, "ema": 0.9, "keep": "last", "epochs": 1}
    return small.changed({**options, "learning_rate": 0.5, "precision": "fp32", "batch_size": 32})


def moved(recipe: Recipe, data: Data) -> tuple[Training, np.ndarray]:
    """A training whose averaged weights are no longer the raw ones, and its training images."""
    prepared = prepare(recipe, data=data)
    training = begin(prepared)
    set_training_mode(training)
    assert training.average is not None
    with torch.no_grad():
        for weight in training.average.module.parameters():
            weight.mul_(0.5)
    return training, prepared.parts.train.images


def inputs_of(layer: nn.Module, training: Training, images: np.ndarray) -> torch.Tensor:
    """What reaches a layer of the averaged network, channel by channel."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with training.evaluated.evaluating(), torch.no_grad():
        training.evaluated.logits(torch.from_numpy(images))
    handle.remove()
    return seen[0].transpose(0, 1).flatten(1)


def test_batch_statistics_are_those_of_the_averaged_weights(averaging: Recipe, few: Data) -> None:
    training, images = moved(averaging, few)
    assert training.average is not None
    norm = next(layer for layer in training.average.module.modules() if isinstance(layer, nn.BatchNorm2d))
    modes = [layer.training for layer in training.average.module.modules()]
    measure_batch_statistics(training, images)
    values = inputs_of(norm, training, images)
    torch.testing.assert_close(norm.running_mean, values.mean(1), atol=0.01, rtol=0.01)
    torch.testing.assert_close(norm.running_var, values.var(1), atol=0.01, rtol=0.05)
    before = {name: value.clone() for name, value in training.average.module.state_dict().items()}
    measure_batch_statistics(training, images)  # as after a resume
    assert all(value.equal(before[name]) for name, value in training.average.module.state_dict().items())
    assert modes == [layer.training for layer in training.average.module.modules()]


def test_frozen_layers_keep_their_batch_statistics(averaging: Recipe, few: Data) -> None:
    training, images = moved(averaging.changed({"freeze": 3}), few)
    assert training.average is not None
    norms = [layer for layer in training.average.module.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [norm.running_var.clone() for norm in norms if norm.running_var is not None]
    measure_batch_statistics(training, images)
    same = [
        old.equal(norm.running_var) for old, norm in zip(before, norms, strict=True) if norm.running_var is not None
    ]
    assert same == [True] + [False] * (len(norms) - 1) and len(norms) > 3


def test_a_training_measures_them_after_every_epoch(averaging: Recipe, few: Data, tmp_path: Path) -> None:
    prepared = prepare(averaging, data=few)
    run = RunFolder.create(tmp_path / "a", new_record(prepared))
    fit(prepared, Session(run, quiet=True))
    counts = [value for name, value in load_file(run.weights).items() if name.endswith("num_batches_tracked")]
    assert [int(count) for count in counts] == [len(prepared.parts.train) // 32] * len(counts) and counts
