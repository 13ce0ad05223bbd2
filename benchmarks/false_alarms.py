"""Simulate studies of equally good settings: how often `compare` calls a difference real, and how lucky the best is.

    python benchmarks/false_alarms.py --studies 2000

All settings of a simulated study have the same true accuracy. Validation and test accuracy of a run have the spread
and the correlation that were measured on CIFAR-10. As in `cifarlab study`, the best 20 settings by mean validation
accuracy are compared: every pair of up to four, else each with the best, with the p-values of all pairs corrected. A
study is wrong if the verdict on any pair is "yes". At most 5 % may be.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from cifarlab.experiments.study.outcome import MOST_COMPARED
from cifarlab.statistics.comparison import MOST_GROUPS_WITH_ALL_PAIRS
from cifarlab.statistics.significance import LEVEL, choice_optimism, holm

SPREAD = 0.01  # standard deviation of a run's accuracy, as a fraction of 1
CORRELATION = 0.75  # of validation and test accuracy of the runs of one recipe, measured on CIFAR-10


@dataclass(frozen=True)
class Cell:
    """The results of the simulated studies of one size."""

    settings: int
    seeds: int
    studies: int
    wrong: float
    """Fraction of the studies with a difference that is called real."""
    optimism: float
    """Mean by which the best setting's mean test accuracy is too high, as a fraction of 1."""
    estimated: float
    """Mean of what `choice_optimism` says about it."""


def simulate(settings: int, seeds: int, studies: int, generator: np.random.Generator) -> Cell:
    """Simulate studies with this number of settings and seeds."""
    covariance = SPREAD**2 * np.array([[1, CORRELATION], [CORRELATION, 1]])
    runs = generator.multivariate_normal([0, 0], covariance, (studies, settings, seeds))
    order = runs[..., 0].mean(axis=2).argsort(axis=1)[:, ::-1][:, :MOST_COMPARED]  # the best by validation first
    runs = np.take_along_axis(runs, order[:, :, None, None], axis=1)
    validation, test = runs[..., 0], runs[..., 1]  # [studies, settings, seeds]
    p_values, is_shown = pairs(test)
    possible = np.flatnonzero(p_values.min(axis=1) <= LEVEL / p_values.shape[1])  # Holm finds nothing in the others
    wrong = sum(finds_a_difference(p_values[study], is_shown) for study in possible)
    estimates = [choice_optimism(a.tolist(), b.tolist()) for a, b in zip(validation, test, strict=True)]
    return Cell(settings, seeds, studies, wrong / studies, float(test[:, 0].mean()), float(np.mean(estimates)))


def finds_a_difference(p_values: np.ndarray, is_shown: np.ndarray) -> bool:
    """Return True if the verdict on any pair of the table is "yes"."""
    return bool((np.array(holm(p_values.tolist()))[is_shown] <= LEVEL).any())


def pairs(test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Welch's p-values [studies, pairs] of all pairs of settings, and which pairs a table shows [pairs]."""
    first, second = np.triu_indices(test.shape[1], 1)
    squared_errors = test.var(axis=2, ddof=1) / test.shape[2]
    a, b = squared_errors[:, first], squared_errors[:, second]
    freedom = (a + b) ** 2 / (a**2 + b**2) * (test.shape[2] - 1)
    difference = test.mean(axis=2)[:, second] - test.mean(axis=2)[:, first]
    p_values = 2 * stats.t.sf(np.abs(difference) / np.sqrt(a + b), freedom)
    return p_values, (first == 0) | (test.shape[1] <= MOST_GROUPS_WITH_ALL_PAIRS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies of each size")
    parser.add_argument("--settings", type=int, nargs="+", default=[2, 5, 10, 20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    arguments = parser.parse_args()
    table = Table("settings", "seeds", "wrong studies", "best too high by", "estimated", box=None)
    generator = np.random.default_rng(0)
    for settings, seeds in product(arguments.settings, arguments.seeds):
        cell = simulate(settings, seeds, arguments.studies, generator)
        points = [f"{100 * value:.2f} points" for value in (cell.optimism, cell.estimated)]
        table.add_row(str(settings), str(seeds), f"{cell.wrong:.1%}", *points)
    Console().print(table)


if __name__ == "__main__":
    main()
