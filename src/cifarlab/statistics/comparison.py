"""Group tested runs by recipe, and test which differences between the groups are real.

Pure computation on values in memory. `report.comparing` reads them from run folders; the tests are in `significance`.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from cifarlab.errors import unknown
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import NOT_COMPARED, settings_of, value_text
from cifarlab.statistics import metrics, significance
from cifarlab.statistics.metrics import Labels
from cifarlab.statistics.significance import Difference, Estimate, estimate_share

METRICS = ("accuracy", "balanced_accuracy")
MOST_GROUPS_WITH_ALL_PAIRS = 4  # of more groups, tables show only the pairs with the best one
UNLIKE_MAJORITY = 0.005  # difference of the most frequent class's share from which accuracies are not comparable


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ only in their seeds."""

    name: str  # of the recipe, with the settings that distinguish it from other groups of that name
    label: str  # the differing settings if all groups have the same recipe name; else the name
    runs: list[str]
    seeds: list[int]
    protocol: str
    accuracies: list[float]  # of each run on the test images, in [0, 1]
    accuracy: Estimate
    balanced_accuracies: list[float]  # mean recall over classes of each run, in [0, 1]
    balanced_accuracy: Estimate
    test_interval: tuple[float, float]  # of the first run's metric over the test images: Wilson's, or by bootstrap
    majority: float  # accuracy of always predicting the most frequent class, in [0, 1]
    recall: dict[str, Estimate]  # by class

    def estimate(self, metric: str) -> Estimate:
        """Return the estimate of a metric, one of `METRICS`."""
        return self.accuracy if metric == "accuracy" else self.balanced_accuracy


@dataclass(frozen=True)
class Pair:
    """The comparison of two groups."""

    a: str
    b: str
    test: str  # `welch` over seeds, `mcnemar` over test images, or empty if neither is possible
    found: Difference | None  # the difference of b minus a; None if no test is possible
    corrected: float | None  # the p-value, corrected for the number of comparisons (Holm 1979)
    real: bool  # True if the corrected p-value is at most `significance.LEVEL`
    note: str  # why the groups are not compared or the comparison is doubtful; else empty


@dataclass(frozen=True)
class Comparison:
    """Groups in the order of their first runs, and every pair of groups.

    `with_best` has the best group (a) against each of the others (b), with p-values corrected for these pairs alone.
    It is empty for up to `MOST_GROUPS_WITH_ALL_PAIRS` groups, or if there is no best group: a group that was chosen by
    the test images cannot be tested on the same images in this way.
    """

    metric: str
    groups: list[Group]
    pairs: list[Pair]
    best: str  # name of the group of highest accuracy on validation images; empty if not all runs have one
    with_best: list[Pair]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the groups by name."""
        return {group.name: group.label for group in self.groups}

    @property
    def table_pairs(self) -> list[Pair]:
        """The pairs that a table shows: all pairs of few groups, of many groups only the pairs with the best one."""
        if self.with_best or len(self.groups) <= MOST_GROUPS_WITH_ALL_PAIRS:
            return self.with_best or self.pairs
        return [pair for pair in self.pairs if self._best_on_test in (pair.a, pair.b)]

    @property
    def table_note(self) -> str:
        """Sentence on the pairs that the table shows and the correction of their p-values; empty for all pairs."""
        if len(self.groups) <= MOST_GROUPS_WITH_ALL_PAIRS:
            return ""
        if self.with_best:
            pairs = f"All are compared with {self.labels[self.best]}, the best by accuracy on validation images."
            corrected = f"these {len(self.with_best)}"
        else:
            pairs = f"Only comparisons with {self.labels[self._best_on_test]} are shown, the best on these test images."
            corrected = f"all {len(self.pairs)}"
        return f"{pairs} p-values are corrected for {corrected} comparisons (Holm)."

    @property
    def _best_on_test(self) -> str:
        return max(self.groups, key=lambda group: group.estimate(self.metric).mean).name


@dataclass(frozen=True)
class TestedRun:
    """The values of a finished run that a comparison needs."""

    name: str
    recipe: Recipe
    data_name: str
    data_sha256: str
    classes: tuple[str, ...]  # after dropping and merging
    protocol: str
    validation_accuracy: float  # of the weights that were kept, in [0, 1]; NaN if unknown
    labels: Labels  # true classes of the test images
    predictions: Labels

    @property
    def task(self) -> tuple[object, ...]:
        """The classes and how they were made. Accuracies of different tasks are not directly comparable."""
        return self.classes, sorted(self.recipe.drop), self.recipe.merge

    @property
    def test_images(self) -> tuple[object, ...]:
        """A key of the test images. Merging classes changes labels only; dropping classes removes images."""
        return self.data_sha256, sorted(self.recipe.drop), len(self.labels)


class _Side(NamedTuple):
    group: Group
    runs: list[TestedRun]
    values: list[float]  # the metric of each run


def compare(runs: Sequence[TestedRun], metric: str = "accuracy") -> Comparison:
    """Group runs by recipe and compare the groups.

    Groups of several runs are compared over seeds by Welch's test, two single runs over their common test images by
    McNemar's test. p-values are corrected for the number of comparisons (Holm). Runs of the same recipe and seed count
    once. Of the `METRICS`, only `balanced_accuracy` weighs merged classes like others.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    members = _group_by_recipe(runs)
    names = _name_groups([group_runs[0] for group_runs in members])
    sides = [_describe(*name, group, metric) for name, group in zip(names, members, strict=True)]
    pairs = _compare_pairs(combinations(sides, 2), metric)
    best = _best_on_validation(sides)
    rivals = [side for side in sides if side is not best] if len(sides) > MOST_GROUPS_WITH_ALL_PAIRS else []
    with_best = _compare_pairs([(best, side) for side in rivals], metric) if best else []
    return Comparison(metric, [side.group for side in sides], pairs, best.group.name if best else "", with_best)


def _best_on_validation(sides: Sequence[_Side]) -> _Side | None:
    """Return the side of highest validation accuracy; None if one is unknown or was measured on the test images."""
    runs = [run for side in sides for run in side.runs]
    if any(math.isnan(run.validation_accuracy) or run.recipe.validate_on == "test" for run in runs):
        return None
    return max(sides, key=lambda side: float(np.mean([run.validation_accuracy for run in side.runs])), default=None)


def _compare_pairs(sides: Iterable[tuple[_Side, _Side]], metric: str) -> list[Pair]:
    """Compare each pair of sides, with p-values corrected for the number of pairs that can be tested."""
    sides = list(sides)
    pairs = [_compare_pair(a, b, metric, comparisons=1) for a, b in sides]
    if (tested := sum(pair.found is not None for pair in pairs)) > 1:
        pairs = [_compare_pair(a, b, metric, comparisons=tested) for a, b in sides]
    corrected = iter(significance.holm([pair.found.p for pair in pairs if pair.found]))
    return [
        replace(pair, corrected=(p := next(corrected)), real=p <= significance.LEVEL) if pair.found else pair
        for pair in pairs
    ]


def _group_by_recipe(runs: Sequence[TestedRun]) -> list[list[TestedRun]]:
    """Put runs of the same recipe and data set into one group, one run per seed."""
    groups: dict[str, dict[int, TestedRun]] = {}
    for run in runs:
        settings = run.recipe.model_dump(mode="json", exclude=NOT_COMPARED)
        key = json.dumps([settings, run.data_sha256], sort_keys=True)
        groups.setdefault(key, {}).setdefault(run.recipe.seed, run)
    return [list(members.values()) for members in groups.values()]


def _name_groups(first_runs: Sequence[TestedRun]) -> list[tuple[str, str]]:
    """Return name and label of each group, given its first run; see `Group`."""
    settings = [settings_of(run.recipe) for run in first_runs]
    names = []
    for ours in settings:
        namesakes = [other for other in settings if other["name"] == ours["name"]]
        varied = [key for key in ours if len({repr(other.get(key)) for other in namesakes}) > 1]
        text = ", ".join(f"{key}={value_text(ours[key])}" for key in varied if key not in NOT_COMPARED)
        name = f"{ours['name']} ({text})" if text else str(ours["name"])
        names.append((name, text if text and len(namesakes) == len(settings) else name))
    endings = [f" in {run.name}" if names.count(both) > 1 else "" for both, run in zip(names, first_runs, strict=True)]
    return [(name + end, label + end) for (name, label), end in zip(names, endings, strict=True)]


def _describe(name: str, label: str, runs: list[TestedRun], metric: str) -> _Side:
    first, classes = runs[0], runs[0].classes

    def balanced_accuracy(labels: Labels, predictions: Labels) -> float:
        return metrics.balanced_accuracy(metrics.confusion_matrix(labels, predictions, len(classes)))

    matrices = [metrics.confusion_matrix(run.labels, run.predictions, len(classes)) for run in runs]
    accuracies = [metrics.accuracy(matrix) for matrix in matrices]
    balanced = [metrics.balanced_accuracy(matrix) for matrix in matrices]
    recalls = [[row.recall for row in metrics.per_class(matrix, classes)] for matrix in matrices]
    # The interval over images is shown for single runs only, so the first run is enough.
    if metric == "accuracy":
        interval = significance.accuracy_interval(int(np.trace(matrices[0])), len(first.labels))
    else:
        interval = significance.bootstrap_interval(balanced_accuracy, first.labels, first.predictions)
    group = Group(
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
        majority=metrics.majority_share(first.labels),
        recall=dict(zip(classes, map(estimate_share, zip(*recalls, strict=True)), strict=True)),
    )
    return _Side(group, runs, accuracies if metric == "accuracy" else balanced)


def _doubts(a: _Side, b: _Side, metric: str) -> list[str]:
    """Return reasons why two groups are not quite comparable."""
    doubts = []
    first_a, first_b = a.runs[0], b.runs[0]
    majority_a, majority_b = a.group.majority, b.group.majority
    if abs(majority_a - majority_b) > UNLIKE_MAJORITY and metric == "accuracy":
        shares = f"{majority_a:.1%} and {majority_b:.1%}"
        doubts.append(f"their classes differ: the most frequent class has {shares} of the images")
    elif first_a.task != first_b.task:
        doubts.append("their classes differ, and one task may be easier than the other")
    if first_a.data_name != first_b.data_name:
        doubts.append(f"their data sets differ: {first_a.data_name} and {first_b.data_name}")
    if a.group.protocol.split(":")[0] != b.group.protocol.split(":")[0]:
        doubts.append("their protocols differ")
    if constant := [run.name for run in (*a.runs, *b.runs) if np.ptp(run.predictions) == 0]:
        doubts.append(f"the same prediction for all images: {', '.join(constant)}")
    return doubts


def _compare_pair(a: _Side, b: _Side, metric: str, comparisons: int) -> Pair:
    """Test the difference of two groups; the p-value is not corrected."""
    test, difference, notes = "", None, _doubts(a, b, metric)
    first_a, first_b = a.runs[0], b.runs[0]
    if len(a.runs) > 1 and len(b.runs) > 1:
        difference = significance.welch(a.values, b.values, comparisons)
        if difference.low is None:
            difference = None
            notes.insert(0, "all runs of each recipe are equal, so that the effect of seeds is unknown")
        else:
            test = "welch"
    elif len(a.runs) != len(b.runs):
        notes.insert(0, "one run against several: train the other recipe with more seeds")
    elif metric != "accuracy":
        notes.insert(0, "two single runs can be compared by accuracy only: train more seeds")
    elif first_a.test_images != first_b.test_images:
        notes.insert(0, "single runs on different test images: train more seeds")
    else:
        test = "mcnemar"
        correct_a, correct_b = (run.predictions == run.labels for run in (first_a, first_b))
        difference = significance.mcnemar(correct_a, correct_b, comparisons)
    return Pair(a.group.name, b.group.name, test, difference, None, False, "; ".join(notes))
