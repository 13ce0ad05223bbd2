"""Confusion matrices on the board, the images behind each cell, and the mistakes of a class."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from cifarlab import figures
from cifarlab.board.images import held_out_images
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.figures import Figure
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics import metrics
from cifarlab.statistics.metrics import Example

MOST_CELLS = 500_000  # of matrices in one answer
MOST_IMAGES = 60  # shown for a cell, or for each kind of mistake of a class


@dataclass(frozen=True)
class Confusions:
    """Confusion matrices of a run, [classes][classes], rows true classes."""

    classes: tuple[str, ...]
    held_out: str  # name of the set behind the matrices of the epochs: `validation` or `test`
    test: list[list[int]] | None  # matrix of the final test; None until the run is tested
    epochs: list[list[list[int]]]  # of at most `MOST_CELLS`; the rest is asked for next


@dataclass(frozen=True)
class Cell:
    """Images behind one cell of a confusion matrix."""

    part: str  # `validation` or `test`
    count: int
    images: list[int]  # positions of the first images in that part, at most `MOST_IMAGES`
    files: list[str]  # their files; empty if the images were not in files of their own


def confusions(run: RunFolder, after: int = 0) -> Confusions:
    """Return the confusion matrices of a run, those of the epochs from `after + 1`; none for very many classes."""
    classes = run.record.data.classes
    if len(classes) > metrics.MOST_CLASSES:
        return Confusions(classes, run.held_out, None, [])
    test = None if run.predictions is None else _test_matrix(run).tolist()
    matrices = run.confusions_after(after, MOST_CELLS // len(classes) ** 2)
    return Confusions(classes, run.held_out, test, matrices.tolist())


def confusion_figure(run: RunFolder, epoch: int | None) -> Figure:
    """Draw the confusion matrix of an epoch, counted from 1, or of the test set."""
    classes = run.record.data.classes
    _check("the number of classes", len(classes), 1, metrics.MOST_CLASSES)
    if epoch is not None:
        return figures.confusion_after_epoch(run.confusion_after(epoch), classes, run.held_out, epoch)
    logits, labels = _test_predictions(run)
    accuracy = f"Test images: accuracy {metrics.accuracy(labels, logits.argmax(axis=1)):.2%}"
    return figures.confusion_matrix(_test_matrix(run), classes, accuracy)


def cell(run: RunFolder, epoch: int | None, true: int, predicted: int) -> Cell:
    """Return a cell of a confusion matrix, with the positions of its first images: after an epoch, or of the test."""
    for number in (true, predicted):
        _check("the number of a class", number, 0, len(run.record.data.classes) - 1)
    if epoch is None:
        part, (logits, labels) = "test", _test_predictions(run)
        predictions = logits.argmax(axis=1)
    else:
        predictions = _of_epoch(run.predicted, epoch)
        part, labels = "validation", held_out_images(run, "validation").labels
        _check("the number of predictions", len(predictions), len(labels), len(labels))
    images = np.flatnonzero((labels == true) & (predictions == predicted))
    shown, files = images[:MOST_IMAGES].tolist(), _files(run, part, len(labels))
    return Cell(part, len(images), shown, [files[image] for image in shown] if files else [])


def class_mistakes(run: RunFolder, number: int) -> tuple[metrics.PerClass, list[Example], list[Example]]:
    """Return the metrics of a class on the test images, and its most confident mistakes: missed, then false positives.

    Missed images were taken for another class; false positives are images of other classes taken for this class.
    """
    classes = run.record.data.classes
    _check("the number of a class", number, 0, len(classes) - 1)
    logits, labels = _test_predictions(run)
    logits, files = run.scale_logits(logits), _files(run, "test", len(labels))
    confidence, predictions = metrics.probabilities(logits).max(axis=1), logits.argmax(axis=1)

    def mistakes(chosen: np.ndarray) -> list[Example]:
        images = np.flatnonzero(chosen)
        most_confident = images[np.argsort(-confidence[images], kind="stable")][:MOST_IMAGES]
        return metrics.examples(logits, labels, most_confident, classes, files)

    missed = mistakes((labels == number) & (predictions != number))
    false_positives = mistakes((labels != number) & (predictions == number))
    return metrics.per_class(labels, predictions, classes)[number], missed, false_positives


def _files(run: RunFolder, part: str, count: int) -> tuple[str, ...]:
    names: tuple[str, ...] = ()
    with suppress(CifarlabError):  # the data set has changed or is not here; everything else can be shown
        names = held_out_images(run, part).names
    return names if len(names) == count else ()


def _check(name: str, number: int, first: int, last: int) -> None:
    if not first <= number <= last:
        raise UsageError(f"{name} must be {first} to {last}, got {number}")


def _of_epoch(rows: Shaped[np.ndarray, "epochs ..."], epoch: int) -> np.ndarray:
    _check("epoch", epoch, 1, len(rows))
    row: np.ndarray = rows[epoch - 1]
    return row


def _test_matrix(run: RunFolder) -> Int64[np.ndarray, "classes classes"]:
    logits, labels = _test_predictions(run)
    return metrics.confusion_matrix(labels, logits.argmax(axis=1), len(run.record.data.classes))


def _test_predictions(run: RunFolder) -> tuple[Float32[np.ndarray, "n classes"], Int64[np.ndarray, " n"]]:
    if run.predictions is None:
        raise UsageError(f"the run {run.name!r} is not tested yet")
    return run.predictions
