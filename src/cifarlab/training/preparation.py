"""Prepare a training: resolve every name, load and split the data, build the network once and try it once.

Everything that trains begins here: `train` and its dry run, range tests, tunings, studies, benchmarks and the
scikit-learn estimator. Nothing is created on the disk but the cache of data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifarlab import models
from cifarlab.data.arrays import GivenData
from cifarlab.data.batches import seed_for
from cifarlab.data.catalogue import DESCRIPTIONS, absolute, count_own_images, load_parts
from cifarlab.data.dataset import Data, Dataset, Parts
from cifarlab.device import choose_device, environment
from cifarlab.errors import UsageError
from cifarlab.inference import onnx_files
from cifarlab.inference.classifier import Classifier, make_classifier
from cifarlab.inference.loading import load as load_target
from cifarlab.models.own_networks import refuse_while_loading
from cifarlab.models.registry import network_sha256, source_sha256
from cifarlab.models.summary import count_macs, count_parameters
from cifarlab.parallel.world import SINGLE, World
from cifarlab.progress import notice
from cifarlab.recipes import DEFAULT, FEW_IMAGES, FINE_TUNING, PREPROCESSING, SMALL, Recipe, load, names
from cifarlab.runs.record import CHECKPOINT_EVERY, Computation, DataRecord, Environment, RunRecord
from cifarlab.statistics import metrics
from cifarlab.training import finetuning


@dataclass(frozen=True)
class Prepared:
    """A training before its first step: what to do, on which images, with which network, where."""

    recipe: Recipe  # with every name resolved
    parts: Parts
    data: DataRecord
    classifier: Classifier  # fresh weights or those of `source`, on the CPU; preprocessing is not fitted yet
    parameters: int  # of the network, frozen ones included
    frozen: list[nn.Module]  # layers that keep the weights that they start with
    device: torch.device
    source: Classifier | None  # what `recipe.start_from` names
    world: World
    gives_probabilities: bool  # the network ends in softmax, although the loss takes logits
    costs: Mapping[int, float]  # arithmetic for an image by its side, where resizing changes it; that of `size` is 1
    computed: tuple[Computation, ...] = ()  # precision and threads, where `loop.settle` or an earlier run chose them

    @property
    def warnings(self) -> list[str]:
        """What may spoil the result, and what of the settings does nothing; a sentence each."""
        recipe, described = self.recipe, DESCRIPTIONS.get(self.recipe.dataset)
        found = [text] if (text := finetuning.warning(recipe)) else []
        if self.gives_probabilities:
            found.append("the network gives probabilities, but the loss takes logits: leave its softmax out")
        if described and not described.same_if_mirrored:
            for key in ("flip", "alternate_flip"):
                if getattr(recipe.augment, key):
                    found.append(f"signs of {described.title} are mirrored: --set augment.{key}=false leaves them")
        if recipe.channels == "mono" and self.parts.train.images.shape[1] == 3:
            found.append(f'the colours of {recipe.dataset} become gray, because of channels = "mono"')
        return found + recipe.without_effect()

    @property
    def environment(self) -> Environment:
        """Versions, machine and number of processes, for run.json."""
        processes = {"processes": self.world.size} if self.world.size > 1 else {}
        return Environment(**(environment(self.device) | processes))

    @property
    def starts_trained(self) -> bool:
        """True if the weights to start from know these classes, so that no layer is fresh."""
        return self.source is not None and self.source.classes == self.classifier.classes

    @property
    def origins(self) -> dict[str, str]:
        """SHA-256 of the weights and the user's code that a run depends on but does not contain, by recipe key."""
        sums = {} if self.source is None else {"start_from": self.source.sha256}
        own = source_sha256(self.recipe.model)
        return sums | {"model": own, "network": network_sha256(self.classifier.network)} if own else sums


def prepare(
    recipe: Recipe | str,
    *,
    data: GivenData | None = None,
    model: str | Callable[..., nn.Module] | None = None,
    device: str = "auto",
    runs: Path | str | None = None,
    quiet: bool = True,
    world: World = SINGLE,
    resumed: bool = False,
    sha256: str = "",
) -> Prepared:
    """Resolve every name in a recipe, load and split its data, build its network once and try it once.

    Args:
        data: a data set in memory to use instead of the recipe's.
        model: a network to use instead of the recipe's: a name, `FILE.py:NAME`, or a function or class that makes one.
            It gets the recipe's `model_options`, except those of a shipped recipe.
        runs: the folder of runs, where `recipe.start_from` may name one.
        resumed: a checkpoint will replace the weights: build the network, but neither load a source nor try it.
        sha256: checksum that the data must have.
    """
    recipe = load(recipe) if isinstance(recipe, str) else recipe
    if model is not None:
        shipped = load(recipe.name).model_options if recipe.name in names() else {}
        own_options = {key: value for key, value in recipe.model_options.items() if shipped.get(key) != value}
        model = models.resolve_model_name(model)
        recipe = recipe.changed({"model": model} | ({} if model == recipe.model else {"model_options": own_options}))
    recipe = recipe.model_copy(update={"model": models.resolve_model_name(recipe.model)})
    place = choose_device(device)
    world.check(batch_size=recipe.batch_size, compiled=recipe.compile, device=place)
    recipe = recipe.changed({"dataset": absolute(recipe.dataset)})
    recipe, source = (recipe, None) if resumed else load_source(recipe, runs)
    whole, parts = load_parts(recipe, data=data, sha256=sha256, quiet=quiet or not world.is_first)
    recipe = recipe.changed({"dataset": whole.name})
    if source and (doubt := finetuning.doubt(recipe, whole, source)):
        parts = replace(parts, protocol=parts.protocol.replace("honest protocol", doubt))
    return prepare_parts(recipe, whole, parts, place, source=source, resumed=resumed, world=world)


def choose_recipe(changes: Mapping[str, Any], data: GivenData | None = None, *, quiet: bool = False) -> Recipe:
    """Return the recipe for a training that names none: by start weights, data set or number of images, or the default.

    Args:
        changes: values of the recipe's keys that are set for this training; they are not applied.
        data: a data set in memory to use instead of the recipe's.
        quiet: do not say which recipe is chosen for a data set or for few images.
    """
    if changes.get("start_from"):
        return load(FINE_TUNING)
    if {"start_from", "model"} & changes.keys():
        return load(DEFAULT)
    if (dataset := changes.get("dataset", "")) in names() and data is None:
        other = f"name another to choose it: cifarlab train {DEFAULT} --data {dataset}"
        notice(f"the recipe {dataset!r}, made for this data set, is chosen; {other}", quiet=quiet)
        return load(dataset)
    count = count_own_images(changes.get("dataset", ""), data)
    if not 0 < count <= FEW_IMAGES:
        return load(DEFAULT)
    fixed = [key for key in ("size", *PREPROCESSING) if key in changes]
    chosen, reason = SMALL, f"; name another to choose it: cifarlab train {DEFAULT}"
    if fixed:
        chosen, reason = DEFAULT, f", because the weights of {SMALL!r}, the default for few images, decide {fixed[0]}"
    notice(f"{count} training images: the recipe {chosen!r} is chosen{reason}", quiet=quiet)
    return load(chosen)


def prepare_parts(
    recipe: Recipe,
    data: Data,
    parts: Parts,
    device: torch.device,
    *,
    source: Classifier | None = None,
    resumed: bool = False,
    world: World = SINGLE,
) -> Prepared:
    """Prepare a training on parts of `data` in memory, by a recipe whose names are resolved; see `prepare`."""
    refuse_while_loading()
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(recipe.seed, "weights"))
        classifier = make_classifier(
            recipe.model, recipe.model_options, parts.train.classes, recipe.size, recipe.preprocessing
        )
        if source is not None:
            finetuning.take_over(classifier, source)
        parameters = count_parameters(classifier.network)
        frozen = finetuning.freeze(classifier.network, recipe.freeze, statistics=recipe.freeze_statistics)
        gives_probabilities = False
        if not resumed:
            tensors = [*classifier.network.parameters(), *classifier.network.buffers()]
            before = [tensor.detach().clone() for tensor in tensors]
            for size in (*(size for size, _ in recipe.smaller_sizes), recipe.size):
                gives_probabilities = models.try_step(
                    classifier.network, min(recipe.batch_size, 2), size, classifier.in_channels
                )
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
            classifier.network.zero_grad()
        costs = _costs(classifier, recipe)
    record = DataRecord(
        name=data.name,
        source=data.source,
        path=data.path,
        sha256=data.sha256,
        classes=parts.train.classes,
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        majority=metrics.majority_share(parts.test.labels),
        skipped=data.skipped,
    )
    return Prepared(
        recipe, parts, record, classifier, parameters, frozen, device, source, world, gives_probabilities, costs
    )


def _costs(classifier: Classifier, recipe: Recipe) -> dict[int, float]:
    """Return the arithmetic of progressive resizing's images, as shares of that of an image of the recipe's size."""
    sizes = [size for size, _ in recipe.smaller_sizes]
    count = partial(count_macs, classifier.network, in_channels=classifier.in_channels)
    whole = count(recipe.size) if sizes else 0
    return {size: count(size) / whole if whole else (size / recipe.size) ** 2 for size in sizes}


def prepare_images(recipe: Recipe, images: Dataset, device: torch.device, world: World = SINGLE) -> Prepared:
    """Prepare a training on images in memory that is neither validated nor tested; see `prepare_parts`."""
    data = Data("memory", images, images, "", "memory", "")
    return prepare_parts(recipe, data, Parts(images, images, images, "not evaluated"), device, world=world)


def new_record(
    prepared: Prepared, command: str = "", track: Sequence[str] = (), checkpoint_every: str = CHECKPOINT_EVERY
) -> RunRecord:
    """Return the contents of run.json of a run that begins."""
    return RunRecord(
        recipe=prepared.recipe,
        data=prepared.data,
        seed=prepared.recipe.seed,
        protocol=prepared.parts.protocol,
        environment=prepared.environment,
        command=command,
        track=tuple(track),
        checkpoint_every=checkpoint_every,
        computed=prepared.computed,
        ancestors=() if prepared.source is None else finetuning.trainings_of(prepared.source),
        origins=prepared.origins,
    )


def load_source(recipe: Recipe, runs: Path | str | None) -> tuple[Recipe, Classifier | None]:
    """Load what `recipe.start_from` names, and return the recipe with its network, image size and preprocessing."""
    if not recipe.start_from:
        return recipe, None
    source = load_target(recipe.start_from, runs=runs, device="cpu")
    if source.model == onnx_files.MODEL:
        raise UsageError(f"start_from: {recipe.start_from} is an ONNX file, which predicts but cannot be trained")
    options = {"model": source.model, "model_options": dict(source.model_options)}
    return recipe.changed({**options, "size": source.size, **asdict(source.preprocess.settings)}), source
