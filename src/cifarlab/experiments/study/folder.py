"""The folder of a study: its definition in study.toml, and the folders of its runs, which hold their own progress.

Because the folder is the whole state, the same command continues a study however it ended.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import tomli_w

from cifarlab import files, models
from cifarlab.data.catalogue import absolute
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.experiments.study.definition import PlannedRun, Study, define, read_definition
from cifarlab.experiments.study.jobs import is_complete
from cifarlab.models.own_networks import as_trained
from cifarlab.models.registry import source_sha256
from cifarlab.recipes import PREPROCESSING, Recipe
from cifarlab.recipes.differences import differing_settings, value_text
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import STUDY, absolute_start, is_run, is_study

SECONDS_FOR_THE_LOCK = 0.5
_SET_BY_START_FROM = ("model", "model_options", "size", *PREPROCESSING)  # when the run begins


def study_to_continue(study: Study, folder: Path) -> Study:
    """Return the study to run in this folder: the requested one, or the larger one that the folder already holds.

    Raises:
        UsageError: the folder holds something else, or another study, or runs of an older version of the recipe.
    """
    if is_run(folder):
        raise UsageError(f"{folder} is a run, not a study. Choose another --name.")
    if not is_study(folder):
        if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
            raise UsageError(f"{folder} exists but is not a study. Choose another --name.")
        return study
    try:
        existing = read_definition(folder / STUDY)
        continued = study
        if missing := study.describe_missing(existing):
            continued = replace(define(str(folder / STUDY)), name=study.name)
            if continued.describe_missing(study.definition):  # neither study holds all runs of the other
                raise UsageError(f"{folder} holds another study: {missing}")
    except UsageError as error:
        raise UsageError(f"{str(error).rstrip('.')}. Choose another --name.") from error
    for model in {run.recipe.model for run in continued.runs} - {run.recipe.model for run in study.runs}:
        as_trained(model, "", folder)
    for run in continued.runs:
        if difference := describe_other_recipe(folder / run.name, run.recipe):
            raise UsageError(f"{difference}. Has the recipe changed? Choose another --name.")
    return continued


def describe_other_recipe(path: Path, recipe: Recipe) -> str:
    """Return `PATH was trained with epochs=1, not 2`; empty if run and recipe agree, or there is no readable run."""
    try:
        record = RunFolder(path).record
        trained = record.recipe
    except UsageError:  # there is no run, or it is damaged, which is reported when its turn comes
        return ""
    if recipe.start_from:
        recipe = recipe.model_copy(update={key: getattr(trained, key) for key in _SET_BY_START_FROM})
    absolute_recipes = (_with_absolute_paths(each, path.parent.parent) for each in (trained, recipe))
    differences = differing_settings(*absolute_recipes)
    listed = [f"{key}={_text(was)}, not {_text(now)}" for key, (was, now) in differences.items()]
    source = source_sha256(trained.model)
    if not listed and source and record.origins.get("model", source) != source:
        listed = [f"an earlier version of {trained.model}"]
    return f"{path} was trained with {'; '.join(listed)}" if listed else ""


def _text(value: object) -> str:
    return "nothing" if value is None else value_text(value)


def _with_absolute_paths(recipe: Recipe, runs: Path) -> Recipe:
    """Return a recipe with the paths of its network, data set and start as run.json holds them."""
    paths = {"dataset": absolute(recipe.dataset), "start_from": absolute_start(recipe.start_from, runs)}
    return recipe.model_copy(update={"model": models.resolve_model_name(recipe.model), **paths})


def unfinished_runs(study: Study, folder: Path) -> list[PlannedRun]:
    """Return the runs that are still to be trained, or whose report is still to be written."""
    unfinished = []
    for run in study.runs:
        with contextlib.suppress(UsageError):  # no run yet, or a damaged one, which is reported as a failed run
            if is_complete(folder / run.name):
                continue
        unfinished.append(run)
    return unfinished


@contextlib.contextmanager
def claimed_folder(study: Study, folder: Path) -> Iterator[None]:
    """Make the study's folder, write study.toml, and keep other processes out while the `with` block runs."""
    files.make_folder(folder)
    try:
        with filelock.FileLock(folder / ".lock", timeout=SECONDS_FOR_THE_LOCK):
            files.sweep(folder.rglob(".*"))
            files.write_text(folder / STUDY, tomli_w.dumps(study.definition.model_dump()))
            yield
    except filelock.Timeout as error:
        raise CifarlabError(f"another process is running the study in {folder}") from error
