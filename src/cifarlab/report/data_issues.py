"""`cifarlab data issues`: find duplicates, likely label errors and outliers in a run's data, rank and draw them.

How they are found is in `data.quality`.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from cifarlab import figures, files
from cifarlab.data.catalogue import load_parts
from cifarlab.data.dataset import Dataset, join, relabel
from cifarlab.data.quality.duplicates import Duplicate, find_near_duplicates
from cifarlab.data.quality.label_issues_and_outliers import LabelIssue, find_label_issues, find_outliers
from cifarlab.errors import UsageError
from cifarlab.figures import Figure
from cifarlab.figures.mosaics import image_grid
from cifarlab.models.own_networks import as_trained
from cifarlab.progress import notice
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.statistics.metrics import probabilities
from cifarlab.training.cross_validation import cross_validate

IMAGES_A_FIGURE = 24
IMAGES_AN_OUTLIER = 100  # one image of so many is an outlier, but at most `IMAGES_A_FIGURE`
LONGEST_CAPTION = 20  # letters of a line
# Above this error rate most suspicions are mistakes of the network: on average 3.3 % of the labels of ten usual test
# sets are wrong (Northcutt et al. 2021).
HIGH_ERROR_RATE = 0.15
FOLDS = 5


@dataclass(frozen=True)
class Issue:
    """A suspicious image."""

    kind: str  # duplicate, label or outlier
    image: str  # path of its file, or such as `test image 5`
    label: str
    reason: str


@dataclass(frozen=True)
class DataIssues:
    """Suspicious images, by name and by their positions (from 0) in the data set's training, validation or test set."""

    issues: list[Issue]  # the most suspicious first
    images: int  # number of images that were judged
    accuracy: float  # of the networks on images that they were not trained on
    duplicates: list[Duplicate]  # test images that nearly equal a training image
    train_labels: list[LabelIssue]
    validation_labels: list[LabelIssue]  # of the data set's own validation set
    test_labels: list[LabelIssue]
    outliers: list[int]  # test images
    pictures: list[Path]
    table: Path  # CSV file of `issues`


def find_data_issues(
    run: RunFolder,
    out: Path,
    *,
    recipe: Recipe | None = None,
    folds: int = FOLDS,
    force: bool = False,
    quiet: bool = False,
) -> DataIssues:
    """Find near-duplicates, likely label errors and outliers among all images of a run's data, and draw them.

    Each image is judged by a network that was not trained on it. There are as many networks as `folds`, trained by the
    run's recipe or by another `recipe`. PNG files of what was found and a table are written into the folder `out`;
    `force` replaces older ones.
    """
    paths = {kind: out / f"{kind}.png" for kind in ("duplicates", "labels", "outliers")}
    table = out / "issues.csv"
    existing = [path.name for path in (*paths.values(), table) if path.exists()]
    if existing and not force:
        raise UsageError(f"--out {str(out)!r} already has {existing[0]}. Replace it with --force.")
    own = run.recipe
    if recipe is None:
        model = as_trained(own.model, run.record.origins.get("model", ""), run.path)
        own = own.model_copy(update={"model": model})
    judge = (recipe or own).changed({key: getattr(own, key) for key in ("dataset", "drop", "merge", "size")})
    data = relabel(load_parts(own, sha256=run.record.data.sha256, quiet=quiet)[0], own.drop, own.merge)
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    everything = join(*(_with_names(images, part) for part, images in parts.items() if images is not None))
    first_test = len(everything) - len(data.test)
    notice(f"training {folds} networks by {judge.name} to judge all {len(everything):,} images", quiet=quiet)
    duplicates = find_near_duplicates(data.train.images, data.test.images)
    logits, fold_of_image = cross_validate(judge, everything, folds, quiet=quiet)
    accuracy = float((logits.argmax(axis=1) == everything.labels).mean())
    if 1 - accuracy > HIGH_ERROR_RATE:
        advice = "so most suspicious labels are their mistakes. Use a run with higher accuracy, or --recipe."
        notice(f"the networks misclassify {1 - accuracy:.0%} of the images, {advice}", quiet=quiet)
    doubtful = find_label_issues(logits, everything.labels)
    outliers = find_outliers(logits, fold_of_image, min(IMAGES_A_FIGURE, len(everything) // IMAGES_AN_OUTLIER)).tolist()
    pairs = [image for pair in duplicates for image in (first_test + pair.test, pair.train)]
    drawn = {
        "duplicates": _draw(everything, pairs, "Test images and similar training images"),
        "labels": _draw(everything, [issue.image for issue in doubtful], f"{len(doubtful)} labels are doubtful"),
        "outliers": _draw(everything, outliers, "Outliers: images that are least like the others"),
    }
    files.make_folder(out)
    for kind, path in paths.items():
        path.unlink(missing_ok=True)  # of an earlier call
        if figure := drawn[kind]:
            files.write_bytes(path, figures.to_bytes(figure, "png"))
    issues = list(_rank(everything, logits, duplicates, doubtful, outliers, first_test))
    text = io.StringIO()
    rows = [(rank, *astuple(issue)) for rank, issue in enumerate(issues, start=1)]
    csv.writer(text, lineterminator="\n").writerows([("rank", "kind", "image", "label", "reason"), *rows])
    files.write_text(table, text.getvalue())
    pictures = [path for kind, path in paths.items() if drawn[kind]]

    def labels_of(first: int, end: int) -> list[LabelIssue]:
        return [replace(issue, image=issue.image - first) for issue in doubtful if first <= issue.image < end]

    return DataIssues(
        issues,
        len(everything),
        accuracy,
        duplicates,
        labels_of(0, len(data.train)),
        labels_of(len(data.train), first_test),
        labels_of(first_test, len(everything)),
        [image - first_test for image in outliers if image >= first_test],
        pictures,
        table,
    )


def _with_names(images: Dataset, part: str) -> Dataset:
    """Return images that all have a name: that of their file, or such as `test image 5`."""
    return replace(images, names=images.names or tuple(f"{part} image {number}" for number in range(len(images))))


def _rank(
    images: Dataset,
    logits: Float32[np.ndarray, "n classes"],
    duplicates: Sequence[Duplicate],
    doubtful: Sequence[LabelIssue],
    outliers: Sequence[int],
    first_test: int,
) -> Iterator[Issue]:
    """Yield the issues: duplicates of two labels, doubtful labels, outliers, other duplicates."""
    labels, shares = [images.classes[label] for label in images.labels], probabilities(logits)
    twins: dict[bool, list[Issue]] = {True: [], False: []}  # by whether their labels agree
    for pair in duplicates:
        test, train = first_test + pair.test, pair.train
        reason = f"nearly equals {images.names[train]} ({labels[train]}), correlation {pair.correlation:.3f}"
        twins[labels[test] == labels[train]].append(Issue("duplicate", images.names[test], labels[test], reason))
    yield from twins[False]
    for image, likely in [(issue.image, issue.likely) for issue in doubtful]:
        share, label_share = shares[image, [likely, images.labels[image]]]
        reason = f"likely {images.classes[likely]}, with {share:.1%} against {label_share:.1%}"
        yield Issue("label", images.names[image], labels[image], reason)
    for image in outliers:
        reason = f"least like the others; predicted {images.classes[shares[image].argmax()]}"
        yield Issue("outlier", images.names[image], labels[image], reason)
    yield from twins[True]


def _draw(images: Dataset, chosen: Sequence[int], title: str) -> Figure | None:
    """Draw the first of the chosen images with names and labels; None if there are none."""
    first = chosen[:IMAGES_A_FIGURE]
    names = [images.names[image] for image in first]
    names = [name if len(name) <= LONGEST_CAPTION else f"…{name[1 - LONGEST_CAPTION :]}" for name in names]
    captions = [f"{name}\n{images.classes[images.labels[image]]}" for name, image in zip(names, first, strict=True)]
    return (
        image_grid([images.images[image] for image in first], captions, [False] * len(first), title) if first else None
    )
