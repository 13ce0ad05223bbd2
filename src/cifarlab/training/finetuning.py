"""Starting from weights that somebody trained before: what is taken over, and which layers keep it."""

from __future__ import annotations

from torch import nn

from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier


def take_over(classifier: Classifier, source: Classifier) -> None:
    """Copies weights and preprocessing. For other classes, what makes the outputs keeps its fresh weights.

    Args:
        classifier: with fresh weights.
        source: of the same network, on the CPU.

    Raises:
        UsageError: the networks differ in more than the number of classes.
    """
    ours, theirs = classifier.network.state_dict(), source.network.state_dict()
    new = set()
    if classifier.classes != source.classes:
        outputs = [_name_of(classifier.network, layer) for layer in _output_layers(classifier.network)]
        new = {name for name in ours if name.rpartition(".")[0] in outputs}
    wrong = [
        name for name in ours if name not in new and (name not in theirs or theirs[name].shape != ours[name].shape)
    ]
    if wrong:
        raise UsageError(f"start_from: {wrong[0]} is missing among those weights, or has another shape there")
    classifier.network.load_state_dict({name: ours[name] if name in new else theirs[name] for name in ours})
    classifier.preprocess.load_state_dict(source.preprocess.state_dict())


def freeze(network: nn.Module, count: int) -> list[nn.Module]:
    """Has the first layers with weights keep them, and gives these layers.

    Raises:
        UsageError: nothing would be left to train.
    """
    layers = layers_with_weights(network)
    if count >= len(layers):
        raise UsageError(f"freeze should leave a layer to train: {len(layers)} layers have weights, got {count}")
    for layer in layers[:count]:
        for weight in layer.parameters(recurse=False):
            weight.requires_grad_(False)
    return layers[:count]


def layers_with_weights(network: nn.Module) -> list[nn.Module]:
    """In the order in which the network names them, which is that of its layer table for networks of a chain."""
    return [layer for layer in network.modules() if list(layer.parameters(recurse=False))]


def _output_layers(network: nn.Module) -> list[nn.Module]:
    """Those that the network says, where it knows better than that they are its last."""
    said: list[nn.Module] = getattr(network, "output_layers", None) or layers_with_weights(network)[-1:]
    return said


def _name_of(network: nn.Module, layer: nn.Module) -> str:
    names: dict[nn.Module, str] = {each: name for name, each in network.named_modules()}
    return names[layer]
