"""Repeat a finished run from its run.json, and compare the two to the bit."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from cifarlab import api
from cifarlab.api import Run
from cifarlab.data.arrays import GivenData
from cifarlab.data.catalogue import load_parts
from cifarlab.errors import UsageError
from cifarlab.models.own_networks import as_trained
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import find_run
from cifarlab.runs.record import EpochRow

CLOCKS = ("train_seconds", "validation_seconds", "images_per_second")  # columns of metrics.csv that never repeat


@dataclass(frozen=True)
class RerunResult:
    """The comparison of a run with its repetition."""

    run: Run  # the new one
    differences: tuple[str, ...]  # results that are not equal to the bit
    reasons: tuple[str, ...]  # possible reasons: versions, machine or files that have changed

    @property
    def matches(self) -> bool:
        """True if weights, metrics of every epoch and predictions are equal to the bit."""
        return not self.differences


def rerun(
    run: str | Path | RunFolder,
    *,
    data: GivenData | None = None,
    name: str | None = None,
    runs: Path | str | None = None,
    quiet: bool = False,
) -> RerunResult:
    """Train a finished run again, with as many threads and on the same kind of device, and compare the two.

    Args:
        run: run to repeat, as a name, path or object.
        data: the data set of a run that was trained on data in memory.
        name: name of the new run; default: the old run's name with `-rerun`.
        runs: folder of runs.
        quiet: show no progress.

    Raises:
        UsageError: the run does not exist or is not finished, its data set has changed, or the name is taken.
        Interrupted, CifarlabError: as for `train`.
    """
    old = Run(find_run(run, runs))
    if old.status != "finished":
        raise UsageError(f"the run {old.name!r} is {old.status}, but only a finished run can be repeated")
    environment = old.record.environment
    model = as_trained(old.recipe.model, old.record.origins.get("model", ""), old.path)
    load_parts(old.recipe, data=data, sha256=old.record.data.sha256, quiet=quiet)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(environment.threads)
        new = api.train(
            old.recipe.model_copy(update={"model": model}),
            data=data,
            device=environment.device.partition(":")[0],
            name=name or f"{old.name}-rerun",
            runs=runs,
            checkpoint_every=old.record.checkpoint_every,
            computed=old.record.computed,
            quiet=quiet,
            command=f"cifarlab rerun {old.name}",
        )
    return RerunResult(new, tuple(differences(old, new)), tuple(_reasons(old, new)))


def differences(old: RunFolder, new: RunFolder) -> Iterator[str]:
    """Describe the results of two finished runs that are not equal to the bit."""
    if len(old.history) != len(new.history):
        yield f"{len(new.history)} epochs instead of {len(old.history)}"
    columns = [field.name for field in fields(EpochRow) if field.name not in CLOCKS]
    for row, again in zip(old.history, new.history, strict=False):
        if unequal := [name for name in columns if getattr(row, name) != getattr(again, name)]:
            before, after = getattr(row, unequal[0]), getattr(again, unequal[0])
            yield f"metrics from epoch {row.epoch} on: {unequal[0]} {after:.6g} instead of {before:.6g}"
            break
    for name in ("best", "last"):
        before, after = (load_file(run.path / f"{name}.safetensors") for run in (old, new))
        if before.keys() != after.keys() or not all(np.array_equal(before[key], after[key]) for key in before):
            yield f"weights in {name}.safetensors"
    earlier, later = old.predictions, new.predictions
    if earlier is None or later is None or not all(map(np.array_equal, earlier, later)):
        before_accuracy, after_accuracy = (run.results["test_accuracy"] for run in (old, new))
        yield f"predictions on the test images: accuracy {after_accuracy:.2%} instead of {before_accuracy:.2%}"


def _reasons(old: RunFolder, new: RunFolder) -> Iterator[str]:
    now = new.record.environment.items()
    for key, before in sorted(old.record.environment.items().items()):
        if before != now.get(key):
            yield f"{key}: {now.get(key)} instead of {before}"
    for key, checksum in old.record.origins.items():
        if checksum != new.record.origins.get(key):
            yield f"{key} ({getattr(old.recipe, key, old.recipe.model)}) has changed since"
    if old.results["stopped_by_callback"]:
        yield "a callback ended the run"
    if old.recipe.time_budget and (old.results["stopped_early"] or new.results["stopped_early"]):
        yield "the run ended by its time budget, at a step that differs every time"
