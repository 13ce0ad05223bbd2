"""Evaluate: accuracy, loss, confusion matrix and calibration of a classifier on labelled images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from cifarlab.data.batches import to_device
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import predict_logits
from cifarlab.parallel.world import SINGLE, World
from cifarlab.statistics import metrics


@dataclass(frozen=True)
class Evaluation:
    """Logits of a classifier on a labelled data set, and the metrics computed from them."""

    classes: tuple[str, ...]
    logits: Float32[np.ndarray, "n classes"]
    labels: Int64[np.ndarray, " n"]
    confusion: Int64[np.ndarray, "classes classes"]
    """Confusion matrix; rows are true classes."""
    accuracy: float
    """Fraction of correct predictions, in [0, 1]."""
    loss: float
    """Mean cross-entropy in nats."""
    per_class: list[metrics.PerClass]
    calibration_error: float


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    tta: bool = False,
    precision: str = "fp32",
    world: World = SINGLE,
    tick: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a classifier on a data set.

    Args:
        classifier: classifier on any device.
        dataset: images whose classes are the classifier's, in the same order.
        tta: test-time augmentation: logits are the mean over six views of each image, see `prediction.views`.
        precision: `fp32`, `bf16`, `fp16` or `auto`.
        world: processes that share the evaluation; all of them must call this, and all get the whole result.
        tick: called with the number of images after each batch; with several processes once, at the end.

    Raises:
        UsageError: the data set has other classes or another image size than the classifier.
    """
    if dataset.classes != classifier.classes:
        raise UsageError(
            f"the classifier's classes ({', '.join(classifier.classes)}) are not the data's "
            f"({', '.join(dataset.classes)})"
        )
    if dataset.images.shape[2:] != (classifier.size, classifier.size):
        raise UsageError(
            f"the classifier takes images of {classifier.size} pixels, the data has {dataset.images.shape[3]}"
        )
    images = to_device(dataset, classifier.device)
    logits = predict_logits(classifier, images, tta=tta, precision=precision, world=world, tick=tick)
    return judge(logits, dataset.labels, dataset.classes)


def judge(
    logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"], classes: tuple[str, ...]
) -> Evaluation:
    """Compute all metrics from logits and labels."""
    confusion = metrics.confusion_matrix(labels, logits.argmax(axis=1), len(classes))
    return Evaluation(
        classes=classes,
        logits=logits,
        labels=labels,
        confusion=confusion,
        accuracy=metrics.accuracy(confusion),
        loss=metrics.cross_entropy(logits, labels),
        per_class=metrics.per_class(confusion, classes),
        calibration_error=metrics.calibration_error(logits, labels),
    )
