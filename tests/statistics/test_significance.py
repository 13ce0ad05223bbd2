"""Significance tests, compared with SciPy, with examples worked out by hand and with simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cifarlab.statistics import significance


def test_the_interval_of_the_mean_is_students() -> None:
    values = [0.71, 0.73, 0.70, 0.74, 0.72]
    mean = significance.estimate(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert mean.n == 5
    assert [mean.mean, mean.deviation, mean.low, mean.high] == pytest.approx([0.72, np.std(values, ddof=1), low, high])


def test_a_single_run_has_no_interval() -> None:
    mean = significance.estimate([0.7])
    assert (mean.n, mean.mean, mean.deviation, mean.low, mean.high) == (1, 0.7, None, None, None)


def test_welch_equals_scipy() -> None:
    a, b = [0.71, 0.73, 0.70, 0.74, 0.72], [0.75, 0.74, 0.79, 0.77]
    difference, expected = significance.welch(a, b), stats.ttest_ind(b, a, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert difference.p == pytest.approx(expected.pvalue)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.difference == pytest.approx(np.mean(b) - np.mean(a))


def test_a_difference_of_shares_is_at_most_one() -> None:
    wide, narrow = significance.welch([0.2, 0.9], [0.9, 0.1]), significance.welch([0.70, 0.72], [0.81, 0.83])
    assert (wide.low, wide.high, wide.detectable, wide.detectable_text) == (-1, 1, None, "over 100%")
    assert narrow.low is not None and narrow.low > 0 and narrow.detectable_text.startswith("about ")
    assert significance.welch([0.5, 0.5], [0.6, 0.6]).detectable_text == "-"


@pytest.mark.parametrize(("a", "b"), [([0.5] * 2, [0.5] * 2), ([0.5] * 2, [0.6] * 2), ([0.6084] * 10, [0.6084] * 7)])
def test_equal_runs_give_no_interval(a: list[float], b: list[float]) -> None:
    difference = significance.welch(a, b)
    assert (difference.p, difference.low, difference.high, difference.detectable) == (1, None, None, None)


def test_the_prediction_interval_holds_one_more_run_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    inside = 0
    for values in generator.normal(0.7, 0.01, (2000, 4)):
        low, high = significance.prediction_interval(values[:3].tolist()) or (1, 0)
        inside += low <= values[3] <= high
    assert 0.93 < inside / 2000 < 0.97
    assert significance.prediction_interval([0.7]) is None


def test_dunnett_finds_with_two_runs_each_what_welch_cannot() -> None:
    control, others = [0.57, 0.58], [[0.571, 0.582], [0.63, 0.64], [0.60, 0.612], [0.565, 0.579]]
    same, better, *_ = significance.dunnett(control, others)
    assert same > 0.9 and better < 0.01 < significance.welch(control, others[1]).p
    assert significance.dunnett(control, others) == significance.dunnett(control, others)


def test_the_detectable_difference_is_a_round_figure() -> None:
    texts = {0.0325: "about 3%", 0.1413: "about 10%", 0.00512: "about 0.5%", None: "over 100%"}
    for detectable, text in texts.items():
        assert significance.Difference(0.1, 0.0, 0.2, 0.5, detectable).detectable_text == text
    assert significance.Difference(0.1, None, None, 0.5, None).detectable_text == "-"


def test_the_detectable_difference_grows_with_the_number_of_comparisons() -> None:
    generator = np.random.default_rng(0)
    detectable = significance.detectable_difference(0.01, 8, comparisons=15)
    assert detectable > significance.detectable_difference(0.01, 8)
    critical = stats.t.isf(0.05 / 15 / 2, 8)
    statistics = generator.normal(detectable / 0.01, 1, 20_000) / np.sqrt(generator.chisquare(8, 20_000) / 8)
    assert (statistics > critical).mean() == pytest.approx(significance.POWER, abs=0.01)
    correct = np.array([True] * 3)
    single = significance.mcnemar(correct, ~correct, comparisons=2)
    assert single.low is not None and single.low >= -1 and single.detectable is None


def test_mcnemar_counts_only_images_on_which_the_classifiers_differ() -> None:
    correct_a = np.array([True] * 5 + [False] * 15 + [True] * 70 + [False] * 10)
    correct_b = np.array([False] * 5 + [True] * 15 + [True] * 70 + [False] * 10)
    difference = significance.mcnemar(correct_a, correct_b)
    assert difference.difference == pytest.approx(0.1)
    assert difference.p == pytest.approx(2 * stats.binom.cdf(5, 20, 0.5))
    assert difference.low is not None and difference.high is not None and difference.low < 0.1 < difference.high


def test_mcnemars_interval_of_equal_classifiers_has_a_width() -> None:
    correct = np.array([True] * 300 + [False] * 59)
    difference = significance.mcnemar(correct, correct)
    assert difference.difference == 0 and difference.p == 1
    assert difference.low is not None and difference.high is not None and difference.detectable is not None
    assert -0.01 < difference.low == -difference.high < -0.003
    assert difference.detectable >= 6 / 359  # with five images, all to one side, p is 0.0625


def test_mcnemars_interval_holds_the_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    within = 0
    for _ in range(400):
        correct_a = generator.random(1000) < 0.7
        correct_b = np.where(generator.random(1000) < 0.3, generator.random(1000) < 0.8, correct_a)  # 0.03 better
        difference = significance.mcnemar(correct_a, correct_b)
        assert difference.low is not None and difference.high is not None
        within += difference.low <= 0.03 <= difference.high
    assert 0.92 <= within / 400 <= 0.98


def test_holm_of_a_textbook_example() -> None:
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([]) == []
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_detectable_difference_is_found_four_times_out_of_five() -> None:
    generator = np.random.default_rng(0)
    shift = significance.detectable_difference(math.sqrt(2 / 5), 8)  # five runs each, deviation 1
    a, b = generator.normal(0, 1, (4000, 5)), generator.normal(shift, 1, (4000, 5))
    power = (stats.ttest_ind(a, b, axis=1).pvalue <= 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.02)


def test_welch_has_the_promised_false_alarm_rate_and_finds_true_differences() -> None:
    generator = np.random.default_rng(0)
    same = [significance.welch(*generator.normal(0.7, 0.005, (2, 5)).tolist()).p for _ in range(400)]
    assert 0.03 <= np.mean(np.array(same) <= 0.05) <= 0.07
    apart = [
        significance.welch(generator.normal(0.7, 0.005, 5).tolist(), generator.normal(0.72, 0.005, 5).tolist()).p
        for _ in range(100)
    ]
    assert np.mean(np.array(apart) <= 0.05) > 0.98


def test_the_bootstrap_agrees_with_wilsons_formula() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 2000)
    predictions = np.where(generator.random(2000) < 0.7, labels, (labels + 1) % 10)
    interval = significance.bootstrap_interval(lambda a, b: float((a == b).mean()), labels, predictions)
    expected = significance.accuracy_interval(int((labels == predictions).sum()), 2000)
    assert interval == pytest.approx(expected, abs=0.004)


def test_a_clear_winner_was_not_chosen_by_luck() -> None:
    generator = np.random.default_rng(0)
    covariance = 1e-4 * np.array([[1, 0.75], [0.75, 1]])
    runs = generator.multivariate_normal([0.7, 0.7], covariance, (6, 5))
    assert significance.choice_optimism(*np.moveaxis(runs, 2, 0).tolist()) > 0.002
    runs[0] += 0.2
    assert significance.choice_optimism(*np.moveaxis(runs, 2, 0).tolist()) == 0
    assert significance.choice_optimism([[0.5] * 2] * 3, [[0.6] * 2] * 3) == 0  # no luck where all seeds agree


def test_the_best_of_single_runs_is_too_high_by_the_luck_of_its_images() -> None:
    generator = np.random.default_rng(0)
    accuracies = generator.binomial(200, 0.7, (300, 8)) / 200  # eight equal trials, each with luck of its own
    estimates = [significance.best_of_single_runs(row, 200) for row in accuracies.tolist()]
    assert np.mean(estimates) == pytest.approx(accuracies.max(axis=1).mean() - 0.7, rel=0.1)
    assert significance.best_of_single_runs([0.9, 0.1, 0.2], 200) == 0
    assert significance.largest_of(20) == pytest.approx(
        generator.normal(size=(20_000, 20)).max(axis=1).mean(), abs=0.02
    )


def test_no_p_value_is_called_0() -> None:
    assert [significance.p_text(p) for p in (0.0, 1e-320, 0.04567, 1.0)] == ["< 1e-15", "< 1e-15", "0.0457", "1"]


def test_the_best_of_many_nearly_perfect_runs_is_too_high_too() -> None:
    generator = np.random.default_rng(0)
    for images, accuracy, trials in ((143, 0.93, 100), (143, 0.98, 10), (5000, 0.93, 30)):
        rows = generator.binomial(images, accuracy, (100, trials)) / images
        estimates = [significance.best_of_single_runs(row, images) for row in rows.tolist()]
        assert np.mean(estimates) == pytest.approx(rows.max(axis=1).mean() - accuracy, rel=0.2)
    assert 0.002 < significance.best_of_single_runs([1.0] * 10, 143) < 0.01


def test_equal_runs_have_no_interval_of_the_mean() -> None:
    mean = significance.estimate_share([0.8] * 3)
    assert (mean.n, mean.deviation, mean.low, mean.high) == (3, 0.0, None, None)
    assert significance.prediction_interval([0.8] * 3) is None
