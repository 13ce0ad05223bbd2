"""A classifier and images to logits, probabilities and figures of merit.

In fp32 and without augmentation unless asked otherwise, whatever the training computed in, so that one weights file
gives one result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor

from cifarlab.data.batches import DeviceImages, to_device
from cifarlab.data.dataset import Dataset
from cifarlab.data.images import read_image
from cifarlab.device import autocast
from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier
from cifarlab.parallel.world import SINGLE, World
from cifarlab.statistics import metrics

BATCH = 500  # images of 32x32; larger batches are no faster on a CPU


@dataclass(frozen=True)
class Evaluation:
    """What a classifier makes of a labelled data set."""

    classes: tuple[str, ...]
    logits: Float32[np.ndarray, "n classes"]
    labels: Int64[np.ndarray, " n"]
    confusion: Int64[np.ndarray, "classes classes"]
    """Rows are true classes."""
    accuracy: float
    loss: float
    """Mean cross-entropy, in nats."""
    per_class: list[metrics.PerClass]
    calibration_error: float


@dataclass(frozen=True)
class Prediction:
    """What a classifier makes of one picture."""

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]
    """By class, the most likely first."""


def evaluate(
    classifier: Classifier,
    dataset: Dataset,
    *,
    tta: bool = False,
    precision: str = "fp32",
    world: World = SINGLE,
    tick: Callable[[int], None] | None = None,
) -> Evaluation:
    """Figures of merit on a data set.

    Args:
        classifier: on any device.
        dataset: its classes must be the classifier's, in the same order.
        tta: test-time augmentation: logits are a mean over six views of each image, see `views`.
        precision: `fp32`, `bf16`, `fp16` or `auto`, as a recipe's.
        world: processes that share the evaluation; all of them must call this, and all get the whole result.
        tick: called with the number of images after each batch; at the end, where several processes share the work.

    Raises:
        UsageError: the classes or the image size are others than the classifier's.
    """
    if dataset.classes != classifier.classes:
        raise UsageError(
            f"the classifier's classes ({', '.join(classifier.classes)}) "
            f"are not the data's ({', '.join(dataset.classes)})"
        )
    if dataset.images.shape[2:] != (classifier.size, classifier.size):
        raise UsageError(
            f"the classifier takes images of {classifier.size} pixels, the data has {dataset.images.shape[3]}"
        )
    images = to_device(dataset, classifier.device)
    logits = predict_logits(classifier, images, tta=tta, precision=precision, world=world, tick=tick)
    return judge(logits, dataset.labels, dataset.classes)


def judge(
    logits: Float32[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"], classes: tuple[str, ...]
) -> Evaluation:
    """Figures of merit of logits."""
    confusion = metrics.confusion_matrix(labels, logits.argmax(axis=1), len(classes))
    return Evaluation(
        classes=classes,
        logits=logits,
        labels=labels,
        confusion=confusion,
        accuracy=metrics.accuracy(confusion),
        loss=metrics.cross_entropy(logits, labels),
        per_class=metrics.per_class(confusion, classes),
        calibration_error=metrics.calibration_error(logits, labels),
    )


@torch.inference_mode()
def predict_logits(
    classifier: Classifier,
    data: DeviceImages,
    *,
    tta: bool = False,
    precision: str = "fp32",
    batch: int = BATCH,
    world: World = SINGLE,
    tick: Callable[[int], None] | None = None,
) -> Float32[np.ndarray, "n classes"]:
    """Logits of images on the classifier's device; the network's mode is put back afterwards.

    Batches are those of one process, however many share them, so that no bit depends on their number.
    """
    network = classifier.network
    batch = max(1, batch * 32**2 // classifier.size**2)  # the memory of a batch stays the same
    was_training = network.training
    network.eval()
    pieces = []
    computing = autocast(precision, classifier.device)
    try:
        for start in range(world.rank * batch, len(data), world.size * batch):
            images = data.images[start : start + batch]
            shown = views(images) if tta else [(1.0, images)]
            with _without_tf32(), computing:
                logits = torch.stack([share * classifier.logits(view).float() for share, view in shown]).sum(0)
            pieces.append(logits.cpu().numpy())
            if tick is not None and world.size == 1:
                tick(len(images))
    finally:
        network.train(was_training)
    if tick is not None and world.size > 1:
        tick(len(data))
    return np.concatenate(world.interleave(pieces))


def _without_tf32() -> AbstractContextManager[None]:
    """So that fp32 means fp32 on a GPU too. All that is not named here would be reset to PyTorch's defaults."""
    cudnn = torch.backends.cudnn
    flags = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    return cudnn.flags(**flags, allow_tf32=False)


def views(images: UInt8[Tensor, "b 3 h w"]) -> list[tuple[float, UInt8[Tensor, "b 3 h w"]]]:
    """What test-time augmentation looks at, each with its share of the mean, after Jordan 2024 (arXiv 2404.00498).

    The images (a half), and the images moved by one pixel up and left, and down and right (a quarter each), their edges
    mirrored; of each the mirror image too.
    """
    height, width = images.shape[2:]
    framed = F.pad(images.float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    moved = ((0.5, images), (0.25, framed[..., :height, :width]), (0.25, framed[..., 2:, 2:]))
    return [(share / 2, view) for share, image in moved for view in (image, image.flip(3))]


def predict(
    classifier: Classifier, images: UInt8[np.ndarray, "n 3 h w"], *, tta: bool = False
) -> Float64[np.ndarray, "n classes"]:
    """Probabilities of each class for images in memory, at the classifier's temperature; rows add up to 1."""
    labels = np.zeros(len(images), dtype=np.int64)  # not looked at
    data = to_device(Dataset(images, labels, classifier.classes), classifier.device)
    logits = predict_logits(classifier, data, tta=tta)
    return metrics.probabilities((logits / classifier.temperature).astype(np.float32))


def predict_files(classifier: Classifier, paths: Sequence[Path], *, tta: bool = False) -> list[Prediction]:
    """What the classifier makes of picture files of any size and mode.

    Raises:
        UsageError: a file is missing or not a picture; nothing is predicted then.
    """
    images = np.stack([read_image(path, classifier.size) for path in paths])
    predictions = []
    for path, row in zip(paths, predict(classifier, images, tta=tta), strict=True):
        order = np.argsort(-row, kind="stable")
        likely = {classifier.classes[i]: float(row[i]) for i in order}
        label = classifier.classes[order[0]]
        predictions.append(Prediction(str(path), label, likely[label], likely))
    return predictions
