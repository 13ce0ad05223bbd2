"""Draw the feature maps and first kernels of a network as PNG files, and compute an embedding of its test images."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from cifarlab.board.images import to_png
from cifarlab.errors import UsageError
from cifarlab.inference import explain, targets
from cifarlab.inference.classifier import Classifier
from cifarlab.report.rendering import data_url

MOST_LAYERS = 40  # with pictures; of deeper networks, layers at equal distances
MOST_MAPS = 32  # of a layer, its first ones
MOST_KERNELS = 64
EMBEDDED_IMAGES = 400
COLUMNS = 20  # images in a row of the sprite
LARGEST_SIDE = 64  # pixels of a feature map; larger ones are drawn with every second row and column, or fewer
_SEED = 0  # of the sample of test images


def layer_pictures(classifier: Classifier, image: UInt8[np.ndarray, "c h w"]) -> dict[str, Any]:
    """Return the feature maps of every layer for one image, and the first kernels, as addresses of PNG files.

    Each map is scaled by itself from its lowest value (black) to its highest (white).
    """
    outputs = list[tuple[str, str, Tensor]]()

    def keep(name: str, kind: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                outputs.append((name, kind, output[0].detach().float().cpu()))

        return hook

    hooks = [
        layer.register_forward_hook(keep(name, type(layer).__name__))
        for name, layer in classifier.network.named_modules()
        if not list(layer.children())
    ]
    try:
        with classifier.evaluating(), torch.inference_mode():
            classifier.logits(torch.from_numpy(image[None]).to(classifier.device))
    finally:
        for each in hooks:
            each.remove()
    chosen = sorted(set(np.linspace(0, len(outputs) - 1, min(MOST_LAYERS, len(outputs))).round().astype(int).tolist()))
    layers = []
    for name, kind, maps in (outputs[number] for number in chosen):
        step = -(-max(maps.shape[1:]) // LARGEST_SIDE)
        shown = maps[:MOST_MAPS, ::step, ::step].numpy()
        picture = data_url(to_png(_tiled(shown[:, None])), "png")
        layers.append({"name": name, "kind": kind, "shape": list(maps.shape), "shown": len(shown), "picture": picture})
    kernels = explain.first_kernels(classifier)
    if kernels is not None and kernels.shape[1] not in (1, 3):
        kernels = None
    return {
        "image": data_url(to_png(image), "png"),
        "layers": layers,
        "all_layers": len(outputs),
        "kernels": None if kernels is None else data_url(to_png(_tiled(kernels[:MOST_KERNELS])), "png"),
        "kernel_count": 0 if kernels is None else len(kernels),
    }


def _tiled(maps: Float32[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "c height width"]:
    """Return maps side by side, eight in a row, each scaled from black to white, with a gray line between them."""
    low, high = maps.min(axis=(1, 2, 3), keepdims=True), maps.max(axis=(1, 2, 3), keepdims=True)
    scaled = (255 * np.nan_to_num((maps - low) / np.where(high > low, high - low, 1))).astype(np.uint8)
    return _sheet(scaled, min(8, len(scaled)), 1)


def _sheet(tiles: UInt8[np.ndarray, "n c h w"], columns: int, gap: int) -> UInt8[np.ndarray, "c height width"]:
    count, channels, height, width = tiles.shape
    rows = -(-count // columns)
    sheet = np.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = tile
    return sheet


def embedding(classifier: Classifier) -> dict[str, Any]:
    """Return test images as points: the input of the last linear layer, in two dimensions by PCA (Pearson 1901).

    The images are in one PNG file (`sprite`), `COLUMNS` in a row. A network without a linear layer is described by
    its logits.
    """
    test = targets.evaluation_data(classifier, None, quiet=True).test
    sample = np.sort(np.random.default_rng(_SEED).permutation(len(test))[:EMBEDDED_IMAGES])
    if len(sample) < 3:
        raise UsageError("an embedding needs three test images or more")
    features = list[Tensor]()
    linear = [layer for layer in classifier.network.modules() if isinstance(layer, nn.Linear)]
    hook = linear[-1].register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])) if linear else None
    try:
        with classifier.evaluating(), torch.inference_mode():
            logits = classifier.logits(torch.from_numpy(test.images[sample]).to(classifier.device)).float().cpu()
    finally:
        if hook:
            hook.remove()
    of_layer = features[-1].flatten(1).float().cpu() if features and len(features[-1]) == len(sample) else logits
    vectors = of_layer.double().numpy()
    vectors -= vectors.mean(axis=0)
    left, values, axes = np.linalg.svd(vectors, full_matrices=False)
    left *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])  # the sign of an axis means nothing
    points = (left * values)[:, :2]
    points = points if points.shape[1] == 2 else np.column_stack([points, np.zeros(len(points))])
    largest = float(np.abs(points).max()) or 1.0
    shares = values**2 / max(float((values**2).sum()), 1e-30)
    return {
        "classes": list(classifier.classes),
        "points": [
            {"x": float(x), "y": float(y), "number": int(number), "true": int(true), "predicted": int(predicted)}
            for (x, y), number, true, predicted in zip(
                points / largest, sample, test.labels[sample], logits.argmax(1), strict=True
            )
        ],
        "share": float(shares[:2].sum()),
        "dimensions": vectors.shape[1],
        "images": len(test),
        "size": classifier.size,
        "columns": COLUMNS,
        "sprite": data_url(to_png(_sheet(test.images[sample], COLUMNS, 0)), "png"),
    }
