"""Trains what is not finished of a study, tries again what fails, and collects what came of it.

The study's folder says all: its definition is in study.toml, and each run's folder says how far that run is. So the
same call goes on where an earlier one ended, however that was.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from cifarlab import api, files, models
from cifarlab.data.loaders import absolute
from cifarlab.device import NAMES as DEVICES
from cifarlab.errors import CifarlabError, Interrupted, UsageError, unknown
from cifarlab.guards import signals
from cifarlab.recipes import Recipe
from cifarlab.run import RunFolder
from cifarlab.runs import STUDY, check_plain, is_run, is_study, runs_folder
from cifarlab.study import engines, grid, outcome
from cifarlab.study.display import Display, display
from cifarlab.study.engines import Engine
from cifarlab.study.grid import Member, Study
from cifarlab.study.jobs import Ended, Job
from cifarlab.study.outcome import Outcome, State

RETRIES = 1
MOST_LOSSES = 3  # of machines under one run, until it is thought to be the run's fault
SECONDS_BETWEEN_LOOKS = 0.5
_SAYS_LITTLE = {"seed", "learning_rate", "momentum", "weight_decay", "epochs", "time_budget", "patience", "tta"}
_FROM_THE_START = {"model", "model_options", "size", "normalize"}  # what `start_from` decides when the run begins


@dataclass
class _Sweep:
    """What changes while a study runs."""

    study: Study
    folder: Path
    states: dict[str, State]
    waiting: deque[Member]
    retries: int
    tries: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)


def run_study(
    study: Study | str,
    *,
    set: Mapping[str, Any] | None = None,
    vary: Mapping[str, Iterable[Any] | str] | None = None,
    name: str | None = None,
    runs: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    retries: int = RETRIES,
    device: str = "auto",
    metric: str = outcome.METRIC,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    quiet: bool = False,
) -> Outcome:
    """Trains a recipe once for every combination of the varied values, and says what came of it.

    A study that was cut off goes on with the same call, more values make it grow, and a run that fails does not end it.

    Args:
        study: a recipe, a study's TOML file, or what `grid.define` gives.
        set: values for all runs, by key.
        vary: values by key; `0:5` is 0 to 4.
        name: of the study's folder; by default made of the recipe and the varied keys.
        runs: the folder of runs; default `CIFARLAB_RUNS`, else `./runs`.
        engine: `local`, processes of this machine, or `ray`, a cluster.
        workers: how many runs are trained at once; by default one here, and as many as fit in a cluster.
        retries: how often a failed run is tried again from its checkpoint.
        device: `auto`, `cpu` or `cuda`.
        metric: what tables and pictures are about, one of `outcome.METRICS`.
        address: of a Ray cluster.
        cpus: cores that a run takes in a cluster.
        gpus: GPUs that a run takes in a cluster.
        quiet: show no progress.

    Raises:
        UsageError: something does not exist or does not fit, or the folder holds another study; nothing has been
            created.
        Interrupted: a signal came; everything is saved.
    """
    _check_names(metric, engine, device)
    if isinstance(study, str):
        study = grid.define(study, set, vary, name)
    folder = runs_folder(runs) / check_plain(study.name)
    _check_folder(study, folder)
    todo = _unfinished(study, folder)
    with _made(engine, workers, len(todo), device, address, cpus, gpus) as made:
        _check_runs(todo, device if engine == "local" else "cpu", runs)  # a cluster's machines have their own devices
        with _claimed(study, folder):
            sweep = _begun(study, folder, retries)
            with signals() as received, display(study, folder, quiet=quiet) as shown:
                _sweep(sweep, made, received, shown, device)
            found = outcome.collect(study, folder, sweep.states, metric)
            outcome.write(found)
    if received and any(state.status not in ("finished", "failed") for state in sweep.states.values()):
        raise Interrupted(f"stopped by {signal.Signals(received[0]).name}", received[0]).of_a_command()
    return found


def _check_names(metric: str, engine: str, device: str) -> None:
    for kind, given, known in (
        ("metric", metric, outcome.METRICS),
        ("engine", engine, engines.NAMES),
        ("device", device, DEVICES),
    ):
        if given not in known:
            raise unknown(kind, given, known)


def _begun(study: Study, folder: Path, retries: int) -> _Sweep:
    """A study as its folder stands."""
    todo = _unfinished(study, folder)
    states = {member.name: _finished(folder / member.name) for member in study.members if member not in todo}
    states |= {member.name: State("waiting") for member in todo}
    states = {member.name: states[member.name] for member in study.members}  # in the order of the table
    return _Sweep(study, folder, states, deque(todo), retries)


def _sweep(sweep: _Sweep, engine: Engine, received: list[int], shown: Display, device: str) -> None:
    """Gives jobs to the engine until all are done or a signal came."""
    running = set[str]()
    stopping = False
    while running or (sweep.waiting and not received):
        if received and not stopping:
            stopping = True
            shown.say(f"stopping: {len(running)} runs are saved")
            engine.stop()
        while sweep.waiting and not received and engine.free():
            member = sweep.waiting.popleft()
            recipe, command = member.recipe.model_dump(mode="json"), _command(sweep.study, member)
            engine.submit(Job(member.name, recipe, str(sweep.folder.resolve()), device, command))
            running.add(member.name)
            sweep.states[member.name] = State("running")
            shown.changed(sweep.states, member.name)
        for ended in engine.poll(SECONDS_BETWEEN_LOOKS):
            running.discard(ended.name)
            sweep.states[ended.name] = _judged(sweep, ended)
            outcome.write_table(sweep.study, sweep.folder, sweep.states)
            shown.changed(sweep.states, ended.name)
        shown.refresh(sweep.states)


def _judged(sweep: _Sweep, ended: Ended) -> State:
    """What becomes of a run whose job has ended; what is to be tried again waits before all others."""
    name, run = ended.name, RunFolder(sweep.folder / ended.name)
    if ended.status == "finished":
        return _finished(run.path)
    if ended.status == "interrupted":
        return State("interrupted", "stopped")
    count = sweep.losses if ended.status == "lost" else sweep.tries
    count[name] = count.get(name, 0) + 1
    again = count[name] < MOST_LOSSES if ended.status == "lost" else count[name] <= sweep.retries
    if again and not ended.hopeless:
        sweep.waiting.appendleft(next(member for member in sweep.study.members if member.name == name))
        return State("waiting", f"again after: {ended.reason}")
    tries = sweep.tries.get(name, 0) + sweep.losses.get(name, 0)
    reason = ended.reason if tries == 1 else f"{ended.reason} (tried {tries} times)"
    with contextlib.suppress(CifarlabError):  # a run that never began has no folder
        if run.status not in ("failed", "finished"):
            run.update(status="failed", reason=reason)
    return State("failed", reason)


def _finished(path: Path) -> State:
    return State("finished", results=RunFolder(path).results)


def _unfinished(study: Study, folder: Path) -> list[Member]:
    return [member for member in study.members if not _is_done(folder / member.name)]


def _is_done(path: Path) -> bool:
    return is_run(path) and RunFolder(path).record["status"] == "finished" and (path / "report.html").exists()


def _check_folder(study: Study, folder: Path) -> None:
    """Refuses a folder that is something else than this study's."""
    if is_run(folder):
        raise UsageError(f"{folder} is a run: choose another --name")
    if not is_study(folder):
        if folder.exists() and (not folder.is_dir() or any(not each.name.startswith(".") for each in folder.iterdir())):
            raise UsageError(f"{folder} is there, and is no study: choose another --name")
        return
    try:
        there = grid.read(folder / STUDY)
    except UsageError as error:
        raise UsageError(f"{error}: choose another --name") from error
    if not study.extends(there):
        raise UsageError(f"{folder} holds another study: choose another --name, or see {folder / STUDY}")
    for member in study.members:
        path = folder / member.name
        if is_run(path) and _settings(RunFolder(path).recipe) != _settings(member.recipe):
            raise UsageError(f"{path} was trained with other settings: has the recipe changed? Choose another --name")


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What makes two recipes different trainings, with paths as a run holds them."""
    left_out = {"published", "description"} | (_FROM_THE_START if recipe.start_from else set())
    fields = recipe.model_dump(mode="json", exclude=left_out)
    if "model" in fields:
        fields["model"] = models.name_of(recipe.model)
    return fields | {"dataset": absolute(recipe.dataset)}


def _check_runs(members: Iterable[Member], device: str, runs: Path | str | None) -> None:
    """Looks whether data and networks are there and fit, once for every kind of run.

    Raises:
        UsageError: as `api.plan`.
    """
    kinds: dict[str, Recipe] = {}
    for member in members:
        kinds.setdefault(member.recipe.model_dump_json(exclude=_SAYS_LITTLE | {"name", "published"}), member.recipe)
    for recipe in kinds.values():
        api.plan(recipe, device, runs=runs)


@contextlib.contextmanager
def _claimed(study: Study, folder: Path) -> Iterator[None]:
    """Makes the study's folder, and keeps other processes out of it."""
    files.make_folder(folder)
    try:
        with filelock.FileLock(folder / ".lock", timeout=0.5):
            files.sweep(folder)
            files.write_text(folder / STUDY, study.to_toml())
            yield
    except filelock.Timeout as error:
        raise CifarlabError(f"the study in {folder} is being run by another process") from error


@contextlib.contextmanager
def _made(
    name: str, workers: int | None, runs: int, device: str, address: str | None, cpus: float, gpus: float
) -> Iterator[Engine]:
    """The engine of this name for so many runs, which is closed afterwards."""
    engine: Engine
    if name == "local":
        if address is not None:
            raise UsageError("--address is of a cluster: add --engine ray")
        from cifarlab.study.engines.local import Local

        engine = Local(min(workers or 1, runs), device)
    else:
        from cifarlab.study.engines.ray import Ray

        engine = Ray(None if workers is None else max(1, min(workers, runs)), address=address, cpus=cpus, gpus=gpus)
    try:
        yield engine
    finally:
        engine.close()


def _command(study: Study, member: Member) -> str:
    """What trains a run of the study alone, for its report."""
    settings = {**study.fixed, **member.values}
    changes = [part for key, value in settings.items() for part in ("--set", grid.as_setting(key, value))]
    return shlex.join(["cifarlab", "train", study.recipe, *changes])
