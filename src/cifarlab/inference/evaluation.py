"""Evaluate: accuracy, loss, confusion matrix and calibration of a classifier on labelled images."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64

from cifarlab.data.batches import to_device
from cifarlab.data.dataset import Dataset
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import fastest, predict_logits
from cifarlab.parallel.world import SINGLE, World
from cifarlab.statistics import metrics


@dataclass(frozen=True)
class Evaluation:
    """Logits of a classifier on a labelled data set, and the metrics computed from them."""

    classes: tuple[str, ...]
    logits: Float32[np.ndarray, "n classes"]
    labels: Int64[np.ndarray, " n"]
    accuracy: float  # fraction of correct predictions
    loss: float  # mean cross-entropy in nats
    calibration_error: float
    superclasses: tuple[str, ...] = ()  # of the classes, in their order; empty if the data set has none

    @cached_property
    def confusion(self) -> Int64[np.ndarray, "classes classes"]:
        """Confusion matrix; rows are true classes."""
        return metrics.confusion_matrix(self.labels, self.logits.argmax(axis=1), len(self.classes))

    @property
    def top5_accuracy(self) -> float | None:
        """Fraction of images whose class is among the five most likely; None up to 20 classes."""
        return metrics.top5_accuracy(self.labels, self.logits)

    @property
    def coarse_accuracy(self) -> float | None:
        """Fraction of images whose predicted class has the right superclass; None without superclasses."""
        predictions = self.logits.argmax(axis=1)
        return metrics.coarse_accuracy(self.labels, predictions, self.superclasses) if self.superclasses else None

    @cached_property
    def per_class(self) -> list[metrics.PerClass]:
        """Precision, recall and F1 of each class."""
        return metrics.per_class(self.labels, self.logits.argmax(axis=1), self.classes)


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    tta: bool = False,
    precision: str = "fp32",
    world: World = SINGLE,
    tick: Callable[[int], None] | None = None,
    measures: bool = False,
) -> Evaluation:
    """Evaluate a classifier on a data set that has the same classes in the same order; options as `predict_logits`.

    With `measures`, the number of threads is what `fastest` measures; else it is PyTorch's, so that bits repeat.

    If several processes share the evaluation, all of them must call this, and all get the whole result.
    """
    labels, classes, size = dataset.labels, dataset.classes, classifier.size
    if classes != classifier.classes:
        own_classes = ", ".join(classifier.classes)
        hint = ". Name its outputs with import --classes." if "imported" in classifier.about else ""
        raise UsageError(f"the classifier's classes ({own_classes}) are not the data's ({', '.join(classes)}){hint}")
    if dataset.images.shape[2:] != (size, size):
        raise UsageError(f"the classifier takes images of {size} pixels, the data has {dataset.images.shape[3]}")
    images = to_device(dataset, classifier.device)
    with fastest(classifier, images, precision) if measures else nullcontext(precision) as chosen:
        logits = predict_logits(classifier, images, tta=tta, precision=chosen, world=world, tick=tick)
    return Evaluation(
        classes=classes,
        logits=logits,
        labels=labels,
        accuracy=metrics.accuracy(labels, logits.argmax(axis=1)),
        loss=metrics.cross_entropy(logits, labels),
        calibration_error=metrics.calibration_error(logits, labels),
        superclasses=tuple(dataset.superclasses.get(name, name) for name in classes) if dataset.superclasses else (),
    )
