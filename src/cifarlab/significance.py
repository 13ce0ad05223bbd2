"""Is the difference real? Intervals and tests on SciPy."""

from __future__ import annotations


def accuracy_interval(right: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of an accuracy measured on so many images (Wilson 1927).

    It says what other test images of the same kind could have given with the same weights; it knows nothing of what
    another seed would have trained.
    """
    from scipy.stats import binomtest  # a second to import, which no training should wait for

    interval = binomtest(right, images).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
