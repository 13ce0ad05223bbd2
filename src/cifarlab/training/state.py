"""Everything that changes while a network trains: how it begins, and how it is written to a checkpoint and restored."""

import contextlib
import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifarlab.data.batches import Batch, steps_per_epoch
from cifarlab.data.dataset import sample
from cifarlab.device import autocast, precision_of
from cifarlab.inference.classifier import Classifier, to_device
from cifarlab.parallel import batchnorm
from cifarlab.parallel.world import World
from cifarlab.recipes import Recipe
from cifarlab.runs.record import EpochRow
from cifarlab.training.early_stopping import best_epoch, chooses_by_validation, is_out_of_patience
from cifarlab.training.finetuning import BATCH_NORM
from cifarlab.training.optim import make_optimizer
from cifarlab.training.preparation import Prepared

FITTING_IMAGES = 5_000  # images that layers such as `Whitening` and averaged batch statistics are fitted to
COUNTERS = ("epoch", "step", "earlier_steps", "seen", "seconds")  # of a training, which a checkpoint keeps as they are


@dataclass
class Training:
    """Everything that changes while a network trains."""

    recipe: Recipe
    classifier: Classifier
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None  # of the weights, where the recipe asks for a moving average
    device: torch.device
    world: World
    precision: str  # of forward and backward passes, a key of `DTYPES`
    autocast: torch.autocast  # context of every forward pass
    scaler: torch.amp.GradScaler  # keeps small gradients from vanishing in fp16; in other precisions it does nothing
    forward: Callable[[Tensor], Tensor]  # the network's forward pass, compiled if the recipe asks for it
    first_layer: list[nn.Parameter]  # weights of the first layer that trains
    frozen: list[nn.Module]  # layers that keep the weights that they started with
    keeps_best: bool  # by validation accuracy; else the last epoch is kept
    validation_labels: Int64[np.ndarray, " validation"]
    class_weights: Float32[Tensor, " classes"] | None  # of an image's loss, where classes count differently
    remember_losses: "Callable[[Training, Batch, Tensor], None]"  # stores them if later epochs leave easy images out
    # Sum of this epoch's losses, its images that were classified correctly, and the latest loss of each training image.
    # With several processes each of these is a summand of a total over all processes.
    loss_sum: Float64[Tensor, ""]
    correct: Int64[Tensor, ""]
    losses: Float32[Tensor, " n"]
    epoch_images: Int64[Tensor, " kept"]  # indices of the images that this epoch trains on
    size: int  # of the present step's images, in pixels
    epoch: int = 0  # current epoch, from 0
    step: int = 0  # next step of this epoch
    steps_per_epoch: int = 0  # of this epoch
    earlier_steps: int = 0  # of the epochs before this one, which differ in length if some leave images out
    seen: int = 0  # images that this epoch has trained on so far
    seconds: float = 0.0  # time of this epoch's training steps so far
    start: EpochRow | None = None  # epoch 0: the weights of `start_from`, validated before the first step
    is_stopped: bool = False  # by a callback
    history: list[EpochRow] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)  # class of each validation image, [n] per epoch

    @property
    def evaluated(self) -> Classifier:
        """The classifier that is validated and kept: with averaged weights where the recipe averages, once it does."""
        if self.average is None or (self.recipe.swa and not self.average.n_averaged):
            return self.classifier
        return replace(self.classifier, network=self.average.module)

    @property
    def kept(self) -> EpochRow | None:
        """The epoch whose weights best.safetensors has so far; one that few images choose is known at the end."""
        start = [self.start] if self.start else []
        last = self.history[-1:] if self.is_over or not start else []
        return best_epoch([*start, *(self.history if self.keeps_best else last)])

    @property
    def total_seconds(self) -> float:
        """Time of all training steps so far."""
        return sum(row.train_seconds for row in self.history) + self.seconds

    @property
    def is_out_of_time(self) -> bool:
        """True if the recipe's time budget is spent."""
        return 0 < 60 * self.recipe.time_budget <= self.total_seconds

    @property
    def is_over(self) -> bool:
        """True if no further epoch begins. An epoch that has begun is validated even if its time is up."""
        is_out = is_out_of_patience(self.recipe, self.history) or (self.is_out_of_time and self.step == 0)
        return self.epoch >= self.recipe.epochs or is_out or self.is_stopped


def begin(prepared: Prepared, *, fit_layers: bool = True) -> Training:
    """Return a training before its first step, on the prepared device. Its classifier is that of `prepared`.

    Preprocessing and layers such as `Whitening` are fitted to the training images, unless weights to start from brought
    their own. `fit_layers=False` leaves that out where a checkpoint is restored next.
    """
    recipe, classifier, device, world = prepared.recipe, prepared.classifier, prepared.device, prepared.world
    images = prepared.parts.train
    if fit_layers and prepared.source is None:
        classifier.preprocess.fit(images.images)
        for layer in classifier.network.modules():
            if callable(fit_layer := getattr(layer, "fit", None)):
                fit_layer(classifier.preprocess(torch.from_numpy(np.array(sample(images.images, FITTING_IMAGES)))))
    to_device(classifier, device)
    optimizer = make_optimizer(classifier.network, recipe, device)
    average = None
    if recipe.ema:
        average = AveragedModel(classifier.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        update = average.update_parameters
        optimizer.register_step_post_hook(lambda *_: update(classifier.network))
    elif recipe.swa:
        average = AveragedModel(classifier.network)  # an equal mean, to which `average_epoch` adds
    class_weights = None
    if recipe.class_weights != "none":
        counts = np.bincount(images.labels, minlength=len(images.classes))
        weights = len(images) / (np.count_nonzero(counts) * np.maximum(counts, 1))  # their mean over the images is 1
        class_weights = torch.from_numpy(weights).float().to(device)
    precision = precision_of(recipe.precision, device)
    network = torch.compile(classifier.network) if recipe.compile else classifier.network
    layers = (list(layer.parameters(recurse=False)) for layer in classifier.network.modules())
    return Training(
        recipe,
        classifier,
        optimizer,
        average,
        device,
        world,
        precision,
        autocast(precision, device),
        torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        batchnorm.synchronize(network, world),
        next(filter(None, ([weight for weight in layer if weight.requires_grad] for layer in layers)), []),
        prepared.frozen,
        chooses_by_validation(recipe, len(prepared.parts.validation)),
        prepared.parts.validation.labels,
        class_weights,
        _store_losses if recipe.skip_easy else lambda *_: None,
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
        correct=torch.zeros((), dtype=torch.int64, device=device),
        losses=torch.zeros(len(images), device=device),
        epoch_images=torch.arange(len(images), device=device),
        size=recipe.size,
        steps_per_epoch=steps_per_epoch(len(images), recipe.batch_size),
    )


def _store_losses(training: Training, batch: Batch, losses: Tensor) -> None:
    training.losses[batch.all_indices] = 0  # other processes hold the losses of their images
    training.losses[batch.indices] = losses


def average_epoch(training: Training) -> None:
    """Add the weights after an epoch to stochastic weight averaging, from the recipe's share of the training on.

    A training that was stopped while it validated an epoch, and goes on, adds that epoch once.
    """
    recipe = training.recipe
    due = training.epoch + 1 - math.floor(recipe.swa * recipe.epochs)  # epochs that count so far
    if training.average is not None and recipe.swa and due > training.average.n_averaged:
        training.average.update_parameters(training.classifier.network)


@torch.no_grad()
def measure_batch_statistics(training: Training, images: UInt8[np.ndarray, "n c h w"]) -> None:
    """Measure the averaged network's means and variances on training images; without an average, do nothing.

    Those of the raw weights do not fit averaged weights (Izmailov et al. 2018, arXiv 1803.05407, section 3.2). Layers
    that are frozen keep their statistics.
    """
    layers = zip(training.classifier.network.modules(), training.evaluated.network.modules(), strict=True)
    norms = [own for raw, own in layers if raw.training and raw is not own and isinstance(own, BATCH_NORM)]
    if not norms:
        return
    chosen = torch.from_numpy(np.array(sample(images, FITTING_IMAGES))).to(training.device)
    with training.evaluated.evaluating(), training.autocast:  # without dropout, which draws random numbers
        for layer in norms:
            layer.train().reset_running_stats()
            layer.momentum = None  # the mean over all batches
        for batch in chosen.tensor_split(max(1, len(chosen) // training.recipe.batch_size)):
            training.evaluated.logits(batch.contiguous(memory_format=torch.channels_last))


def to_checkpoint(training: Training) -> dict[str, Any]:
    """Return everything that `restore` needs. All processes call this together; each gets the totals over all."""
    total = training.world.total
    return {
        "network": training.classifier.network.state_dict(),
        "preprocess": training.classifier.preprocess.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "average": training.average.state_dict() if training.average is not None else None,
        **{name: getattr(training, name) for name in COUNTERS},
        "loss_sum": total(training.loss_sum),
        "right": total(training.correct),
        "losses": total(training.losses),
        "kept": training.epoch_images,
        "start": asdict(training.start) if training.start else None,
        "history": [asdict(row) for row in training.history],
        "predicted": torch.from_numpy(np.array(training.predicted)),
    }


def restore(training: Training, checkpoint: Mapping[str, Any]) -> None:
    """Put a training where a checkpoint stood. If that is not this training's, PyTorch's errors are passed on."""
    training.classifier.network.load_state_dict(checkpoint["network"])
    training.classifier.preprocess.load_state_dict(checkpoint["preprocess"])
    peaks = [group["peak"] for group in training.optimizer.param_groups]  # the recipe's, not the file's
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    for group, peak in zip(training.optimizer.param_groups, peaks, strict=True):
        group["peak"] = peak
    if checkpoint["scaler"]:  # empty if another precision was used so far
        training.scaler.load_state_dict(checkpoint["scaler"])
    if training.average is not None:
        training.average.load_state_dict(checkpoint["average"])
    steps = checkpoint["epoch"] * steps_per_epoch(len(training.losses), training.recipe.batch_size)
    counters = {"earlier_steps": steps, **checkpoint}  # version 0.2 counted no earlier steps
    for name in COUNTERS:
        setattr(training, name, counters[name])
    for tensor, name in ((training.loss_sum, "loss_sum"), (training.correct, "right"), (training.losses, "losses")):
        tensor.copy_(training.world.own_part(checkpoint[name]))
    training.epoch_images = checkpoint["kept"].to(training.device)
    training.start = EpochRow(**checkpoint["start"]) if checkpoint.get("start") else None
    training.history = [EpochRow(**row) for row in checkpoint["history"]]
    training.predicted = list(checkpoint["predicted"].numpy())


@contextlib.contextmanager
def keep_training(training: Training) -> Iterator[None]:
    """Restore weights, buffers, gradients, optimizer and counters of a training at the end, to the bit."""
    networks = nn.ModuleList([training.classifier.network])
    if training.average is not None:
        networks.append(training.average)
    tensors = [*networks.parameters(), *networks.buffers(), training.loss_sum, training.correct, training.losses]
    with contextlib.ExitStack() as at_the_end:
        for tensor in tensors:
            at_the_end.callback(tensor.detach().copy_, tensor.detach().clone())
        for weight in networks.parameters():
            at_the_end.callback(setattr, weight, "grad", weight.grad)
            at_the_end.callback(weight.requires_grad_, weight.requires_grad)
        for module in networks.modules():
            at_the_end.callback(setattr, module, "training", module.training)
        at_the_end.callback(training.optimizer.load_state_dict, copy.deepcopy(training.optimizer.state_dict()))
        if training.scaler.is_enabled():
            at_the_end.callback(training.scaler.load_state_dict, training.scaler.state_dict())
        yield


@contextlib.contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the global random state of PyTorch, NumPy and Python at the end; networks may draw from any of them."""
    with torch.random.fork_rng(), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(np.random.set_state, np.random.get_state())
        at_the_end.callback(random.setstate, random.getstate())
        yield
