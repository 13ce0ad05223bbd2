"""Optimizers and learning-rate schedules by name.

A schedule is a pure function of how far the training has come, so that resuming needs nothing saved.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cifarlab.models.layers import MaxNormLinear
from cifarlab.recipes import Recipe

ONE_CYCLE_WARMUP = 0.25  # fraction of the training, where the recipe gives none


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over all weights that train.

    Its steps clip the gradient first, if the recipe wants it, and keep the limits that layers set on their weights.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(weights, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    elif recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(weights, **common)
    else:
        optimizer = torch.optim.AdamW(weights, **common)
    limited = [layer for layer in network.modules() if isinstance(layer, MaxNormLinear)]

    def constrain(*_: object) -> None:
        for layer in limited:
            layer.constrain()

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)

    if recipe.gradient_clip:
        optimizer.register_step_pre_hook(clip)
    optimizer.register_step_post_hook(constrain)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Gives the optimizer the learning rate of one step; the arguments are those of `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step, steps_per_epoch)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    Args:
        recipe: names the schedule.
        step: steps done since the beginning of the training.
        steps_per_epoch: steps of one epoch.
    """
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "inverse-time":  # Keras's `decay`, which counts steps
        return recipe.learning_rate / (1 + recipe.decay * step)
    if recipe.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.factor**passed
    if recipe.schedule == "cosine":  # Loshchilov and Hutter 2017, without restarts
        return recipe.learning_rate * _warmed(
            recipe.warmup, step, total, lambda left: (1 - math.cos(math.pi * left)) / 2
        )
    if recipe.schedule == "one-cycle":  # after Smith and Topin 2018: straight up, straight down to 0
        return recipe.learning_rate * _warmed(recipe.warmup or ONE_CYCLE_WARMUP, step, total, lambda left: left)
    return recipe.learning_rate


def _warmed(warmup: float, step: int, total: int, fall: Any) -> float:
    progress = (step + 1) / (total + 1)  # never 0, so that no step is lost
    if progress < warmup:
        return progress / warmup
    return float(fall((1 - progress) / (1 - warmup)))
