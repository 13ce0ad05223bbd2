"""Optimizers and learning-rate schedules by name.

A schedule is a pure function of training progress, so that resuming needs nothing saved.
"""

import inspect
import math
from collections.abc import Callable
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
    """Return the recipe's optimizer over all weights that train.

    Each step first clips the gradient, if the recipe asks for it, and then applies the limits that layers set on their
    weights.
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
    constraints = [limit for layer in network.modules() if callable(limit := getattr(layer, "constrain", None))]

    def constrain(*_: object) -> None:
        for limit in constraints:
            limit()

    def clip(*_: object) -> None:
        nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)

    if recipe.gradient_clip:
        optimizer.register_step_pre_hook(clip)
    optimizer.register_step_post_hook(constrain)
    return optimizer


class _Eager:
    """An optimizer's methods without the wrapper with which PyTorch makes each of them import its compiler.

    That import takes longer than everything else before a first step, and optimizer steps are never compiled here.
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
    """Orthogonalised momentum (Jordan et al. 2024) for kernels; SGD with Nesterov momentum for everything else.

    A kernel's momentum is viewed as a matrix [outputs, all other axes], and its singular values are brought near 1, so
    that every direction is learned at the same pace. PyTorch's own Muon takes matrices only, no convolutions.
    At the learning rate's peak, a step multiplies a weight by 1 - `weight_decay`, whatever the peak is.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, dtype: torch.dtype = torch.float32) -> None:
        """Create the optimizer.

        Args:
            groups: parameter groups, each with `params`, `lr`, `weight_decay`, and `orthogonal` (True for kernels).
            momentum: momentum of all groups.
            dtype: type that the orthogonalisation computes in.
        """
        super().__init__(groups, {"momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step with the current gradients; a closure is not called."""
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
    """Bring the singular values of a matrix near 1 (about 0.5 to 1.2) by a quintic Newton-Schulz iteration.

    Args:
        matrix: float [rows, columns].
        steps: number of iterations; few are enough for training (Jordan et al. 2024).

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
    """Group the weights into kernels, output layer (the last weight with two dimensions or more) and biases."""
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
    """Set the optimizer's learning rate for one step; the other arguments are those of `learning_rate`."""
    share = learning_rate(recipe, step, steps_per_epoch) / recipe.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    Args:
        recipe: names the schedule.
        step: number of steps since the beginning of the training.
        steps_per_epoch: number of steps in an epoch.
    """
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "inverse-time":  # Keras's `decay`, which counts steps
        return recipe.learning_rate / (1 + recipe.decay * step)
    if recipe.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
        return recipe.learning_rate * recipe.factor**passed
    if recipe.schedule == "cosine":  # Loshchilov and Hutter 2017, without restarts
        return recipe.learning_rate * _warmed(
            recipe.warmup, step, total, lambda rest: (1 - math.cos(math.pi * rest)) / 2
        )
    if recipe.schedule == "linear":
        return recipe.learning_rate * _warmed(recipe.warmup, step, total, lambda rest: rest)
    if recipe.schedule == "one-cycle":  # after Smith and Topin 2018: straight up, straight down to 0
        return recipe.learning_rate * _warmed(recipe.warmup or ONE_CYCLE_WARMUP, step, total, lambda rest: rest)
    return recipe.learning_rate


def _warmed(warmup: float, step: int, total: int, fall: Callable[[float], float]) -> float:
    """Rise to 1 during the warm-up, then follow `fall` of the remaining fraction of the training."""
    progress = (step + 1) / (total + 1)  # never 0, so that no step is lost
    if progress < warmup:
        return progress / warmup
    return float(fall((1 - progress) / (1 - warmup)))
