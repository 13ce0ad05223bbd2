"""Where does a network look? Heat maps of what speaks for a class, for any network. Draws nothing: see mosaics.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier

FEWEST_PLACES = 4  # a side; smaller maps say little about where
PATCH, STRIDE = 8, 4  # pixels, for images of 32
BATCH = 512


def heat_maps(
    classifier: Classifier, images: UInt8[np.ndarray, "n 3 h w"], targets: Int64[np.ndarray, " n"]
) -> dict[str, Float32[np.ndarray, "n h w"]]:
    """All heat maps that a network allows, by name; arguments are those of `grad_cam`."""
    found = {"occlusion": occlusion(classifier, images, targets)}
    with suppress(UsageError):  # a network without maps
        parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
        found["Grad-CAM"] = np.concatenate([grad_cam(classifier, images[part], targets[part]) for part in parts])
    return found


def grad_cam(
    classifier: Classifier, images: UInt8[np.ndarray, "n 3 h w"], targets: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n h w"]:
    """What in each image speaks for a class, by the gradients of the last maps (Selvaraju et al. 2017, Grad-CAM).

    Each place of a map has its own weight, its gradient where that is positive (Jiang et al. 2021, LayerCAM), because
    the mean over all places lights up places that the class does not depend on.

    The maps are those of the last layer, convolutions aside, that has at least `FEWEST_PLACES` places a side.

    Args:
        classifier: on any device.
        images: of the classifier's size.
        targets: the number of the class to explain, for each image.

    Returns:
        From 0 to 1, the largest of each image being 1, or all 0 where nothing speaks for the class.

    Raises:
        UsageError: the network has no such maps.
    """
    shown = torch.from_numpy(images).to(classifier.device)
    with _evaluating(classifier.network), torch.enable_grad():
        with _last_maps(classifier.network) as found:
            logits = classifier.network(classifier.preprocess(shown).requires_grad_())
        if not found:
            raise UsageError(f"{classifier.model} has no layer with maps of {FEWEST_PLACES}x{FEWEST_PLACES} places")
        (maps,) = found
        score = logits.gather(1, torch.from_numpy(targets).to(classifier.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, maps)
    heat = (gradient.relu() * maps.detach()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat.float(), size=shown.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return _from_0_to_1(heat.cpu().numpy())


@torch.inference_mode()
def occlusion(
    classifier: Classifier, images: UInt8[np.ndarray, "n 3 h w"], targets: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n h w"]:
    """How much of a class's probability goes when a patch is covered (Zeiler and Fergus 2014).

    The cover has the image's mean colour. A pixel's value is the mean over the patches that cover it. Arguments and
    result are those of `grad_cam`.
    """
    size = classifier.size
    patch, stride = max(1, PATCH * size // 32), max(1, STRIDE * size // 32)
    starts = sorted({*range(0, size - patch + 1, stride), size - patch})
    places = [(y, x) for y in starts for x in starts]
    masks = torch.zeros(len(places), 1, size, size, dtype=torch.bool, device=classifier.device)
    for mask, (y, x) in zip(masks, places, strict=True):
        mask[:, y : y + patch, x : x + patch] = True
    heats = []
    with _evaluating(classifier.network):
        for image, target in zip(torch.from_numpy(images).to(classifier.device), targets, strict=True):
            colour = image.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
            variants = torch.cat([image[None], torch.where(masks, colour, image)])  # [1 + places, 3, h, w]
            logits = torch.cat([classifier.logits(part) for part in variants.split(BATCH)])
            probability = logits.float().softmax(dim=1)[:, target]
            lost = (probability[0] - probability[1:])[:, None, None] * masks[:, 0]
            heats.append((lost.sum(0) / masks[:, 0].sum(0).clamp(min=1)).clamp(min=0).cpu().numpy())
    return _from_0_to_1(np.stack(heats))


def first_kernels(classifier: Classifier) -> Float32[np.ndarray, "n 3 h w"] | None:
    """The kernels of the first convolution that sees colours; None where there is none."""
    for layer in classifier.network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.shape[1] == 3:
            kernels: np.ndarray = layer.weight.detach().float().cpu().numpy()
            return kernels
    return None


def _from_0_to_1(heat: Float32[np.ndarray, "n h w"]) -> Float32[np.ndarray, "n h w"]:
    highest = heat.max(axis=(1, 2), keepdims=True)
    shares: np.ndarray = np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)
    return shares


@contextmanager
def _last_maps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the last maps that are large enough while the network runs, a convolution's own only for want of others.

    What a convolution gives is still without activation: its sign and scale say little.
    """
    found: list[Tensor] = []
    is_raw = True

    def note(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal is_raw
        is_convolution = isinstance(layer, nn.Conv2d)
        is_maps = isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) >= FEWEST_PLACES
        if is_maps and (is_raw or not is_convolution):
            found[:], is_raw = [output], is_convolution

    hooks = [layer.register_forward_hook(note) for layer in network.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
