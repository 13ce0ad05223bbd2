"""Many runs that belong together: the published experiments over seeds, under the published and an honest protocol.

Makes recipes, trains them through `api`, and collects from each run what `results` needs for tables and pictures. A
reproduction that is cut off goes on where it was when it is started again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab import api, figures, files, recipes
from cifarlab.api import Run
from cifarlab.data.catalogue import load_data
from cifarlab.errors import Interrupted, UsageError, unknown
from cifarlab.experiments import results
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import value_text
from cifarlab.runs.listing import is_run, runs_folder
from cifarlab.statistics import metrics

SEEDS = 5
PROTOCOLS: dict[str, dict[str, Any]] = {
    "published": {},
    "honest": {"train_on": "split", "validate_on": "validation", "keep": "best"},
}
QUICK_SEEDS = 2
QUICK_EPOCHS = 2

SETTINGS: dict[str, dict[str, Any]] = {
    "classic": {},
    "ReLU": {"model_options.activation": "relu"},
    "max pooling": {"model_options.pooling": "max"},
    "dense C3": {"model_options.c3": "dense"},
    "learning rate .003": {"learning_rate": 0.003},
    "learning rate .03": {"learning_rate": 0.03},
    "batch 8": {"batch_size": 8},
    "batch 128": {"batch_size": 128},
    "10 epochs": {"epochs": 10},
    "40 epochs": {"epochs": 40},
    "ReLU, max pooling, dense C3": {
        "model_options.activation": "relu",
        "model_options.pooling": "max",
        "model_options.c3": "dense",
    },
    "ReLU, max pooling, learning rate .003": {
        "model_options.activation": "relu",
        "model_options.pooling": "max",
        "learning_rate": 0.003,
    },
    "best of each": {
        "model_options.activation": "relu",
        "model_options.pooling": "max",
        "learning_rate": 0.003,
        "batch_size": 128,
        "epochs": 40,
    },
}
"""What the experiment `lenet5` changes, one factor at a time and then several; nobody published a figure for it."""


@dataclass(frozen=True)
class Member:
    """One training of a reproduction."""

    recipe: Recipe
    protocol: str
    """A key of `PROTOCOLS`."""
    setting: str
    """A key of `SETTINGS`, or empty."""
    name: str
    """Of its run folder."""


def experiments(name: str) -> list[str]:
    """The recipes that an experiment's name stands for: one, those of a folder such as `relabel`, or `all`.

    Raises:
        UsageError: there is no such experiment.
    """
    known = [each for each in recipes.names() if recipes.load(each).published or each == "lenet5"]
    found = [each for each in known if name in ("all", each) or each.startswith(f"{name}/")]
    if not found:
        folders = {each.split("/")[0] for each in known if "/" in each}
        raise unknown("experiment", name, ["all", *sorted(folders), *known])
    return found


def seeds_of(text: str) -> Sequence[int]:
    """The seeds that a user means by `5`, the first five, or by `2:5`, those from 2 up to 4.

    Raises:
        UsageError: the text is neither.
    """
    found = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9})", text)
    seeds = range(int(found[1] or 0), int(found[2])) if found else range(0)
    if not seeds:
        raise UsageError(f"seeds should be how many, such as 5, or from:to, such as 2:5, got {text!r}")
    return seeds


def members(
    name: str, seeds: Iterable[int] = range(SEEDS), *, quick: bool = False, minutes: float = 0.0
) -> list[Member]:
    """The trainings of an experiment, seed by seed, so that what is done first is a whole small table.

    Args:
        name: as `experiments` takes it.
        seeds: of the runs.
        quick: few epochs, of which the table says that they are few.
        minutes: after which a training ends, whatever its recipe says; 0 has no limit.
    """
    chosen = [recipes.load(each) for each in experiments(name)]
    return [
        _member(recipe, protocol, setting, seed, quick, minutes)
        for seed in seeds
        for recipe in chosen
        for protocol in (PROTOCOLS if recipe.published else ["honest"])
        for setting in ([""] if recipe.published else SETTINGS)
    ]


def _member(recipe: Recipe, protocol: str, setting: str, seed: int, quick: bool, minutes: float) -> Member:
    changes = {**PROTOCOLS[protocol], **SETTINGS.get(setting, {}), "seed": seed, "time_budget": minutes}
    changed = recipe.changed(changes)
    if quick:
        changed = changed.changed({"epochs": min(changed.epochs, QUICK_EPOCHS)})
    parts = [recipe.name, setting or protocol, f"s{seed}", *(["quick"] if quick else [])]
    return Member(changed, protocol, setting, "-".join(parts).replace("/", "-").replace(" ", "-"))


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
    """Trains what is not trained yet of an experiment, and gives a record of every run, as records.json has it.

    Runs of other seeds that are there already, with the same settings, are among them.

    Args:
        name: as `experiments` takes it.
        seeds: how many, or which; the first five, or the first two for the short version.
        quick: a short version of each training.
        minutes: after which each training ends; 0 has no limit.
        device: where to compute.
        runs: the folder of runs; those of reproductions lie in `reproduce` under it.
        quiet: show no progress.

    Raises:
        UsageError: no such experiment, or an older run of it has other settings.
        Interrupted: a signal came; the same call goes on.
    """
    if seeds is None:
        seeds = QUICK_SEEDS if quick else SEEDS
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    asked = members(name, chosen, quick=quick, minutes=minutes)
    place = _place(name, quick, runs)
    for member in asked:
        if differs := _difference(place.parent / member.name, member.recipe):
            raise UsageError(f"{differs}: move it away, or choose another --runs")
    others = members(name, _seeds_in(place.parent) - set(chosen), quick=quick, minutes=minutes)
    done = {each.name: record(Run(place.parent / each.name), each) for each in others if _is_done(each, place.parent)}
    planned = sorted([*asked, *others], key=lambda each: each.recipe.seed)
    records = list[dict[str, Any]]()
    for number, member in enumerate(asked, start=1):
        notice(f"training {number} of {len(asked)}: {member.name}", quiet=quiet)
        try:
            done[member.name] = record(_trained(member, place.parent, device, quiet), member)
        except Interrupted as error:
            raise error.with_restart_hint() from error
        records = [done[each.name] for each in planned if each.name in done]
        files.make_folder(place)
        files.write_text(place / "records.json", json.dumps(records) + "\n")
    return records


def write(records: list[dict[str, Any]], name: str, *, quick: bool = False, runs: Path | str | None = None) -> Path:
    """Writes table and pictures of an experiment beside its records, and gives their folder."""
    folder = _place(name, quick, runs)
    files.make_folder(folder)
    tables = [results.markdown(table) for table in results.tables(records)]
    files.write_text(folder / "table.md", "\n".join(tables))
    for stem, figure in results.draw(records).items():
        for kind in ("svg", "png"):
            files.write_bytes(folder / f"{stem}.{kind}", figures.to_bytes(figure, kind))
    return folder


def _place(name: str, quick: bool, runs: Path | str | None) -> Path:
    """Of an experiment's table, pictures and records; its runs lie beside it."""
    return runs_folder(runs) / "reproduce" / (name.replace("/", "-") + ("-quick" if quick else ""))


def _trained(member: Member, folder: Path, device: str, quiet: bool) -> Run:
    if not is_run(folder / member.name):
        return api.train(member.recipe, device=device, name=member.name, runs=folder, quiet=quiet)
    run = Run(folder / member.name)
    return run if run.status == "finished" else api.resume(run, device=device, quiet=quiet)


def _is_done(member: Member, folder: Path) -> bool:
    path = folder / member.name
    return is_run(path) and not _difference(path, member.recipe) and Run(path).status == "finished"


def _difference(path: Path, recipe: Recipe) -> str:
    """In what a run was trained otherwise than a recipe says, in words; empty where it was not, or is not there."""
    if not is_run(path):
        return ""
    trained, wanted = (each.model_dump(exclude={"published", "description"}) for each in (Run(path).recipe, recipe))
    differing = [key for key in wanted if trained[key] != wanted[key]]
    told = (f"{key}={value_text(trained[key])}, not {value_text(wanted[key])}" for key in differing)
    return f"{path} was trained with {'; '.join(told)}" if differing else ""


def _seeds_in(folder: Path) -> set[int]:
    """The seeds of all runs in a folder, by their names."""
    found = (re.search(r"-s(\d{1,9})(-quick)?$", path.name) for path in folder.glob("*/"))
    return {int(each[1]) for each in found if each}


def record(run: Run, member: Member) -> dict[str, Any]:
    """What is kept of a finished run for tables and pictures, as JSON takes it."""
    predictions, history = run.predictions, run.history
    assert predictions is not None
    logits, labels = predictions
    classes = run.record.data.classes
    matrix = metrics.confusion_matrix(labels, logits.argmax(1), len(classes))
    columns = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "train_seconds")
    return {
        "recipe": run.record.recipe.name,
        "protocol": member.protocol,
        "setting": member.setting,
        "seed": run.record.seed,
        "history": {column: [round(getattr(row, column), 5) for row in history] for column in columns},
        "kept_epoch": run.results["kept_epoch"],
        "test_accuracy": run.results["test_accuracy"],
        "test_loss": run.results["test_loss"],
        "balanced_accuracy": metrics.balanced_accuracy(matrix),
        "majority": metrics.majority_share(labels),
        "classes": list(classes),
        "confusion": matrix.tolist(),
        "original_recall": _original_recall(run, logits.argmax(1) == labels),
        "sha256": run.record.data.sha256,
        "environment": run.record.environment.items(),
    }


def _original_recall(run: Run, right: np.ndarray) -> dict[str, float]:
    """By class as it was before dropping and merging: the share of its test images answered rightly."""
    recipe = run.recipe
    data = load_data(recipe.dataset, size=recipe.size, quiet=True)
    kept = [name for name in data.classes if name not in recipe.drop]
    labels = data.test.labels[np.isin(data.test.labels, [data.classes.index(name) for name in kept])]
    return {name: float(right[labels == data.classes.index(name)].mean()) for name in kept}
