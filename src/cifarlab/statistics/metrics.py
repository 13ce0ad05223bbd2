"""Metrics of predictions: confusion matrix, accuracy, precision and recall, cross-entropy, calibration.

Pure functions on arrays. `significance` tests differences, `figures` draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

Logits = Float32[np.ndarray, "n classes"]
Labels = Int64[np.ndarray, " n"]
Matrix = Int64[np.ndarray, "classes classes"]  # numbers of images; rows are true classes, columns predicted classes

MOST_CLASSES = 200  # whose confusion matrices are stored, drawn and shown; larger ones are nearly empty
FEW_CLASSES = 20  # up to which five guesses say little
CALIBRATION_BINS = 15  # as in Guo et al. 2017
TEMPERATURES = (0.05, 20.0)  # lowest and highest that is fitted, far beyond what trained networks need


@dataclass(frozen=True)
class PerClass:
    """Metrics of one class; 0 where a denominator is 0."""

    name: str
    precision: float  # fraction of the images predicted as this class that are of this class
    recall: float  # fraction of the images of this class that are predicted as this class
    f1: float  # harmonic mean of precision and recall
    support: int  # number of images of this class


@dataclass(frozen=True)
class Confusion:
    """Number of images of one class that are predicted as another class."""

    true: int
    predicted: int
    count: int
    rate: float  # fraction of the images of the true class


def probabilities(logits: Logits) -> Float64[np.ndarray, "n classes"]:
    """Return the softmax of each row, in double precision."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return shares


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Return the mean of -log(probability of the true class), in nats."""
    wide = logits.astype(np.float64)
    highest = wide.max(axis=1)
    log_sum = highest + np.log(np.exp(wide - highest[:, None]).sum(axis=1))
    return float((log_sum - wide[np.arange(len(labels)), labels]).mean())


def confusion_matrix(labels: Labels, predictions: Labels, classes: int) -> Matrix:
    """Count images by true class (rows) and predicted class (columns)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def accuracy(labels: Labels, predictions: Labels) -> float:
    """Return the fraction of correct predictions, in [0, 1]; 0 if there are no images."""
    return float((labels == predictions).sum() / max(1, len(labels)))


def top5_accuracy(labels: Labels, logits: Logits) -> float | None:
    """Return the fraction of images whose class is among the five most likely, in [0, 1]; None up to 20 classes.

    Among equal logits the first classes count as more likely, as in `argmax`.
    """
    if logits.shape[1] <= FEW_CLASSES or not len(labels):
        return None
    own = logits[np.arange(len(labels)), labels][:, None]
    ties = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    before = ((logits > own) | ties).sum(axis=1)  # classes that are more likely
    return float((before < 5).mean())


def coarse_accuracy(labels: Labels, predictions: Labels, superclasses: Sequence[str]) -> float:
    """Return the fraction of images whose predicted class has the right superclass, in [0, 1].

    `superclasses` has the superclass of each class.
    """
    numbers = np.unique(superclasses, return_inverse=True)[1].astype(np.int64)
    return accuracy(numbers[labels], numbers[predictions])


def balanced_accuracy(labels: Labels, predictions: Labels) -> float:
    """Return the mean recall of the classes that have images, in [0, 1] (Brodersen et al. 2010)."""
    support = np.bincount(labels)
    correct = np.bincount(labels[labels == predictions], minlength=len(support))
    return float((correct[support > 0] / support[support > 0]).mean()) if support.any() else 0.0


def majority_share(labels: Labels) -> float:
    """Return the accuracy of always predicting the most frequent class, in [0, 1]; 0 if there are no images."""
    return float(np.bincount(labels).max() / len(labels)) if len(labels) else 0.0


def per_class(labels: Labels, predictions: Labels, names: tuple[str, ...]) -> list[PerClass]:
    """Return precision, recall and F1 of each class (van Rijsbergen 1979), in the order of `names`."""
    counted = (labels[labels == predictions], labels, predictions)
    correct, support, predicted = (np.bincount(each, minlength=len(names)) for each in counted)
    precision, recall = correct / np.maximum(predicted, 1), correct / np.maximum(support, 1)
    f1 = 2 * correct / np.maximum(support + predicted, 1)
    columns = (column.tolist() for column in (precision, recall, f1, support))
    return [PerClass(*row) for row in zip(names, *columns, strict=True)]


def most_confused(labels: Labels, predictions: Labels, count: int = 10) -> list[Confusion]:
    """Return up to `count` pairs of true and predicted class that are confused, the most frequent first."""
    wrong, support = labels != predictions, np.bincount(labels)
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]], axis=1), axis=0, return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:count]
    rows = zip(pairs[chosen].tolist(), counts[chosen].tolist(), strict=True)
    return [Confusion(true, predicted, number, float(number / support[true])) for (true, predicted), number in rows]


def calibration_error(logits: Logits, labels: Labels) -> float:
    """Return the mean distance between confidence and accuracy over the bins of all images (Naeini et al. 2015)."""
    bins = reliability(logits, labels)
    return float((np.abs(bins.accuracy - bins.confidence) * bins.images).sum() / max(1, len(labels)))


@dataclass(frozen=True)
class Example:
    """A classified image."""

    image: int  # position in its data set
    true: str
    predicted: str
    probability: float  # of the predicted class
    file: str  # empty if the image was not in a file of its own


@dataclass(frozen=True)
class Reliability:
    """Confidence (probability of the predicted class) and accuracy in `CALIBRATION_BINS` bins of equal width."""

    images: Int64[np.ndarray, " bins"]  # number of images whose confidence falls into the bin
    confidence: Float64[np.ndarray, " bins"]  # mean; 0 in an empty bin
    accuracy: Float64[np.ndarray, " bins"]  # fraction of correct predictions; 0 in an empty bin


def reliability(logits: Logits, labels: Labels) -> Reliability:
    """Return confidence and accuracy by bin (DeGroot and Fienberg 1983; Guo et al. 2017)."""
    confidence, correct = _confidence(logits, labels)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    images = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, weights=values, minlength=CALIBRATION_BINS) for values in (confidence, correct)]
    return Reliability(images, *(total / np.maximum(images, 1) for total in sums))


def temperature(logits: Logits, labels: Labels) -> float:
    """Return the divisor of the logits that minimises the cross-entropy on these images (Guo et al. 2017).

    Fit it on images that are neither trained nor tested on. It is 1 if there is no minimum between `TEMPERATURES`.
    """
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        return cross_entropy((logits / math.exp(logarithm)).astype(np.float32), labels)

    if (logits.argmax(axis=1) == labels).all():
        return 1.0  # the lower the temperature, the lower the loss: there is no minimum
    low, high = (math.log(bound) for bound in TEMPERATURES)
    best = float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)
    return math.exp(best) if low + 0.01 < best < high - 0.01 else 1.0


def accuracy_by_coverage(logits: Logits, labels: Labels) -> Float64[np.ndarray, " n"]:
    """Return the accuracy on the k images of highest confidence, for k from 1 to n (El-Yaniv and Wiener 2010)."""
    confidence, correct = _confidence(logits, labels)
    order = np.argsort(-confidence, kind="stable")
    accuracies: np.ndarray = np.cumsum(correct[order]) / np.arange(1, len(labels) + 1)
    return accuracies


def most_confident_mistakes(logits: Logits, labels: Labels, count: int) -> Int64[np.ndarray, " mistakes"]:
    """Return the positions of up to `count` misclassified images, the most confident mistakes first."""
    confidence, correct = _confidence(logits, labels)
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(-confidence[wrong], kind="stable")][:count].astype(np.int64)


def examples(
    logits: Logits, labels: Labels, images: Int64[np.ndarray, " m"], classes: Sequence[str], files: Sequence[str] = ()
) -> list[Example]:
    """Return the images at these positions with their true and predicted classes; `files` may be empty."""
    shares = probabilities(logits[images])
    rows = zip(images.tolist(), labels[images], shares.argmax(axis=1), shares.max(axis=1).tolist(), strict=True)
    return [
        Example(image, classes[label], classes[guess], share, files[image] if files else "")
        for image, label, guess, share in rows
    ]


def _confidence(logits: Logits, labels: Labels) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Return the probability of each image's predicted class, and whether that class is correct."""
    shares = probabilities(logits)
    return shares.max(axis=1), shares.argmax(axis=1) == labels
