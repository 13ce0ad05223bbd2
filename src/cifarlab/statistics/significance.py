"""Confidence intervals and significance tests: is a difference real, or may it be chance?

There are two kinds of chance. Another seed trains another network: `estimate`, `welch` and `dunnett` look at several
runs. Other test images give the same network another accuracy: `accuracy_interval`, `bootstrap_interval` and
`mcnemar` look at the images of one test set, and cannot say what another seed would do.

SciPy is imported inside the functions, because that takes a second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool

from cifarlab.statistics.metrics import Labels

CONFIDENCE = 0.95  # level of all intervals
LEVEL = 1 - CONFIDENCE  # of all tests: p-values up to this are called significant
POWER = 0.8  # probability of finding a difference of the detectable size; the usual convention (Cohen 1988)
_QUANTILE = (1 + CONFIDENCE) / 2  # upper end of a two-sided interval
NEAR = 2.0  # standard errors of the difference up to which a recipe may have been the best one
ROUNDS = 10  # enough for the runs near the best one to stay the same
RESAMPLES = 2_000  # of the bootstrap
SMALLEST_P = 1e-15  # smaller p-values are as good as 0, and some are 0 by rounding
_ROUNDING = 1e-12  # a standard error up to this is zero but for rounding


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric over `n` runs, with its uncertainty, which is None for a single run.

    The interval is None too if all runs are equal: they tell nothing of the spread that other seeds have.
    """

    n: int
    mean: float
    deviation: float | None  # sample standard deviation of the runs (divisor n - 1)
    low: float | None  # ends of Student's confidence interval of the mean
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of b minus a with its confidence interval, and whether it may be chance."""

    difference: float
    low: float | None
    high: float | None
    p: float  # two-sided: probability of a difference at least as large if a and b were equally good
    detectable: float | None  # smallest true difference found with probability `POWER`; None if it would exceed 1

    @property
    def detectable_text(self) -> str:
        """The detectable difference in round percentage points, because few runs estimate it; a dash if unknown."""
        if self.detectable is None:
            return "-" if self.low is None else "over 100%"
        return f"about {float(f'{100 * self.detectable:.1g}'):g}%"


def estimate(values: Sequence[float], lowest: float = -math.inf, highest: float = math.inf) -> Estimate:
    """Estimate the mean of a metric over one or more independent runs, with Student's interval (Student 1908).

    The interval is clipped to the metric's lowest and highest possible value.
    """
    from scipy import stats

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(n, mean, None, None, None)
    deviation = float(np.std(values, ddof=1))
    if deviation < _ROUNDING:
        return Estimate(n, mean, 0.0, None, None)
    half = float(stats.t.ppf(_QUANTILE, n - 1)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, max(mean - half, lowest), min(mean + half, highest))


def estimate_share(values: Sequence[float]) -> Estimate:
    """Estimate the mean of fractions of 1; see `estimate`."""
    return estimate(values, lowest=0.0, highest=1.0)


def prediction_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's prediction interval, in which one more run of the same kind lies; None for a single run.

    Compare a published run with it, not with the interval of the mean, which many runs make arbitrarily narrow.
    """
    mean = estimate(values)
    if mean.high is None:
        return None
    half = (mean.high - mean.mean) * math.sqrt(mean.n + 1)
    return mean.mean - half, mean.mean + half


def choice_optimism(validation: Sequence[Sequence[float]], test: Sequence[Sequence[float]]) -> float:
    """Estimate how much too high the mean test metric is of the recipe with the highest mean on validation images.

    A run that is lucky on validation images is lucky on test images too. The estimate is the slope of test on
    validation values within recipes, times the largest luck expected of as many recipes as come within two standard
    errors of the best one (Blom 1958). Arguments: the values of two or more runs of each recipe.
    """
    means = np.array([np.mean(values) for values in validation])
    squared_errors = np.array([np.var(values, ddof=1) / len(values) for values in validation])
    best = int(means.argmax())
    near = np.flatnonzero(means[best] - means <= NEAR * np.sqrt(squared_errors + squared_errors[best])).tolist()
    a, b = (np.concatenate([np.subtract(each[i], np.mean(each[i])) for i in near]) for each in (validation, test))
    spread = math.sqrt(float(a @ a) * (len(a) - len(near)) * len(validation[best]))
    return max(0.0, float(a @ b) / spread * largest_of(len(near))) if spread > _ROUNDING else 0.0


def best_of_single_runs(accuracies: Sequence[float], images: int) -> float:
    """Estimate how much too high the best of several accuracies on the same validation images is, one run each.

    Nothing is known of the seeds, so the luck of a run is taken to be that of its images: the result is the expected
    largest of as many binomial accuracies as come near the best one, above their mean. Half a correct and half a wrong
    image are added to that mean, because the luck is not zero where all runs are perfect.
    """
    from scipy import stats

    best = mean = max(accuracies)
    for _ in range(ROUNDS):
        share = (mean * images + 0.5) / (images + 1)
        error = math.sqrt(2 * share * (1 - share) / images)
        near = [accuracy for accuracy in accuracies if best - accuracy <= NEAR * error]
        mean = sum(near) / len(near)
    below = stats.binom.cdf(np.arange(images), images, share) ** len(near)  # of the largest
    return max(0.0, float(np.sum(1 - below)) / images - share) if len(near) > 1 else 0.0


def largest_of(count: int) -> float:
    """Return the expected largest of `count` independent standard normal values, to about 0.02 (Blom 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def accuracy_interval(correct: int, images: int) -> tuple[float, float]:
    """Return Wilson's interval of the accuracy that the same weights reach on other such images (Wilson 1927)."""
    accuracy, z = correct / images, NormalDist().inv_cdf(_QUANTILE)  # without SciPy, since every report needs it
    middle = accuracy + z**2 / (2 * images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / images) ** 2 / 4)
    scale = 1 + z**2 / images
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def bootstrap_interval(
    metric: Callable[[Labels, Labels], float], labels: Labels, predictions: Labels
) -> tuple[float, float]:
    """Return the percentile bootstrap interval over test images of `metric(labels, predictions)` (Efron 1979)."""
    from scipy.stats import bootstrap

    interval = bootstrap(
        (labels, predictions),
        metric,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def mcnemar(correct_a: Bool[np.ndarray, " n"], correct_b: Bool[np.ndarray, " n"], comparisons: int = 1) -> Difference:
    """Compare two classifiers by their correct answers to the same images, by McNemar's exact test (McNemar 1947).

    Only images that exactly one of them classifies correctly count. The interval is Wald's for paired proportions
    with half an image added to each cell (Agresti and Min 2005), so that its width is never 0. The number of
    comparisons made together raises `detectable`; correct the p-value with `holm`.
    """
    from scipy import stats

    n, only_a, only_b = len(correct_a), int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    shift, discordant = (only_b - only_a) / (n + 2), (only_a + only_b + 1) / (n + 2)
    half = float(stats.norm.ppf(_QUANTILE)) * math.sqrt((discordant - shift**2) / (n + 2))
    level = LEVEL / comparisons
    detectable = float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER)) * math.sqrt(discordant / (n + 2))
    fewest = math.floor(math.log2(2 / level)) + 1  # images that only one of them gets right, for p below the level
    detectable = max(detectable, fewest / n)
    low, high = max(shift - half, -1.0), min(shift + half, 1.0)
    return Difference((only_b - only_a) / n, low, high, p, detectable if detectable <= 1 else None)


def welch(a: Sequence[float], b: Sequence[float], comparisons: int = 1) -> Difference:
    """Compare two recipes over two or more seeds each by Welch's t-test (Welch 1947); `comparisons` as in `mcnemar`.

    The test allows different standard deviations. If all runs of each recipe are equal, they tell nothing about the
    effect of seeds: there is no interval, and the p-value is 1.
    """
    from scipy import stats

    difference = float(np.mean(b) - np.mean(a))
    a_variance, b_variance = (float(np.var(values, ddof=1)) / len(values) for values in (a, b))  # of the means
    error = math.sqrt(a_variance + b_variance)
    if error < _ROUNDING:
        return Difference(difference, None, None, 1.0, None)
    freedom = (a_variance + b_variance) ** 2 / (a_variance**2 / (len(a) - 1) + b_variance**2 / (len(b) - 1))
    half = float(stats.t.ppf(_QUANTILE, freedom)) * error
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    detectable = detectable_difference(error, freedom, comparisons)
    low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    return Difference(difference, low, high, p, detectable if detectable <= 1 else None)


def dunnett(control: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """Compare several recipes with one control recipe and return corrected p-values (Dunnett 1955).

    A few runs of each recipe suffice, because the test estimates one standard deviation for all recipes together.
    """
    from scipy import stats

    return list(map(float, stats.dunnett(*others, control=control, rng=np.random.default_rng(0)).pvalue))


def detectable_difference(error: float, freedom: float, comparisons: int = 1) -> float:
    """Return the true difference that a two-sided t-test finds with probability `POWER` (Cohen 1988).

    `error` is the standard error of the difference. The level is divided by the number of comparisons made together
    (Bonferroni); Holm's correction finds at least as much.
    """
    from scipy import optimize, stats

    critical = float(stats.t.isf(LEVEL / comparisons / 2, freedom))

    def excess_power(shift: float) -> float:  # a significant difference of the wrong sign is too rare to count
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    return error * float(optimize.brentq(excess_power, 0.0, 2 * critical + 10))


def p_text(p: float, digits: int = 3) -> str:
    """Return a p-value as text; below the precision of its computation, only that it is so small."""
    return f"{p:.{digits}g}" if p >= SMALLEST_P else f"< {SMALLEST_P:g}"


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of comparisons made together: any false alarm is as rare as in a single one (Holm 1979)."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
