"""Evaluate and predict with a target: a run, a weights file, `pretrained:NAME`, or a loaded classifier."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from cifarlab.data.catalogue import absolute, load_data
from cifarlab.data.dataset import Data, relabel, relabelled_sha256
from cifarlab.data.image_files import from_array, is_single, read_image, to_array
from cifarlab.data.own import GivenData, in_memory
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import Evaluation
from cifarlab.inference.evaluation import evaluate as evaluate_classifier
from cifarlab.inference.explanation_files import draw_explanations, explanation_paths
from cifarlab.inference.loading import Target, load
from cifarlab.inference.prediction import Prediction
from cifarlab.inference.prediction import predict as predict_arrays
from cifarlab.progress import task

__all__ = ["Target", "evaluate", "evaluation_data", "load", "predict"]


def evaluate(
    target: Target,
    data: GivenData | str | None = None,
    *,
    tta: bool | None = None,
    precision: str = "fp32",
    runs: Path | str | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Evaluate a run or weights file on the test images.

    Args:
        target: a run, its name or path, a weights file, `pretrained:NAME`, or a loaded classifier.
        data: a data set or its name; by default the one that the weights were trained on. Its classes are dropped and
            merged as for training.
        tta: test-time augmentation, the mean over six views of each image; by default as in the test of the training.
        precision: `fp32`, `bf16` (faster on some devices, other last digits), `fp16` or `auto`.
        runs: the folder of runs.
        quiet: print no progress.

    Raises:
        UsageError: there is no such target or data set, or the data set has other classes.
    """
    classifier = load(target, runs=runs, quiet=quiet)
    data = evaluation_data(classifier, data, quiet)
    tta = classifier.tta if tta is None else tta
    with task("evaluating", len(data.test), quiet=quiet) as progress:
        return evaluate_classifier(classifier, data.test, tta=tta, precision=precision, tick=progress.advance)


def evaluation_data(classifier: Classifier, data: GivenData | str | None, quiet: bool) -> Data:
    """Return the data set for a classifier, by default that of its training, with classes dropped and merged alike."""
    trained_on = classifier.about
    if data is None and "dataset" not in trained_on:
        raise UsageError("these weights do not name the data set that they were trained on. Give one with --data.")
    drop, merge = trained_on.get("drop", ()), trained_on.get("merge", {})
    if data is None or isinstance(data, str):
        data = load_data(absolute(data or str(trained_on["dataset"])), size=classifier.size, quiet=quiet)
    if not isinstance(data, Data):
        return in_memory(data, classifier.size, classifier.classes)
    if data.classes != classifier.classes:
        data = relabel(data, drop, merge)
    if data.name == trained_on.get("dataset") and data.sha256 != relabelled_sha256(trained_on["sha256"], drop, merge):
        raise UsageError(
            f"{data.name} has changed since the training, so that its test images may have been training images. "
            "Evaluate on images in another folder, with --data."
        )
    return data


def predict(
    target: Target,
    images: Any,
    *,
    tta: bool | None = None,
    explain_in: Path | None = None,
    force: bool = False,
    runs: Path | str | None = None,
) -> list[Prediction]:
    """Predict the classes of images of any size, format and mode.

    Args:
        target: a run, its name or path, a weights file, `pretrained:NAME`, or a loaded classifier.
        images: one image or many: paths, images of Pillow, arrays or tensors; an array may also hold many images.
        tta: use test-time augmentation, as for `evaluate`.
        explain_in: folder for a figure per file that shows where the network looks; it is created if needed.
        force: replace figures that exist.
        runs: the folder of runs.

    Raises:
        UsageError: there is no such target, a file is not an image, or a figure of that name exists already.
    """
    classifier = load(target, runs=runs)
    images = [images] if is_single(images) else images
    names = [str(image) if isinstance(image, str | Path) else f"image {number}" for number, image in enumerate(images)]
    if not names:
        return []
    outputs = explanation_paths(list(map(Path, names)), explain_in, force=force) if explain_in else []
    pixels = np.stack([_read(image, classifier.size) for image in images])
    rows = predict_arrays(classifier, pixels, tta=classifier.tta if tta is None else tta)
    predictions = []
    for name, row in zip(names, rows, strict=True):
        likely = {classifier.classes[number]: float(row[number]) for number in np.argsort(-row, kind="stable")}
        label = next(iter(likely))
        predictions.append(Prediction(name, label, likely[label], likely))
    if outputs:
        draw_explanations(classifier, pixels, predictions, outputs)
    return predictions


def _read(image: Any, size: int) -> UInt8[np.ndarray, "3 size size"]:
    if isinstance(image, str | Path):
        return read_image(Path(image), size)
    try:
        return np.asarray(from_array(to_array(image)[None], size)[0])
    except ValueError as error:
        raise UsageError(f"an image {error}") from error
