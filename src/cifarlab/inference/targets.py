"""Evaluate and predict with a target: a run, a weights file, `pretrained:NAME`, or a loaded classifier."""

from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from jaxtyping import UInt8

from cifarlab import files
from cifarlab.data.arrays import GivenData, in_memory
from cifarlab.data.catalogue import DESCRIPTIONS, absolute, check_named, load_data
from cifarlab.data.corrections import correct_labels, image_names
from cifarlab.data.dataset import Data, join, relabelled_sha256, renumber, stacked
from cifarlab.data.image_files import from_array, is_single, read_image, to_array
from cifarlab.data.own.image_list import files_in, natural_order
from cifarlab.errors import UsageError, listed, nearest, one_line, readable
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import Evaluation
from cifarlab.inference.evaluation import evaluate as evaluate_classifier
from cifarlab.inference.explanation_files import draw_explanations, explanation_paths
from cifarlab.inference.loading import Target, load
from cifarlab.inference.prediction import Prediction
from cifarlab.inference.prediction import predict as predict_arrays
from cifarlab.progress import notice, task

__all__ = ["Target", "evaluate", "evaluation_data", "files_of", "load", "predict"]


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
            merged as for training, and may be a part of the network's. All images of another data set without test
            images are test images.
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
        return evaluate_classifier(
            classifier, data.test, tta=tta, precision=precision, tick=progress.advance, measures=True
        )


def evaluation_data(classifier: Classifier, data: GivenData | str | None, quiet: bool) -> Data:
    """Return the data set for a classifier, by default that of its training, with the classifier's classes.

    If the data set is another one and has no test images of its own, all of its images are test images.
    """
    trained_on = classifier.about
    if data is None and "dataset" not in trained_on:
        raise UsageError("these weights do not name the data set that they were trained on. Give one with --data.")
    drop, merge = trained_on.get("drop", ()), trained_on.get("merge", {})
    if data is None:
        check_named(str(trained_on["dataset"]))
    if data is None or isinstance(data, str):
        name = absolute(str(trained_on["dataset"]) if data is None else data)
        if data is not None and name in DESCRIPTIONS:  # a wrong data set is not downloaded first
            _labels(classifier, name, DESCRIPTIONS[name].classes)
        data = load_data(name, size=classifier.size, quiet=quiet, test_only=True, resize=classifier.resize)
    has_name = isinstance(data, Data)  # all arrays are called `arrays`
    data = in_memory(data, classifier.size, classifier.classes, quiet=quiet, resize=classifier.resize)
    sha256 = trained_on.get("sha256", "")
    is_same = data.sha256 in (sha256, relabelled_sha256(sha256, drop, merge))
    if has_name and trained_on.get("dataset") in (data.name, absolute(data.name)) and not is_same:
        raise UsageError(
            f"{data.name} has changed since the training, so that its test images may have been training images. "
            "Evaluate on images in another folder, with --data."
        )
    if is_same and (labels := trained_on.get("labels", {})):
        if count := len(labels.keys() & set(image_names(data)["test"])):
            notice(f"the training's table of corrected labels has {count:,} of the test images", quiet=quiet)
        data = correct_labels(data, labels)
    if data.test_is_split_off and not is_same:
        validation = [] if data.validation is None else [data.validation]
        data = replace(data, test=join(data.train, *validation, data.test))
        notice(f"{data.name} has no test set of its own: all {len(data.test):,} images are test images", quiet=quiet)
    if data.classes != classifier.classes:
        data = renumber(data, classifier.classes, _labels(classifier, data.name, data.classes))
    if not len(data.test):
        raise UsageError(f"{data.name}: has no image of the network's classes")
    return data


def _labels(classifier: Classifier, name: str, classes: tuple[str, ...]) -> list[int]:
    """Return the classifier's label for each class of a data set, -1 for a class that its training dropped."""
    drop, merge = classifier.about.get("drop", ()), classifier.about.get("merge", {})
    labels = {normalize("NFC", known): label for label, known in enumerate(classifier.classes)}
    labels |= dict.fromkeys(drop, -1) | {origin: labels[normalize("NFC", into)] for origin, into in merge.items()}
    names = [normalize("NFC", given) for given in classes]
    if strange := [given for given in names if given not in labels]:
        near = nearest(strange[0], classifier.classes)
        hint = f"Is {strange[0]!r} its {near!r}?" if near else "Evaluate it on images of its own classes alone."
        hint = "Name its outputs with import --classes." if "imported" in classifier.about else hint
        lacking, known = listed(strange), listed(classifier.classes)
        raise UsageError(f"{name} has classes that the network lacks: {lacking}; it has {known}. {hint}")
    return [labels[given] for given in names]


def predict(
    target: Target,
    images: Any,
    *,
    tta: bool | None = None,
    explain_in: Path | None = None,
    force: bool = False,
    runs: Path | str | None = None,
    skipped: list[str] | None = None,
) -> list[Prediction]:
    """Predict the classes of images of any size, format and mode.

    Args:
        target: a run, its name or path, a weights file, `pretrained:NAME`, or a loaded classifier.
        images: one image or many: paths of files, of folders for all files in them, or patterns such as `pets/*.jpg`,
            images of Pillow, arrays or tensors. An array [h, w], [h, w, 1, 3 or 4] or [1 or 3, h, w] is one image,
            others hold many: give three gray ones as [3, h, w, 1].
        tta: use test-time augmentation, as for `evaluate`.
        explain_in: folder for a figure per file that shows where the network looks; it is created if needed.
        force: replace figures that exist.
        runs: the folder of runs.
        skipped: a list that gets the reason for each image that cannot be read. Without it, such images are an error.

    Raises:
        UsageError: there is no such target, an image cannot be read, or a figure of that name exists already.
    """
    classifier = load(target, runs=runs)
    try:
        images = [images] if is_single(images) else list(images)
    except TypeError as error:
        raise UsageError(f"images should be a path, a picture, an array or a list of them, got {images!r}") from error
    names, arrays, reasons = list[str](), list[np.ndarray](), list[str]()
    for number, image in enumerate(images):
        is_path = isinstance(image, str | Path)
        image = files.with_home(image) if is_path else image
        for source in files_of(Path(image)) if is_path else [image]:
            try:
                arrays.append(_read(source, classifier))
                names.append(readable(source) if is_path else f"image {number}")
            except UsageError as error:
                reasons.append(str(error))
    if reasons and skipped is None:
        many = f"{len(reasons)} of {len(reasons) + len(names)} images cannot be read: "
        raise UsageError(many * (len(reasons) > 1) + "; ".join(reasons))
    if skipped is not None:
        skipped += reasons
    if not names:
        return []
    folder = Path(files.with_home(explain_in)) if explain_in else None
    outputs = explanation_paths(list(map(Path, names)), folder, force=force) if folder else []
    pixels = stacked(arrays)
    rows = predict_arrays(classifier, pixels, tta=classifier.tta if tta is None else tta)
    predictions = []
    for name, row in zip(names, rows, strict=True):
        likely = {classifier.classes[number]: float(row[number]) for number in np.argsort(-row, kind="stable")}
        label = next(iter(likely))
        predictions.append(Prediction(name, label, likely[label], likely))
    if outputs:
        draw_explanations(classifier, pixels, predictions, outputs)
    return predictions


def files_of(path: Path) -> list[Path]:
    """Return the files in a folder, or those that a pattern such as `pets/*.jpg` matches, or else the path itself."""
    paths = sorted(map(Path, glob(str(path), recursive=True)), key=lambda match: natural_order(match.as_posix()))
    if path.exists() or not paths:  # a name may contain the letters of a pattern
        paths = [path]
    return [file for match in paths for file in (files_in(match) if match.is_dir() else [match])] or [path]


def _read(image: Any, classifier: Classifier) -> UInt8[np.ndarray, "c size size"]:
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise UsageError(f"there is no image in {one_line(image)}")
        return read_image(Path(image), classifier.size, resize=classifier.resize)
    try:
        return np.asarray(from_array(to_array(image)[None], classifier.size, classifier.resize)[0])
    except ValueError as error:
        raise UsageError(f"an image {error}") from error
