"""Figures of merit: from logits and labels to confusion matrix, accuracy, per-class figures and calibration.

Pure functions on arrays; drawing is left to `figures`, judging differences to `significance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

CALIBRATION_BINS = 15  # as in Guo et al. 2017
TEMPERATURES = (0.05, 20.0)  # far beyond what trained networks need


@dataclass(frozen=True)
class PerClass:
    """Figures of one class. A figure whose denominator is 0 is 0."""

    name: str
    precision: float
    """Of the images called this class, the fraction that is."""
    recall: float
    """Of the images of this class, the fraction called so."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Images of this class."""


@dataclass(frozen=True)
class Confusion:
    """One kind of mistake."""

    true: int
    predicted: int
    count: int
    rate: float
    """Fraction of the true class's images."""


def probabilities(logits: Float32[np.ndarray, "n classes"]) -> Float64[np.ndarray, "n classes"]:
    """Softmax of each row, in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


def cross_entropy(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> float:
    """Mean of -log(probability of the true class), in nats."""
    wide = logits.astype(np.float64)
    highest = wide.max(axis=1)
    log_sum = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=1))
    return float((log_sum - wide[np.arange(len(labels)), labels]).mean())


def confusion_matrix(
    labels: Int64[np.ndarray, " n"], predictions: Int64[np.ndarray, " n"], classes: int
) -> Int64[np.ndarray, "classes classes"]:
    """Counts: rows are true classes, columns predicted ones."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def accuracy(confusion: Int64[np.ndarray, "classes classes"]) -> float:
    """Fraction of right answers, from 0 to 1; 0 of no images."""
    return float(np.trace(confusion) / max(1, confusion.sum()))


def balanced_accuracy(confusion: Int64[np.ndarray, "classes classes"]) -> float:
    """Mean recall of the classes, each counting the same however many images it has (Brodersen et al. 2010).

    Classes without images do not count.
    """
    support = confusion.sum(axis=1)
    return float((np.diag(confusion)[support > 0] / support[support > 0]).mean()) if support.any() else 0.0


def majority_share(labels: Int64[np.ndarray, " n"]) -> float:
    """The accuracy of always answering the most frequent class; 0 of no images."""
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0


def per_class(confusion: Int64[np.ndarray, "classes classes"], names: tuple[str, ...]) -> list[PerClass]:
    """Precision, recall and F1 of each class (van Rijsbergen 1979), in the order of `names`."""
    right = np.diag(confusion)
    support, called = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(called, 1), right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + called, 1)
    return [
        PerClass(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
        for i, name in enumerate(names)
    ]


def most_confused(confusion: Int64[np.ndarray, "classes classes"], count: int = 10) -> list[Confusion]:
    """The most frequent mistakes, the largest first; mistakes that never happened are left out."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    support = np.maximum(confusion.sum(axis=1), 1)
    found = []
    for place in order:
        true, predicted = divmod(int(place), len(confusion))
        times = int(wrong[true, predicted])
        if times:
            found.append(Confusion(true, predicted, times, times / int(support[true])))
    return found


def calibration_error(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): how far confidence is from accuracy.

    Images are put into `CALIBRATION_BINS` bins of equal width by the probability of their predicted class; the result
    is the mean distance between confidence and accuracy over the bins, weighted by their images, from 0 to 1.
    """
    bins = reliability(logits, labels)
    return float((np.abs(bins.right - bins.confidence) * bins.images).sum() / max(1, len(labels)))


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, in `CALIBRATION_BINS` bins of equal width by the predicted class's probability."""

    images: Int64[np.ndarray, " bins"]
    confidence: Float64[np.ndarray, " bins"]
    """Mean probability of the predicted class; 0 in an empty bin."""
    right: Float64[np.ndarray, " bins"]
    """Fraction answered rightly; 0 in an empty bin."""


def reliability(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> Reliability:
    """How often the network is right when it says it is sure (DeGroot and Fienberg 1983; Guo et al. 2017)."""
    likely = probabilities(logits)
    confidence, right = likely.max(axis=1), likely.argmax(axis=1) == labels
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, right)]
    return Reliability(images, *(total / np.maximum(images, 1) for total in sums))


def temperature(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> float:
    """What to divide logits by, so that the cross-entropy on these images is least (Guo et al. 2017).

    It changes how sure a network is, never what it answers. To be fitted on images that are neither trained nor
    tested on; between `TEMPERATURES`. Of images that are all answered rightly, or that say nothing, it is 1.
    """
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return cross_entropy((logits / math.exp(logarithm)).astype(np.float32), labels)

    if (logits.argmax(axis=1) == labels).all():
        return 1.0  # any lower temperature would look better still
    low, high = (math.log(bound) for bound in TEMPERATURES)
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)
    return math.exp(found) if low + 0.01 < found < high - 0.01 else 1.0


def accuracy_by_coverage(
    logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Accuracy among the k images of which the network is surest, for k from 1 to n (El-Yaniv and Wiener 2010)."""
    likely = probabilities(logits)
    order = np.argsort(-likely.max(axis=1), kind="stable")
    right = (likely.argmax(axis=1) == labels)[order]
    accuracies: np.ndarray = np.cumsum(right) / np.arange(1, len(labels) + 1)
    return accuracies


def surest_mistakes(
    logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"], count: int
) -> Int64[np.ndarray, " found"]:
    """The numbers of the wrongly answered images, those first whose wrong answer was given the highest probability."""
    likely = probabilities(logits)
    wrong = np.flatnonzero(likely.argmax(axis=1) != labels)
    return wrong[np.argsort(-likely[wrong].max(axis=1), kind="stable")][:count].astype(np.int64)
