"""Start a training from weights that were trained before: what is copied, which layers keep it, what they have seen."""

from torch import nn

from cifarlab.data.dataset import Data
from cifarlab.errors import UsageError, validated
from cifarlab.inference.classifier import Classifier
from cifarlab.recipes import FINE_TUNING, SMALL, Recipe
from cifarlab.runs.record import TrainedOn

BATCH_NORM = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
LARGEST_RATES = {"sgd": 0.02, "adam": 1e-3, "adamw": 1e-3, "muon": 1e-3}  # for sgd, of the rate over 1 - momentum


def take_over(classifier: Classifier, source: Classifier) -> None:
    """Copy weights and preprocessing. If the classes differ, the output layers keep their fresh weights."""
    weights, source_weights = classifier.network.state_dict(), source.network.state_dict()
    fresh = set()
    if classifier.classes != source.classes:
        # The output layers are the last one, unless the network names others.
        layers = getattr(classifier.network, "output_layers", None) or layers_with_weights(classifier.network)[-1:]
        outputs = [name for name, layer in classifier.network.named_modules() if layer in layers]
        fresh = {name for name in weights if name.rpartition(".")[0] in outputs}
    for name, weight in weights.items():
        if name not in fresh and (name not in source_weights or source_weights[name].shape != weight.shape):
            raise UsageError(f"start_from: {name} is missing among those weights, or has another shape there")
    copied = {name: weights[name] if name in fresh else source_weights[name] for name in weights}
    classifier.network.load_state_dict(copied)
    classifier.preprocess.load_state_dict(source.preprocess.state_dict())


def freeze(network: nn.Module, count: int, *, statistics: bool = False) -> list[nn.Module]:
    """Stop the first `count` layers with weights from training, and return those to keep in evaluation mode.

    With `statistics`, these include all layers of batch normalisation, whose own weights still train, except output
    layers, whose statistics may be fresh.
    """
    layers = layers_with_weights(network)
    if count >= len(layers):
        raise UsageError(f"freeze must be less than {len(layers)}, the number of layers with weights, got {count}")
    for layer in layers[:count]:
        for weight in layer.parameters(recurse=False):
            weight.requires_grad_(False)
    outputs = getattr(network, "output_layers", [])
    norms = [layer for layer in network.modules() if isinstance(layer, BATCH_NORM) and layer not in outputs]
    return layers[:count] + (norms if statistics else [])


def warning(recipe: Recipe) -> str:
    """Return why a recipe's steps are too large for weights that were trained before; empty if they are not."""
    rate = recipe.learning_rate / (1 - recipe.momentum if recipe.optimizer == "sgd" else 1)
    if not recipe.start_from or rate <= LARGEST_RATES[recipe.optimizer]:
        return ""
    danger, largest = "may destroy the weights of start_from", LARGEST_RATES[recipe.optimizer]
    if recipe.name in (FINE_TUNING, SMALL):
        largest *= 1 - recipe.momentum if recipe.optimizer == "sgd" else 1
        return f"the learning rate {recipe.learning_rate:g} {danger}: use at most {largest:.1g} to fine-tune"
    made_for = f"the learning rate {recipe.learning_rate:g} of {recipe.name} is made for training from scratch and"
    return f"{made_for} {danger}: use the recipe {FINE_TUNING} instead"


def layers_with_weights(network: nn.Module) -> list[nn.Module]:
    """Return the layers that have weights of their own, in the order in which the network names them."""
    return [layer for layer in network.modules() if list(layer.parameters(recurse=False))]


def trainings_of(source: Classifier) -> tuple[TrainedOn, ...]:
    """Return the trainings that weights have been through, the last one first; one of unknown images if unknown."""
    train_on = "all" if "trained on all" in source.about.get("protocol", "") else "split"
    about = {"train_on": train_on, **source.about}  # version 0.2 does not write the key
    earlier = about.get("ancestors", [{}] if "start_from" in about.get("origins", {}) else [])
    return tuple(validated(TrainedOn, each, "start_from: the weights' origin") for each in (about, *earlier))


def doubt(recipe: Recipe, data: Data, source: Classifier) -> str:
    """Return why validation is not honest, or not known to be: the weights may know its images; empty if it is.

    Only images of the same data set, or of other classes than those of known data, are known to be new to the weights.
    """
    for old in trainings_of(source):
        classes = {*source.classes, *old.merge} & set(data.classes) - set(recipe.drop)
        if not old.sha256 or (old.sha256 != data.sha256 and classes):
            return "not known to be honest, because the weights that it started from may know its images"
        is_split = data.validation is None and old.sha256 == data.sha256
        if is_split and set(data.classes) - {*old.drop, *recipe.drop}:
            same_split = (old.seed, set(old.drop), old.merge, old.labels)
            is_same = same_split == (recipe.seed, set(recipe.drop), recipe.merge, recipe.labels)
            if not is_same or old.train_on == "all" or recipe.validation_fraction > old.validation_fraction:
                return "not honest, because the weights that it started from were trained on its validation images"
    return ""
