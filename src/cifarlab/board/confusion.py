"""Confusion matrices on the board, the images behind each cell, and the mistakes of a class."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from matplotlib.figure import Figure

from cifarlab import figures
from cifarlab.board.images import RunImages
from cifarlab.errors import UsageError
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics import metrics

MOST_IMAGES = 60  # shown for a cell, or for each kind of mistake of a class


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices of a run, [classes][classes], rows true classes."""

    classes: tuple[str, ...]
    held_out: str
    """Name of the set behind the matrices of the epochs: `validation` or `test`."""
    test: list[list[int]] | None
    """Matrix of the final test; None until the run is tested."""
    epochs: list[list[list[int]]]


@dataclass(frozen=True)
class Cell:
    """Images behind one cell of a confusion matrix."""

    part: str
    """`validation` or `test`."""
    count: int
    images: list[int]
    """Numbers of the first images in that part, at most `MOST_IMAGES`."""


@dataclass(frozen=True)
class Mistake:
    """A test image that was classified wrongly."""

    image: int
    """Number of the image in the test set."""
    true: str
    predicted: str
    probability: float
    """Probability of the predicted class."""


@dataclass(frozen=True)
class ClassMistakes:
    """Metrics of a class on the test images and its mistakes, the most confident first."""

    metrics: metrics.PerClass
    missed: list[Mistake]
    """Images of the class that were taken for another class."""
    false_positives: list[Mistake]
    """Images of other classes that were taken for this class."""


def confusions(run: RunFolder, after: int = 0) -> Confusions:
    """Return the confusion matrices of a run, those of the epochs only from epoch `after + 1`."""
    test = None
    if run.predictions is not None:
        logits, labels = run.predictions
        test = metrics.confusion_matrix(labels, logits.argmax(1), len(run.record.data.classes)).tolist()
    return Confusions(run.record.data.classes, run.held_out, test, run.confusion[after:].tolist())


def confusion_figure(run: RunFolder, epoch: int | None) -> Figure:
    """Draw the confusion matrix of an epoch, counted from 1, or of the test set.

    Raises:
        UsageError: there is no such matrix yet.
    """
    matrices = confusions(run)
    if epoch is None:
        matrix, title = matrices.test, "Test images"
    else:
        matrix = matrices.epochs[epoch - 1] if 1 <= epoch <= len(matrices.epochs) else None
        title = f"{run.held_out.capitalize()} images after epoch {epoch}"
    if matrix is None:
        raise UsageError(f"the run {run.name!r} has {len(matrices.epochs)} epochs so far, and no such confusion matrix")
    counts = np.array(matrix, dtype=np.int64)
    return figures.confusion_matrix(counts, matrices.classes, f"{title}: accuracy {metrics.accuracy(counts):.2%}")


def cell(run: RunFolder, images: RunImages, epoch: int | None, true: int, predicted: int) -> Cell:
    """Return the numbers of the images behind a cell of a confusion matrix.

    Args:
        run: the run.
        images: cache that reads the labels.
        epoch: number of the epoch, counted from 1; None for the test set.
        true: number of the true class, counted from 0.
        predicted: number of the predicted class.

    Raises:
        UsageError: there is no such epoch or class, or the run is not tested yet.
    """
    _check_class(run, true)
    _check_class(run, predicted)
    if epoch is None:
        part, (logits, labels) = "test", _test_predictions(run)
        predictions = logits.argmax(axis=1)
    else:
        epochs = run.predicted
        if not 1 <= epoch <= len(epochs):
            raise UsageError(f"epoch must be 1 to {len(epochs)} for the run {run.name!r}, got {epoch}")
        part, labels, predictions = "validation", images.part(run, "validation").labels, epochs[epoch - 1]
    numbers = np.flatnonzero((labels == true) & (predictions == predicted))
    return Cell(part, len(numbers), numbers[:MOST_IMAGES].tolist())


def class_mistakes(run: RunFolder, number: int) -> ClassMistakes:
    """Return the metrics of a class, given by its number, and its mistakes on the test images.

    Raises:
        UsageError: there is no such class, or the run is not tested yet.
    """
    _check_class(run, number)
    classes = run.record.data.classes
    logits, labels = _test_predictions(run)
    confidence = metrics.probabilities(run.scale_logits(logits)).max(axis=1)
    predictions = logits.argmax(axis=1)

    def mistakes(chosen: np.ndarray) -> list[Mistake]:
        numbers = np.flatnonzero(chosen)
        most_confident = numbers[np.argsort(-confidence[numbers], kind="stable")][:MOST_IMAGES]
        return [
            Mistake(int(image), classes[labels[image]], classes[predictions[image]], float(confidence[image]))
            for image in most_confident
        ]

    matrix = metrics.confusion_matrix(labels, predictions, len(classes))
    return ClassMistakes(
        metrics.per_class(matrix, classes)[number],
        missed=mistakes((labels == number) & (predictions != number)),
        false_positives=mistakes((labels != number) & (predictions == number)),
    )


def _check_class(run: RunFolder, number: int) -> None:
    last = len(run.record.data.classes) - 1
    if not 0 <= number <= last:
        raise UsageError(f"the number of a class must be 0 to {last}, got {number}")


def _test_predictions(run: RunFolder) -> tuple[Float32[np.ndarray, "n classes"], Int64[np.ndarray, " n"]]:
    if run.predictions is None:
        raise UsageError(f"the run {run.name!r} is not tested yet")
    return run.predictions
