"""Files of `predict --explain`: figures that show where the network looks. The heat maps come from `explain`."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cifarlab import figures, files
from cifarlab.errors import UsageError
from cifarlab.figures import mosaics
from cifarlab.inference import explain
from cifarlab.inference.classifier import Classifier
from cifarlab.inference.prediction import Prediction

EXPLAINED_CLASSES = 5  # most likely classes, listed in the figure


def explanation_paths(paths: Sequence[Path], folder: Path, *, force: bool) -> list[Path]:
    """Return the path of each image file's explanation; files of the same name get a number."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--explain must be a folder, but {str(folder)!r} is a file")
    images, outputs = set(map(os.path.realpath, paths)), list[Path]()
    for path in paths:
        names = itertools.chain([path.stem], (f"{path.stem}-{number}" for number in itertools.count(2)))
        candidates = (folder / f"{name}-explained.png" for name in names)
        outputs.append(next(output for output in candidates if output not in outputs))
        if os.path.realpath(outputs[-1]) in images:
            raise UsageError(f"--explain {str(folder)!r}: {outputs[-1]} is one of the images. Give another folder.")
        if outputs[-1].exists() and not force:
            raise UsageError(f"{outputs[-1]} already exists. Replace it with --force.")
    return outputs


def draw_explanations(
    classifier: Classifier, images: UInt8[np.ndarray, "n c h w"], predictions: list[Prediction], outputs: list[Path]
) -> None:
    """Draw heat maps for the most likely class of each image, and write a figure to each output path."""
    targets = np.array([classifier.classes.index(prediction.label) for prediction in predictions])
    heats = explain.heat_maps(classifier, images, targets)
    for number, (prediction, output) in enumerate(zip(predictions, outputs, strict=True)):
        likely = dict(list(prediction.probabilities.items())[:EXPLAINED_CLASSES])
        title = f"{Path(prediction.image).name}: predicted as {prediction.label}, with the evidence for it"
        figure = mosaics.explanation(images[number], {key: heat[number] for key, heat in heats.items()}, likely, title)
        files.make_folder(output.parent)
        files.write_bytes(output, figures.to_bytes(figure, "png"))
