"""Tuning: many trainings of one recipe with other settings, judged on validation images, and the best as a recipe.

Each trial is an ordinary run. What may be tried is `searchspace`'s part, who does which trial `sharing`'s. The test
images are never looked at to choose by.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarlab import api, files, models, recipes
from cifarlab.data.batches import seed_for
from cifarlab.data.catalogue import absolute, load_data
from cifarlab.errors import Interrupted, Pruned, UsageError
from cifarlab.experiments.tuning import searchspace
from cifarlab.experiments.tuning.searchspace import Space
from cifarlab.experiments.tuning.trials import Tuning, collect, run_name, write
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import check_plain_name, is_run, runs_folder
from cifarlab.runs.record import EpochRow
from cifarlab.training.signals import signals

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial
    from optuna.samplers import BaseSampler

    from cifarlab.experiments.tuning.sharing import Lease, Shared

TRIALS = 30
STARTUP_TRIALS = 10  # drawn at random, before what they found guides the rest
TRIALS_BEFORE_PRUNING = 5  # complete ones: a median of fewer says little
WARMUP = 0.2  # share of a training's epochs in which it is never pruned
PLAN, COMMAND = "plan", "command"  # what a study is marked with


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
    """Trains a recipe with other settings again and again, and writes the best as a recipe of its own.

    Processes that are given the same storage, name, recipe and space share the trials. The same call goes on with what
    was stopped, and replaces what had failed. The first trial has the recipe's own values, as far as the space allows.

    Args:
        recipe: what is tuned, or its name; its seed decides what is tried, too.
        space: a TOML file, or its tables as a dictionary; see `searchspace`.
        trials: how many the study shall have in all, over all processes; earlier calls' failed ones do not count.
        storage: a database's URL; by default an SQLite file in the tuning's folder.
        name: of the study, and of its folder under the runs; default: the recipe's with `-tune`.
        prune: end trials early that do worse than the median at the same epoch.
        device: `auto`, `cpu` or `cuda`.
        runs: the folder of runs.
        quiet: show no progress.
        command: what the user typed, for the head of the recipe.

    Raises:
        UsageError: something asked for does not exist or does not fit; nothing has been trained.
        Interrupted: a signal came; what was found so far is written, and the same call goes on.
        CifarlabError: the database failed.
    """
    recipe = recipes.load(recipe) if isinstance(recipe, str) else recipe
    name = check_plain_name(name or f"{recipe.name.replace('/', '-')}-tune")
    found = searchspace.check(space, recipe) if isinstance(space, Mapping) else searchspace.load(space, recipe)
    plan = _checked_plan(recipe, found, trials, device, runs)
    folder = runs_folder(runs) / name
    _check_folder(folder)
    from cifarlab.experiments.tuning import sharing  # Optuna takes a second to import

    if storage is None:
        files.make_folder(folder)
    address = storage or sharing.sqlite_url(folder / "tuning.db")
    shared = sharing.connect(address, name, _pruner(recipe, prune))
    try:
        _agree(shared, plan, folder)
        command = _longest(shared, trials, command.replace(address, sharing.without_password(address)))
        stopped = _work(shared, _Job(recipe, found, folder, trials, device, prune, quiet))
        result = collect(shared, folder, recipe, found)
    except sharing.DATABASE_ERRORS as error:
        raise sharing.database_failed(error) from error
    finally:
        shared.close()
    write(result, command)
    if stopped is not None:
        raise stopped
    return result


def _checked_plan(recipe: Recipe, space: Space, trials: int, device: str, runs: Path | str | None) -> dict[str, Any]:
    """What all processes of a tuning have to agree on; UsageError if it cannot be done."""
    if trials < 1:
        raise UsageError(f"--trials should be 1 or more, got {trials}")
    if recipe.validate_on == "test":
        raise UsageError(
            f"{recipe.name} validates on the test images, and choosing by them would flatter the result: "
            "--set train_on=split --set validate_on=validation --set keep=best"
        )
    api.plan(recipe, device, runs=runs)
    data = load_data(absolute(recipe.dataset), size=recipe.size, quiet=True)
    keys = {parameter.key for parameter in space}
    for parameter in space:
        if parameter.key == "model" or (parameter.key.startswith("model_options.") and "model" not in keys):
            for value in parameter.ends():
                changed = recipe.changed({parameter.key: value})
                models.build_model(
                    changed.model, classes=len(data.classes), size=changed.size, options=changed.model_options
                )
    settings = recipe.model_dump(mode="json", exclude={"published", "description", "dataset"})
    return {"settings": settings, "data": data.sha256, "space": searchspace.about(space)}


def _check_folder(folder: Path) -> None:
    held = {path.name for path in folder.glob("[!.]*")}  # nothing, while another process begins the same tuning
    if folder.is_file() or (held and not held & {"tuning.json", "tuning.db"}):
        raise UsageError(f"{folder} is there and not a tuning's: choose another --name")


def _agree(shared: Shared, plan: Mapping[str, Any], folder: Path) -> None:
    """Marks the study with the plan, or checks that it has the same, and makes its folder.

    Raises:
        UsageError: it was begun with another.
    """
    if PLAN not in shared.study.user_attrs:
        shared.study.set_user_attr(PLAN, json.dumps(plan))
    begun = json.loads(shared.study.user_attrs[PLAN])
    asked = json.loads(json.dumps(plan))
    if begun != asked:
        what = next(key for key in asked if begun.get(key) != asked[key])
        words = {"settings": "other settings of the recipe", "data": "other data", "space": "another --space"}
        raise UsageError(f"the tuning {folder.name!r} was begun with {words[what]}: choose another --name")
    files.make_folder(folder)
    files.write_text(folder / "tuning.json", json.dumps(plan, indent=2) + "\n")


def _longest(shared: Shared, trials: int, command: str) -> str:
    """The command that asked for the most trials, for the head of the best recipe: one for fewer adds nothing to it."""
    known = json.loads(shared.study.user_attrs.get(COMMAND, '{"trials": 0, "text": ""}'))
    if trials > known["trials"]:
        known = {"trials": trials, "text": command}
        shared.study.set_user_attr(COMMAND, json.dumps(known))
    return str(known["text"])


def _pruner(recipe: Recipe, prune: bool) -> Any:
    from optuna.pruners import MedianPruner, NopPruner

    if not prune:
        return NopPruner()
    return MedianPruner(TRIALS_BEFORE_PRUNING, n_warmup_steps=max(1, round(WARMUP * recipe.epochs)))


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    space: Space
    folder: Path
    total: int
    device: str
    prune: bool
    quiet: bool

    def sampler(self, number: int) -> BaseSampler:
        from optuna.samplers import TPESampler

        seed = seed_for(self.recipe.seed, "tuning", number) % 2**32  # as many bits as NumPy takes
        return TPESampler(n_startup_trials=STARTUP_TRIALS, seed=seed)

    def objective(self, trial: OptunaTrial, lease: Lease) -> float:
        """Trains a trial, or goes on with it, and gives its validation accuracy."""
        from cifarlab.experiments.tuning.sharing import SLOT

        values = {parameter.key: parameter.suggest(trial) for parameter in self.space}
        place = f"{trial.user_attrs[SLOT] + 1} of {self.total}"  # another number where a failed one stands before it
        notice(f"trial {trial.number} ({place}): {searchspace.shown(values)}", quiet=self.quiet)
        run = self._trained(trial, self.recipe.changed(values), _Watch(trial, lease, self.prune))
        accuracy = float(run.results["validation_accuracy"])
        notice(f"trial {trial.number}: validation accuracy {accuracy:.2%}", quiet=self.quiet)
        return accuracy

    def _trained(self, trial: OptunaTrial, recipe: Recipe, watch: _Watch) -> RunFolder:
        from cifarlab.experiments.tuning.sharing import NotOurs

        path, recipe = self.folder / run_name(trial.number), self._placed(recipe)
        run = RunFolder(path)
        if run.is_locked():
            raise NotOurs(f"{path} is being trained by another process")
        if path.exists() and not (path / "run.json").is_file():
            shutil.rmtree(path)  # killed before it was anything
        if path.exists() and _settings(run.recipe) == _settings(recipe):
            return run if run.status == "finished" else self._resumed(run, watch)
        return api.train(
            recipe,
            device=self.device,
            name=path.name,
            runs=self.folder,
            force=path.exists(),
            callbacks=[watch],
            quiet=self.quiet,
        )

    def _placed(self, recipe: Recipe) -> Recipe:
        """The recipe as its run will hold it: with full names, and with what comes from the weights it starts from."""
        begun = self.folder.parent / recipe.start_from
        if recipe.start_from and is_run(begun):  # trials lie in another folder than the runs
            recipe = recipe.changed({"start_from": str(begun.resolve())})
        recipe = recipe.model_copy(update={"model": models.resolve_model_name(recipe.model)})
        return api.with_source(recipe, self.folder.parent)[0]

    def _resumed(self, run: RunFolder, watch: _Watch) -> RunFolder:
        watch.report(run)  # an epoch that a kill may have kept from the study
        return api.resume(run, device=self.device, callbacks=[watch], quiet=self.quiet)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"published", "description", "dataset"})


@dataclass(frozen=True)
class _Watch:
    """Reports every epoch of a trial to the study, and ends it where it is hopeless."""

    trial: OptunaTrial
    lease: Lease
    prune: bool

    def on_epoch_end(self, run: RunFolder, row: EpochRow) -> None:
        """Called by the training."""
        from cifarlab.experiments.tuning.sharing import NotOurs

        if not self.lease.renew():
            raise NotOurs(f"trial {self.trial.number} was taken over by another process")
        self.report(run)
        if self.prune and row.epoch < run.recipe.epochs and self.trial.should_prune():
            raise Pruned(f"pruned after epoch {row.epoch}: the median of the trials was better by then")

    def report(self, run: RunFolder) -> None:
        """Tells the study what it does not know yet."""
        known = self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        for each in run.history:
            if each.epoch not in known:
                self.trial.report(each.validation_accuracy, each.epoch)


def _work(shared: Shared, job: _Job) -> Interrupted | None:
    """Does trials until there are enough; gives what interrupted it, if something did."""
    from cifarlab.experiments.tuning import sharing

    first = searchspace.own_values(job.space, job.recipe)
    with signals() as received:

        def before() -> None:
            if received:
                raise Interrupted(f"stopped by {signal.Signals(received[0]).name}", received[0])

        try:
            sharing.work(
                shared, job.total, job.objective, sampler=job.sampler, first=first, before=before, quiet=job.quiet
            )
        except Interrupted as error:
            return error.with_restart_hint()
    return None
