"""What is done with a trained network: load it, evaluate it, predict with it.

A target is a run, by name, path or object; a weights file; `pretrained:NAME`; or a classifier that is loaded already.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifarlab import heatmaps, weights
from cifarlab import runs as run_folders
from cifarlab.classifier import Classifier, load_weights, to_device
from cifarlab.data.datasets import Data, absolute, load_data, relabel, relabelled_sha256
from cifarlab.device import choose_device
from cifarlab.errors import UsageError
from cifarlab.evaluation import Evaluation, Prediction, predict_files
from cifarlab.evaluation import evaluate as evaluate_on
from cifarlab.progress import task
from cifarlab.run import RunFolder

Target = RunFolder | Classifier | str | Path
PRETRAINED = "pretrained:"


def load(target: Target, *, runs: Path | str | None = None, device: str = "auto") -> Classifier:
    """The classifier of a run or of a weights file, ready to predict.

    Raises:
        UsageError: there is no such run or file, or it holds no weights yet.
    """
    where = choose_device(device)
    if isinstance(target, Classifier):
        return target
    if isinstance(target, RunFolder):
        path = target.weights
    elif str(target).startswith(PRETRAINED):
        path = weights.path_of(str(target).removeprefix(PRETRAINED))
    elif str(target).endswith(".safetensors"):
        path = Path(target)
    else:
        path = RunFolder(run_folders.path_of(target, runs)).weights
    if not path.exists() and (path.parent / "run.json").exists():
        raise UsageError(f"the run {path.parent.name!r} has no weights yet: cifarlab resume {path.parent}")
    classifier = load_weights(path)
    to_device(classifier, where)
    return classifier


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
    classifier = load(target, runs=runs)
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
    with task("evaluating", len(data.test), quiet=quiet) as shown:
        return evaluate_on(
            classifier, data.test, tta=classifier.tta if tta is None else tta, precision=precision, tick=shown.advance
        )


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
