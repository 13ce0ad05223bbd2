"""Train, resume, compare and report, as functions: a table of contents of what users and the command line call.

Each function resolves every name and checks every file before it creates anything.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from cifarlab import files, recipes
from cifarlab.data.arrays import GivenData
from cifarlab.data.batches import steps_per_epoch
from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Dataset
from cifarlab.device import precision_of
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.inference import targets
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import Evaluation
from cifarlab.inference.prediction import Prediction
from cifarlab.inference.weights_file import load_weights
from cifarlab.integrations import trackers as tracking
from cifarlab.models.own_networks import as_trained, refuse_while_loading
from cifarlab.parallel.world import World, open_world
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.report import page, submission
from cifarlab.report.comparing import compare_runs
from cifarlab.report.live import LiveFigures
from cifarlab.runs.folder import RunFolder, check_new
from cifarlab.runs.listing import choose_runs, create_run, distinct_names, find_run, new_run_path, runs_folder
from cifarlab.runs.record import CHECKPOINT_EVERY, Computation
from cifarlab.statistics.comparison import Comparison
from cifarlab.training.loop import fit, settle
from cifarlab.training.preparation import choose_recipe, new_record, prepare
from cifarlab.training.session import Session, check_callbacks, parse_interval
from cifarlab.training.speed import expected_seconds, images_by_epoch


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

    def evaluate(self, data: GivenData | None = None, *, tta: bool | None = None) -> Evaluation:
        """Measure the kept weights on the test images; see `targets.evaluate`."""
        return targets.evaluate(self, data, tta=tta)

    def predict(self, images: Any, *, tta: bool | None = None) -> list[Prediction]:
        """Classify images with the kept weights; see `targets.predict`."""
        return targets.predict(self, images, tta=tta)

    def to_pandas(self) -> Any:
        """Return the history as a pandas DataFrame with a row per epoch. pandas is not among the requirements."""
        try:
            pandas = import_module("pandas")
        except ModuleNotFoundError as error:
            raise CifarlabError("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.columns)

    def __repr__(self) -> str:
        accuracy = self.results.get("test_accuracy")
        tested = f", test accuracy {accuracy:.2%}" if accuracy is not None else ""
        return f"<Run {self.name}: {self.status}{tested}>"


def recipe(name: str | None = None, **changes: Any) -> Recipe:
    """Return a recipe by name or TOML file, with other values where wanted: `recipe("keras6", epochs=3)`.

    Without a name: `finetune` with `start_from`, `small` for at most 500 training images of your own, else `fast90`.

    Raises:
        UsageError: a name, key or value that is not allowed.
    """
    return (recipes.load(name) if name else choose_recipe(changes)).changed(changes)


def train(
    recipe: Recipe | str | None = None,
    *,
    data: GivenData | None = None,
    model: str | Callable[..., nn.Module] | None = None,
    device: str = "auto",
    name: str | None = None,
    runs: Path | str | None = None,
    force: bool = False,
    callbacks: Sequence[Any] = (),
    track: Sequence[str] = (),
    checkpoint_every: str = CHECKPOINT_EVERY,
    minutes: float = 0.0,
    computed: Sequence[Computation] = (),
    quiet: bool = False,
    command: str = "",
) -> Run:
    """Train a network and leave a run folder with weights, figures and a report.

    Args:
        recipe: a recipe, its name, or a TOML file; by default `small` for few images in `data`, else `fast90`.
        data: a data set in memory to use instead of the recipe's: `(images, labels)`, two such pairs for training and
            test, or a `Data`. `resume` then needs it too.
        model: a network to use instead of the recipe's: a name, `FILE.py:NAME`, or a function or class that makes one.
        device: `auto`, `cpu` or `cuda`.
        name: name of the run; by default made of recipe, seed and time.
        runs: the folder of runs; by default `CIFARLAB_RUNS`, else `./runs`.
        force: replace an older run of that name.
        callbacks: objects with any of `on_train_begin(run)`, `on_batch_end(run, epoch, step)`,
            `on_epoch_end(run, row)`, `on_train_end(run)`. In them, `run.stop()` ends the training after the epoch.
        track: `tensorboard`, `mlflow` or both, to log there too, also when the run is resumed.
        checkpoint_every: steps (`500`) or time (`30s`, `5m`, `2h`) between checkpoints within an epoch.
        minutes: train as many epochs as fit on this machine into this time, with validation and test; their number
            becomes the recipe's. 0 trains those of the recipe.
        computed: `run.record.computed` of an earlier run, to compute as it did instead of measuring what is fastest.
        quiet: show no progress.
        command: the command line, for the report.

    Raises:
        UsageError: something asked for does not exist or does not fit; nothing has been created.
        Interrupted: a signal came; `resume` goes on.
        CifarlabError: the training failed; the text says how to mend it.
    """
    refuse_while_loading()
    began = time.monotonic()
    with open_world() as world:
        if begun := world.recall("run"):  # torchrun has started these processes again
            run = Run(Path(begun))
            if world.call_first(lambda: run.status == "finished" and run.report.exists()):
                return run
            if world.is_first:
                notice(f"started again by torchrun: {run.name} goes on after epoch {len(run.history)}", quiet=quiet)
            return _resume(run, world, data, device, callbacks, quiet)
        with world.raise_together():
            if recipe is None:
                recipe = choose_recipe({} if model is None else {"model": model}, data, quiet=quiet)
            recipe = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
            parse_interval(checkpoint_every)
            check_callbacks(callbacks)
            trackers = tracking.trackers(track)
            path = new_run_path(runs_folder(runs), recipe, name, force=force)
            prepared = prepare(recipe, data=data, model=model, device=device, runs=runs, quiet=quiet, world=world)
        prepared = replace(prepared, computed=tuple(computed)) if computed else settle(prepared, minutes, began)

        def create() -> Run:
            record = new_record(prepared, command, track, checkpoint_every)
            return create_run(Run, path, record, "replace" if force else "refuse" if name else "next")

        run = world.call_first(create)
        world.remember("run", str(run.path.absolute()))
        every = [LiveFigures(), *trackers, *callbacks]
        fit(prepared, Session(run, world=world, callbacks=every, quiet=quiet, adapts=not computed))
        return _finish(run, prepared.parts.test, world)


def resume(
    run: str | Path | RunFolder,
    *,
    data: GivenData | None = None,
    device: str | None = None,
    runs: Path | str | None = None,
    callbacks: Sequence[Any] = (),
    quiet: bool = False,
) -> Run:
    """Continue a run from its checkpoint. The result is bit for bit that of a run that was never interrupted.

    This holds on the CPU with the same number of threads, the same versions of the libraries and the same instruction
    set. The default device is the one on which the run began.

    Raises:
        UsageError: there is no such run, it is finished, or its data set has changed.
        Interrupted, CifarlabError: as `train`.
    """

    def find() -> Run:
        refuse_while_loading()
        folder = Run(find_run(run, runs))
        if folder.status == "finished" and folder.report.exists():  # without a report, that is written
            raise UsageError(f"{folder.name!r} is finished. Train on with: cifarlab train --start-from {folder.path}")
        if folder.status == "pruned":
            pruned = f"{folder.name} was pruned because other trials did better"
            notice(f"{pruned}: its tuning will not count what it reaches now")
        return folder

    with open_world() as world:
        return _resume(world.call_first(find), world, data, device, callbacks, quiet)


def _resume(
    run: Run, world: World, data: GivenData | None, device: str | None, callbacks: Sequence[Any], quiet: bool
) -> Run:
    record = world.call_first(lambda: run.record)
    if record.status == "finished":
        return _finish(run, None, world)
    resumed = world.call_first(lambda: bool(run.history) or run.has_checkpoint)
    sha256 = record.data.sha256
    device = device or record.environment.device.partition(":")[0]
    with world.raise_together():
        check_callbacks(callbacks)
        model = as_trained(record.recipe.model, record.origins.get("model", ""), run.path)
        recipe = record.recipe.model_copy(update={"model": model})
        prepared = prepare(recipe, data=data, device=device, quiet=quiet, world=world, resumed=resumed, sha256=sha256)
        trackers = tracking.trackers(record.track)
    fit(prepared, Session(run, world=world, callbacks=[LiveFigures(), *trackers, *callbacks], quiet=quiet))
    return _finish(run, prepared.parts.test, world)


def _finish(run: Run, test: Dataset | None, world: World) -> Run:
    """Draw figures, report and model card of a trained run, on rank 0."""
    world.call_first(lambda: page.write_report(run, test if test is not None else _test_images(run)))
    return run if world.is_first else Run(run.path)


def compare(
    names: Sequence[str | Path | RunFolder] | str | Path | RunFolder,
    metric: str = "accuracy",
    *,
    runs: Path | str | None = None,
    quiet: bool = False,
) -> Comparison:
    """Test which differences between runs are real: groups of one recipe over seeds, single runs over test images.

    Args:
        names: finished runs, by name, path, or pattern such as `fast90-*`; a study stands for its runs.
        metric: `accuracy` or `balanced_accuracy`.
        runs: the folder of runs.
        quiet: do not say which runs of a pattern or study are left out because they are not finished.

    Raises:
        UsageError: there is no such run or metric, or a run is not finished.
    """
    paths = choose_runs(names, runs, quiet=quiet)
    return compare_runs(list(map(RunFolder, paths, distinct_names(paths))), metric)


def write_report(
    names: Sequence[str], out: Path | None = None, *, force: bool = False, runs: Path | str | None = None
) -> Path:
    """Draw the figures of runs, named as for `compare`, again and write a page about all of them.

    `out` is where the page goes; by default into the run's folder, which needs a single run.
    """
    folders = [Run(path) for path in choose_runs(names, runs)]
    if out is not None:
        check_new(out := Path(files.with_home(out)), force=force, ending=".html")
    elif len(folders) > 1:
        raise UsageError("a report on several runs needs --out FILE")
    for folder in folders:
        page.write_report(folder, _test_images(folder), thorough=True)
    if out is None:
        return folders[0].report
    paths = [folder.path for folder in folders]
    page.write_page(list(map(RunFolder, paths, distinct_names(paths))), out)
    return out


def write_submission(
    names: Sequence[str],
    out: Path,
    *,
    student: str,
    question: str,
    chosen: Sequence[str] = ("curves", "confusion"),
    force: bool = False,
    runs: Path | str | None = None,
) -> Path:
    """Write a report to hand in about runs, named as for `compare`; see `report.submission.submission`."""
    paths = choose_runs(names, runs)
    check_new(out := Path(files.with_home(out)), force=force, ending=".html")
    folders = list(map(RunFolder, paths, distinct_names(paths)))
    files.write_text(out, submission.submission(folders, student, question, chosen))
    return out


def verify(page: Path | str, names: Sequence[str] = (), *, runs: Path | str | None = None) -> list[str]:
    """Return what in a report to hand in does not come from its runs, a sentence each; none if all of it does.

    `names` are its runs, if they are not in the folder of runs under the names that the page has.
    """
    path = Path(files.with_home(page))
    try:
        text = files.read_regular(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', '') or 'it is not text'}") from error
    facts = submission.facts_of(text, str(path))
    if names and len(names) != len(facts.runs):
        raise UsageError(f"the report has {len(facts.runs)} runs ({', '.join(facts.runs)}), got {len(names)}")
    for name in () if names else facts.runs:  # a page may come from anybody, and must not choose a place here
        if not all(part == Path(part).name and part.isprintable() and part[:1] not in ".~" for part in name.split("/")):
            raise UsageError(
                f"{path} has a run called {name[:100]!r}, which is no plain name. Name its runs after FILE."
            )
    places = [choose_runs([name], runs)[0] for name in names or facts.runs]
    return submission.differences(text, facts, list(map(RunFolder, places, facts.runs)))


def plan(
    recipe: Recipe,
    device: str = "auto",
    *,
    name: str | None = None,
    runs: Path | str | None = None,
    force: bool = False,
    track: Sequence[str] = (),
    checkpoint_every: str = CHECKPOINT_EVERY,
    minutes: float = 0.0,
    timed: bool = False,
) -> dict[str, Any]:
    """Return what `train` would do with the same arguments. Nothing is created but the cache of data.

    With `timed`, steps are taken in memory to choose precision and threads and to estimate `seconds`, on a processor
    only.
    """
    began = time.monotonic()
    parse_interval(checkpoint_every)
    tracking.trackers(track)
    new_run_path(runs_folder(runs), recipe, name, force=force)
    prepared = prepare(recipe, device=device, runs=runs, quiet=False)
    prepared = settle(prepared, minutes, began, always=True) if timed else prepared
    recipe, parts = prepared.recipe, prepared.parts
    for text in prepared.warnings:
        notice(f"warning: {text}")
    steps = sum(steps_per_epoch(count, recipe.batch_size) for count in images_by_epoch(recipe, len(parts.train)))
    computed = prepared.computed[0] if prepared.computed else None
    seconds = expected_seconds(prepared, computed.images_per_second) if computed else None
    seconds = min(seconds, 60 * recipe.time_budget or seconds) if seconds else None
    return {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": prepared.parameters,
        "dataset": prepared.data.name,
        **prepared.data.model_dump(mode="json", include={"classes", "train", "validation", "test"}),
        "device": str(prepared.device),
        "precision": computed.precision if computed else precision_of(recipe.precision, prepared.device),
        "threads": computed.threads if computed else recipe.threads,
        "epochs": recipe.epochs,
        "time_budget": recipe.time_budget,
        "steps": steps,
        "seconds": seconds,
        "protocol": parts.protocol,
    }


def _test_images(run: RunFolder) -> Dataset | None:
    """Return the test images behind a run's predictions; None where the data has changed or is not here."""
    try:
        return load_parts(run.recipe, sha256=run.record.data.sha256, fetch=False)[1].test
    except CifarlabError:
        return None
