"""`cifarlab data issues`: find duplicates, likely label errors and outliers with a run's help, and draw them.

How they are found is in `data.quality`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from matplotlib.figure import Figure

from cifarlab import figures, files
from cifarlab.data.batches import to_device
from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Dataset, relabel
from cifarlab.data.quality.duplicates import Duplicate, find_near_duplicates
from cifarlab.data.quality.label_issues_and_outliers import LabelIssue, find_label_issues, find_outliers
from cifarlab.errors import UsageError
from cifarlab.figures.mosaics import image_grid
from cifarlab.inference.prediction import predict_logits
from cifarlab.inference.weights_file import load_weights
from cifarlab.progress import notice
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.metrics import probabilities

IMAGES_A_FIGURE = 24
# Above this error rate most suspicions are mistakes of the network: on average 3.3 % of the labels of ten usual test
# sets are wrong (Northcutt et al. 2021).
HIGH_ERROR_RATE = 0.15


@dataclass(frozen=True)
class DataIssues:
    """Suspicious images, by their positions (from 0) in the test, validation or whole training images."""

    duplicates: list[Duplicate]  # test images that nearly equal a training image
    test_labels: list[LabelIssue]
    validation_labels: list[LabelIssue]  # empty if the run validated on the test images
    outliers: list[int]  # test images
    pictures: list[Path]


def find_data_issues(run: RunFolder, out: Path, *, force: bool = False, quiet: bool = False) -> DataIssues:
    """Find near-duplicates, likely label errors and outliers in a finished run's data, and draw them as PNG files.

    The run's network judges only images that it was not trained on. The pictures are written into the folder `out`;
    `force` replaces existing pictures.
    """
    if run.predictions is None:
        raise UsageError(f"the run {run.name!r} is {run.status}, and only finished runs have test predictions")
    recipe, (logits, labels) = run.recipe, run.predictions
    paths = [out / f"{name}.png" for name in ("duplicates", "labels", "outliers")]
    existing = [path.name for path in paths if path.exists()]
    if existing and not force:
        raise UsageError(f"--out {str(out)!r} already has {existing[0]}. Replace it with --force.")
    whole, parts = load_parts(recipe, sha256=run.record.data.sha256, quiet=quiet)
    data = relabel(whole, recipe.drop, recipe.merge)
    notice(f"comparing {len(data.test):,} test images with {len(data.train):,} training images", quiet=quiet)
    duplicates = find_near_duplicates(data.train.images, data.test.images)
    validation_labels = []
    if parts.validation is not parts.test:
        classifier = load_weights(run.weights)
        validation_logits = predict_logits(classifier, to_device(parts.validation, classifier.device), tta=recipe.tta)
        validation_labels = find_label_issues(validation_logits, parts.validation.labels)
    outliers, test_labels = find_outliers(logits, IMAGES_A_FIGURE), find_label_issues(logits, labels)
    error_rate = float((logits.argmax(axis=1) != labels).mean())
    if error_rate > HIGH_ERROR_RATE:
        advice = "so most suspicious labels are its own mistakes. Use a run with higher accuracy."
        notice(f"{run.name} misclassifies {error_rate:.0%} of the test images, {advice}", quiet=quiet)
    drawn = [_draw_duplicates(data.train, data.test, duplicates), _draw_labels(data.test, test_labels)]
    drawn.append(_draw_outliers(data.test, logits, outliers))
    files.make_folder(out)
    for path, figure in zip(paths, drawn, strict=True):
        files.write_bytes(path, figures.to_bytes(figure, "png"))
    return DataIssues(duplicates, test_labels, validation_labels, outliers.tolist(), paths)


def _draw_duplicates(train: Dataset, test: Dataset, duplicates: Sequence[Duplicate]) -> Figure:
    images, captions, differ = [], [], []
    for pair in duplicates[: IMAGES_A_FIGURE // 2]:
        for name, part, number in (("test", test, pair.test), ("training", train, pair.train)):
            images.append(part.images[number])
            captions.append(f"{name} {number}\n{part.classes[part.labels[number]]}")
            differ.append(bool(train.labels[pair.train] != test.labels[pair.test]))
    title = f"{len(duplicates)} test images nearly equal a training image; red: their labels differ"
    return image_grid(images, captions, differ, title)


def _draw_labels(test: Dataset, labels: Sequence[LabelIssue]) -> Figure:
    worst = labels[:IMAGES_A_FIGURE]
    captions = [f"label {test.classes[suspect.label]}\nlikely {test.classes[suspect.likely]}" for suspect in worst]
    title = f"{len(labels)} test labels are likely wrong; the likeliest of them"
    return image_grid([test.images[suspect.image] for suspect in worst], captions, [True] * len(worst), title)


def _draw_outliers(
    test: Dataset, logits: Float32[np.ndarray, "n classes"], outliers: Int64[np.ndarray, " outliers"]
) -> Figure:
    captions = [
        f"label {test.classes[label]}\n{test.classes[row.argmax()]} ({row.max():.0%})?"
        for label, row in zip(test.labels[outliers], probabilities(logits[outliers]), strict=True)
    ]
    title = "Outliers: test images that are least like the training images, as the network sees them"
    return image_grid(test.images[outliers], captions, [False] * len(outliers), title)
