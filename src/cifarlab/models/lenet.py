"""LeNet-5 in three variants: that of LeCun et al. 1998, a small one with 3x3 kernels, a wide one with dropout."""

from torch import nn

from cifarlab.errors import unknown
from cifarlab.models.layers import Dropout, SparseConv2d, flat_features, keras_init
from cifarlab.models.registry import register

C3_CONNECTIONS = (
    *[[first, (first + 1) % 6, (first + 2) % 6] for first in range(6)],  # three neighbouring maps
    *[[first, (first + 1) % 6, (first + 2) % 6, (first + 3) % 6] for first in range(6)],  # four neighbouring
    *[[first, (first + 1) % 6, (first + 3) % 6, (first + 4) % 6] for first in range(3)],  # two pairs with a gap
    list(range(6)),
)
"""For each map of C3, the maps of S2 that it sees: Table I of LeCun, Bottou, Bengio and Haffner 1998."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
_POOLINGS: dict[str, type[nn.Module]] = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}
_C3 = ("sparse", "dense")


@register
def lenet5(
    classes: int = 10,
    size: int = 32,
    activation: str = "tanh",
    pooling: str = "average",
    c3: str = "sparse",
    in_channels: int = 3,
) -> nn.Module:
    """LeNet-5 with softmax outputs and pooling without weights.

    Args:
        classes: number of outputs.
        size: side of the images in pixels; at least 32.
        activation: `tanh` or `relu`.
        pooling: `average` or `max`.
        c3: connections of layer C3: `sparse` for the 60 of LeCun's table, `dense` for all 96.
        in_channels: channels of the images: 3, or 1 for gray ones.
    """
    options = (("activation", activation, _ACTIVATIONS), ("pooling", pooling, _POOLINGS), ("c3", c3, _C3))
    for option, value, allowed in options:
        if value not in allowed:
            raise unknown(option, value, allowed)
    act, pool = _ACTIVATIONS[activation], _POOLINGS[pooling]
    conv3 = SparseConv2d(6, C3_CONNECTIONS, 5) if c3 == "sparse" else nn.Conv2d(6, 16, 5)
    features = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5),  # C1 [b, 6, 28, 28]
        act(),
        pool(2),  # S2 [b, 6, 14, 14]
        conv3,  # C3 [b, 16, 10, 10]
        act(),
        pool(2),  # S4 [b, 16, 5, 5]
        nn.Conv2d(16, 120, 5),  # C5 [b, 120, 1, 1]
        act(),
        nn.Flatten(),
    )
    return features.extend([nn.Linear(flat_features(features, size, in_channels), 84), act(), nn.Linear(84, classes)])


@register
def lenet5_3x3(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """A small LeNet with 30 and 13 channels and 3x3 kernels, as in a Keras write-up that drops and merges classes."""
    features = nn.Sequential(
        nn.Conv2d(in_channels, 30, 3),  # [b, 30, 30, 30]
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(30, 13, 3),  # [b, 13, 13, 13]
        nn.MaxPool2d(2),
        nn.Flatten(),  # [b, 468]
        nn.ReLU(),
    )
    dense = [nn.Linear(flat_features(features, size, in_channels), 120), nn.ReLU(), nn.Linear(120, 86), nn.ReLU()]
    return keras_init(features.extend([*dense, nn.Linear(86, classes)]))


@register
def lenet5_wide(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """A LeNet with 32 and 64 channels, 5x5 kernels and dropout; its first dense layer starts Xavier-normal."""
    features = nn.Sequential(
        nn.Conv2d(in_channels, 32, 5),  # [b, 32, 28, 28]
        nn.ReLU(),
        Dropout(0.2),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),  # [b, 64, 10, 10]
        nn.ReLU(),
        Dropout(0.2),
        nn.MaxPool2d(2),
        nn.Flatten(),  # [b, 1600]
    )
    first = nn.Linear(flat_features(features, size, in_channels), 200)
    nn.init.xavier_normal_(first.weight)
    return features.extend([first, nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, classes)])
