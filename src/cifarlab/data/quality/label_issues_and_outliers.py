"""Images that a network's logits make doubtful: likely label errors and outliers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from scipy.special import logsumexp, softmax


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is likely wrong."""

    image: int  # index of the image
    label: int  # class in the data set
    likely: int  # class that the image more likely shows
    margin: float  # probability of `likely` minus the probability of `label`, between 0 and 1


def find_label_issues(logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> list[LabelIssue]:
    """Return the images whose label is likely wrong, those with the largest margin first (Northcutt et al. 2021, JAIR).

    A class is confident about an image if its probability is at least its mean probability over the images with that
    label. An image is returned if the most probable of its confident classes is more probable than its label. The
    logits must be of a network that was not trained on these images.
    """
    probabilities = softmax(logits.astype(np.float64), axis=1)
    thresholds = np.full(logits.shape[1], 2.0)  # no image reaches the threshold of a class without images
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    confident = np.where(probabilities >= thresholds, probabilities, 0)
    likely = confident.argmax(axis=1)
    images = np.flatnonzero((confident.max(axis=1) > 0) & (likely != labels))
    margins = probabilities[images, likely[images]] - probabilities[images, labels[images]]
    order = np.argsort(-margins, kind="stable")
    return [
        LabelIssue(int(image), int(labels[image]), int(likely[image]), float(margin))
        for image, margin in zip(images[order], margins[order], strict=True)
        if margin > 0
    ]


def find_outliers(
    logits: Float32[np.ndarray, "n classes"], folds: Int64[np.ndarray, " n"], count: int
) -> Int64[np.ndarray, " outliers"]:
    """Return the indices of the `count` images with the highest energy, the highest first (Liu et al. 2020, NeurIPS).

    The energy of an image is minus the logarithm of the sum of its exponentiated logits. Networks differ in their level
    of energy, so that it is measured from the median of the image's fold, which one network has predicted.
    """
    energy = -logsumexp(logits.astype(np.float64), axis=1)
    for fold in np.unique(folds):
        energy[folds == fold] -= np.median(energy[folds == fold])
    return np.argsort(-energy, kind="stable")[:count].astype(np.int64)
