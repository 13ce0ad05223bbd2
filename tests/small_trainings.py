"""Small trainings, one that stops itself, and the comparison of two."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import cifarlab
from cifarlab import Recipe, Run
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import EpochRow
from cifarlab.training.loop import fit
from cifarlab.training.preparation import new_record, prepare
from cifarlab.training.session import Session


def weights(run: RunFolder, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.path / f"{name}.safetensors")


def assert_equal_bits(one: RunFolder, other: RunFolder) -> None:
    for name in ("best", "last"):
        left, right = weights(one, name), weights(other, name)
        assert left.keys() == right.keys() and len(left) > 4
        for key, value in left.items():
            assert torch.equal(value, right[key]), key
    timeless = ("learning_rate", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    assert [[getattr(row, key) for key in timeless] for row in one.history] == [
        [getattr(row, key) for key in timeless] for row in other.history
    ]
    assert np.array_equal(one.confusion, other.confusion)
    assert one.predictions is not None and other.predictions is not None
    assert np.array_equal(one.predictions[0], other.predictions[0])


def train(recipe: Recipe, folder: Path, name: str, **more: Any) -> Run:
    """Train a run with figures and report, which take longer than its few steps."""
    return cifarlab.train(recipe, runs=folder, name=name, quiet=True, **more)


def train_only(recipe: Recipe, folder: Path, callbacks: Sequence[Any] = (), data: Any = None) -> Run:
    """Train a run without figures and report."""
    prepared = prepare(recipe, data=data, quiet=True)
    run = Run.create(folder / "a", new_record(prepared))
    fit(prepared, Session(run, callbacks=callbacks, quiet=True))
    return run


class StopAt:
    """A callback that sends this process a signal at the end of an epoch."""

    def __init__(self, epoch: int, number: int = signal.SIGINT) -> None:
        self.epoch, self.number = epoch, number

    def on_epoch_end(self, run: Run, row: EpochRow) -> None:
        if row.epoch == self.epoch:
            os.kill(os.getpid(), self.number)
