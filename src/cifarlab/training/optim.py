"""Optimizers and learning-rate schedules by name.

A schedule is a pure function of how far the training has come, so that resuming needs nothing saved.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cifarlab.device import DTYPES, precision_of
from cifarlab.recipes import Recipe

ONE_CYCLE_WARMUP = 0.25  # fraction of the training, where the recipe gives none
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. 2024
NEWTON_SCHULZ_STEPS = 3


def make_optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """The recipe's optimizer over all weights that train.

    Its steps clip the gradient first, if the recipe wants it, and keep the limits that layers set on their weights.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    optimizer: Optimizer
    if recipe.optimizer == "sgd":
        optimizer = _EagerSGD(weights, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    elif recipe.optimizer == "adam":
        optimizer = _EagerAdam(weights, **common, capturable=device.type == "cuda")
    elif recipe.optimizer == "adamw":
        optimizer = _EagerAdamW(weights, **common, capturable=device.type == "cuda")
    else:
        dtype = DTYPES[precision_of(recipe.precision, device)]
        optimizer = Muon(_muon_groups(weights, recipe), recipe.momentum, dtype)
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    constraints = [keep for layer in network.modules() if callable(keep := getattr(layer, "constrain", None))]

    def constrain(*_: object) -> None:
        for keep in constraints:
            keep()

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)

    if recipe.gradient_clip:
        optimizer.register_step_pre_hook(clip)
    optimizer.register_step_post_hook(constrain)
    return optimizer


class _Eager:
    """An optimizer's methods as they are written: PyTorch wraps them so that each imports its compiler.

    To import it takes longer than all that this package does before a first step, and a step of ours is never compiled.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class _EagerSGD(_Eager, SGD):
    step = torch.no_grad()(inspect.unwrap(SGD.step))


class _EagerAdam(_Eager, Adam):
    step = torch.no_grad()(inspect.unwrap(Adam.step))


class _EagerAdamW(_Eager, AdamW):
    step = torch.no_grad()(inspect.unwrap(AdamW.step))


class Muon(_Eager, Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for kernels; SGD with Nesterov momentum for everything else.

    A kernel's momentum is taken as a matrix [outputs, everything else], and all its singular values are brought near to
    1, so that every direction is learned at the same pace. PyTorch's own Muon takes matrices only, no convolutions.
    Weight decay is decoupled from the learning rate's peak: a step takes `weight_decay` of a weight away there.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, dtype: torch.dtype = torch.float32) -> None:
        """Makes one.

        Args:
            groups: of weights, each with `params`, `lr`, `weight_decay`, and `orthogonal` (True for kernels).
            momentum: of all of them.
            dtype: what the orthogonalisation computes in.
        """
        super().__init__(groups, {"momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step with the gradients that are there; a closure is not called."""
        for group in self.param_groups:
            decay = group["weight_decay"] * group["lr"] / group.get("peak", group["lr"])
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(state["momentum"], alpha=group["momentum"])
                if group["orthogonal"]:
                    update = orthogonalize(update.flatten(1).to(self.dtype)).view(update.shape)
                weight.mul_(1 - decay).add_(update, alpha=-group["lr"])


def orthogonalize(matrix: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Brings the singular values of a matrix near to 1 (about 0.5 to 1.2), by a quintic Newton-Schulz iteration.

    Args:
        matrix: float [rows, columns].
        steps: of the iteration; few are enough for training (Jordan et al. 2024).

    Returns:
        A matrix of the same shape and type with the same singular vectors.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide if len(matrix) <= matrix.shape[1] else wide.T


def _muon_groups(weights: list[nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Kernels, output layer, biases: the output layer is the last weight with two dimensions or more."""
    kernels = [weight for weight in weights if weight.ndim > 1]
    parts = (
        (kernels[:-1], recipe.learning_rate, 0.0, True),
        (kernels[-1:], recipe.head_learning_rate, recipe.weight_decay, False),
        ([weight for weight in weights if weight.ndim < 2], recipe.bias_learning_rate, recipe.weight_decay, False),
    )
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "orthogonal": orthogonal}
        for params, rate, decay, orthogonal in parts
        if params
    ]


def set_learning_rate(optimizer: Optimizer, recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Gives the optimizer the learning rate of one step; the arguments are those of `learning_rate`."""
    share = learning_rate(recipe, step, steps_per_epoch) / recipe.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


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
    if recipe.schedule == "linear":
        return recipe.learning_rate * _warmed(recipe.warmup, step, total, lambda left: left)
    if recipe.schedule == "one-cycle":  # after Smith and Topin 2018: straight up, straight down to 0
        return recipe.learning_rate * _warmed(recipe.warmup or ONE_CYCLE_WARMUP, step, total, lambda left: left)
    return recipe.learning_rate


def _warmed(warmup: float, step: int, total: int, fall: Any) -> float:
    progress = (step + 1) / (total + 1)  # never 0, so that no step is lost
    if progress < warmup:
        return progress / warmup
    return float(fall((1 - progress) / (1 - warmup)))
