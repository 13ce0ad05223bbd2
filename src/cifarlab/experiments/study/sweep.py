"""Run a study: train its unfinished runs, try failed ones again, and collect the results."""

import contextlib
import importlib.util
import shlex
import signal
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifarlab import api
from cifarlab.device import DEVICES
from cifarlab.errors import CifarlabError, Interrupted, UsageError, unknown
from cifarlab.experiments.study.definition import PlannedRun, Study, define
from cifarlab.experiments.study.display import Display, display
from cifarlab.experiments.study.engines.local import LocalEngine, usable_cores
from cifarlab.experiments.study.engines.ray import RayEngine
from cifarlab.experiments.study.folder import claimed_folder, study_to_continue, unfinished_runs
from cifarlab.experiments.study.jobs import Job, JobResult
from cifarlab.experiments.study.outcome import DEFAULT_METRIC, METRICS, Outcome, RunState, collect, write_table
from cifarlab.experiments.study.pictures import write_pictures
from cifarlab.progress import notice
from cifarlab.recipes import setting_text
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import absolute_start, check_plain_name, is_run, runs_folder
from cifarlab.training.signals import signals

Engine = LocalEngine | RayEngine
ENGINES = ("local", "ray")
MOST_LOST_WORKERS = 3  # under one run; after that, the run itself may be the cause
SECONDS_BETWEEN_POLLS = 0.5
# Keys that cannot make the preparation of a run fail.
_NEVER_INVALID = {"name", "published", "seed", "learning_rate", "momentum", "weight_decay", "epochs", "patience", "tta"}


def run_study(
    study: Study | str,
    *,
    set: Mapping[str, Any] | None = None,
    vary: Mapping[str, Iterable[Any] | str] | None = None,
    name: str | None = None,
    runs: Path | str | None = None,
    engine: str = "local",
    workers: int | None = None,
    retries: int = 1,
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
        study: name or file of a recipe, a study's TOML file, or a study from `definition.define`.
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
    continued, folder, unfinished = _check(study, runs, engine, workers, device, metric, address)
    if len(continued.runs) > len(study.runs):
        notice(f"{continued.name} already has {len(continued.runs)} runs; continuing with all of them", quiet=quiet)
    opened: Engine
    if engine == "local":
        opened = LocalEngine(min(workers or 1, len(unfinished)), device)
    else:
        opened = RayEngine(workers or None, address, cpus, gpus)
    with contextlib.closing(opened):
        _check_preparation(unfinished, engine, device, runs)
        with claimed_folder(continued, folder):
            sweep = _Sweep(continued, folder, device, retries)
            with signals() as received, display(continued, folder, sweep.states, quiet=quiet) as shown:
                sweep.train(opened, received, shown, quiet)
            outcome = collect(continued, folder, sweep.states, metric)
            outcome.write()
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

    Nothing is created but the cache of data. The arguments and errors are those of `run_study`.
    """
    planned, _, unfinished = _check(study, runs, engine, workers, device, metric, address)
    _check_preparation(unfinished, engine, device, runs)
    return planned


def _check(
    study: Study,
    runs: Path | str | None,
    engine: str,
    workers: int | None,
    device: str,
    metric: str,
    address: str | None,
) -> tuple[Study, Path, list[PlannedRun]]:
    """Make all checks that need neither data nor networks. Return the study to continue, its folder, what to train."""
    for kind, name, choices in (("metric", metric, METRICS), ("engine", engine, ENGINES), ("device", device, DEVICES)):
        if name not in choices:
            raise unknown(kind, name, choices)
    folder = runs_folder(runs) / check_plain_name(study.name)
    continued = study_to_continue(study, folder)
    unfinished = unfinished_runs(continued, folder)
    if engine == "local":
        if address is not None:
            raise UsageError("--address is for a Ray cluster. Add --engine ray.")
        needed, cores = min(workers or 1, len(unfinished)), usable_cores()
        if needed > cores:
            raise UsageError(f"--workers must be at most {cores}, the number of cores here, got {needed}")
    elif importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs ray. Install it: pip install 'cifarlab[cluster]'.")
    return continued, folder, unfinished


def _check_preparation(planned: Iterable[PlannedRun], engine: str, device: str, runs: Path | str | None) -> None:
    """Check that every distinct combination of data set and network can be prepared."""
    distinct = {run.recipe.model_dump_json(exclude=_NEVER_INVALID): run.recipe for run in planned}
    for recipe in distinct.values():
        # The machines of a cluster may have other devices than this one.
        api.plan(recipe, device if engine == "local" else "cpu", runs=runs)


class _Sweep:
    """The state of a study while it runs, as its folder holds it at the beginning."""

    def __init__(self, study: Study, folder: Path, device: str, retries: int) -> None:
        self.study, self.folder, self.device, self.retries = study, folder, device, retries
        self.checksums: dict[tuple[str | int, ...], tuple[str, dict[str, str]]] = {}  # by the names of a run's files
        self.waiting = deque(unfinished_runs(study, folder))
        waiting = {run.name: RunState("waiting") for run in self.waiting}
        self.states = {run.name: waiting.get(run.name) or self.finished(run.name) for run in study.runs}
        self.failures: defaultdict[str, list[str]] = defaultdict(list)  # statuses of each run's jobs that failed

    def train(self, engine: Engine, received: Sequence[int], shown: Display, quiet: bool) -> None:
        """Give jobs to the engine until all runs have ended, or a signal arrived and the begun ones are saved."""
        training, stopping = set[str](), False
        while training or (self.waiting and not received):
            if received and not stopping:
                stopping = True
                count = sum(is_run(self.folder / name) for name in training)
                notice(f"stopping: saving {count} run{'s' * (count > 1)}" if count else "stopping", quiet=quiet)
                engine.stop()
            while self.waiting and not received and engine.has_room():
                run = self.waiting.popleft()
                engine.submit(self.job(run))
                training.add(run.name)
                self.states[run.name] = RunState("running")
                shown.run_changed(run.name)
            for result in engine.poll(SECONDS_BETWEEN_POLLS):
                training.discard(result.name)
                self.states[result.name] = self.next_state(result)
                write_table(self.study, self.folder, self.states)
                shown.run_changed(result.name)
            shown.refresh()

    def job(self, run: PlannedRun) -> Job:
        settings = {**self.study.fixed, **run.values}
        options = [word for key, value in settings.items() for word in ("--set", setting_text(key, value))]
        command = shlex.join(["cifarlab", "train", self.study.recipe, *options])
        start = absolute_start(run.recipe.start_from, self.folder.parent)  # the run's own runs folder is the study's
        recipe = run.recipe.model_copy(update={"start_from": start})
        return Job(run.name, recipe.model_dump(mode="json"), str(self.folder.resolve()), self.device, command)

    def next_state(self, result: JobResult) -> RunState:
        """Return the state of a run whose job has ended. A run to be tried again goes to the head of the queue."""
        name, reason = result.name, result.reason
        if result.status == "finished":
            return self.finished(name)
        if result.status == "interrupted":
            return RunState("interrupted", "stopped")
        failures = self.failures[name]
        failures.append(result.status)
        tries = MOST_LOST_WORKERS if result.status == "worker lost" else 1 + self.retries
        if failures.count(result.status) < tries and not result.is_permanent:
            self.waiting.appendleft(next(run for run in self.study.runs if run.name == name))
            return RunState("waiting", reason)
        if len(failures) > 1:
            reason = f"{reason} (tried {len(failures)} times)"
        folder = RunFolder(self.folder / name)
        with contextlib.suppress(CifarlabError):  # a run that never began has no folder
            if folder.status not in ("failed", "finished"):
                folder.update(status="failed", reason=reason)
        return RunState("failed", reason)

    def finished(self, name: str) -> RunState:
        record = RunFolder(self.folder / name).record
        recipe = record.recipe
        checksums = (record.data.sha256, {key: sum for key, sum in record.origins.items() if key != "network"})
        names = (recipe.model, recipe.start_from, recipe.dataset, recipe.size)
        if self.checksums.setdefault(names, checksums) != checksums:
            changed = "data, the network's source or the weights of start_from have changed since another run"
            return RunState("failed", f"{changed}: train all runs again, under another --name")
        return RunState("finished", results=record.results, protocol=record.protocol)
