"""Is the difference real? Intervals and tests on SciPy, which is imported where it is needed: it takes a second.

Wilson's interval, which every report has, does without.

Two kinds of chance are told apart. Another seed trains another network: `estimate` and `welch` look at several runs.
Other test images of the same kind give another accuracy with the same network: `accuracy_interval`,
`bootstrap_interval` and `mcnemar` look at the images of one test set, and know nothing of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Int64

CONFIDENCE = 0.95
POWER = 0.8  # chance to find a difference of the size that `detectable_difference` gives, the usual convention
RESAMPLES = 2_000
_ROUNDING = 1e-12  # a standard error of a share up to this is none


@dataclass(frozen=True)
class Estimate:
    """A mean over runs. Deviation and interval are None for a single one."""

    n: int
    mean: float
    deviation: float | None
    """Standard deviation of one run, with n - 1."""
    low: float | None
    """Of the confidence interval of the mean, by Student's t."""
    high: float | None


@dataclass(frozen=True)
class Difference:
    """How far b is above a, and whether that may be chance."""

    difference: float
    low: float | None
    """Of the confidence interval of the difference."""
    high: float | None
    p: float
    """Probability of a difference at least as large, either way, if there were none; two-sided."""
    detectable: float | None
    """The difference of shares that such a comparison, one of so many, finds with a probability of `POWER`; None where
    it would find none."""


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent runs, with Student's interval (Student 1908).

    Args:
        values: a figure a run, at least one.
        confidence: of the interval.
    """
    from scipy import stats

    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(n, mean, None, None, None)
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - half, mean + half)


def prediction_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Where one more run of the same kind lies: the prediction interval of Student's t; None after a single run.

    A published figure that comes from one run is to be held against this, and not against the interval of our mean,
    which becomes as narrow as one likes with many runs.

    Args:
        values: a figure a run.
        confidence: of the interval.
    """
    found = estimate(values, confidence)
    if found.high is None:
        return None
    half = (found.high - found.mean) * math.sqrt(found.n + 1)
    return found.mean - half, found.mean + half


def accuracy_interval(right: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval of an accuracy measured on so many images (Wilson 1927).

    It says what other test images of the same kind could have given with the same weights; it knows nothing of what
    another seed would have trained.
    """
    accuracy, z = right / images, NormalDist().inv_cdf((1 + confidence) / 2)
    middle = accuracy + z**2 / (2 * images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / images) ** 2 / 4)
    scale = 1 + z**2 / images
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)


def bootstrap_interval(
    labels: Int64[np.ndarray, " n"],
    predictions: Int64[np.ndarray, " n"],
    figure: Callable[[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]], float],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap over test images (Efron 1979), for any figure of labels and predictions.

    Args:
        labels: true classes.
        predictions: predicted ones.
        figure: takes both, redrawn, and gives a number.
        confidence: of the interval.
        seed: of the redrawing.
    """
    from scipy.stats import bootstrap

    found = bootstrap(
        (labels, predictions),
        figure,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def mcnemar(right_a: Bool[np.ndarray, " n"], right_b: Bool[np.ndarray, " n"], comparisons: int = 1) -> Difference:
    """McNemar's test in its exact form (McNemar 1947): two classifiers on the same images.

    Only images that one answers rightly and the other wrongly count. The interval is that of Wald for paired
    proportions with half an image more in each cell, so that two that never differ on few images are not called the
    same for certain (Agresti and Min 2005).

    Args:
        right_a: for each image, whether a answered rightly.
        right_b: the same of b.
        comparisons: made at once, for whose number the p-value will be corrected. It is not here.
    """
    from scipy import stats

    n, only_a, only_b = len(right_a), int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    difference = (only_b - only_a) / n
    shift, discordant = (only_b - only_a) / (n + 2), (only_a + only_b + 1) / (n + 2)
    error = math.sqrt((discordant - shift**2) / (n + 2))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    level = (1 - CONFIDENCE) / comparisons
    detectable = float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER)) * math.sqrt(discordant / (n + 2))
    fewest = math.floor(math.log2(2 / level)) + 1  # images, all to one side, whose p-value is below the level
    least = max(detectable, fewest / n)
    low, high = max(shift - half, -1.0), min(shift + half, 1.0)
    return Difference(difference, low, high, p, least if least <= 1 else None)


def welch(a: Sequence[float], b: Sequence[float], comparisons: int = 1) -> Difference:
    """Welch's t-test (Welch 1947): a figure of two recipes over seeds, whose deviations may differ.

    Args:
        a: a figure a run, at least two.
        b: the same of the other recipe.
        comparisons: made at once, for whose number the p-value will be corrected. It is not here.

    Returns:
        The difference; where no run differs from another of its recipe, without interval and with a p-value of 1,
        since nothing is known of what seeds do.
    """
    from scipy import stats

    difference = float(np.mean(b) - np.mean(a))
    shares = [float(np.var(values, ddof=1)) / len(values) for values in (a, b)]
    error = math.sqrt(sum(shares))
    if error < _ROUNDING:
        return Difference(difference, None, None, 1.0, None)
    freedom = sum(shares) ** 2 / sum(share**2 / (len(v) - 1) for share, v in zip(shares, (a, b), strict=True))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(difference) / error, freedom))
    least = detectable_difference(error, freedom, comparisons)
    return Difference(difference, difference - half, difference + half, p, least if least <= 1 else None)


def dunnett(control: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """p-values of several recipes, each against the same one, corrected for their number (Dunnett 1955).

    The deviation is taken to be the same in all, and all runs together tell it, so that few runs of each suffice.

    Args:
        control: a figure a run of the recipe that the others are held against.
        others: the same of each of them.
    """
    from scipy import stats

    return list(map(float, stats.dunnett(*others, control=control, rng=np.random.default_rng(0)).pvalue))


def detectable_difference(error: float, freedom: float, comparisons: int = 1) -> float:
    """The true difference that a two-sided t-test finds with a probability of `POWER` (Cohen 1988).

    Args:
        error: standard error of the difference.
        freedom: degrees of freedom.
        comparisons: made at once; the test is at the level of Bonferroni, which Holm's correction is never below.
    """
    from scipy import optimize, stats

    critical = float(stats.t.isf((1 - CONFIDENCE) / comparisons / 2, freedom))

    def lacking(shift: float) -> float:  # finding it the wrong way round is too rare to count
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    highest = 2 * critical + 10
    return error * float(optimize.brentq(lacking, 0.0, highest))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several comparisons made at once, corrected (Holm 1979).

    If those up to .05 are called real, the chance to call any difference real that is none is at most .05.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def estimate_share(values: Sequence[float]) -> Estimate:
    """Estimate the mean of fractions of 1, with an interval clipped to [0, 1]; see `estimate`."""
    found = estimate(values)
    if found.low is None or found.high is None:
        return found
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))
