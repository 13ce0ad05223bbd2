"""Evaluate, predict and export a target: a run, a weights file, `pretrained:NAME`, or a loaded classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarlab import files
from cifarlab.data.catalogue import absolute, load_data
from cifarlab.data.dataset import Data, relabel, relabelled_sha256, sample
from cifarlab.errors import UsageError, unknown
from cifarlab.inference import heatmaps, onnx_files
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import Evaluation, Prediction, predict_files
from cifarlab.inference.evaluation import evaluate as evaluate_on
from cifarlab.inference.loading import Target, load
from cifarlab.inference.weights_file import save_weights
from cifarlab.progress import task
from cifarlab.runs.listing import PRETRAINED

__all__ = ["FORMATS", "Exported", "Target", "evaluate", "export", "load", "predict"]


def evaluate(
    target: Target,
    data: Data | str | None = None,
    *,
    tta: bool | None = None,
    precision: str = "fp32",
    runs: Path | str | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Figures of merit of a run or weights file on the test images.

    Args:
        target: a run, its name or path, a weights file or a loaded classifier.
        data: a data set or its name; by default the one that the weights were trained on. Classes are dropped and
            merged as they were for training.
        tta: test-time augmentation, a mean over six views of each image; by default as in the recipe's own test.
        precision: `fp32`; `bf16` is faster where the device computes in it and differs in the last digits; `auto`
            chooses.
        runs: the folder of runs.
        quiet: show no progress.

    Raises:
        UsageError: no such target or data, or the classes are others.
    """
    classifier = load(target, runs=runs, quiet=quiet)
    data = _data(classifier, data, quiet)
    with task("evaluating", len(data.test), quiet=quiet) as shown:
        return evaluate_on(
            classifier, data.test, tta=classifier.tta if tta is None else tta, precision=precision, tick=shown.advance
        )


def _data(classifier: Classifier, data: Data | str | None, quiet: bool) -> Data:
    """The data that a classifier is to be measured on, classes dropped and merged as for its training."""
    if data is None and "dataset" not in classifier.about:
        raise UsageError("these weights do not say what they were trained on: give --data")
    trained_on = classifier.about
    drop, merge = trained_on.get("drop", ()), trained_on.get("merge", {})
    if not isinstance(data, Data):
        data = load_data(absolute(data or str(trained_on["dataset"])), size=classifier.size, quiet=quiet)
    if data.classes != classifier.classes:
        data = relabel(data, drop, merge)
    if data.name == trained_on.get("dataset") and data.sha256 != relabelled_sha256(trained_on["sha256"], drop, merge):
        raise UsageError(
            f"{data.name} has changed since the training, so that its test images may be old training images: "
            "evaluate on images in a folder of their own, with --data"
        )
    return data


def predict(
    target: Target,
    images: Sequence[str | Path],
    *,
    tta: bool | None = None,
    explain_in: Path | None = None,
    force: bool = False,
    runs: Path | str | None = None,
) -> list[Prediction]:
    """What a run or weights file makes of picture files of any size, format and mode.

    Args:
        target: a run, its name or path, a weights file or a loaded classifier.
        images: files.
        tta: as `evaluate` takes it.
        explain_in: a folder for a picture of each file that shows where the network looks; it is made if need be.
        force: replace pictures that are there.
        runs: the folder of runs.

    Raises:
        UsageError: no such target, a file is not a readable picture, or there is already a picture of that name.
    """
    classifier = load(target, runs=runs)
    paths = [Path(image) for image in images]
    pictures = heatmaps.names_of_pictures(paths, explain_in, force=force) if explain_in else []
    predictions = predict_files(classifier, paths, tta=classifier.tta if tta is None else tta)
    heatmaps.draw_pictures(classifier, paths, predictions, pictures)
    return predictions


FORMATS = ("onnx", "safetensors")


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how near it comes to what it was made of."""

    path: Path
    bytes: int
    """Its size."""
    difference: float | None = None
    """The largest of a probability, on random images; of fp32 ONNX files."""
    accuracy: float | None = None
    """On the test images; of int8 ONNX files."""
    own_accuracy: float | None = None
    """Of the target, on the same images."""


def export(
    target: Target,
    out: Path | str | None = None,
    *,
    format: str = "onnx",
    int8: bool = False,
    data: Data | str | None = None,
    force: bool = False,
    runs: Path | str | None = None,
    quiet: bool = True,
) -> Exported:
    """Writes a trained network as a file for other programs, and checks it.

    Args:
        target: a run, its name or path, a weights file or a loaded classifier.
        out: the file; by default called as the target, in the current folder.
        format: one of `FORMATS`. An ONNX file takes bytes [batch, height, width, 3] and gives probabilities.
        int8: have the ONNX file compute in int8. That needs the training images, and both are measured on the test.
        data: for `int8`, as `evaluate` takes it.
        force: replace a file that is there.
        runs: the folder of runs.
        quiet: show no progress.

    Raises:
        UsageError: no such target, format or data, the file is there, or a package is missing.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if int8 and format != "onnx":
        raise UsageError("--int8 is for --format onnx")
    classifier = load(target, runs=runs, device="cpu", quiet=quiet)
    if classifier.model == onnx_files.MODEL:
        raise UsageError(f"{target} is an ONNX file already: export what it was made of")
    name = classifier.model if isinstance(target, Classifier) else Path(str(target).removeprefix(PRETRAINED)).stem
    out = Path(out or f"{name}{'-int8' * int8}.{format}")
    files.check_new(out, force=force, ending=f".{format}")
    if format == "safetensors":
        save_weights(classifier, out)
        return Exported(out, out.stat().st_size)
    if not int8:
        difference = onnx_files.to_onnx(classifier, out)
        return Exported(out, out.stat().st_size, difference)
    data = _data(classifier, data, quiet)
    onnx_files.to_int8(classifier, out, sample(data.train.images, onnx_files.CALIBRATED))
    reached = evaluate(out, data, quiet=quiet).accuracy
    return Exported(out, out.stat().st_size, None, reached, evaluate(classifier, data, quiet=quiet).accuracy)
