"""A finished run done again, from what its run.json says: does it come out the same?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from cifarlab import api
from cifarlab.api import Run
from cifarlab.errors import UsageError
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import run_path
from cifarlab.training.state import data_of

CLOCKS = ("train_seconds", "validation_seconds", "images_per_second")  # the columns of metrics.csv that never repeat


@dataclass(frozen=True)
class Repetition:
    """What came of doing a run again."""

    run: Run
    """The new run."""
    differences: tuple[str, ...]
    """What did not come out the same to the bit; empty where everything did."""
    reasons: tuple[str, ...]
    """What is another than it was: versions, machine, files."""

    @property
    def matches(self) -> bool:
        """Whether weights, figures of every epoch and predictions are the same to the bit."""
        return not self.differences


def rerun(
    run: str | Path | RunFolder, *, name: str | None = None, runs: Path | str | None = None, quiet: bool = False
) -> Repetition:
    """Trains again what a finished run trained, with as many threads and on the same kind of device, and compares.

    Args:
        run: by name, path or object.
        name: of the new run; default: the old one's with `-rerun`.
        runs: the folder of runs.
        quiet: show no progress.

    Raises:
        UsageError: there is no such run, it is not finished, its data set is not what it was, or the name is taken.
        Interrupted, CifarlabError: as `train`.
    """
    old = Run(run_path(run, runs))
    if old.status != "finished":
        raise UsageError(f"the run {old.name!r} is {old.status}: only a finished run can be compared with another")
    recipe, device = old.recipe, old.record.environment.device.partition(":")[0]
    data_of(recipe, old.record.data.sha256, fetch=True, quiet=quiet)
    name = name or f"{old.name}-rerun"
    with _threads(int(old.record.environment.threads)):
        new = api.train(
            recipe,
            device=device,
            name=name,
            runs=runs,
            checkpoint_every=old.record.checkpoint_every,
            quiet=quiet,
            command=f"cifarlab rerun {old.name}",
        )
    return Repetition(new, tuple(differences(old, new)), tuple(_reasons(old, new)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def differences(old: RunFolder, new: RunFolder) -> Iterator[str]:
    """What of two finished runs is not the same to the bit, in words."""
    rows = [[_timeless(row) for row in run.history] for run in (old, new)]
    if len(rows[0]) != len(rows[1]):
        yield f"{len(rows[1])} epochs instead of {len(rows[0])}"
    for epoch, (row, again) in enumerate(zip(*rows, strict=False), start=1):
        wrong = [key for key in row if row[key] != again[key]]
        if wrong:
            key = wrong[0]
            yield f"from epoch {epoch} on, as in {key}: {again[key]:.6g} instead of {row[key]:.6g}"
            break
    for which in ("best", "last"):
        then, now = (load_file(run.path / f"{which}.safetensors") for run in (old, new))
        if then.keys() != now.keys() or not all(np.array_equal(then[key], now[key]) for key in then):
            yield f"the weights in {which}.safetensors"
    ours, theirs = old.predictions, new.predictions
    if ours is None or theirs is None or not all(map(np.array_equal, ours, theirs)):
        accuracy = [run.results["test_accuracy"] for run in (old, new)]
        yield f"what it says of the test images: accuracy {accuracy[1]:.2%} instead of {accuracy[0]:.2%}"


def _timeless(row: Any) -> dict[str, float]:
    return {key: value for key, value in asdict(row).items() if key not in CLOCKS}


def _reasons(old: RunFolder, new: RunFolder) -> Iterator[str]:
    environments = [run.record.environment.items() for run in (old, new)]
    for key in sorted(environments[0]):
        then, now = (environment.get(key) for environment in environments)
        if then != now:
            yield f"{key}: {now} instead of {then}"
    origins: list[Mapping[str, str]] = [run.record.origins for run in (old, new)]
    for key in origins[0]:
        if origins[0][key] != origins[1].get(key):
            yield f"{key} ({getattr(old.recipe, key)}) has changed since"
    if old.recipe.time_budget and old.results["stopped_early"]:
        yield "its time budget ended it, which is another step every time"
