"""A training that is cut and goes on, for tests of equal bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import cifarlab
from cifarlab import Recipe
from cifarlab.errors import Interrupted
from cifarlab.runs.record import EpochRow


def assert_equal_bits_after_a_cut(recipe: Recipe, folder: Path, epoch: int) -> None:
    """Train a recipe once as a whole and once cut after an epoch, and compare the weights of the last epoch."""

    class Stop:
        def on_epoch_end(self, run: cifarlab.Run, row: EpochRow) -> None:
            if row.epoch == epoch:
                raise Interrupted("enough", 2)

    whole = cifarlab.train(recipe, runs=folder, name="whole", quiet=True)
    with pytest.raises(Interrupted):
        cifarlab.train(recipe, runs=folder, name="cut", quiet=True, callbacks=[Stop()])
    cut = cifarlab.resume("cut", runs=folder, quiet=True)
    expected, found = (load_file(run.path / "last.safetensors") for run in (whole, cut))
    assert len(expected) > 4 and all(value.equal(found[name]) for name, value in expected.items())
