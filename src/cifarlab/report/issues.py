"""What is odd about the data of a run, as lists and pictures: `suspects`, asked with a trained network's help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.data.batches import to_device
from cifarlab.data.dataset import Dataset
from cifarlab.data.quality import suspects
from cifarlab.data.quality.suspects import Duplicate, Suspect
from cifarlab.errors import UsageError
from cifarlab.figures import mosaics
from cifarlab.inference.classifier import load_weights
from cifarlab.inference.evaluation import predict_logits
from cifarlab.progress import notice
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.metrics import probabilities
from cifarlab.training.state import data_of, split_data

SHOWN = 24  # images a picture
OUTLIERS = 24
WEAK = (
    0.15  # of the test images answered wrongly; of ten usual test sets' labels 3.3 % are wrong (Northcutt et al. 2021)
)


@dataclass(frozen=True)
class Issues:
    """What was found. Images are numbered from 0: among those of the test, of the run's validation, of all training."""

    duplicates: list[Duplicate]
    """Test images that are training images too."""
    test_labels: list[Suspect]
    validation_labels: list[Suspect]
    """Empty where the validation part is the test part."""
    outliers: list[int]
    """Test images."""
    pictures: list[Path]


def find_issues(run: RunFolder, out: Path, *, force: bool = False, quiet: bool = False) -> Issues:
    """Looks for near-duplicates, likely label errors and outliers in a finished run's data, and draws them.

    Only images that the run was not trained on are judged by it.

    Args:
        run: finished.
        out: a folder for pictures; it is made if need be.
        force: replace pictures that are there.
        quiet: say nothing.

    Raises:
        UsageError: the run is not finished, its data have changed, or a picture is there already.
    """
    if run.predictions is None:
        raise UsageError(f"the run {run.name!r} is {run.status}: its test is what tells odd images, so finish it first")
    recipe = run.recipe
    names = [out / f"{name}.png" for name in ("duplicates", "labels", "outliers")]
    if (there := next((path for path in names if path.exists()), None)) and not force:
        raise UsageError(f"--out {str(out)!r}: there is already {there.name}; replace it with --force")
    data = data_of(recipe, run.record.data.sha256, fetch=True, quiet=quiet)
    notice(f"comparing {len(data.test):,} test images with {len(data.train):,} training images", quiet=quiet)
    duplicates = suspects.near_duplicates(data.train.images, data.test.images)
    logits, labels = run.predictions
    parts, validation_labels = split_data(recipe, data), []
    if parts.validation is not parts.test:
        classifier = load_weights(run.weights)
        held_out = predict_logits(classifier, to_device(parts.validation, classifier.device), tta=recipe.tta)
        validation_labels = suspects.suspect_labels(held_out, parts.validation.labels)
    odd = suspects.outliers(logits, OUTLIERS)
    test_labels = suspects.suspect_labels(logits, labels)
    wrong = float((logits.argmax(axis=1) != labels).mean())
    if wrong > WEAK:
        notice(
            f"{run.name} answers {wrong:.0%} of the test images otherwise than they are labelled, so that most doubts "
            "are mistakes of its own: ask a better network",
            quiet=quiet,
        )
    drawn = {
        "duplicates": _duplicates(data.train, data.test, duplicates),
        "labels": _labels(data.test, test_labels),
        "outliers": _outliers(data.test, logits, odd),
    }
    files.make_folder(out)
    for path in names:
        files.write_bytes(path, figures.to_bytes(drawn[path.stem], "png"))
    return Issues(duplicates, test_labels, validation_labels, odd.tolist(), names)


def _duplicates(train: Dataset, test: Dataset, found: list[Duplicate]) -> Figure:
    images, captions, wrong = [], [], []
    for each in found[: SHOWN // 2]:
        for name, part, number in (("test", test, each.test), ("training", train, each.train)):
            images.append(part.images[number])
            captions.append(f"{name} {number}\n{part.classes[part.labels[number]]}")
            wrong.append(bool(train.labels[each.train] != test.labels[each.test]))
    title = f"{len(found)} test images are nearly training images; red: under another label"
    return _pictures(test, images, captions, wrong, title)


def _labels(test: Dataset, found: list[Suspect]) -> Figure:
    some = found[:SHOWN]
    captions = [f"{test.classes[each.label]}?\nrather {test.classes[each.likely]}" for each in some]
    title = f"{len(found)} test labels are doubtful; the most doubtful of them"
    return _pictures(test, [test.images[each.image] for each in some], captions, [True] * len(some), title)


def _outliers(test: Dataset, logits: np.ndarray, odd: np.ndarray) -> Figure:
    likely = probabilities(logits[odd])
    captions = [
        f"{test.classes[label]}\n{test.classes[row.argmax()]} ({row.max():.0%})?"
        for label, row in zip(test.labels[odd], likely, strict=True)
    ]
    title = "Test images that are least like anything the network knows"
    return _pictures(test, list(test.images[odd]), captions, [False] * len(odd), title)


def _pictures(test: Dataset, images: list[Any], captions: list[str], wrong: list[bool], title: str) -> Figure:
    shown = np.stack(images) if images else np.zeros((0, *test.images.shape[1:]), dtype=np.uint8)
    return mosaics.pictures(shown, captions, wrong, 8, title)
