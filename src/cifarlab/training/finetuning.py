"""Start a training from weights that were trained before: what is copied, and which layers keep it."""

from torch import nn

from cifarlab.errors import UsageError
from cifarlab.inference.classifier import Classifier


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


def freeze(network: nn.Module, count: int) -> list[nn.Module]:
    """Stop the first `count` layers with weights from training, and return them."""
    layers = layers_with_weights(network)
    if count >= len(layers):
        raise UsageError(f"freeze must be less than {len(layers)}, the number of layers with weights, got {count}")
    for layer in layers[:count]:
        for weight in layer.parameters(recurse=False):
            weight.requires_grad_(False)
    return layers[:count]


def layers_with_weights(network: nn.Module) -> list[nn.Module]:
    """Return the layers that have weights of their own, in the order in which the network names them."""
    return [layer for layer in network.modules() if list(layer.parameters(recurse=False))]
