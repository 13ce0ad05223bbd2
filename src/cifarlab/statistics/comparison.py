"""Group tested runs by recipe, and say which differences between the groups are real and which may be chance.

Pure computation on values in memory; `report.comparing` reads them from run folders. The tests are in `significance`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Int64

from cifarlab.errors import unknown
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import NOT_COMPARED, settings_of, value_text
from cifarlab.statistics import metrics, significance
from cifarlab.statistics.significance import Difference, Estimate, estimate_share

REAL = 1 - significance.CONFIDENCE  # a corrected p-value up to this is called real
METRICS = ("accuracy", "balanced_accuracy")
MOST_PAIRED = 4  # groups of which every pair is told; of more each is set beside the best alone


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
    def table_pairs(self) -> list[Pair]:
        """The pairs that a table tells: all of few groups; of more than `MOST_PAIRED` those with one group alone."""
        if self.with_best or len(self.groups) <= MOST_PAIRED:
            return self.with_best or self.pairs
        return [pair for pair in self.pairs if self._best_of_test in (pair.a, pair.b)]

    @property
    def table_note(self) -> str:
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
class TestedRun:
    """What a comparison needs to know of a finished run."""

    name: str
    recipe: Recipe
    data_name: str
    data_sha256: str
    classes: tuple[str, ...]
    """Class names after dropping and merging."""
    protocol: str
    validation_accuracy: float
    """Of the weights that were kept, in [0, 1]."""
    labels: Int64[np.ndarray, " n"]
    """True classes of the test images."""
    predictions: Int64[np.ndarray, " n"]
    """Predicted classes of the test images."""

    @property
    def task(self) -> tuple[object, ...]:
        """The classes and how they came about. Runs with different tasks are not directly comparable."""
        return self.classes, sorted(self.recipe.drop), self.recipe.merge

    @property
    def test_images(self) -> tuple[object, ...]:
        """What identifies the test images: merging relabels them, only dropping takes some away."""
        return self.data_sha256, sorted(self.recipe.drop), len(self.labels)


def compare(runs: Sequence[TestedRun], metric: str = "accuracy") -> Comparison:
    """Groups runs by recipe and compares the groups.

    Groups of several runs each are compared over seeds, by Welch's test; two single runs over the images of their
    common test set, by McNemar's. All p-values are corrected for their number.

    Args:
        runs: finished ones; one that is given twice, or has recipe and seed of another, counts once.
        metric: what is compared. Where classes have been merged, only `balanced_accuracy` counts every class the same.

    Raises:
        UsageError: there is no such metric.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    members = _grouped(runs)
    names, labels = _names([several[0] for several in members])
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


def _best(groups: Sequence[Group], members: Sequence[Sequence[TestedRun]]) -> str:
    """The name of the group that is best on validation images; empty where these were the test images, or unknown."""
    means = {}
    for group, several in zip(groups, members, strict=True):
        found = [run.validation_accuracy for run in several]
        if np.isnan(found).any() or any(run.recipe.validate_on == "test" for run in several):
            return ""
        means[group.name] = float(np.mean(found))
    return max(means, key=lambda name: means[name], default="")


def _pairs(
    which: Sequence[tuple[int, int]], groups: Sequence[Group], members: Sequence[Sequence[TestedRun]], metric: str
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


def _grouped(runs: Sequence[TestedRun]) -> list[list[TestedRun]]:
    """Put runs of the same recipe and data into one group, one run per seed."""
    groups: dict[str, dict[int, TestedRun]] = {}
    for run in runs:
        settings = run.recipe.model_dump(mode="json", exclude=NOT_COMPARED)
        key = json.dumps([settings, run.data_sha256], sort_keys=True)
        groups.setdefault(key, {}).setdefault(run.recipe.seed, run)
    return [list(members.values()) for members in groups.values()]


def _names(firsts: Sequence[TestedRun]) -> tuple[list[str], list[str]]:
    """Return a name and a label for each group, given its first run.

    The name is the recipe's, with the settings that tell it from other groups of that name. The label is these
    settings alone where all groups share one recipe name.
    """
    settings = [settings_of(run.recipe) for run in firsts]
    names, labels = list[str](), list[str]()
    for ours in settings:
        others = [other for other in settings if other["name"] == ours["name"]]
        varied = [
            key for key in ours if key not in NOT_COMPARED and len({repr(other.get(key)) for other in others}) > 1
        ]
        text = ", ".join(f"{key}={value_text(ours[key])}" for key in varied)
        names.append(f"{ours['name']} ({text})" if text else str(ours["name"]))
        labels.append(text if len(others) == len(settings) and text else names[-1])
    suffixes = [f" in {run.name}" if names.count(name) > 1 else "" for name, run in zip(names, firsts, strict=True)]
    return list(map("".join, zip(names, suffixes, strict=True))), list(map("".join, zip(labels, suffixes, strict=True)))


def _describe(name: str, label: str, runs: Sequence[TestedRun], metric: str) -> Group:
    first = runs[0]
    classes = first.classes
    matrices = [metrics.confusion_matrix(run.labels, run.predictions, len(classes)) for run in runs]
    accuracies = [metrics.accuracy(matrix) for matrix in matrices]
    balanced = [metrics.balanced_accuracy(matrix) for matrix in matrices]
    recalls = [[row.recall for row in metrics.per_class(matrix, classes)] for matrix in matrices]
    labels, predictions = runs[0].labels, runs[0].predictions
    if metric == "accuracy":
        interval = significance.accuracy_interval(int((labels == predictions).sum()), len(labels))
    else:
        interval = significance.bootstrap_interval(
            labels, predictions, lambda a, b: metrics.balanced_accuracy(metrics.confusion_matrix(a, b, len(classes)))
        )
    return Group(
        name=name,
        label=label,
        runs=[run.name for run in runs],
        seeds=[run.recipe.seed for run in runs],
        protocol=first.protocol,
        accuracies=accuracies,
        accuracy=estimate_share(accuracies),
        balanced_accuracies=balanced,
        balanced_accuracy=estimate_share(balanced),
        test_interval=interval,
        majority=metrics.majority_share(labels),
        recall={name: estimate_share(values) for name, values in zip(classes, zip(*recalls, strict=True), strict=True)},
    )


def _notes(a: Group, b: Group, runs_a: Sequence[TestedRun], runs_b: Sequence[TestedRun], metric: str) -> list[str]:
    """Why two groups are not to be compared as they stand."""
    notes = []
    datasets = [runs[0].data_name for runs in (runs_a, runs_b)]
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
    if stuck := [run.name for run in (*runs_a, *runs_b) if np.ptp(run.predictions) == 0]:
        notes.append(f"the same answer for all images: {', '.join(stuck)}")
    return notes


def _pair(
    a: Group, b: Group, runs_a: Sequence[TestedRun], runs_b: Sequence[TestedRun], metric: str, comparisons: int
) -> Pair:
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
        found = significance.mcnemar(
            first.predictions == first.labels, second.predictions == second.labels, comparisons
        )
        return Pair(a.name, b.name, "mcnemar", found, None, False, "; ".join(notes))
    return Pair(a.name, b.name, "", None, None, False, "; ".join([why, *notes]))
