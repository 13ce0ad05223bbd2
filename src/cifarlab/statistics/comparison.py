"""Group tested runs by recipe, and test which differences between the groups are real.

Pure computation on values in memory. `report.comparing` reads them from run folders; the tests are in `significance`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Int64

from cifarlab.errors import unknown
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import NOT_COMPARED, settings_of, value_text
from cifarlab.statistics import metrics, significance
from cifarlab.statistics.significance import Difference, Estimate, estimate_share

METRICS = ("accuracy", "balanced_accuracy")
MOST_GROUPS_WITH_ALL_PAIRS = 4  # of more groups, tables show only the pairs with the best one
UNLIKE_MAJORITY = 0.005  # difference of the most frequent class's share from which accuracies are not comparable


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ only in their seeds."""

    name: str
    """Name of the recipe, with the settings that distinguish it from other groups of that name."""
    label: str
    """The differing settings if all groups have the same recipe name; else the name."""
    runs: list[str]
    seeds: list[int]
    protocol: str
    accuracies: list[float]
    """Accuracy of each run on the test images, in [0, 1]."""
    accuracy: Estimate
    balanced_accuracies: list[float]
    """Mean recall over classes of each run, in [0, 1]."""
    balanced_accuracy: Estimate
    test_interval: tuple[float, float]
    """Confidence interval of the first run's metric over the test images: Wilson's for accuracy, else by bootstrap."""
    majority: float
    """Accuracy of always predicting the most frequent class, in [0, 1]."""
    recall: dict[str, Estimate]
    """Recall by class."""

    def estimate(self, metric: str) -> Estimate:
        """Return the estimate of a metric, one of `METRICS`."""
        return self.accuracy if metric == "accuracy" else self.balanced_accuracy


@dataclass(frozen=True)
class Pair:
    """The comparison of two groups."""

    a: str
    b: str
    test: str
    """`welch` over seeds, `mcnemar` over test images, or empty if neither is possible."""
    found: Difference | None
    """The difference of b minus a; None if no test is possible."""
    corrected: float | None
    """The p-value, corrected for the number of comparisons (Holm 1979)."""
    real: bool
    """True if the corrected p-value is at most `significance.LEVEL`."""
    note: str
    """Reason why the groups are not compared or the comparison is doubtful; else empty."""


@dataclass(frozen=True)
class Comparison:
    """Groups in the order of their first runs, and every pair of groups."""

    metric: str
    groups: list[Group]
    pairs: list[Pair]
    best: str
    """Name of the group of highest accuracy on validation images; empty if not all runs have one."""
    with_best: list[Pair]
    """The best group (a) against each of the others (b), with p-values corrected for these pairs alone.

    Empty for up to `MOST_GROUPS_WITH_ALL_PAIRS` groups, or if there is no best group: a group that was chosen by the
    test images cannot be tested on the same images in this way.
    """

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
        if self.with_best:
            return (
                f"All are compared with {self.labels[self.best]}, the best by accuracy on validation images. p-values "
                f"are corrected for these {len(self.with_best)} comparisons (Holm)."
            )
        if len(self.groups) <= MOST_GROUPS_WITH_ALL_PAIRS:
            return ""
        return (
            f"Only comparisons with {self.labels[self._best_on_test]} are shown, the best on these test images. "
            f"p-values are corrected for all {len(self.pairs)} comparisons (Holm)."
        )

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
    classes: tuple[str, ...]
    """Class names after dropping and merging."""
    protocol: str
    validation_accuracy: float
    """Accuracy of the weights that were kept, in [0, 1]; NaN if unknown."""
    labels: Int64[np.ndarray, " n"]
    """True classes of the test images."""
    predictions: Int64[np.ndarray, " n"]
    """Predicted classes of the test images."""

    @property
    def task(self) -> tuple[object, ...]:
        """The classes and how they were made. Accuracies of different tasks are not directly comparable."""
        return self.classes, sorted(self.recipe.drop), self.recipe.merge

    @property
    def test_images(self) -> tuple[object, ...]:
        """A key of the test images. Merging classes changes labels only; dropping classes removes images."""
        return self.data_sha256, sorted(self.recipe.drop), len(self.labels)


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: a group and its runs."""

    group: Group
    runs: list[TestedRun]

    def values(self, metric: str) -> list[float]:
        return self.group.accuracies if metric == "accuracy" else self.group.balanced_accuracies


def compare(runs: Sequence[TestedRun], metric: str = "accuracy") -> Comparison:
    """Group runs by recipe and compare the groups.

    Groups of several runs are compared over seeds by Welch's test, two single runs over their common test images by
    McNemar's test. p-values are corrected for the number of comparisons (Holm).

    Args:
        runs: finished runs. Runs of the same recipe and seed count once.
        metric: metric to compare, from `METRICS`. With merged classes, only `balanced_accuracy` weighs them equally.

    Raises:
        UsageError: there is no such metric.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    members = _group_by_recipe(runs)
    names = _name_groups([group_runs[0] for group_runs in members])
    sides = [_Side(_describe(*name, group, metric), group) for name, group in zip(names, members, strict=True)]
    pairs = _compare_pairs(combinations(sides, 2), metric)
    best, with_best = _best_on_validation(sides), list[Pair]()
    if best and len(sides) > MOST_GROUPS_WITH_ALL_PAIRS:
        with_best = _compare_pairs([(best, side) for side in sides if side is not best], metric)
    return Comparison(metric, [side.group for side in sides], pairs, best.group.name if best else "", with_best)


def _best_on_validation(sides: Sequence[_Side]) -> _Side | None:
    """Return the side of highest validation accuracy; None if one is unknown or was measured on the test images."""
    means = []
    for side in sides:
        accuracies = [run.validation_accuracy for run in side.runs]
        if np.isnan(accuracies).any() or any(run.recipe.validate_on == "test" for run in side.runs):
            return None
        means.append(float(np.mean(accuracies)))
    return sides[int(np.argmax(means))] if means else None


def _compare_pairs(sides: Iterable[tuple[_Side, _Side]], metric: str) -> list[Pair]:
    """Compare each pair of sides, with p-values corrected for the number of pairs that can be tested."""
    sides = list(sides)
    pairs = [_compare_pair(a, b, metric, comparisons=1) for a, b in sides]
    tested = sum(pair.found is not None for pair in pairs)
    if tested > 1:
        pairs = [_compare_pair(a, b, metric, comparisons=tested) for a, b in sides]
    corrected = iter(significance.holm([pair.found.p for pair in pairs if pair.found is not None]))
    p_values = [None if pair.found is None else next(corrected) for pair in pairs]
    return [
        replace(pair, corrected=p, real=p is not None and p <= significance.LEVEL)
        for pair, p in zip(pairs, p_values, strict=True)
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
        varied = [
            key for key in ours if key not in NOT_COMPARED and len({repr(other.get(key)) for other in namesakes}) > 1
        ]
        text = ", ".join(f"{key}={value_text(ours[key])}" for key in varied)
        name = f"{ours['name']} ({text})" if text else str(ours["name"])
        names.append((name, text if text and len(namesakes) == len(settings) else name))
    endings = [f" in {run.name}" if names.count(both) > 1 else "" for both, run in zip(names, first_runs, strict=True)]
    return [(name + end, label + end) for (name, label), end in zip(names, endings, strict=True)]


def _describe(name: str, label: str, runs: Sequence[TestedRun], metric: str) -> Group:
    first, classes = runs[0], runs[0].classes

    def balanced_accuracy(labels: Int64[np.ndarray, " n"], predictions: Int64[np.ndarray, " n"]) -> float:
        return metrics.balanced_accuracy(metrics.confusion_matrix(labels, predictions, len(classes)))

    matrices = [metrics.confusion_matrix(run.labels, run.predictions, len(classes)) for run in runs]
    accuracies = [metrics.accuracy(matrix) for matrix in matrices]
    balanced = [metrics.balanced_accuracy(matrix) for matrix in matrices]
    recalls = [[row.recall for row in metrics.per_class(matrix, classes)] for matrix in matrices]
    if metric == "accuracy":
        interval = significance.accuracy_interval(int(np.trace(matrices[0])), len(first.labels))
    else:
        interval = significance.bootstrap_interval(first.labels, first.predictions, balanced_accuracy)
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
        majority=metrics.majority_share(first.labels),
        recall=dict(zip(classes, map(estimate_share, zip(*recalls, strict=True)), strict=True)),
    )


def _doubts(a: _Side, b: _Side, metric: str) -> list[str]:
    """Return reasons why two groups are not quite comparable."""
    doubts = []
    first_a, first_b = a.runs[0], b.runs[0]
    if abs(a.group.majority - b.group.majority) > UNLIKE_MAJORITY and metric == "accuracy":
        doubts.append(
            "their classes differ: the most frequent class has "
            f"{a.group.majority:.1%} and {b.group.majority:.1%} of the images"
        )
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
        difference = significance.welch(a.values(metric), b.values(metric), comparisons)
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
