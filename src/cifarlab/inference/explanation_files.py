"""Files of `predict --explain`: figures that show where the network looks. The heat maps come from `explain`."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cifarlab import figures, files
from cifarlab.data.image_files import read_image
from cifarlab.errors import UsageError
from cifarlab.figures import mosaics
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import Prediction

EXPLAINED_CLASSES = 5  # most likely classes, listed in the figure


def explanation_paths(paths: Sequence[Path], folder: Path, *, force: bool) -> list[Path]:
    """Return the path of each image file's explanation; files of the same name get a number.

    Raises:
        UsageError: the folder is a file, or an explanation exists already and `force` is not set.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--explain must be a folder, but {str(folder)!r} is a file")
    names: dict[str, None] = {}  # a set that keeps its order
    for path in paths:
        numbered = (path.stem if number == 1 else f"{path.stem}-{number}" for number in itertools.count(1))
        names[next(name for name in numbered if name not in names)] = None
    outputs = [folder / f"{name}-explained.png" for name in names]
    for output in outputs:
        if output.exists() and not force:
            raise UsageError(f"{output} already exists. Replace it with --force.")
    return outputs


def draw_explanations(
    classifier: Classifier, paths: Sequence[Path], predictions: Sequence[Prediction], outputs: Sequence[Path]
) -> None:
    """Draw heat maps for the most likely class of each image file, and write a figure to each output path."""
    images = np.stack([read_image(path, classifier.size) for path in paths])
    targets = np.array([classifier.classes.index(prediction.label) for prediction in predictions])
    heats = explain.heat_maps(classifier, images, targets)
    for number, (path, prediction, output) in enumerate(zip(paths, predictions, outputs, strict=True)):
        likely = dict(list(prediction.probabilities.items())[:EXPLAINED_CLASSES])
        title = f"{path.name}: predicted as {prediction.label}, with the evidence for it"
        figure = mosaics.explanation(images[number], {key: heat[number] for key, heat in heats.items()}, likely, title)
        files.make_folder(output.parent)
        files.write_bytes(output, figures.to_bytes(figure, "png"))
