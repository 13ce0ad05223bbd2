"""Run a study: train its unfinished runs, try failed ones again, and collect the results."""

import contextlib
import importlib.util
import shlex
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cifarlab import api
from cifarlab.device import DEVICES
from cifarlab.errors import CifarlabError, Interrupted, UsageError, unknown
from cifarlab.experiments.study import engines
from cifarlab.experiments.study.display import Display, display
from cifarlab.experiments.study.engines import Engine, local
from cifarlab.experiments.study.folder import claimed_folder, study_to_continue, unfinished_runs
from cifarlab.experiments.study.grid import PlannedRun, Study, define
from cifarlab.experiments.study.jobs import Job, JobResult
from cifarlab.experiments.study.outcome import (
    DEFAULT_METRIC,
    METRICS,
    Outcome,
    RunState,
    collect,
    write_results,
    write_table,
)
from cifarlab.experiments.study.pictures import write_pictures
from cifarlab.progress import notice
from cifarlab.recipes import Recipe, setting_text
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import check_plain_name, is_run, runs_folder
from cifarlab.training.signals import signals

RETRIES = 1
MOST_LOST_WORKERS = 3  # under one run; after that, the run itself may be the cause
SECONDS_BETWEEN_POLLS = 0.5
# Keys that cannot make the preparation of a run fail.
_NEVER_INVALID = {"name", "published", "seed", "learning_rate", "momentum", "weight_decay", "epochs", "patience", "tta"}


@dataclass
class _Sweep:
    """The state of a study while it runs."""

    study: Study
    folder: Path
    states: dict[str, RunState]
    waiting: deque[PlannedRun]
    retries: int
    failures: Counter[str] = field(default_factory=Counter)
    lost_workers: Counter[str] = field(default_factory=Counter)


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
    metric: str = DEFAULT_METRIC,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    quiet: bool = False,
) -> Outcome:
    """Train a recipe once for every combination of the varied values, and rank and compare the settings.

    The same call continues a study that was interrupted, and more values extend it. A run that fails does not end it.

    Args:
        study: name or file of a recipe, a study's TOML file, or a study from `grid.define`.
        set: values for all runs, by key.
        vary: lists of values by key; the text `0:5` means 0 to 4.
        name: name of the study's folder; by default made of the recipe and the varied keys.
        runs: the folder of runs; default `CIFARLAB_RUNS`, else `./runs`.
        engine: `local` for processes of this machine, or `ray` for a cluster.
        workers: number of runs to train at once; default 1 here, and as many as fit in a cluster.
        retries: how often to try a failed run again from its checkpoint.
        device: `auto`, `cpu` or `cuda`.
        metric: metric to rank and draw, a key of `outcome.METRICS`.
        address: address of a Ray cluster.
        cpus: cores for each run in a cluster.
        gpus: GPUs for each run in a cluster.
        quiet: show no progress.

    Raises:
        UsageError: a name or value is wrong, or the folder holds something else. Nothing has been created.
        Interrupted: a signal arrived; everything is saved.
    """
    if isinstance(study, str):
        study = define(study, set, vary, name)
    continued, folder = _check(study, runs, engine, workers, device, metric, address)
    if len(continued.runs) > len(study.runs):
        notice(f"{continued.name} already has {len(continued.runs)} runs; continuing with all of them", quiet=quiet)
    unfinished = unfinished_runs(continued, folder)
    with _open_engine(engine, workers, len(unfinished), device, address, cpus, gpus) as opened:
        _check_preparation(unfinished, _device_for_checks(engine, device), runs)
        with claimed_folder(continued, folder):
            sweep = _start(continued, folder, retries)
            with signals() as received, display(continued, folder, quiet=quiet) as shown:
                _train_all(sweep, opened, received, shown, device)
            outcome = collect(continued, folder, sweep.states, metric)
            write_results(outcome)
            write_pictures(outcome)
    if received and any(state.status not in ("finished", "failed") for state in sweep.states.values()):
        raise Interrupted(f"stopped by {signal.Signals(received[0]).name}", received[0]).with_restart_hint()
    return outcome


def plan(
    study: Study,
    *,
    runs: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    device: str = "auto",
    metric: str = DEFAULT_METRIC,
    address: str | None = None,
) -> Study:
    """Return the study that `run_study` would run, after all its checks but the connection to a cluster.

    Nothing is created but the cache of data. The arguments are those of `run_study`.

    Raises:
        UsageError: as `run_study`.
    """
    planned, folder = _check(study, runs, engine, workers, device, metric, address)
    _check_preparation(unfinished_runs(planned, folder), _device_for_checks(engine, device), runs)
    return planned


def _check(
    study: Study,
    runs: Path | str | None,
    engine: str,
    workers: int | None,
    device: str,
    metric: str,
    address: str | None,
) -> tuple[Study, Path]:
    """Make all checks that need neither data nor networks. Return the study to continue, and its folder."""
    named = (("metric", metric, METRICS), ("engine", engine, engines.NAMES), ("device", device, DEVICES))
    for kind, name, choices in named:
        if name not in choices:
            raise unknown(kind, name, choices)
    folder = runs_folder(runs) / check_plain_name(study.name)
    continued = study_to_continue(study, folder)
    if engine == "local":
        if address is not None:
            raise UsageError("--address is for a Ray cluster. Add --engine ray.")
        local.check_workers(min(workers or 1, len(unfinished_runs(continued, folder))))
    elif importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs ray. Install it: pip install 'cifarlab[cluster]'.")
    return continued, folder


def _device_for_checks(engine: str, device: str) -> str:
    """Return where to try networks before the study begins: the machines of a cluster may have other devices."""
    return device if engine == "local" else "cpu"


def _check_preparation(planned: Iterable[PlannedRun], device: str, runs: Path | str | None) -> None:
    """Check that every distinct combination of data set and network can be prepared.

    Raises:
        UsageError: as `api.plan`.
    """
    distinct: dict[str, Recipe] = {}
    for run in planned:
        distinct.setdefault(run.recipe.model_dump_json(exclude=_NEVER_INVALID), run.recipe)
    for recipe in distinct.values():
        api.plan(recipe, device, runs=runs)


@contextlib.contextmanager
def _open_engine(
    name: str, workers: int | None, runs: int, device: str, address: str | None, cpus: float, gpus: float
) -> Iterator[Engine]:
    """Open an engine for a number of runs, and close it after the `with` block."""
    engine: Engine
    if name == "local":
        engine = local.LocalEngine(min(workers or 1, runs), device)
    else:
        from cifarlab.experiments.study.engines.ray import RayEngine

        most = None if workers is None else max(1, min(workers, runs))
        engine = RayEngine(most, address=address, cpus=cpus, gpus=gpus)
    try:
        yield engine
    finally:
        engine.close()


def _start(study: Study, folder: Path, retries: int) -> _Sweep:
    """Return the study's state as its folder holds it."""
    unfinished = unfinished_runs(study, folder)
    names = {run.name for run in unfinished}
    states = {
        run.name: RunState("waiting") if run.name in names else _finished(folder / run.name) for run in study.runs
    }
    return _Sweep(study, folder, states, deque(unfinished), retries)


def _train_all(sweep: _Sweep, engine: Engine, received: list[int], shown: Display, device: str) -> None:
    """Give jobs to the engine until all runs have ended, or a signal arrived and the begun ones are saved."""
    training, stopping = set[str](), False
    while training or (sweep.waiting and not received):
        if received and not stopping:
            stopping = True
            count = sum(is_run(sweep.folder / name) for name in training)
            shown.say(f"stopping: saving {count} run{'s' * (count > 1)}" if count else "stopping")
            engine.stop()
        while sweep.waiting and not received and engine.has_room():
            run = sweep.waiting.popleft()
            engine.submit(_make_job(sweep, run, device))
            training.add(run.name)
            sweep.states[run.name] = RunState("running")
            shown.run_changed(sweep.states, run.name)
        for result in engine.poll(SECONDS_BETWEEN_POLLS):
            training.discard(result.name)
            sweep.states[result.name] = _next_state(sweep, result)
            write_table(sweep.study, sweep.folder, sweep.states)
            shown.run_changed(sweep.states, result.name)
        shown.refresh(sweep.states)


def _make_job(sweep: _Sweep, run: PlannedRun, device: str) -> Job:
    settings = {**sweep.study.fixed, **run.values}
    options = [word for key, value in settings.items() for word in ("--set", setting_text(key, value))]
    command = shlex.join(["cifarlab", "train", sweep.study.recipe, *options])
    return Job(run.name, run.recipe.model_dump(mode="json"), str(sweep.folder.resolve()), device, command)


def _next_state(sweep: _Sweep, result: JobResult) -> RunState:
    """Return the state of a run whose job has ended. A run that is to be tried again goes to the head of the queue."""
    name, folder = result.name, RunFolder(sweep.folder / result.name)
    if result.status == "finished":
        return _finished(folder.path)
    if result.status == "interrupted":
        return RunState("interrupted", "stopped")
    if result.status == "worker lost":
        sweep.lost_workers[name] += 1
        try_again = sweep.lost_workers[name] < MOST_LOST_WORKERS
    else:
        sweep.failures[name] += 1
        try_again = sweep.failures[name] <= sweep.retries and not result.is_permanent
    if try_again:
        sweep.waiting.appendleft(next(run for run in sweep.study.runs if run.name == name))
        return RunState("waiting", result.reason)
    tries = sweep.failures[name] + sweep.lost_workers[name]
    reason = result.reason if tries == 1 else f"{result.reason} (tried {tries} times)"
    with contextlib.suppress(CifarlabError):  # a run that never began has no folder
        if folder.status not in ("failed", "finished"):
            folder.update(status="failed", reason=reason)
    return RunState("failed", reason)


def _finished(path: Path) -> RunState:
    return RunState("finished", results=RunFolder(path).record.results)
