"""Pictures of where a network looks: files in, files out. The maps themselves are made in `explain`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifarlab import figures, files
from cifarlab.data.images import read_image
from cifarlab.errors import UsageError
from cifarlab.figures import mosaics
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.evaluation import Prediction

EXPLAINED_CLASSES = 5


def names_of_pictures(paths: Sequence[Path], folder: Path, *, force: bool) -> list[Path]:
    """A picture's name for each file, numbered where files are called the same.

    Raises:
        UsageError: the folder is a file, or a picture is there already, and no `force`.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--explain {str(folder)!r}: should be a folder, and is a file")
    names: dict[str, None] = {}  # in their order
    for path in paths:
        numbered = (path.stem if number == 1 else f"{path.stem}-{number}" for number in itertools.count(1))
        names[next(name for name in numbered if name not in names)] = None
    found = [folder / f"{name}-explained.png" for name in names]
    for picture in found:
        if picture.exists() and not force:
            raise UsageError(f"--explain {str(folder)!r}: there is already {picture.name}; replace it with --force")
    return found


def draw_pictures(
    classifier: Classifier, paths: Sequence[Path], predictions: Sequence[Prediction], pictures: Sequence[Path]
) -> None:
    """Draws where the network looks when it names the likeliest class of each file; without pictures, nothing."""
    if not pictures:
        return
    images = np.stack([read_image(path, classifier.size) for path in paths])
    targets = np.array([classifier.classes.index(found.label) for found in predictions])
    heats = explain.heat_maps(classifier, images, targets)
    for number, (path, found, picture) in enumerate(zip(paths, predictions, pictures, strict=True)):
        likely = dict(list(found.probabilities.items())[:EXPLAINED_CLASSES])
        title = f"{path.name}: {found.label}, and what speaks for it"
        figure = mosaics.explanation(images[number], {key: heat[number] for key, heat in heats.items()}, likely, title)
        files.make_folder(picture.parent)
        files.write_bytes(picture, figures.to_bytes(figure, "png"))
