"""Statistics against SciPy, hand-made examples and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cifarlab.statistics import significance


def test_the_interval_is_students() -> None:
    values = [0.71, 0.73, 0.70, 0.74, 0.72]
    found = significance.estimate(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.n == 5
    assert [found.mean, found.deviation, found.low, found.high] == pytest.approx(
        [0.72, np.std(values, ddof=1), low, high]
    )


def test_a_single_run_has_no_interval() -> None:
    found = significance.estimate([0.7])
    assert (found.n, found.mean, found.deviation, found.low, found.high) == (1, 0.7, None, None, None)


def test_welch_is_scipys() -> None:
    a, b = [0.71, 0.73, 0.70, 0.74, 0.72], [0.75, 0.74, 0.79, 0.77]
    found, expected = significance.welch(a, b), stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))


@pytest.mark.parametrize(("a", "b"), [([0.5] * 2, [0.5] * 2), ([0.5] * 2, [0.6] * 2), ([0.6084] * 10, [0.6084] * 7)])
def test_runs_without_spread_say_nothing_of_seeds(a: list[float], b: list[float]) -> None:
    found = significance.welch(a, b)
    assert (found.p, found.low, found.high, found.detectable) == (1, None, None, None)


def test_one_more_run_lies_in_the_interval_of_single_runs_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for values in generator.normal(0.7, 0.01, (2000, 4)):
        low, high = significance.prediction_interval(values[:3].tolist()) or (1, 0)
        inside += low <= values[3] <= high
    assert 0.93 < inside / 2000 < 0.97
    assert significance.prediction_interval([0.7]) is None


def test_dunnett_finds_with_two_runs_of_each_what_welch_cannot() -> None:
    control, others = [0.57, 0.58], [[0.571, 0.582], [0.63, 0.64], [0.60, 0.612], [0.565, 0.579]]
    same, better, *_ = significance.dunnett(control, others)
    assert same > 0.9 and better < 0.01 < significance.welch(control, others[1]).p
    assert significance.dunnett(control, others) == significance.dunnett(control, others)


def test_what_many_comparisons_could_have_seen_is_more() -> None:
    generator = np.random.default_rng(0)
    found = significance.detectable_difference(0.01, 8, comparisons=15)
    assert found > significance.detectable_difference(0.01, 8)
    critical = stats.t.isf(0.05 / 15 / 2, 8)
    seen = generator.normal(found / 0.01, 1, 20_000) / np.sqrt(generator.chisquare(8, 20_000) / 8)
    assert (seen > critical).mean() == pytest.approx(significance.POWER, abs=0.01)
    right = np.array([True] * 3)
    least = significance.mcnemar(right, ~right, comparisons=2)
    assert least.low is not None and least.low >= -1 and least.detectable is None


def test_mcnemar_counts_only_images_on_which_two_differ() -> None:
    right_a = np.array([True] * 5 + [False] * 15 + [True] * 70 + [False] * 10)
    right_b = np.array([False] * 5 + [True] * 15 + [True] * 70 + [False] * 10)
    found = significance.mcnemar(right_a, right_b)
    assert found.difference == pytest.approx(0.1)
    assert found.p == pytest.approx(2 * stats.binom.cdf(5, 20, 0.5))
    assert found.low is not None and found.high is not None and found.low < 0.1 < found.high


def test_two_that_never_differ_are_not_the_same_for_certain() -> None:
    right = np.array([True] * 300 + [False] * 59)
    found = significance.mcnemar(right, right)
    assert found.difference == 0 and found.p == 1
    assert found.low is not None and found.high is not None and found.detectable is not None
    assert -0.01 < found.low == -found.high < -0.003
    assert found.detectable >= 6 / 359  # with five images, all to one side, p is 0.0625


def test_mcnemars_interval_holds_what_it_promises() -> None:
    generator = np.random.default_rng(0)
    within = 0
    for _ in range(400):
        right_a = generator.random(1000) < 0.7
        right_b = np.where(generator.random(1000) < 0.3, generator.random(1000) < 0.8, right_a)  # 0.03 better
        found = significance.mcnemar(right_a, right_b)
        assert found.low is not None and found.high is not None
        within += found.low <= 0.03 <= found.high
    assert 0.92 <= within / 400 <= 0.98


def test_holm_is_the_textbooks() -> None:
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([]) == []
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_detectable_difference_is_found_four_times_out_of_five() -> None:
    generator = np.random.default_rng(0)
    shift = significance.detectable_difference(math.sqrt(2 / 5), 8)  # five runs each, deviation 1
    a, b = generator.normal(0, 1, (4000, 5)), generator.normal(shift, 1, (4000, 5))
    found = (stats.ttest_ind(a, b, axis=1).pvalue <= 0.05).mean()
    assert found == pytest.approx(0.8, abs=0.02)


def test_same_recipes_are_called_different_as_seldom_as_promised_and_different_ones_often() -> None:
    generator = np.random.default_rng(0)
    same = [significance.welch(*generator.normal(0.7, 0.005, (2, 5)).tolist()).p for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(same) <= 0.05) <= 0.06
    apart = [
        significance.welch(generator.normal(0.7, 0.005, 5).tolist(), generator.normal(0.72, 0.005, 5).tolist()).p
        for _ in range(200)
    ]
    assert np.mean(np.array(apart) <= 0.05) > 0.98


def test_the_bootstrap_agrees_with_the_formula_for_accuracy() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 2000)
    predictions = np.where(generator.random(2000) < 0.7, labels, (labels + 1) % 10)
    found = significance.bootstrap_interval(labels, predictions, lambda a, b: float((a == b).mean()))
    expected = significance.accuracy_interval(int((labels == predictions).sum()), 2000)
    assert found == pytest.approx(expected, abs=0.004)
