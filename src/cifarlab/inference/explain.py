"""Heat maps that show which parts of an image are evidence for a class, for any network.

This module computes arrays only; `figures.mosaics` draws them and `explanation_files` writes them to files.
"""

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

SMALLEST_MAP = 4  # positions per side; smaller maps hardly locate anything
PATCH, STRIDE = 8, 4  # pixels, for images of 32
BATCH = 512


def heat_maps(
    classifier: Classifier, images: UInt8[np.ndarray, "n c h w"], targets: Int64[np.ndarray, " n"]
) -> dict[str, Float32[np.ndarray, "n h w"]]:
    """Return all heat maps that the network allows, by name; arguments and values as for `grad_cam`."""
    maps = {"occlusion": occlusion(classifier, images, targets)}
    with suppress(UsageError):  # the network has no feature maps
        parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
        maps["Grad-CAM"] = np.concatenate([grad_cam(classifier, images[part], targets[part]) for part in parts])
    return maps


def grad_cam(
    classifier: Classifier, images: UInt8[np.ndarray, "n c h w"], targets: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n h w"]:
    """Compute heat maps from the gradients of the last feature maps (Grad-CAM, Selvaraju et al. 2017).

    Each position of a feature map is weighted by its own gradient if that is positive (LayerCAM, Jiang et al. 2021).
    Grad-CAM's mean gradient over all positions also highlights positions that the class does not depend on.

    `targets` holds the number of the class to explain for each image. The largest value of each heat map is 1, or all
    values are 0 if there is no evidence for the class.
    """
    pixels = torch.from_numpy(images).to(classifier.device)
    with classifier.evaluating(), torch.enable_grad():
        with _last_maps(classifier.network) as layer_maps:
            logits = classifier.network(classifier.preprocess(pixels).requires_grad_())
        if not layer_maps:
            smallest = f"{SMALLEST_MAP}x{SMALLEST_MAP}"
            raise UsageError(f"{classifier.model} has no layer with feature maps of {smallest} positions or more")
        (maps,) = layer_maps
        score = logits.gather(1, torch.from_numpy(targets).to(classifier.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, maps)
    heat = (gradient.relu() * maps.detach()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat.float(), size=pixels.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return _from_0_to_1(heat.cpu().numpy())


@torch.inference_mode()
def occlusion(
    classifier: Classifier, images: UInt8[np.ndarray, "n c h w"], targets: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n h w"]:
    """Compute how much a class's probability drops when a patch is covered (Zeiler and Fergus 2014).

    The patch is filled with the image's mean colour. The value of a pixel is the mean drop over the patches that cover
    it. Arguments and result are those of `grad_cam`.
    """
    size = classifier.size
    patch, stride = max(1, PATCH * size // 32), max(1, STRIDE * size // 32)
    starts = sorted({*range(0, size - patch + 1, stride), size - patch})
    corners = [(y, x) for y in starts for x in starts]
    masks = torch.zeros(len(corners), 1, size, size, dtype=torch.bool, device=classifier.device)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[:, y : y + patch, x : x + patch] = True
    heats = []
    with classifier.evaluating():
        for image, target in zip(torch.from_numpy(images).to(classifier.device), targets, strict=True):
            colour = image.float().mean(dim=(1, 2), keepdim=True).round().to(torch.uint8)
            variants = torch.cat([image[None], torch.where(masks, colour, image)])  # [1 + patches, c, h, w]
            logits = torch.cat([classifier.logits(part) for part in variants.split(BATCH)])
            probability = logits.float().softmax(dim=1)[:, target]
            drop = (probability[0] - probability[1:])[:, None, None] * masks[:, 0]
            heats.append((drop.sum(0) / masks[:, 0].sum(0).clamp(min=1)).clamp(min=0).cpu().numpy())
    return _from_0_to_1(np.stack(heats))


def first_kernels(classifier: Classifier) -> Float32[np.ndarray, "n c h w"] | None:
    """Return the kernels of the first convolution of the images' channels; None if there is none."""
    convolutions = (layer for layer in classifier.network.modules() if isinstance(layer, nn.Conv2d))
    weights = next((layer.weight for layer in convolutions if layer.weight.shape[1] == classifier.in_channels), None)
    if weights is not None and classifier.preprocess.settings.channels == "bgr":
        weights = weights.flip(1)
    return None if weights is None else weights.detach().float().cpu().numpy()


def _from_0_to_1(heat: Float32[np.ndarray, "n h w"]) -> Float32[np.ndarray, "n h w"]:
    highest = heat.max(axis=(1, 2), keepdims=True)
    return heat / np.where(highest > 0, highest, 1)


@contextmanager
def _last_maps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the last feature maps of a forward pass that are large enough.

    The output of a convolution is used only if there is no other: without activation, its sign and scale mean little.
    """
    maps: list[Tensor] = []
    is_raw = True

    def keep_maps(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal is_raw
        is_convolution = isinstance(layer, nn.Conv2d)
        is_maps = isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) >= SMALLEST_MAP
        if is_maps and (is_raw or not is_convolution):
            maps[:], is_raw = [output], is_convolution

    hooks = [layer.register_forward_hook(keep_maps) for layer in network.modules()]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
