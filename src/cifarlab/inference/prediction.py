"""Predict: from images to logits and probabilities.

By default in fp32 and without augmentation, whatever the training used, so that one weights file gives one result.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from cifarlab.data.batches import DeviceImages, to_device
from cifarlab.data.dataset import Dataset
from cifarlab.device import Choice, autocast, choices, keep_threads, plainest
from cifarlab.errors import CifarlabError
from cifarlab.inference.classifier import Classifier
from cifarlab.parallel.world import SINGLE, World
from cifarlab.statistics import metrics

SURE = 0.5  # least probability of a sure answer; below it, a calibrated network is more likely wrong than right
BATCH = 500  # images of 32x32; larger batches are no faster on a CPU
MEASURED_IMAGES = 4_000  # from which on it pays to measure the number of threads that is fastest
SAMPLE, TURNS = 64, 4  # images that are measured, and how often with each choice; the first turn warms up


@dataclass(frozen=True)
class Prediction:
    """Predicted classes of one image."""

    image: str  # path of the file, or `image 0`, `image 1`, …
    label: str  # most likely class
    probability: float  # of `label`
    probabilities: dict[str, float]  # of each class, most likely first


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
    """Return the logits of images on the classifier's device; the labels in `data` are ignored.

    With `tta`, logits are the mean over the six `views` of each image. `batch` counts images of 32x32 pixels: batches
    of larger images are smaller. The processes of `world` share the batches of one process, so that the result has the
    same bits for any number of processes. `tick` is called with the number of images after each batch; with several
    processes once, at the end.
    """
    batch = max(1, batch * 32**2 // classifier.size**2)  # keeps the memory of a batch constant
    batches = []
    computing = autocast(precision, classifier.device)
    with classifier.evaluating():
        for start in range(world.rank * batch, len(data), world.size * batch):
            images = data.images[start : start + batch]
            weighted_views = views(images) if tta else [(1.0, images)]
            with without_tf32(), computing:
                logits = torch.stack([weight * classifier.logits(view).float() for weight, view in weighted_views])
                total = logits.sum(0)
            batches.append(total.cpu().numpy())
            if tick is not None and world.size == 1:
                tick(len(images))
    if tick is not None and world.size > 1:
        tick(len(data))
    return np.concatenate(world.interleave(batches))


@contextmanager
def fastest(classifier: Classifier, data: DeviceImages, precision: str = "fp32") -> Iterator[str]:
    """Compute in the `with` block with as many threads as are fastest here, and give the precision to compute in.

    `auto` is the faster of fp32 and bf16. A sample of the images is measured if there are many.
    """
    allowed = choices(precision, "auto", classifier.device)
    if len(allowed) < 2 or len(data) < MEASURED_IMAGES:
        yield precision
        return
    sample = DeviceImages(data.images[:SAMPLE], data.labels[:SAMPLE])
    with keep_threads():
        times: dict[Choice, list[float]] = {choice: [] for choice in allowed}
        for choice in allowed * TURNS:
            torch.set_num_threads(choice[1])
            began = time.perf_counter()
            predict_logits(classifier, sample, precision=choice[0])
            times[choice].append(time.perf_counter() - began)
        chosen, threads = plainest({choice: median(seconds[1:]) for choice, seconds in times.items()})
        torch.set_num_threads(threads)
        yield chosen


def without_tf32() -> AbstractContextManager[None]:
    """Return a context in which convolutions on a GPU compute in fp32, not in TF32; other settings stay as they are."""
    cudnn = torch.backends.cudnn
    # Settings that are not passed would be reset to PyTorch's defaults.
    unchanged = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    return cudnn.flags(**unchanged, allow_tf32=False)


def views(images: UInt8[Tensor, "b c h w"]) -> list[tuple[float, UInt8[Tensor, "b c h w"]]]:
    """Return the six views of test-time augmentation, each with its weight in the mean.

    They are the images (weight 1/2) and the images moved by one pixel, up and left or down and right, with reflected
    borders (1/4 each). Each shares its weight with its mirror image. Source: Jordan 2024, arXiv 2404.00498.
    """
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    moved = ((0.5, images), (0.25, padded[..., :height, :width]), (0.25, padded[..., 2:, 2:]))
    return [(weight / 2, view) for weight, image in moved for view in (image, image.flip(3))]


def predict(
    classifier: Classifier, images: UInt8[np.ndarray, "n c h w"], *, tta: bool = False
) -> Float64[np.ndarray, "n classes"]:
    """Return the probability of each class for images in memory, at the classifier's temperature; rows sum to 1."""
    unlabelled = Dataset(images, np.zeros(len(images), np.int64), classifier.classes)
    data = to_device(unlabelled, classifier.device)
    with fastest(classifier, data):
        logits = predict_logits(classifier, data, tta=tta)
    if not np.isfinite(logits).all():
        raise CifarlabError("the network gives numbers that are NaN or infinite: its weights are damaged")
    return metrics.probabilities((logits / classifier.temperature).astype(np.float32))
