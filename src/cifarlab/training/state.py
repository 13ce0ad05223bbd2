"""A training between two steps: how it begins, what changes in it, and how it is saved and restored."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifarlab.data import batches
from cifarlab.data.catalogue import load_data
from cifarlab.data.cifar10 import is_cached
from cifarlab.data.dataset import Data, Dataset, relabel, sample, split
from cifarlab.device import autocast, precision_of
from cifarlab.errors import CifarlabError, UsageError
from cifarlab.inference.classifier import Classifier, make_classifier, to_device
from cifarlab.parallel import world
from cifarlab.recipes import Recipe
from cifarlab.runs.folder import RunFolder
from cifarlab.runs.record import Environment, EpochRow
from cifarlab.training import finetuning
from cifarlab.training.optim import make_optimizer

CHECKPOINT_EVERY = "5m"
FITTING_IMAGES = 5_000  # that layers such as `Whitening` see before the first step


@dataclass(frozen=True)
class Interval:
    """How far apart the checkpoints within an epoch are; there is one at the end of each epoch as well."""

    steps: float
    seconds: float

    @classmethod
    def of(cls, text: str) -> Interval:
        """The interval that a user means by `500` steps, `30s`, `5m` or `2h`.

        Raises:
            UsageError: the text is none of these.
        """
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh]?)", text)
        number = float(found[1]) if found else 0.0
        if found is None or number <= 0 or (not found[2] and not number.is_integer()):
            raise UsageError(f"checkpoint_every should be steps or a time, such as 500, 30s, 5m or 2h, got {text!r}")
        if not found[2]:
            return cls(number, math.inf)
        return cls(math.inf, number * {"s": 1, "m": 60, "h": 3600}[found[2]])


@dataclass
class Training:
    """Everything that changes while a network trains."""

    recipe: Recipe
    classifier: Classifier
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    device: torch.device
    autocast: torch.autocast
    """Entered around every forward pass."""
    scaler: torch.amp.GradScaler
    """Keeps small gradients from vanishing in fp16; in other precisions it does nothing."""
    forward: Callable[[Tensor], Tensor]
    """The network, compiled if the recipe wants it."""
    first: list[nn.Parameter]
    """The weights of the first layer that trains."""
    augment: Mapping[str, Any]
    """What `batches.augment` takes."""
    frozen: list[nn.Module]
    """The layers that keep what they started with."""
    class_weights: Float32[Tensor, " classes"] | None
    """What an image of each class counts, where that differs."""
    loss_sum: Float64[Tensor, ""]
    """Of this epoch so far, over images. Of this and the next two each process has a part: see `distributed.total`."""
    right: Int64[Tensor, ""]
    """Images of this epoch answered rightly so far."""
    losses: Float32[Tensor, " n"]
    """Of each training image, when it was last seen."""
    kept: Int64[Tensor, " kept"]
    """The numbers of the images that this epoch trains on."""
    epoch: int = 0
    """The epoch that is being trained, from 0."""
    step: int = 0
    """The next step of this epoch."""
    seen: int = 0
    """Images of this epoch so far."""
    seconds: float = 0.0
    """Of this epoch's training steps so far."""
    history: list[EpochRow] = field(default_factory=list)
    confusions: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    """What each validation image was taken for after each epoch, in the smallest integers that can say it."""

    @property
    def judged(self) -> Classifier:
        """What is validated and kept: the averaged weights where the recipe averages."""
        if self.average is None:
            return self.classifier
        return replace(self.classifier, network=self.average.module)

    @property
    def best(self) -> EpochRow | None:
        """The first epoch of the highest validation accuracy."""
        return max(self.history, key=lambda row: row.validation_accuracy, default=None)

    @property
    def seconds_spent(self) -> float:
        """On training steps so far."""
        return sum(row.train_seconds for row in self.history) + self.seconds

    def is_over(self) -> bool:
        """Whether the recipe wants no further epoch."""
        patience, best = self.recipe.patience, self.best
        return (
            self.epoch >= self.recipe.epochs
            or (patience > 0 and best is not None and len(self.history) - best.epoch >= patience)
            or (self.is_out_of_time and self.step == 0)  # an epoch that was begun is validated
        )

    @property
    def is_out_of_time(self) -> bool:
        """Whether the recipe's time budget is spent."""
        return self.recipe.time_budget > 0 and self.seconds_spent >= self.recipe.time_budget * 60


@dataclass(frozen=True)
class Parts:
    """What is trained on, chosen by and tested on."""

    train: Dataset
    validation: Dataset
    test: Dataset
    protocol: str
    """How figures on these parts come about; see `Recipe.protocol`."""


def split_data(recipe: Recipe, data: Data) -> Parts:
    """The data's parts as the recipe's protocol wants them; see `Recipe.protocol`.

    Raises:
        UsageError: too few images to split.
    """
    if recipe.validate_on == "test" and recipe.train_on == "all":
        return Parts(data.train, data.test, data.test, recipe.protocol())
    if data.validation is not None:
        train, validation = data.train, data.validation
    else:
        train, validation = split(data.train, recipe.validation_fraction, recipe.seed)
    if not len(validation) or not len(data.test):
        raise UsageError(f"{data.name}: {len(data.train)} images are too few to validate and to test on")
    protocol = recipe.protocol(own_validation=data.validation is not None)
    return Parts(train, data.test if recipe.validate_on == "test" else validation, data.test, protocol)


def data_of(recipe: Recipe, sha256: str, data: Data | None = None, *, fetch: bool = False, quiet: bool = True) -> Data:
    """The data of a run again, classes dropped and merged as its recipe says.

    Args:
        recipe: of the run.
        sha256: of its data, from run.json.
        data: a data set in memory that takes the place of the recipe's.
        fetch: get CIFAR-10 if it is not in the cache.
        quiet: show no progress.

    Raises:
        UsageError: the data are not what they were, or not here.
    """
    if data is None:
        if recipe.dataset == "cifar10" and not (fetch or is_cached()):
            raise UsageError("CIFAR-10 is not in the cache: get it with cifarlab data get")
        data = load_data(recipe.dataset, size=recipe.size, quiet=quiet)
    if data.sha256 != sha256:
        raise UsageError(f"the data set {data.name} is not what the run was trained on (SHA-256 differs)")
    check_size(recipe, data)
    return relabel(data, recipe.drop, recipe.merge)


def check_size(recipe: Recipe, data: Data) -> None:
    """Raises UsageError if images in memory have another size than the recipe's."""
    height, width = data.train.images.shape[2:]
    if (height, width) != (recipe.size, recipe.size):
        raise UsageError(f"{data.name}: images are {height}x{width}, the recipe's size is {recipe.size}")


def begin(recipe: Recipe, images: Dataset, device: torch.device, source: Classifier | None = None) -> Training:
    """A training before its first step, weights and preprocessing included.

    Args:
        recipe: what to do.
        images: those that it trains on.
        device: where to.
        source: what `recipe.start_from` names; not needed where `restore` follows and finds a checkpoint.

    Raises:
        UsageError: the source does not fit, or there are fewer layers than should be frozen.
    """
    torch.manual_seed(batches.seed_for(recipe.seed, "weights"))
    classifier = make_classifier(recipe.model, recipe.model_options, images.classes, recipe.size, recipe.normalize)
    if source is None:
        classifier.preprocess.fit(images.images)
        for layer in classifier.network.modules():
            if callable(fit := getattr(layer, "fit", None)):
                fit(classifier.preprocess(torch.from_numpy(np.array(sample(images.images, FITTING_IMAGES)))))
    else:
        finetuning.take_over(classifier, source)
    frozen = finetuning.freeze(classifier.network, recipe.freeze)
    to_device(classifier, device)
    optimizer = make_optimizer(classifier.network, recipe, device)
    average = None
    if recipe.ema:
        average = AveragedModel(classifier.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        follow = average.update_parameters
        optimizer.register_step_post_hook(lambda *_: follow(classifier.network))
    return Training(
        recipe,
        classifier,
        optimizer,
        average,
        device,
        autocast(recipe.precision, device),
        torch.amp.GradScaler(device.type, enabled=precision_of(recipe.precision, device) == "fp16"),
        torch.compile(classifier.network) if recipe.compile else classifier.network,
        _first_layer(classifier.network),
        recipe.augment.of_a_batch(),
        frozen,
        _class_weights(recipe, images, device),
        loss_sum=torch.zeros((), dtype=torch.float64, device=device),
        right=torch.zeros((), dtype=torch.int64, device=device),
        losses=torch.zeros(len(images), device=device),
        kept=torch.arange(len(images), device=device),
    )


def _class_weights(recipe: Recipe, images: Dataset, device: torch.device) -> Float32[Tensor, " classes"] | None:
    if recipe.class_weights == "none":
        return None
    counts = np.bincount(images.labels, minlength=len(images.classes))
    weights = len(images) / (np.count_nonzero(counts) * np.maximum(counts, 1))  # their mean over the images is 1
    return torch.from_numpy(weights).float().to(device)


def _first_layer(network: nn.Module) -> list[nn.Parameter]:
    for layer in network.modules():
        if trained := [weight for weight in layer.parameters(recurse=False) if weight.requires_grad]:
            return trained
    return []


def restore(run: RunFolder, training: Training) -> Training:
    """Puts a fresh training where the run's checkpoint stood; without one, saves the first.

    Raises:
        CifarlabError: the checkpoint is damaged or of another version.
    """
    state = world.from_first(lambda: _stored(run))
    run.update(status="running", reason="", environment=Environment(**world.environment(training.device)))
    if state is None:
        save(training, run)
        return training
    try:
        training.classifier.network.load_state_dict(state["network"])
        training.classifier.preprocess.load_state_dict(state["preprocess"])
        peaks = [group["peak"] for group in training.optimizer.param_groups]  # the recipe's, not the file's
        training.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(training.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
        if state["scaler"]:  # empty where it trained in another precision so far
            training.scaler.load_state_dict(state["scaler"])
        if training.average is not None:
            training.average.load_state_dict(state["average"])
        training.epoch, training.step = state["epoch"], state["step"]
        training.seen, training.seconds = state["seen"], state["seconds"]
        training.loss_sum = training.loss_sum + world.own_part(state["loss_sum"].to(training.device))
        training.right = training.right + world.own_part(state["right"].to(training.device))
        training.losses.copy_(world.own_part(state["losses"]))
        training.kept = state["kept"].to(training.device)
        training.history = [EpochRow(**row) for row in state["history"]]
        training.confusions = list(state["confusions"].numpy())
        training.predicted = list(state["predicted"].numpy())
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CifarlabError(f"{run.path / 'checkpoint.pt'} does not fit this version: {error}") from error
    return training


def _stored(run: RunFolder) -> dict[str, Any] | None:
    state = run.read_checkpoint()
    if state is None and run.history:
        raise CifarlabError(f"{run.path / 'checkpoint.pt'} is missing, so the run cannot go on: train it anew")
    return state


def save(training: Training, run: RunFolder) -> None:
    """Writes the checkpoint; of several processes each calls this, and the first writes.

    Raises:
        CifarlabError: a weight is no number, or the disk is full; the older checkpoint is untouched.
    """
    if not all(bool(weight.isfinite().all()) for weight in training.classifier.network.parameters()):
        raise diverged(training, run)
    sums = {name: world.total(getattr(training, name)) for name in ("loss_sum", "right", "losses")}
    if not world.is_first():
        return
    run.write_checkpoint(
        {
            "network": training.classifier.network.state_dict(),
            "preprocess": training.classifier.preprocess.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "scaler": training.scaler.state_dict(),
            "average": training.average.state_dict() if training.average is not None else None,
            "epoch": training.epoch,
            "step": training.step,
            "seen": training.seen,
            "seconds": training.seconds,
            **sums,
            "kept": training.kept,
            "history": [asdict(row) for row in training.history],
            "confusions": torch.from_numpy(np.array(training.confusions, dtype=np.int64)),
            "predicted": torch.from_numpy(np.array(training.predicted)),
        }
    )


def diverged(training: Training, run: RunFolder) -> CifarlabError:
    """The error for a loss or a weight that is no number."""
    slower = f"{training.recipe.learning_rate / 10:g}"
    error = CifarlabError(
        f"the loss is not a number any more, in epoch {training.epoch + 1} at step {training.step}; the last good "
        f"state is kept in {run.path}: try a lower learning rate, such as --set learning_rate={slower}"
    )
    error.everywhere = True
    return error
