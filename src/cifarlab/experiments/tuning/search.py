"""Tuning: many trainings of one recipe with different settings, judged on validation images; the best becomes a recipe.

Each trial is an ordinary run. `searchspace` says which settings are tried, `sharing` which process does which trial,
`trials` what is written. The test images are never used to choose.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from cifarlab import api, files, models, recipes
from cifarlab.data.batches import seed_for
from cifarlab.errors import Interrupted, Pruned, UsageError
from cifarlab.experiments.tuning import searchspace
from cifarlab.experiments.tuning.searchspace import Space
from cifarlab.inference.classifier import make_classifier
from cifarlab.models.registry import source_sha256
from cifarlab.progress import notice
from cifarlab.recipes import NEEDS, Recipe
from cifarlab.recipes.differences import differing_settings
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import absolute_start, check_plain_name, is_run, runs_folder
from cifarlab.runs.record import EpochRow
from cifarlab.training.preparation import load_source, prepare
from cifarlab.training.signals import signals

if TYPE_CHECKING:
    from cifarlab.experiments.tuning.sharing import Attempt
    from cifarlab.experiments.tuning.trials import Tuning

TRIALS = 30
STARTUP_TRIALS = 10  # drawn at random, before TPE draws from the results of earlier trials
WARMUP = 0.2  # share of a training's epochs in which no trial is pruned
LOCK_POLL_SECONDS = 1.0  # between two looks at a run folder that another process has locked
NOT_COMPARED = {"published", "description", "dataset", "threads"}  # recipe keys that do not change a trial


def tune(
    recipe: Recipe | str,
    space: Path | str | Mapping[str, Any],
    trials: int = TRIALS,
    *,
    storage: str | None = None,
    name: str | None = None,
    prune: bool = True,
    device: str = "auto",
    runs: Path | str | None = None,
    quiet: bool = False,
    command: str = "",
) -> Tuning:
    """Train a recipe many times with different settings, and write the best settings as a recipe.

    Processes that use the same storage, name, recipe and space share the trials. The same call continues stopped trials
    and replaces failed ones. The first trial has the recipe's own values, as far as they lie in the space.

    Args:
        recipe: recipe to tune, or its name; its seed also decides which settings are drawn.
        space: search space, as a TOML file or its tables as a dictionary; see `searchspace`.
        trials: number of trials of the study, over all processes; failed trials of earlier calls do not count.
        storage: database URL; default: an SQLite file in the tuning's folder.
        name: name of the study and of its folder under `runs`; default: the recipe's name with `-tune`.
        prune: end trials early if they are worse than the median at the same epoch.
        device: `auto`, `cpu` or `cuda`.
        runs: folder of runs.
        quiet: show no progress.
        command: the user's command line, for the head of best.toml.

    Raises:
        UsageError: an argument is wrong; nothing has been trained.
        Interrupted: stopped by a signal; the results so far are written, and the same call continues.
        CifarlabError: the database failed.
    """
    recipe = recipes.load(recipe) if isinstance(recipe, str) else recipe
    name = check_plain_name(name or f"{recipe.name.replace('/', '-')}-tune")
    parsed = searchspace.load(space, recipe)
    data_sha256 = _check(recipe, parsed, trials, device, runs, quiet)
    folder = runs_folder(runs) / name
    names = {path.name for path in folder.glob("[!.]*")}  # empty while another process begins the same tuning
    if folder.is_file() or (names and not names & {"tuning.json", "tuning.db"}):
        raise UsageError(f"{folder} exists but is not a tuning. Choose another --name.")
    # Imported here, because Optuna is an extra and takes a second to import.
    from cifarlab.experiments.tuning import database, sharing
    from cifarlab.experiments.tuning.trials import Plan, collect, longest_command, write

    if storage is None:
        files.make_folder(folder)
    address = storage or database.sqlite_url(folder / "tuning.db")
    command = command.replace(address, database.without_password(address))
    settings = recipe.model_dump(mode="json", exclude=NOT_COMPARED)
    plan = Plan(settings=settings, data=data_sha256, space=to_jsonable_python(parsed))
    warmup = max(1, round(WARMUP * recipe.epochs)) if prune else None
    stopped: Interrupted | None = None
    try:
        with sharing.open_study(address, name, warmup) as shared:
            plan.agree(shared.study, folder)
            command = longest_command(shared.study, trials, command)
            with signals() as received:

                def check_signals() -> None:
                    if received:
                        raise Interrupted(f"stopped by {signal.Signals(received[0]).name}", received[0])

                job = _Job(recipe, parsed, folder, trials, device, quiet, check_signals)
                try:
                    sharing.work(shared, trials, job.train, before=check_signals, quiet=quiet)
                except Interrupted as error:
                    stopped = error.with_restart_hint()
            result = collect(shared, folder, recipe, parsed)
    except database.DATABASE_ERRORS as error:
        raise database.database_failed(error) from error
    write(result, command)
    if stopped is not None:
        raise stopped
    return result


def _check(recipe: Recipe, space: Space, trials: int, device: str, runs: Path | str | None, quiet: bool) -> str:
    """Return the checksums for a `Plan`, or raise UsageError if the tuning is not possible."""
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    if recipe.validate_on == "test":
        raise UsageError(
            f"{recipe.name} validates on the test images, and choosing by them would flatter the result: "
            "--set train_on=split --set validate_on=validation --set keep=best"
        )
    for key in space:
        if (idle := recipe.without_effect([key])) and NEEDS[key][0] not in space:
            raise UsageError(f"{idle[0]}, so that tuning it would compare equal trainings")
    prepared = prepare(recipe, device=device, runs=runs, quiet=quiet)
    data, sums = prepared.data, {sum for key, sum in prepared.origins.items() if key != "network"}
    for key, parameter in space.items():
        if key == "model" or (key.startswith("model_options.") and "model" not in space):
            for value in parameter.checked_values():
                other = recipe.changed({key: value})
                make_classifier(other.model, other.model_options, data.classes, other.size, other.preprocessing)
                sums.add(source_sha256(other.model))
    return " ".join([data.sha256, *sorted(sums - {""})])


@dataclass(frozen=True)
class _Job:
    """Settings that all trials of this process share, and the training of a trial."""

    recipe: Recipe
    space: Space
    folder: Path
    total: int
    device: str
    quiet: bool
    check_signals: Callable[[], None]

    def train(self, attempt: Attempt) -> float:
        """Train a trial, or continue it, and return its validation accuracy."""
        from optuna.samplers import PartialFixedSampler, TPESampler

        seed = seed_for(self.recipe.seed, "tuning", attempt.number) % 2**32  # equal seeds would draw equal settings
        own = {} if attempt.position else searchspace.own_values(self.space, self.recipe)
        sampler = PartialFixedSampler(own, TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed))
        attempt.trial.study.sampler = sampler  # used at the first `suggest`, not before
        values = {key: parameter.suggest(key, attempt.trial) for key, parameter in self.space.items()}
        place = f"{attempt.position + 1} of {self.total}"  # differs from the number if earlier trials failed
        notice(f"trial {attempt.number} ({place}): {searchspace.settings_text(values)}", quiet=self.quiet)
        run = self._run(attempt, self.recipe.changed(values))
        accuracy = float(run.results["validation_accuracy"])
        notice(f"trial {attempt.number}: validation accuracy {accuracy:.2%}", quiet=self.quiet)
        return accuracy

    def _run(self, attempt: Attempt, recipe: Recipe) -> RunFolder:
        """Return the finished run of a trial, which is trained or continued if needed."""
        from cifarlab.experiments.tuning.trials import run_name

        start = absolute_start(recipe.start_from, self.folder.parent)  # trials lie in another folder than the runs
        recipe = recipe.changed({"start_from": start})
        recipe = recipe.model_copy(update={"model": models.resolve_model_name(recipe.model)})
        recipe, _ = load_source(recipe, self.folder.parent)  # as the run stores it
        run = RunFolder(self.folder / run_name(attempt.number))
        options: dict[str, Any] = {"device": self.device, "callbacks": [TrialCallback(attempt)], "quiet": self.quiet}
        if run.is_locked():  # by a process that counts as dead, or by the user
            notice(f"waiting for another process that trains in {run.path}", quiet=self.quiet)
        while run.is_locked():
            self.check_signals()
            time.sleep(LOCK_POLL_SECONDS)
        if is_run(run.path) and differing_settings(run.recipe, recipe).keys() <= {"dataset"}:
            if run.status == "finished":
                return run
            attempt.report(run.history)  # a kill may have kept the last epoch from the study
            return api.resume(run, **options)
        return api.train(recipe, name=run.name, runs=self.folder, force=run.path.exists(), **options)


@dataclass(frozen=True)
class TrialCallback:
    """A training callback that reports every epoch to the study and prunes the trial."""

    attempt: Attempt

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Report the epoch, and end the training if the trial was taken over or is to be pruned."""
        self.attempt.report(run.history)
        if row.epoch < run.recipe.epoch_count and self.attempt.trial.should_prune():
            raise Pruned(f"pruned after epoch {row.epoch}: the median of the trials was better by then")
