"""A job: one run of a study, trained in any process, from its checkpoint if it has one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cifarlab.errors import CifarlabError, Interrupted, UsageError, one_line
from cifarlab.recipes import check
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import is_run

SECONDS_FOR_ANOTHER_PROCESS = 60.0  # to save its run and end, after its study was killed


@dataclass(frozen=True)
class Job:
    """The order to train a run. All values are plain, so that any process or machine can receive it."""

    name: str  # of the run's folder
    recipe: dict[str, Any]  # as JSON
    folder: str  # absolute path of the study's folder
    device: str
    command: str  # command line that trains this run alone, for its report


@dataclass(frozen=True)
class JobResult:
    """The result of a job."""

    name: str
    status: Literal["finished", "failed", "interrupted", "worker lost"]  # the last one is not the run's fault
    reason: str = ""  # one line for the user; empty if the run finished
    is_permanent: bool = False  # another try would fail in the same way


def run_job(job: Job, folder: Path | None = None, callbacks: Sequence[Any] = ()) -> JobResult:
    """Train a run in `folder`, by default the study's, until its report is written. Errors become the job's result."""
    from cifarlab import api

    parent = folder or Path(job.folder)
    path = parent / job.name
    options: dict[str, Any] = {"device": job.device, "callbacks": callbacks, "quiet": True}
    try:
        if is_run(path):
            deadline = time.monotonic() + SECONDS_FOR_ANOTHER_PROCESS
            while RunFolder(path).is_locked() and time.monotonic() < deadline:
                time.sleep(0.2)
            if not is_complete(path):
                api.resume(path, **options)
        else:
            if kept := [file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")]:
                raise UsageError(f"{path} is not a run folder, but holds {kept[0].name}. Move it away.")
            recipe, exists = check(job.recipe, job.name), path.exists()  # if its process was killed
            api.train(recipe, name=job.name, runs=parent, force=exists, command=job.command, **options)
    except Interrupted as error:
        return JobResult(job.name, "interrupted", str(error))
    except Exception as error:  # an error of one run must not end the study
        text = one_line(error)
        reason = text if isinstance(error, CifarlabError) else f"{type(error).__name__}: {text}"
        return JobResult(job.name, "failed", reason, is_permanent=isinstance(error, UsageError))
    return JobResult(job.name, "finished")


def is_complete(path: Path) -> bool:
    """Return True if a run is finished and its report is written. Raise UsageError if its run.json is damaged."""
    try:
        run = RunFolder(path)
        return run.status == "finished" and run.report.exists()
    except UsageError as error:  # nothing is removed, because the other files may be worth keeping
        reason = str(error).rstrip(".")
        raise UsageError(f"{reason}. Move the folder {path.name} away to train this run anew.") from error
