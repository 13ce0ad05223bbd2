"""Trains what is not finished of a study, tries again what fails, and collects what came of it.

The study's folder says all: its definition is in study.toml, and each run's folder says how far that run is. So the
same call goes on where an earlier one ended, however that was.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shlex
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filelock

from cifarlab import api, files, models
from cifarlab.data.catalogue import absolute
from cifarlab.device import DEVICES
from cifarlab.errors import CifarlabError, Interrupted, UsageError, unknown
from cifarlab.experiments.study import engines, grid, outcome
from cifarlab.experiments.study.display import Display, display
from cifarlab.experiments.study.engines import Engine, local
from cifarlab.experiments.study.grid import Member, Study
from cifarlab.experiments.study.jobs import Ended, Job, is_done
from cifarlab.experiments.study.outcome import Outcome, State
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import STUDY, check_plain_name, is_run, is_study, runs_folder
from cifarlab.training.signals import signals

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
    if isinstance(study, str):
        study = grid.define(study, set, vary, name)
    asked: dict[str, Any] = {
        "engine": engine,
        "workers": workers,
        "device": device,
        "metric": metric,
        "address": address,
    }
    study, folder = _checked(study, runs, quiet=quiet, **asked)
    todo = _unfinished(study, folder)
    with _made(engine, workers, len(todo), device, address, cpus, gpus) as made:
        _check_runs(todo, _device(engine, device), runs)
        return _trained(study, folder, made, retries=retries, device=device, metric=metric, quiet=quiet)


def _trained(
    study: Study, folder: Path, engine: Engine, *, retries: int, device: str, metric: str, quiet: bool
) -> Outcome:
    """Trains what is not finished in the study's folder, and collects what came of all."""
    with _claimed(study, folder):
        sweep = _begun(study, folder, retries)
        with signals() as received, display(study, folder, quiet=quiet) as shown:
            _sweep(sweep, engine, received, shown, device)
        found = outcome.collect(study, folder, sweep.states, metric)
        outcome.write(found)
    if received and any(state.status not in ("finished", "failed") for state in sweep.states.values()):
        raise Interrupted(f"stopped by {signal.Signals(received[0]).name}", received[0]).with_restart_hint()
    return found


def plan(
    study: Study,
    *,
    runs: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    metric: str = outcome.METRIC,
    address: str | None = None,
) -> Study:
    """What `run_study` would train: all that it refuses is refused, and nothing is made but the cache of data.

    Only a cluster is not asked.

    Args:
        study: from `grid.define`.
        runs: as `run_study` takes it, like all others.
        engine: where.
        workers: how many at once.
        device: on what.
        metric: of tables and pictures.
        address: of a cluster.

    Raises:
        UsageError: as `run_study`.
    """
    planned, folder = _checked(
        study, runs, engine=engine, workers=workers, device=device, metric=metric, address=address
    )
    _check_runs(_unfinished(planned, folder), _device(engine, device), runs)
    return planned


def _checked(
    study: Study,
    runs: Path | str | None,
    *,
    engine: str,
    workers: int | None,
    device: str,
    metric: str,
    address: str | None,
    quiet: bool = False,
) -> tuple[Study, Path]:
    """The study that goes on, and its folder, after all checks that need no data and no network."""
    for kind, given, known in (
        ("metric", metric, outcome.METRICS),
        ("engine", engine, engines.NAMES),
        ("device", device, DEVICES),
    ):
        if given not in known:
            raise unknown(kind, given, known)
    folder = runs_folder(runs) / check_plain_name(study.name)
    found = _in_its_folder(study, folder)
    if len(found.members) > len(study.members):
        notice(f"the study {found.name} has grown to {len(found.members)} runs: all of them go on", quiet=quiet)
    if engine == "local":
        if address is not None:
            raise UsageError("--address is of a cluster: add --engine ray")
        local.check_workers(min(workers or 1, len(_unfinished(found, folder))))
    elif importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs ray: pip install 'cifarlab[cluster]'")
    return found, folder


def _device(engine: str, device: str) -> str:
    """Where networks are tried before anything is made: a cluster's machines have their own devices."""
    return device if engine == "local" else "cpu"


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
            begun = sum(is_run(sweep.folder / name) for name in running)
            shown.say(f"stopping: {begun} run{' is' if begun == 1 else 's are'} saved" if begun else "stopping")
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
        return State("waiting", ended.reason)
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
    with contextlib.suppress(UsageError):  # a damaged run.json, which is told as any failed run is
        return is_run(path) and is_done(path)
    return False


def _in_its_folder(study: Study, folder: Path) -> Study:
    """The study that goes on in this folder: as asked for, or the larger one that is there.

    Raises:
        UsageError: the folder is something else, or another study's.
    """
    if is_run(folder):
        raise UsageError(f"{folder} is a run: choose another --name")
    if not is_study(folder):
        if folder.exists() and (not folder.is_dir() or any(not each.name.startswith(".") for each in folder.iterdir())):
            raise UsageError(f"{folder} is there, and is no study: choose another --name")
        return study
    try:
        told = grid.read(folder / STUDY)
        there = study
        if differs := study.lacks(told):
            there = replace(grid.define(str(folder / STUDY)), name=study.name)
            if there.lacks(study.definition()):  # neither holds all runs of the other
                raise UsageError(f"{folder} holds another study: {differs}")
    except UsageError as error:
        raise UsageError(f"{error}: choose another --name") from error
    for member in there.members:
        if differs := _difference(folder / member.name, member.recipe):
            raise UsageError(f"{differs}: has the recipe changed? Choose another --name")
    return there


def _difference(path: Path, recipe: Recipe) -> str:
    """In what a run was trained otherwise than a recipe says, in words; empty where it was not, or cannot be read."""
    if not is_run(path):
        return ""
    try:
        trained = _settings(RunFolder(path).recipe)
    except UsageError:  # damaged, which is told when its turn comes
        return ""
    wanted = _settings(recipe)
    for key in sorted(trained.keys() | wanted.keys()):
        if trained.get(key) != wanted.get(key):
            was, now = (grid.as_toml(fields[key]) if key in fields else "nothing" for fields in (trained, wanted))
            return f"{path} was trained with {key}={was}, not {now}"
    return ""


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What makes two recipes different trainings, by keys as `--set` takes them, with paths as a run holds them."""
    left_out = {"published", "description"} | (_FROM_THE_START if recipe.start_from else set())
    fields = grid.flat(recipe.model_dump(mode="json", exclude=left_out))
    if "model" in fields:
        fields["model"] = models.resolve_model_name(recipe.model)
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
        engine = local.Local(min(workers or 1, runs), device)
    else:
        from cifarlab.experiments.study.engines.ray import Ray

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
