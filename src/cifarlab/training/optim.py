"""Optimizers and learning-rate schedules by name.

A schedule is a pure function of training progress, so that resuming needs nothing saved.
"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from cifarlab.device import DTYPES, precision_of
from cifarlab.recipes import Recipe

ONE_CYCLE_WARMUP = 0.25  # fraction of the training, where the recipe gives none
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. 2024
NEWTON_SCHULZ_STEPS = 3


def make_optimizer(network: nn.Module, recipe: Recipe, device: torch.device) -> Optimizer:
    """Return the recipe's optimizer. Each step first clips the gradient and then applies the layers' own limits."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    optimizer: Optimizer
    if recipe.optimizer == "muon":
        dtype = DTYPES[precision_of(recipe.precision, device)]
        optimizer = Muon(_muon_groups(weights, recipe), recipe.momentum, dtype)
    elif recipe.optimizer == "sgd":
        optimizer = _EagerSGD(weights, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
    else:
        common |= {"capturable": device.type == "cuda", "decoupled_weight_decay": recipe.optimizer == "adamw"}
        optimizer = _EagerAdam(weights, **common)
    for group in optimizer.param_groups:
        group["peak"] = group["lr"]
    if recipe.gradient_clip:

        def clip(*_: object) -> None:
            nn.utils.clip_grad_norm_(weights, recipe.gradient_clip)

        optimizer.register_step_pre_hook(clip)
    for layer in network.modules():
        if callable(limit := getattr(layer, "constrain", None)):
            optimizer.register_step_post_hook(lambda *_, limit=limit: limit())
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


class Muon(_Eager, Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) for kernels; SGD with Nesterov momentum for everything else.

    A kernel's momentum is viewed as a matrix [outputs, all other axes], and its singular values are brought near 1, so
    that every direction is learned at the same pace. PyTorch's own Muon takes matrices only, no convolutions. Kernels
    are not decayed, and the other weights are multiplied by 1 - `weight_decay` in a step at the learning rate's peak,
    whatever the peak is, as in Jordan's airbench94_muon. In a `SparseConv2d`, each pair of channels is an output.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(groups, {"momentum": momentum})  # groups: `params`, `lr`, `weight_decay`, `orthogonal`
        self.dtype = dtype  # of the orthogonalisation

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
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
    """Bring the singular values of a matrix near 1 (about 0.5 to 1.2) by a quintic Newton-Schulz iteration."""
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
    biases = [weight for weight in weights if weight.ndim < 2]
    decay = recipe.weight_decay
    groups = [
        {"params": kernels[:-1], "lr": recipe.learning_rate, "weight_decay": 0.0, "orthogonal": True},
        {"params": kernels[-1:], "lr": recipe.head_learning_rate, "weight_decay": decay, "orthogonal": False},
        {"params": biases, "lr": recipe.bias_learning_rate, "weight_decay": decay, "orthogonal": False},
    ]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: Optimizer, recipe: Recipe, step: int, steps_per_epoch: int) -> None:
    """Set the optimizer's learning rate for one step, counted from the beginning of the training."""
    share = learning_rate(recipe, step, steps_per_epoch) / recipe.learning_rate
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step, counted from the beginning of the training, by the recipe's schedule."""
    peak, schedule = recipe.learning_rate, recipe.schedule
    if schedule == "constant":
        return peak
    if schedule == "inverse-time":  # Keras's `decay`, which counts steps
        return peak / (1 + recipe.decay * step)
    # The others rise to the peak during the warm-up and then fall. One-cycle is after Smith and Topin 2018.
    warmup = recipe.warmup or (ONE_CYCLE_WARMUP if schedule == "one-cycle" else 0.0)
    progress = (step + 1) / (recipe.epochs * steps_per_epoch + 1)  # never 0, so that no step is lost
    if progress < warmup:
        return recipe.warmup_rate or peak * (progress / warmup)
    if schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in recipe.milestones)
        return peak * recipe.factor**passed
    rest = (1 - progress) / (1 - warmup)
    return peak * ((1 - math.cos(math.pi * rest)) / 2 if schedule == "cosine" else rest)  # Loshchilov and Hutter 2017
