"""One run of a study in whatever process it is trained: begun, or gone on with from its checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cifarlab.errors import CifarlabError, Interrupted, UsageError, one_line
from cifarlab.recipes import check
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import is_run

SECONDS_FOR_ANOTHER = 60.0  # that a process whose study was killed may take to save and end
Status = Literal["finished", "failed", "interrupted", "lost"]


@dataclass(frozen=True)
class Job:
    """What a process needs to know of a run; plain values, so that it can be sent anywhere."""

    name: str
    """Of the run's folder."""
    recipe: dict[str, Any]
    folder: str
    """The study's."""
    device: str
    command: str
    """What the user typed."""


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    name: str
    status: Status
    """`lost`: with the machine that it ran on, through no fault of its own."""
    reason: str = ""
    hopeless: bool = False
    """Whether another try would fail in the same way."""


def carry_out(job: Job, folder: Path | None = None, callbacks: Sequence[Any] = ()) -> Ended:
    """Trains a run to its end, from its checkpoint if there is one. Errors are told, not raised.

    Args:
        job: which run.
        folder: where its folder is made, if not in the study's.
        callbacks: as `api.train` takes them.
    """
    from cifarlab import api

    parent = folder or Path(job.folder)
    path = parent / job.name
    how: dict[str, Any] = {"device": job.device, "callbacks": callbacks, "quiet": True}
    try:
        if is_run(path):
            _wait_for_another(path)
            if not is_done(path):
                api.resume(path, **how)
        else:
            clear(path)
            recipe = check(job.recipe, job.name)
            api.train(recipe, name=job.name, runs=parent, command=job.command, **how)
    except Interrupted as error:
        return Ended(job.name, "interrupted", str(error))
    except Exception as error:  # any fault of one run is told, and the study goes on
        told = one_line(error)
        reason = told if isinstance(error, CifarlabError) else f"{type(error).__name__}: {told}"
        return Ended(job.name, "failed", reason, hopeless=isinstance(error, UsageError))
    return Ended(job.name, "finished")


def is_done(path: Path) -> bool:
    """Whether a run is finished and its report written.

    Raises:
        UsageError: its run.json is damaged. Nothing is removed, as the rest of the folder may be worth keeping.
    """
    try:
        run = RunFolder(path)
        return run.status == "finished" and run.report.exists()
    except UsageError as error:
        raise UsageError(f"{error}: move the folder {path.name} away, and the run is trained anew") from error


def clear(path: Path) -> None:
    """Removes a run's folder that was cut off before it held anything.

    Raises:
        UsageError: there is something in it.
    """
    if not path.exists():
        return
    if held := [each for each in path.rglob("*") if each.is_file() and not each.name.startswith(".")]:
        raise UsageError(f"{path} is not a run folder, and holds {held[0].name}: move it away")
    shutil.rmtree(path)


def _wait_for_another(path: Path) -> None:
    deadline = time.monotonic() + SECONDS_FOR_ANOTHER
    while RunFolder(path).is_locked() and time.monotonic() < deadline:
        time.sleep(0.2)
