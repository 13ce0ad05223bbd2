"""Group tested runs by recipe, and test which differences between the groups are real.

Pure computation on values in memory. `report.comparing` reads them from run folders; the tests are in `significance`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from cifarlab.errors import unknown
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import NOT_COMPARED, settings_of, short_text
from cifarlab.statistics import metrics, significance
from cifarlab.statistics.metrics import Labels
from cifarlab.statistics.significance import Difference, Estimate, estimate_share

METRICS = ("accuracy", "balanced_accuracy")
MOST_GROUPS_WITH_ALL_PAIRS = 4  # of more groups, tables show only the pairs with the best one
CHANCE, UNDECIDED = "may be chance", "undecided: one seed each"  # verdicts on a pair
CHECKSUM_DIGITS = 8  # of a SHA-256 in names
CHOSEN_BY = "accuracy on validation images"
LEAST_OPTIMISM = 0.0005  # that is worth saying: it rounds to 0.1 points
UNLIKE_MAJORITY = 0.005  # difference of the most frequent class's share from which accuracies are not comparable


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ only in their seeds."""

    name: str  # of the recipe, with the settings that distinguish it from other groups of that name
    label: str  # the run's name if there is one run of that name; else the setting
    setting: str  # the differing settings if all groups have the same recipe name; else the name
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
    real: bool  # True if a test over seeds was made and its corrected p-value is at most `significance.LEVEL`
    note: str  # why the groups are not compared or the comparison is doubtful; else empty
    verdict: str = "not compared"  # or `yes`, `may be chance`, `undecided: one seed each`
    on_images: str = ""  # of two single runs, what the test images alone say: `differ` or `may be chance`; else empty


@dataclass(frozen=True, repr=False)
class Comparison:
    """Groups in the order of their first runs, and every pair of groups.

    `with_best` has the best group (a) against each of the others (b), or nothing for up to `MOST_GROUPS_WITH_ALL_PAIRS`
    groups or without a best one. Its p-values are corrected for all pairs: a group that is best by luck on validation
    images is lucky on test images too, and a correction for its own pairs finds too many differences.
    """

    metric: str
    groups: list[Group]
    pairs: list[Pair]
    best: str  # name of the group that `chosen_by` chooses; empty if not all runs have a value on validation images
    with_best: list[Pair]
    repeated: list[str]  # runs that are left out, because another run has the same recipe and seed
    optimism: float | None = None  # by which the metric of `best` may be too high, as it was chosen; None if unknown
    protocols: Mapping[str, str] = field(default_factory=dict)  # of each run
    chosen_by: str = CHOSEN_BY
    chosen_of: int = 0  # settings, of which `groups` are the best; 0 if there are no others

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
            compared = f"The best {len(self.groups)} of {self.chosen_of} settings" if self._has_others else "All"
            pairs = f"{compared} are compared with {self.labels[self.best]}, the best by {self.chosen_by}."
        else:
            pairs = f"Only comparisons with {self.labels[self._best_on_test]} are shown, the best on these test images."
            pairs = f"{len(self.groups)} of {self.chosen_of} settings are compared. " * self._has_others + pairs
        return f"{pairs} p-values are corrected for all {len(self.pairs)} comparisons (Holm)."

    @property
    def choice_note(self) -> str:
        """Sentence on how much too high the mean of the chosen group may be; empty if there is little to say."""
        if not self.with_best if self.optimism is None else self.optimism < LEAST_OPTIMISM:
            return ""
        much = "by an unknown amount" if self.optimism is None else f"by about {100 * self.optimism:.1f} points"
        count = max(len(self.groups), self.chosen_of)
        chosen = f"{self.labels[self.best]} is the best of {count} by {self.chosen_by}, partly by luck"
        metric = self.metric.replace("_", " ")
        return f"{chosen}: its {metric} may be too high {much}. New seeds give an honest figure."

    @property
    def seeds_note(self) -> str:
        """Sentence on the pairs of single runs that the table shows; empty if there are none."""
        weights = "With one seed each, the test images alone say whether two sets of weights differ on these images"
        note = f"{weights}. Which recipe is better is undecided: train each with five seeds."
        return note if any(pair.on_images for pair in self.table_pairs) else ""

    @property
    def notes(self) -> list[str]:
        """Sentences below the table: on the choice, single seeds, protocols that are not honest, runs left out."""
        twins = f"left out: {', '.join(self.repeated)} (another run has the same recipe and seed)" * bool(self.repeated)
        return [*filter(None, (self.choice_note, self.seeds_note, protocol_note(self.protocols), twins))]

    def __repr__(self) -> str:
        """Return the mean of each group, the pairs of the table and the notes, a line each."""
        lines = [
            f"{group.label}: {group.estimate(self.metric).mean:.2%}, n = {group.accuracy.n}" for group in self.groups
        ]
        for pair in self.table_pairs:
            difference = f"{pair.found.difference:+.2%}, real? " if pair.found else ""
            lines.append(f"{self.labels[pair.b]} - {self.labels[pair.a]}: {difference}{pair.verdict}")
        return "\n".join([*lines, *filter(None, [self.table_note, *self.notes])])

    @property
    def _has_others(self) -> bool:
        return self.chosen_of > len(self.groups)

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
    origins: Mapping[str, str] = field(default_factory=dict)  # of run.json
    stopped_after: int | None = None  # epochs, by a callback

    @property
    def checksums(self) -> dict[str, str]:
        """Checksums of the data, the network and its source, and the weights that training started from, if known.

        With them are the epochs of a training that a callback stopped: a property of the run, not of its recipe.
        """
        stopped = {"stopped_after": "no" if self.stopped_after is None else str(self.stopped_after)}
        keys = {"source": "model", "network": "network", "weights": "start_from"}
        files = {name: self.origins.get(key, "") for name, key in keys.items()}
        return {"data": self.data_sha256, **files, **stopped}

    @property
    def task(self) -> tuple[object, ...]:
        """The classes and how they were made. Accuracies of different tasks are not directly comparable."""
        return self.classes, sorted(self.recipe.drop), self.recipe.merge

    @property
    def test_images(self) -> tuple[object, ...]:
        """A key of the test images. Merging classes changes labels only; dropping and correcting removes images."""
        return self.data_sha256, sorted(self.recipe.drop), self.recipe.labels, len(self.labels)


class _Side(NamedTuple):
    group: Group
    runs: list[TestedRun]
    values: list[float]  # the metric of each run
    validation: list[float]  # the validation accuracy of each run


def protocol_kind(protocol: str) -> str:
    """Return the beginning of a protocol: `honest protocol`, `published protocol`, `not honest` or the like."""
    return re.split("[,:]", protocol)[0]


def protocol_note(protocols: Mapping[str, str]) -> str:
    """Return which runs are not, or not known to be, honest, and why, by the protocol of each; empty if none is."""
    doubtful: dict[str, list[str]] = {}
    for name, protocol in protocols.items():
        if protocol.startswith("not "):
            doubtful.setdefault(protocol.split(":")[0], []).append(name)
    return "; ".join(f"{doubt}: {', '.join(names)}" for doubt, names in doubtful.items())


def compare(runs: Sequence[TestedRun], metric: str = "accuracy", *, first_is_best: bool = False) -> Comparison:
    """Group runs by recipe and compare the groups.

    Groups of several runs are compared over seeds by Welch's test, two single runs over their common test images by
    McNemar's test. p-values are corrected for the number of comparisons (Holm). Runs of the same recipe and seed count
    once. Of the `METRICS`, only `balanced_accuracy` weighs merged classes like others. With `first_is_best`, the first
    run's group was chosen as the best before.
    """
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    members = _group_by_recipe(runs)
    sides = [_describe(*names, group, metric) for names, group in zip(_name_groups(members), members, strict=True)]
    best = _best_on_validation(sides[:1] if first_is_best else sides)
    is_long = best is not None and len(sides) > MOST_GROUPS_WITH_ALL_PAIRS
    in_order = sorted(sides, key=lambda side: side is not best) if is_long else sides  # so that pairs begin with it
    pairs = _compare_pairs(combinations(in_order, 2), metric)
    with_best = pairs[: len(sides) - 1] if is_long else []
    counted = {run.name for side in sides for run in side.runs}
    repeated = list(dict.fromkeys(run.name for run in runs if run.name not in counted))
    best_name = best.group.name if best else ""
    optimism = None
    if best and len(sides) > 1 and all(len(side.runs) > 1 for side in sides):
        optimism = significance.choice_optimism(*zip(*[(side.validation, side.values) for side in sides], strict=True))
    groups, protocols = [side.group for side in sides], {run.name: run.protocol for run in runs}
    return Comparison(metric, groups, pairs, best_name, with_best, repeated, optimism, protocols)


def _best_on_validation(sides: Sequence[_Side]) -> _Side | None:
    """Return the side of highest validation accuracy; None if one is unknown or was measured on the test images."""
    runs = [run for side in sides for run in side.runs]
    if any(math.isnan(run.validation_accuracy) or run.recipe.validate_on == "test" for run in runs):
        return None
    return max(sides, key=lambda side: float(np.mean(side.validation)), default=None)


def _compare_pairs(sides: Iterable[tuple[_Side, _Side]], metric: str) -> list[Pair]:
    """Compare each pair of sides, with p-values corrected for the number of pairs that can be tested."""
    sides = list(sides)
    pairs = [_compare_pair(a, b, metric, comparisons=1) for a, b in sides]
    if (tested := sum(pair.found is not None for pair in pairs)) > 1:
        pairs = [_compare_pair(a, b, metric, comparisons=tested) for a, b in sides]
    corrected = iter(significance.holm([pair.found.p for pair in pairs if pair.found]))
    return [_judge(pair, next(corrected)) if pair.found else pair for pair in pairs]


def _judge(pair: Pair, p: float) -> Pair:
    """Add a corrected p-value to a pair, and what follows from it. Two single runs never tell recipes apart."""
    answer = p <= significance.LEVEL
    if pair.test == "mcnemar":
        return replace(pair, corrected=p, verdict=UNDECIDED, on_images="differ" if answer else CHANCE)
    return replace(pair, corrected=p, real=answer, verdict="yes" if answer else CHANCE)


def _group_by_recipe(runs: Sequence[TestedRun]) -> list[list[TestedRun]]:
    """Put runs of the same recipe, data set and files into one group, one run per seed."""
    groups: dict[str, dict[int, TestedRun]] = {}
    for run in runs:
        settings = run.recipe.model_dump(mode="json", exclude=NOT_COMPARED) | {"drop": sorted(run.recipe.drop)}
        key = json.dumps([settings, run.checksums], sort_keys=True)
        groups.setdefault(key, {}).setdefault(run.recipe.seed, run)
    return [list(members.values()) for members in groups.values()]


def _name_groups(groups: Sequence[Sequence[TestedRun]]) -> list[tuple[str, str, str]]:
    """Return name, label and setting of each group; see `Group`."""
    runs = [group[0] for group in groups]
    names: list[tuple[str, str, str]] = []
    settings = [settings_of(run.recipe) for run in runs]
    singles = [group[0].name for group in groups if len(group) == 1]
    for group, run, ours in zip(groups, runs, settings, strict=True):
        same = [values for other, values in zip(runs, settings, strict=True) if other.recipe.name == run.recipe.name]
        varied = {key: [values.get(key) for values in same] for key in ours}
        parts = [
            f"{key}={short_text(ours[key], others)}"
            for key, others in varied.items()
            if len(set(map(repr, others))) > 1
        ]
        twins = [other.checksums for other, values in zip(runs, settings, strict=True) if values == ours]
        for key, checksum in run.checksums.items():
            if len({twin[key] for twin in twins}) > 1:
                parts.append(f"{key}={checksum[:CHECKSUM_DIGITS] or 'unknown'}")
        name = f"{run.recipe.name} ({', '.join(parts)})" if parts else run.recipe.name
        setting = ", ".join(parts) if parts and len(same) == len(runs) else name
        names.append((name, run.name if len(group) == singles.count(run.name) == 1 else setting, setting))
    return names


def _describe(name: str, label: str, setting: str, runs: list[TestedRun], metric: str) -> _Side:
    first, classes = runs[0], runs[0].classes

    accuracies = [metrics.accuracy(run.labels, run.predictions) for run in runs]
    balanced = [metrics.balanced_accuracy(run.labels, run.predictions) for run in runs]
    recalls = [[row.recall for row in metrics.per_class(run.labels, run.predictions, classes)] for run in runs]
    # The interval over images is shown for single runs only, so the first run is enough.
    if metric == "accuracy":
        interval = significance.accuracy_interval(int((first.labels == first.predictions).sum()), len(first.labels))
    else:
        interval = significance.bootstrap_interval(metrics.balanced_accuracy, first.labels, first.predictions)
    group = Group(
        name=name,
        label=label,
        setting=setting,
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
    validation = [run.validation_accuracy for run in runs]
    return _Side(group, runs, accuracies if metric == "accuracy" else balanced, validation)


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
    elif first_a.data_sha256 != first_b.data_sha256 and first_a.recipe.size == first_b.recipe.size:
        doubts.append(f"their data sets have the name {first_a.data_name} but other images or labels (SHA-256 differs)")
    if len({tuple(sorted({protocol_kind(run.protocol) for run in side.runs})) for side in (a, b)}) > 1:
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
        same = first_a.data_sha256 == first_b.data_sha256  # with other classes
        how = "train more seeds" if same else "train or evaluate both on one data set"
        if first_a.data_name == first_b.data_name and first_a.recipe.size != first_b.recipe.size:
            how = (
                f"sizes {first_a.recipe.size} and {first_b.recipe.size} make other images of one file, train more seeds"
            )
        notes.insert(0, f"single runs on different test images: {how}")
    else:
        test = "mcnemar"
        correct_a, correct_b = (run.predictions == run.labels for run in (first_a, first_b))
        difference = significance.mcnemar(correct_a, correct_b, comparisons)
    return Pair(a.group.name, b.group.name, test, difference, None, False, "; ".join(notes))
