"""Repeat a finished run from its run.json, and compare the two to the bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from cifarlab import api
from cifarlab.api import Run
from cifarlab.data.parts import load_parts
from cifarlab.errors import UsageError
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import run_path
from cifarlab.runs.record import EpochRow

CLOCKS = ("train_seconds", "validation_seconds", "images_per_second")  # columns of metrics.csv that never repeat


@dataclass(frozen=True)
class RerunResult:
    """The comparison of a run with its repetition."""

    run: Run
    """The new run."""
    differences: tuple[str, ...]
    """Results that are not equal to the bit; empty if all are."""
    reasons: tuple[str, ...]
    """Possible reasons: versions, machine or files that have changed."""

    @property
    def matches(self) -> bool:
        """True if weights, metrics of every epoch and predictions are equal to the bit."""
        return not self.differences


def rerun(
    run: str | Path | RunFolder, *, name: str | None = None, runs: Path | str | None = None, quiet: bool = False
) -> RerunResult:
    """Train a finished run again, with as many threads and on the same kind of device, and compare the two.

    Args:
        run: run to repeat, as a name, path or object.
        name: name of the new run; default: the old run's name with `-rerun`.
        runs: folder of runs.
        quiet: show no progress.

    Raises:
        UsageError: the run does not exist or is not finished, its data set has changed, or the name is taken.
        Interrupted, CifarlabError: as for `train`.
    """
    old = Run(run_path(run, runs))
    if old.status != "finished":
        raise UsageError(f"the run {old.name!r} is {old.status}, but only a finished run can be repeated")
    recipe, device = old.recipe, old.record.environment.device.partition(":")[0]
    load_parts(recipe, sha256=old.record.data.sha256, quiet=quiet)
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
    return RerunResult(new, tuple(differences(old, new)), tuple(_reasons(old, new)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def differences(old: RunFolder, new: RunFolder) -> Iterator[str]:
    """Describe the results of two finished runs that are not equal to the bit."""
    rows = [[_without_clocks(row) for row in run.history] for run in (old, new)]
    if len(rows[0]) != len(rows[1]):
        yield f"{len(rows[1])} epochs instead of {len(rows[0])}"
    for epoch, (row, again) in enumerate(zip(*rows, strict=False), start=1):
        unequal = next((key for key in row if row[key] != again[key]), None)
        if unequal is not None:
            yield f"metrics from epoch {epoch} on: {unequal} {again[unequal]:.6g} instead of {row[unequal]:.6g}"
            break
    for name in ("best", "last"):
        before, after = (load_file(run.path / f"{name}.safetensors") for run in (old, new))
        if before.keys() != after.keys() or not all(np.array_equal(before[key], after[key]) for key in before):
            yield f"weights in {name}.safetensors"
    earlier, later = old.predictions, new.predictions
    if earlier is None or later is None or not all(map(np.array_equal, earlier, later)):
        before_accuracy, after_accuracy = (run.results["test_accuracy"] for run in (old, new))
        yield f"predictions on the test images: accuracy {after_accuracy:.2%} instead of {before_accuracy:.2%}"


def _without_clocks(row: EpochRow) -> dict[str, float]:
    return {key: value for key, value in asdict(row).items() if key not in CLOCKS}


def _reasons(old: RunFolder, new: RunFolder) -> Iterator[str]:
    environments = [run.record.environment.items() for run in (old, new)]
    for key in sorted(environments[0]):
        before, after = (environment.get(key) for environment in environments)
        if before != after:
            yield f"{key}: {after} instead of {before}"
    origins: list[Mapping[str, str]] = [run.record.origins for run in (old, new)]
    for key in origins[0]:
        if origins[0][key] != origins[1].get(key):
            yield f"{key} ({getattr(old.recipe, key)}) has changed since"
    if old.recipe.time_budget and old.results["stopped_early"]:
        yield "the run ended by its time budget, at a step that differs every time"
