"""Finished runs to groups of one recipe, and to the differences between groups: which are real, which may be chance.

Knows training only through the run folder; the tests themselves are in `significance`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from cifarlab import metrics, significance
from cifarlab.errors import UsageError, unknown
from cifarlab.run import RunFolder
from cifarlab.significance import Difference, Estimate

REAL = 1 - significance.CONFIDENCE  # a corrected p-value up to this is called real
METRICS = ("accuracy", "balanced_accuracy")
MOST_PAIRED = 4  # groups of which every pair is told; of more each is set beside the best alone
_NOT_THE_RECIPE = {"seed", "description", "published", "name"}


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in their seed alone."""

    name: str
    """The recipe's, with the settings that tell it from another group of that name."""
    label: str
    """These settings alone where all groups have one recipe's name; else the name."""
    runs: list[str]
    seeds: list[int]
    protocol: str
    accuracies: list[float]
    """On the test images, a value a run."""
    accuracy: Estimate
    balanced_accuracies: list[float]
    balanced_accuracy: Estimate
    test_interval: tuple[float, float]
    """Of the first run's figure, over the test images: Wilson's for accuracy, by bootstrap for balanced accuracy."""
    majority: float
    """The accuracy of always answering the most frequent class."""
    recall: dict[str, Estimate]
    """By class."""

    def estimate(self, metric: str) -> Estimate:
        """The figure of this metric, one of `METRICS`."""
        return self.accuracy if metric == "accuracy" else self.balanced_accuracy


@dataclass(frozen=True)
class Pair:
    """Two groups compared."""

    a: str
    b: str
    test: str
    """`welch` over seeds, `mcnemar` over test images, or empty where neither can be made."""
    found: Difference | None
    """How far b is above a."""
    corrected: float | None
    """The p-value, corrected for the number of pairs (Holm 1979)."""
    real: bool
    note: str
    """Why the pair is not compared, or why not to compare it as it stands; empty otherwise."""


@dataclass(frozen=True)
class Comparison:
    """Groups in the order in which their runs were given, and every pair of them."""

    metric: str
    groups: list[Group]
    pairs: list[Pair]
    best: str
    """The name of the group that is best by accuracy on validation images; empty where not all runs say that."""
    with_best: list[Pair]
    """Of more than `MOST_PAIRED` groups, each (b) beside the best (a), with p-values corrected for these pairs alone.

    Empty where there is no best: who was chosen by the test images cannot be tested on them so.
    """

    @property
    def labels(self) -> dict[str, str]:
        """Of the groups, by name."""
        return {group.name: group.label for group in self.groups}

    @property
    def shown(self) -> list[Pair]:
        """The pairs that a table tells: all of few groups; of more than `MOST_PAIRED` those with one group alone."""
        if self.with_best or len(self.groups) <= MOST_PAIRED:
            return self.with_best or self.pairs
        return [pair for pair in self.pairs if self._best_of_test in (pair.a, pair.b)]

    @property
    def why_shown(self) -> str:
        """With which group, and for how many comparisons the p-values are corrected; empty where all pairs are told."""
        if self.with_best:
            return (
                f"Each against the best by accuracy on validation images, {self.labels[self.best]}; p-values are "
                f"corrected for these {len(self.with_best)} comparisons (Holm)."
            )
        if len(self.groups) <= MOST_PAIRED:
            return ""
        return (
            f"Only pairs with the best on these very test images, {self.labels[self._best_of_test]}; so p-values are "
            f"corrected for all {len(self.pairs)} comparisons (Holm)."
        )

    @property
    def _best_of_test(self) -> str:
        return max(self.groups, key=lambda group: group.estimate(self.metric).mean).name


@dataclass(frozen=True)
class _Run:
    """A finished run and what it answered, read once."""

    folder: RunFolder
    labels: np.ndarray
    answers: np.ndarray

    @property
    def task(self) -> tuple[object, ...]:
        """Which classes there are, and how they came about."""
        recipe, data = self.folder.record["recipe"], self.folder.record["data"]
        return data["classes"], sorted(recipe["drop"]), recipe["merge"]

    @property
    def test_images(self) -> tuple[object, ...]:
        """Which images it was tested on: merging relabels them, only dropping takes some away."""
        record = self.folder.record
        return record["data"]["sha256"], sorted(record["recipe"]["drop"]), len(self.labels)


def compare(runs: Sequence[RunFolder], metric: str = "accuracy") -> Comparison:
    """Groups runs by recipe and compares the groups.

    Groups of several runs each are compared over seeds, by Welch's test; two single runs over the images of their
    common test set, by McNemar's. All p-values are corrected for their number.

    Args:
        runs: finished ones; one that is given twice, or has recipe and seed of another, counts once.
        metric: what is compared. Where classes have been merged, only `balanced_accuracy` counts every class the same.

    Raises:
        UsageError: a run is not finished, or there is no such metric.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    members = _grouped(runs)
    names, labels = _names([several[0].folder for several in members])
    groups = [
        _describe(name, label, several, metric) for name, label, several in zip(names, labels, members, strict=True)
    ]
    pairs = _pairs(list(combinations(range(len(groups)), 2)), groups, members, metric)
    best = _best(groups, members)
    beside = list[Pair]()
    if best and len(groups) > MOST_PAIRED:
        place = [group.name for group in groups].index(best)
        beside = _pairs([(place, other) for other in range(len(groups)) if other != place], groups, members, metric)
    return Comparison(metric, groups, pairs, best, beside)


def _best(groups: Sequence[Group], members: Sequence[Sequence[_Run]]) -> str:
    """The name of the group that is best on validation images; empty where these were the test images, or unknown."""
    means = {}
    for group, several in zip(groups, members, strict=True):
        folders = [run.folder for run in several]
        found = [float(run.results.get("validation_accuracy", np.nan)) for run in folders]
        if np.isnan(found).any() or any(run.record["recipe"]["validate_on"] == "test" for run in folders):
            return ""
        means[group.name] = float(np.mean(found))
    return max(means, key=lambda name: means[name], default="")


def _pairs(
    which: Sequence[tuple[int, int]], groups: Sequence[Group], members: Sequence[Sequence[_Run]], metric: str
) -> list[Pair]:
    """Pairs of groups, whose p-values are corrected for their number."""

    def made(comparisons: int) -> list[Pair]:
        return [_pair(groups[i], groups[j], members[i], members[j], metric, comparisons) for i, j in which]

    pairs = made(1)
    tests = sum(pair.found is not None for pair in pairs)
    return _corrected(made(tests) if tests > 1 else pairs)


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs with p-values that are corrected for their number, and what is real by these."""
    corrected = iter(significance.holm([pair.found.p for pair in pairs if pair.found is not None]))
    judged = []
    for pair in pairs:
        p = next(corrected) if pair.found is not None else None
        judged.append(replace(pair, corrected=p, real=p is not None and p <= REAL))
    return judged


def _grouped(runs: Sequence[RunFolder]) -> list[list[_Run]]:
    groups: dict[str, dict[int, _Run]] = {}
    for run in runs:
        predictions = run.predictions
        if run.status != "finished" or predictions is None:
            raise UsageError(f"the run {run.name!r} is not finished ({run.status}): cifarlab resume {run.path}")
        recipe = {key: value for key, value in run.record["recipe"].items() if key not in _NOT_THE_RECIPE}
        key = json.dumps([recipe, run.record["data"]["sha256"]], sort_keys=True)
        logits, labels = predictions
        groups.setdefault(key, {}).setdefault(int(run.record["seed"]), _Run(run, labels, logits.argmax(axis=1)))
    return [list(members.values()) for members in groups.values()]


def _names(firsts: Sequence[RunFolder]) -> tuple[list[str], list[str]]:
    """Recipes' names; where several groups have one name, with the settings in which they differ. And labels."""
    recipes = [_flat(run.record["recipe"]) for run in firsts]
    names, labels = list[str](), list[str]()
    for recipe in recipes:
        others = [other for other in recipes if other["name"] == recipe["name"]]
        varied = [
            key for key in recipe if key not in _NOT_THE_RECIPE and len({repr(other.get(key)) for other in others}) > 1
        ]
        settings = ", ".join(f"{key}={text(recipe[key])}" for key in varied)
        names.append(f"{recipe['name']} ({settings})" if settings else str(recipe["name"]))
        labels.append(settings if len(others) == len(recipes) and settings else names[-1])
    where = [f" in {run.name}" if names.count(name) > 1 else "" for name, run in zip(names, firsts, strict=True)]
    return list(map("".join, zip(names, where, strict=True))), list(map("".join, zip(labels, where, strict=True)))


def text(value: Any) -> str:
    """A recipe's value as TOML writes it, but for quotes and needless digits."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the keys of its tables in its own table, named as people know them."""
    plain = {key: value for key, value in recipe.items() if key not in ("augment", "model_options")}
    augment = {f"augment.{key}": value for key, value in recipe["augment"].items()}
    return {**plain, **augment, **recipe["model_options"]}


def share(values: Sequence[float]) -> Estimate:
    """An estimate of a figure that lies between 0 and 1, and so does its interval."""
    found = significance.estimate(values)
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def _describe(name: str, label: str, runs: Sequence[_Run], metric: str) -> Group:
    first = runs[0].folder
    classes = first.record["data"]["classes"]
    matrices = [metrics.confusion_matrix(run.labels, run.answers, len(classes)) for run in runs]
    accuracies = [metrics.accuracy(matrix) for matrix in matrices]
    balanced = [metrics.balanced_accuracy(matrix) for matrix in matrices]
    recalls = [[row.recall for row in metrics.per_class(matrix, tuple(classes))] for matrix in matrices]
    labels, predictions = runs[0].labels, runs[0].answers
    if metric == "accuracy":
        interval = significance.accuracy_interval(int((labels == predictions).sum()), len(labels))
    else:
        interval = significance.bootstrap_interval(
            labels, predictions, lambda a, b: metrics.balanced_accuracy(metrics.confusion_matrix(a, b, len(classes)))
        )
    return Group(
        name=name,
        label=label,
        runs=[run.folder.name for run in runs],
        seeds=[int(run.folder.record["seed"]) for run in runs],
        protocol=str(first.record["protocol"]),
        accuracies=accuracies,
        accuracy=share(accuracies),
        balanced_accuracies=balanced,
        balanced_accuracy=share(balanced),
        test_interval=interval,
        majority=metrics.majority_share(labels),
        recall={name: share(values) for name, values in zip(classes, zip(*recalls, strict=True), strict=True)},
    )


def _notes(a: Group, b: Group, runs_a: Sequence[_Run], runs_b: Sequence[_Run], metric: str) -> list[str]:
    """Why two groups are not to be compared as they stand."""
    notes = []
    datasets = [str(runs[0].folder.record["data"]["name"]) for runs in (runs_a, runs_b)]
    if abs(a.majority - b.majority) > 0.005 and metric == "accuracy":
        notes.append(
            f"their classes differ: the most frequent one is {a.majority:.1%} and {b.majority:.1%} of the images"
        )
    elif runs_a[0].task != runs_b[0].task:
        notes.append("their classes differ, and one task may be easier than the other")
    if datasets[0] != datasets[1]:
        notes.append(f"their data sets differ: {' and '.join(datasets)}")
    if a.protocol.split(":")[0] != b.protocol.split(":")[0]:
        notes.append("their protocols differ")
    if stuck := [run.folder.name for run in (*runs_a, *runs_b) if np.ptp(run.answers) == 0]:
        notes.append(f"the same answer for all images: {', '.join(stuck)}")
    return notes


def _pair(a: Group, b: Group, runs_a: Sequence[_Run], runs_b: Sequence[_Run], metric: str, comparisons: int) -> Pair:
    notes = _notes(a, b, runs_a, runs_b, metric)
    if len(a.runs) > 1 and len(b.runs) > 1:
        values = [group.accuracies if metric == "accuracy" else group.balanced_accuracies for group in (a, b)]
        found = significance.welch(values[0], values[1], comparisons)
        if found.low is None:
            notes.insert(0, "no run differs from another of its recipe: nothing is known of what seeds do")
            return Pair(a.name, b.name, "", None, None, False, "; ".join(notes))
        return Pair(a.name, b.name, "welch", found, None, False, "; ".join(notes))
    first, second = runs_a[0], runs_b[0]
    if len(a.runs) != len(b.runs):
        why = "one run against several: train the other with more seeds"
    elif metric != "accuracy":
        why = "two single runs are compared by accuracy only: train more seeds"
    elif first.test_images != second.test_images:
        why = "single runs on different test images: train more seeds"
    else:
        found = significance.mcnemar(first.answers == first.labels, second.answers == second.labels, comparisons)
        return Pair(a.name, b.name, "mcnemar", found, None, False, "; ".join(notes))
    return Pair(a.name, b.name, "", None, None, False, "; ".join([why, *notes]))
