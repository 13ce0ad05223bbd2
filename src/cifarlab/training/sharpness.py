"""Sharpness-aware minimisation: the gradient where the loss nearby is highest (Foret et al. 2020, arXiv 2010.01412)."""

import contextlib
from collections.abc import Iterator

import torch

from cifarlab.training.finetuning import BATCH_NORM
from cifarlab.training.state import Training


@contextlib.contextmanager
def at_the_sharpest(training: Training) -> Iterator[None]:
    """Move the weights by the recipe's `sam` along their gradients in the `with` block, and back at the end.

    Batch normalisation does not count the images of the block a second time. With several processes each moves along
    the gradient of its own images, as the paper's experiments did.
    """
    weights = [each for group in training.optimizer.param_groups for each in group["params"] if each.grad is not None]
    before = [weight.detach().clone() for weight in weights]
    norms = [layer for layer in training.classifier.network.modules() if isinstance(layer, BATCH_NORM)]
    momenta = [layer.momentum for layer in norms]
    with torch.no_grad():
        length = torch.stack([torch.linalg.vector_norm(weight.grad) for weight in weights]).norm()
        for weight in weights:
            weight.add_(weight.grad * (training.recipe.sam / (length + 1e-12)))
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)
