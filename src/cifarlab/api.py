"""The commands that train, compare and report, as functions. The command line calls these and adds nothing.

Each resolves every name and checks every file before it creates anything.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cifarlab import files, models, recipes
from cifarlab.data.batches import steps_per_epoch
from cifarlab.data.catalogue import absolute, load_data
from cifarlab.data.dataset import Data, relabel
from cifarlab.device import choose_device, precision_of
from cifarlab.errors import CifarlabError, UsageError, one_line
from cifarlab.inference import onnx_files, targets
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.evaluation import Evaluation, Prediction
from cifarlab.inference.weights_file import load_weights, sha256_of_source_file
from cifarlab.integrations import trackers as tracking
from cifarlab.models.summary import count_parameters
from cifarlab.parallel import world
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.report import page
from cifarlab.report.comparing import compare_runs
from cifarlab.report.live import LiveFigures
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.listing import choose_runs, claim_folder, new_run_path, run_path, runs_folder
from cifarlab.runs.record import DataRecord, Environment
from cifarlab.statistics import metrics
from cifarlab.statistics.comparison import Comparison
from cifarlab.training import finetuning
from cifarlab.training.loop import images_in_epoch
from cifarlab.training.loop import train as train_in
from cifarlab.training.state import CHECKPOINT_EVERY, Interval, Parts, check_size, data_of, split_data


class Run(RunFolder):
    """A run folder that can be asked: what `train` returns and callbacks get."""

    @property
    def classifier(self) -> Classifier:
        """The weights that the recipe wanted kept, on the CPU."""
        return load_weights(self.weights)

    @property
    def figures(self) -> dict[str, Path]:
        """The SVG files drawn so far, by name: `curves`, `confusion`, …"""
        return {path.stem: path for path in sorted((self.path / "figures").glob("*.svg"))}

    def evaluate(self, data: Data | None = None, *, tta: bool | None = None) -> Evaluation:
        """Figures of merit on the test images; see `targets.evaluate`."""
        return targets.evaluate(self, data, tta=tta)

    def predict(self, images: Sequence[str | Path], *, tta: bool | None = None) -> list[Prediction]:
        """What the kept weights make of picture files; see `targets.predict`."""
        return targets.predict(self, images, tta=tta)

    def __repr__(self) -> str:
        accuracy = self.results.get("test_accuracy")
        told = f", test accuracy {accuracy:.2%}" if accuracy is not None else ""
        return f"<Run {self.name}: {self.status}{told}>"


def recipe(name: str = recipes.DEFAULT, **changes: Any) -> Recipe:
    """A recipe by name or TOML file, with other values where wanted: `recipe("keras6", epochs=3)`.

    Raises:
        UsageError: a name, key or value that is not allowed.
    """
    return recipes.load(name).changed(changes)


def train(
    recipe: Recipe | str = recipes.DEFAULT,
    *,
    data: Data | None = None,
    model: str | Callable[..., nn.Module] | None = None,
    device: str = "auto",
    name: str | None = None,
    runs: Path | str | None = None,
    force: bool = False,
    callbacks: Sequence[Any] = (),
    track: Sequence[str] = (),
    checkpoint_every: str = CHECKPOINT_EVERY,
    quiet: bool = False,
    command: str = "",
) -> Run:
    """Trains a network and leaves a run folder with weights, figures and a report.

    Args:
        recipe: what to do, or its name.
        data: a data set in memory instead of the recipe's. `resume` can then not load it by itself.
        model: a network instead of the recipe's: a name, `FILE.py:NAME`, or a function or class that makes one.
        device: `auto`, `cpu` or `cuda`.
        name: of the run; by default made of recipe, seed and time.
        runs: the folder of runs; default `CIFARLAB_RUNS`, else `./runs`.
        force: replace an older run of that name.
        callbacks: objects with any of `on_train_begin(run)`, `on_epoch_end(run, row)`, `on_train_end(run)`.
        track: `tensorboard`, `mlflow` or both, to log there too, when the run is resumed as well.
        checkpoint_every: steps (`500`) or time (`30s`, `5m`, `2h`) between checkpoints within an epoch.
        quiet: show no progress.
        command: what the user typed, for the report.

    Raises:
        UsageError: something asked for does not exist or does not fit; nothing has been created.
        Interrupted: a signal came; `resume` goes on.
        CifarlabError: it failed; the text says how to mend it.
    """
    with world.joined():
        if (begun := world.noted_run()) is not None:
            return _go_on_with(begun, quiet, data=data, device=device, callbacks=callbacks)
        with world.agreed():
            Interval.of(checkpoint_every)
            where, trackers = choose_device(device), tracking.trackers(track)
            recipe, whole, source, path = _prepared(recipe, data, model, where, name, runs, force, quiet)
            parts = split_data(recipe, relabel(whole, recipe.drop, recipe.merge))
            _try(recipe, parts, source)

        def create() -> Run:
            taken: Literal["next", "refuse", "replace"] = "replace" if force else "refuse" if name else "next"
            described = describe(whole, parts)
            folder, machine = claim_folder(path, taken), Environment(**world.environment(where))
            run = Run.create(folder, recipe, described, parts.protocol, machine, command)
            run.update(track=tuple(track), checkpoint_every=checkpoint_every, origins=_origins(recipe, source))
            world.note_run(run.path)
            return run

        run = world.from_first(create)
        return _train(recipe, parts, run, where, [*trackers, *callbacks], quiet, source)


def _prepared(
    recipe: Recipe | str,
    data: Data | None,
    model: str | Callable[..., nn.Module] | None,
    device: torch.device,
    name: str | None,
    runs: Path | str | None,
    force: bool,
    quiet: bool,
) -> tuple[Recipe, Data, Classifier | None, Path]:
    """What `train` is asked for, every name resolved: recipe, data set, weights to start from, and the run's place."""
    recipe = recipes.load(recipe) if isinstance(recipe, str) else recipe
    if model is not None:
        recipe = recipe.changed({"model": models.resolve_model_name(model)})
    recipe = recipe.model_copy(update={"model": models.resolve_model_name(recipe.model)})
    world.check(recipe, device)
    path = new_run_path(runs_folder(runs), recipe, name, force=force)
    recipe = recipe.changed({"dataset": absolute(recipe.dataset) if data is None else data.name})
    recipe, source = with_source(recipe, runs)
    quiet = quiet or not world.is_first()
    whole = load_data(recipe.dataset, size=recipe.size, quiet=quiet) if data is None else data
    check_size(recipe, whole)
    return recipe, whole, source, path


def _try(recipe: Recipe, parts: Parts, source: Classifier | None) -> None:
    """A network that does not fit is an error before anything is created."""
    with torch.random.fork_rng():
        tried = make_classifier(recipe.model, recipe.model_options, parts.train.classes, recipe.size, "unit")
        if source is not None:
            finetuning.take_over(tried, source)
        finetuning.freeze(tried.network, recipe.freeze)
        models.try_step(tried.network, min(recipe.batch_size, 2), recipe.size)


def _go_on_with(begun: Path, quiet: bool, **more: Any) -> Run:
    """The run that these processes had begun before one of them was lost."""
    run = Run(begun)
    if world.from_first(lambda: run.status == "finished" and run.report.exists()):
        return run
    if world.is_first():
        notice(f"started again by torchrun: {run.name} goes on after epoch {len(run.history)}", quiet=quiet)
    return resume(begun, quiet=quiet, **more)


def resume(
    run: str | Path | RunFolder,
    *,
    data: Data | None = None,
    device: str | None = None,
    runs: Path | str | None = None,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
) -> Run:
    """Goes on with a run from its checkpoint, to the bits of one that was never interrupted.

    That holds on the CPU with the same number of threads, versions and instruction set. The device is by default
    that on which the run began.

    Raises:
        UsageError: there is no such run, it is finished, or its data set is not what it was.
        Interrupted, CifarlabError: as `train`.
    """
    with world.joined():
        folder, is_trained = world.from_first(lambda: _to_resume(run, runs))
        if not is_trained:
            with world.agreed():
                recipe, where = folder.recipe, choose_device(device or folder.record.environment.device)
                world.check(recipe, where)
                quiet = quiet or not world.is_first()
                data = data_of(recipe, folder.record.data.sha256, data, fetch=True, quiet=quiet)
                trackers = tracking.trackers(folder.record.track)
                parts = split_data(recipe, data)
            return _train(recipe, parts, folder, where, [*trackers, *callbacks], quiet)
        world.from_first(lambda: page.finish(folder, _test_images(folder)))
        return folder


def _to_resume(run: str | Path | RunFolder, runs: Path | str | None) -> tuple[Run, bool]:
    """A run that is not done, and whether only its report is missing, cut off while it was written."""
    folder = Run(run_path(run, runs))
    is_trained = folder.status == "finished"
    if is_trained and folder.report.exists():
        raise UsageError(f"the run {folder.name!r} is finished: train another with cifarlab train")
    if folder.status == "pruned":
        notice(
            f"{folder.name} was pruned, since other trials did better: its tuning will not count what it reaches now"
        )
    return folder, is_trained


def compare(
    names: Sequence[str | Path | RunFolder],
    metric: str = "accuracy",
    *,
    runs: Path | str | None = None,
    quiet: bool = False,
) -> Comparison:
    """Which differences between runs are real: groups of one recipe over seeds, single runs over test images.

    Args:
        names: finished runs, by name, path, or pattern such as `fast90-*`; a study stands for its runs.
        metric: `accuracy` or `balanced_accuracy`.
        runs: the folder of runs.
        quiet: do not say which runs of a pattern or study are left out because they are not finished.

    Raises:
        UsageError: there is no such run or metric, or a run is not finished.
    """
    return compare_runs([RunFolder(path) for path in _chosen(names, runs, quiet)], metric)


def _chosen(names: Sequence[str | Path | RunFolder], runs: Path | str | None, quiet: bool) -> list[Path]:
    chosen = choose_runs(names, runs)
    notice(chosen.skipped_message, quiet=quiet or not chosen.skipped)
    return chosen.paths


def write_report(
    names: Sequence[str],
    out: Path | None = None,
    *,
    force: bool = False,
    runs: Path | str | None = None,
    quiet: bool = False,
) -> Path:
    """Draws the figures of runs again and writes a page about all of them.

    Args:
        names: runs as `compare` takes them.
        out: where the page goes; by default into the run's folder, which needs a single run.
        force: replace what is there.
        runs: the folder of runs.
        quiet: as `compare` takes it.

    Raises:
        UsageError: there is no such run, or no place for the page.
    """
    folders = [Run(path) for path in _chosen(names, runs, quiet)]
    if out is None and len(folders) > 1:
        raise UsageError("a report on several runs needs --out FILE")
    if out is not None:
        files.check_new(out, force=force)
    for folder in folders:
        page.finish(folder, _test_images(folder), thorough=True)
    if out is None:
        return folders[0].report
    page.write_page(folders, out)
    return out


def plan(
    recipe: Recipe,
    device: str = "auto",
    *,
    name: str | None = None,
    runs: Path | str | None = None,
    force: bool = False,
    track: Sequence[str] = (),
    checkpoint_every: str = CHECKPOINT_EVERY,
) -> dict[str, Any]:
    """What `train` would do, with nothing created but the cache of data: sizes, steps, parameters, protocol.

    Raises:
        UsageError: as `train`.
    """
    where = choose_device(device)
    Interval.of(checkpoint_every)
    tracking.trackers(track)
    new_run_path(runs_folder(runs), recipe, name, force=force)
    recipe, _ = with_source(recipe, runs)
    data = relabel(load_data(recipe.dataset, size=recipe.size), recipe.drop, recipe.merge)
    parts = split_data(recipe, data)
    classifier = make_classifier(recipe.model, recipe.model_options, data.classes, recipe.size, recipe.normalize)
    seen = [images_in_epoch(recipe, len(parts.train), epoch) for epoch in range(recipe.epochs)]
    return {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": count_parameters(classifier.network),
        "dataset": data.name,
        "classes": list(data.classes),
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
        "device": str(where),
        "precision": precision_of(recipe.precision, where),
        "epochs": recipe.epochs,
        "time_budget": recipe.time_budget,
        "steps": sum(steps_per_epoch(images, recipe.batch_size) for images in seen),
        "protocol": parts.protocol,
    }


def with_source(recipe: Recipe, runs: Path | str | None) -> tuple[Recipe, Classifier | None]:
    """What `recipe.start_from` names, and the recipe with its network, size and normalisation.

    Raises:
        UsageError: there is no such target, or it cannot be trained.
    """
    if not recipe.start_from:
        return recipe, None
    source = targets.load(recipe.start_from, runs=runs, device="cpu")
    if source.model == onnx_files.MODEL:
        raise UsageError(f"start_from: {recipe.start_from} is an ONNX file, which predicts and cannot be trained")
    options = {"model": source.model, "model_options": dict(source.model_options)}
    return recipe.changed({**options, "size": source.size, "normalize": source.preprocess.kind}), source


def _origins(recipe: Recipe, source: Classifier | None) -> dict[str, str]:
    """SHA-256 sums of what a run depends on and does not hold, by the recipe's key."""
    found = {} if source is None else {"start_from": source.sha256}
    if models.is_from_file(recipe.model) and Path(recipe.model.rpartition(":")[0]).is_file():
        found["model"] = sha256_of_source_file(recipe.model)
    return found


def _train(
    recipe: Recipe,
    parts: Parts,
    run: Run,
    device: Any,
    callbacks: Sequence[Any],
    quiet: bool,
    source: Classifier | None = None,
) -> Run:
    callbacks = [LiveFigures(), *callbacks] if world.is_first() else []
    quiet = quiet or not world.is_first()
    try:
        aside = (
            contextlib.redirect_stdout(sys.stderr) if models.is_from_file(recipe.model) else contextlib.nullcontext()
        )
        with aside, world.own_folder(run) as own:
            train_in(recipe, parts, own, device, callbacks, quiet, source)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, SystemExit) as error:
        if not models.is_from_file(recipe.model):
            raise
        told = f"{type(error).__name__}: {one_line(error)}"
        raise CifarlabError(f"the training of {recipe.model} failed, and is kept in {run.path}: {told}") from error
    world.from_first(lambda: page.finish(run, parts.test))
    return run if world.is_first() else Run(run.path)


def describe(data: Data, parts: Parts) -> DataRecord:
    """The data set for run.json."""
    return DataRecord(
        name=data.name,
        source=data.source,
        path=data.path,
        sha256=data.sha256,
        classes=parts.train.classes,
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        majority=metrics.majority_share(parts.test.labels),
        skipped=data.skipped,
    )


def _test_images(run: RunFolder) -> Any:
    """The test images behind a run's predictions; None where the data is no longer what it was."""
    try:
        return data_of(run.recipe, run.record.data.sha256).test
    except CifarlabError:
        return None
