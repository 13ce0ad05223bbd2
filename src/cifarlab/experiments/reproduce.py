"""Reproduce published results: train their recipes over seeds, as published and with an honest protocol.

`results` makes tables and pictures of the records. The same call continues a reproduction that was interrupted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab import api, figures, files, recipes
from cifarlab.api import Run
from cifarlab.data.catalogue import load_data
from cifarlab.errors import Interrupted, UsageError, unknown
from cifarlab.experiments.results.pictures import draw
from cifarlab.experiments.results.records import History, Protocol, Record, write_records
from cifarlab.experiments.results.tables import make_tables, to_markdown
from cifarlab.experiments.study.folder import describe_other_recipe
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.listing import is_run, runs_folder
from cifarlab.statistics import metrics

SEEDS = 5
QUICK_SEEDS = 2
QUICK_EPOCHS = 2
DECIMALS = 5  # of the metrics per epoch in a record

PROTOCOLS: dict[Protocol, dict[str, str]] = {
    "published": {},
    "honest": {"train_on": "split", "validate_on": "validation", "keep": "best"},
}
"""Changes of the recipe by protocol."""

_RELU = {"model_options.activation": "relu"}
_MAX_POOLING = {"model_options.pooling": "max"}
_DENSE_C3 = {"model_options.c3": "dense"}
SETTINGS: dict[str, dict[str, str | int | float]] = {
    "classic": {},
    "ReLU": {**_RELU},
    "max pooling": {**_MAX_POOLING},
    "dense C3": {**_DENSE_C3},
    "learning rate .003": {"learning_rate": 0.003},
    "learning rate .03": {"learning_rate": 0.03},
    "batch 8": {"batch_size": 8},
    "batch 128": {"batch_size": 128},
    "10 epochs": {"epochs": 10},
    "40 epochs": {"epochs": 40},
    "ReLU, max pooling, dense C3": {**_RELU, **_MAX_POOLING, **_DENSE_C3},
    "ReLU, max pooling, learning rate .003": {**_RELU, **_MAX_POOLING, "learning_rate": 0.003},
    "best of each": {**_RELU, **_MAX_POOLING, "learning_rate": 0.003, "batch_size": 128, "epochs": 40},
}
"""Changes of the recipe `lenet5`, which has no published result: one factor at a time, and then several."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    recipe: Recipe
    protocol: Protocol
    setting: str  # a key of `SETTINGS`; empty for recipes with published results
    name: str  # of the run's folder


def experiment_recipes(name: str) -> list[str]:
    """Return the recipes of an experiment: a published recipe, `lenet5`, a folder such as `relabel`, or `all`."""
    known = [recipe for recipe in recipes.names() if recipes.load(recipe).published or recipe == "lenet5"]
    chosen = [recipe for recipe in known if name in ("all", recipe) or recipe.startswith(f"{name}/")]
    if not chosen:
        folders = {recipe.split("/")[0] for recipe in known if "/" in recipe}
        raise unknown("experiment", name, ["all", *sorted(folders), *known])
    return chosen


def parse_seeds(text: str) -> Sequence[int]:
    """Return the seeds of `5`, which are the first five, or of `2:5`, which are 2, 3 and 4."""
    match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9})", text)
    seeds = range(int(match[1] or 0), int(match[2])) if match else range(0)
    if not seeds:
        raise UsageError(f"--seeds must be a number of seeds, such as 5, or a range, such as 2:5, got {text!r}")
    return seeds


def plan_runs(
    name: str, seeds: Iterable[int] = range(SEEDS), *, quick: bool = False, minutes: float = 0.0
) -> list[PlannedRun]:
    """Return the runs of an experiment, ordered by seed, so that one that is cut off has whole small tables."""
    planned = []
    for seed, recipe in product(seeds, map(recipes.load, experiment_recipes(name))):
        variants: list[tuple[Protocol, str]] = [("honest", setting) for setting in SETTINGS]
        if recipe.published:
            variants = [(protocol, "") for protocol in PROTOCOLS]
        for protocol, setting in variants:
            changes = {**PROTOCOLS[protocol], **SETTINGS.get(setting, {}), "seed": seed, "time_budget": minutes}
            changed = recipe.changed(changes)
            if quick:
                changed = changed.changed({"epochs": min(changed.epochs, QUICK_EPOCHS)})
            parts = [recipe.name, setting or protocol, f"s{seed}", *(["quick"] if quick else [])]
            folder = "-".join(parts).replace("/", "-").replace(" ", "-")
            planned.append(PlannedRun(changed, protocol, setting, folder))
    return planned


def reproduce(
    name: str,
    seeds: int | Sequence[int] | None = None,
    *,
    quick: bool = False,
    minutes: float = 0.0,
    device: str = "auto",
    runs: Path | str | None = None,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train the unfinished runs of an experiment, and write and return a record of every run.

    The records cover finished runs of other seeds too, if their settings are the same.

    Args:
        name: a recipe with published results, a folder of recipes such as `relabel`, `lenet5` or `all`.
        seeds: number of seeds, or the seeds; default 5, or 2 with `quick`.
        quick: train at most two epochs.
        minutes: time limit of each training; 0 for none.
        device: `auto`, `cpu` or `cuda`.
        runs: the folder of runs; those of experiments lie in `reproduce` below it.
        quiet: show no progress.

    Returns:
        The records as JSON documents; see `experiments.results.records.Record`.

    Raises:
        UsageError: there is no such experiment, or an existing run of it has other settings.
        Interrupted: a signal arrived; the same call continues.
    """
    if seeds is None:
        seeds = QUICK_SEEDS if quick else SEEDS
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    planned = plan_runs(name, chosen, quick=quick, minutes=minutes)
    results = _results_folder(name, quick, runs)
    folder = results.parent
    for run in planned:
        if difference := describe_other_recipe(folder / run.name, run.recipe):
            raise UsageError(f"{difference}. Move that folder away, or choose another folder with --runs.")
    matches = (re.search(r"-s(\d{1,9})(-quick)?$", path.name) for path in folder.glob("*/"))
    other_seeds = {int(match[1]) for match in matches if match} - set(chosen)
    others = plan_runs(name, other_seeds, quick=quick, minutes=minutes)
    records = {run.name: _make_record(run, folder) for run in others if _is_finished(run, folder)}
    ordered = [run.name for run in sorted([*planned, *others], key=lambda run: run.recipe.seed)]
    for number, run in enumerate(planned, start=1):
        notice(f"training {number} of {len(planned)}: {run.name}", quiet=quiet)
        try:
            if not is_run(folder / run.name):
                api.train(run.recipe, device=device, name=run.name, runs=folder, quiet=quiet)
            elif Run(folder / run.name).status != "finished":
                api.resume(folder / run.name, device=device, quiet=quiet)
        except Interrupted as error:
            raise error.with_restart_hint() from error
        records[run.name] = _make_record(run, folder)
        files.make_folder(results)
        write_records(results / "records.json", [records[key] for key in ordered if key in records])
    return [records[key].to_json() for key in ordered if key in records]


def write_results(records: Sequence[Record], name: str, *, quick: bool = False, runs: Path | str | None = None) -> Path:
    """Write the table and pictures of an experiment beside its records, and return their folder."""
    folder = _results_folder(name, quick, runs)
    files.make_folder(folder)
    files.write_text(folder / "table.md", "\n".join(map(to_markdown, make_tables(records))))
    for (stem, figure), kind in product(draw(records).items(), ("svg", "png")):
        files.write_bytes(folder / f"{stem}.{kind}", figures.to_bytes(figure, kind))
    return folder


def _results_folder(name: str, quick: bool, runs: Path | str | None) -> Path:
    """Return the folder of an experiment's records, table and pictures; the folders of its runs lie beside it."""
    return runs_folder(runs) / "reproduce" / (name.replace("/", "-") + ("-quick" if quick else ""))


def _is_finished(planned: PlannedRun, folder: Path) -> bool:
    path = folder / planned.name
    return is_run(path) and not describe_other_recipe(path, planned.recipe) and Run(path).status == "finished"


def _make_record(planned: PlannedRun, folder: Path) -> Record:
    """Return the record of a finished run."""
    run = Run(folder / planned.name)
    record, predictions, columns = run.record, run.predictions, run.columns
    assert predictions is not None and record.results is not None
    logits, labels = predictions
    matrix = metrics.confusion_matrix(labels, logits.argmax(1), len(record.data.classes))
    data = load_data(record.recipe.dataset, size=record.recipe.size, quiet=True)  # with its classes before merging
    kept = {label: name for label, name in enumerate(data.classes) if name not in record.recipe.drop}
    original = data.test.labels[np.isin(data.test.labels, list(kept))]
    is_correct = logits.argmax(1) == labels
    history = {name: [round(value, DECIMALS) for value in columns[name]] for name in History.model_fields}
    return Record(
        recipe=record.recipe.name,
        protocol=planned.protocol,
        setting=planned.setting,
        seed=record.seed,
        history=History.model_validate(history),
        kept_epoch=record.results.kept_epoch,
        test_accuracy=record.results.test_accuracy,
        test_loss=record.results.test_loss,
        balanced_accuracy=metrics.balanced_accuracy(labels, logits.argmax(1)),
        majority=metrics.majority_share(labels),
        classes=record.data.classes,
        confusion=tuple(map(tuple, matrix.tolist())),
        original_recall={name: float(is_correct[original == label].mean()) for label, name in kept.items()},
        sha256=record.data.sha256,
        environment=record.environment,
    )
