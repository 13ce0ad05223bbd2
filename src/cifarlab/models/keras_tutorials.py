"""Three networks of Keras tutorials: four and six convolutions, and six with batch normalisation.

Where the tutorials pool what an activation gives, pooling comes first here: the values are the same, at a quarter of
the work, because no activation here ever falls. Where they flatten just before a dense layer, flattening comes before
the activation and the dropout: what follows a change of memory order is cheap on flat values.
"""

from __future__ import annotations

from torch import nn

from cifarlab.models.layers import Dropout, MaxNormLinear, flat_features, he_uniform, keras_init
from cifarlab.models.registry import register

KERAS_EPSILON = 1e-3  # of batch normalisation
KERAS_MOMENTUM = 0.01  # of batch normalisation; Keras calls this .99


@register
def keras4(classes: int = 10, size: int = 32) -> nn.Module:
    """Two pairs of convolutions, 32 and 64 maps, the second of each pair without padding."""
    features = nn.Sequential()
    channels = 3
    for maps in (32, 64):
        features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU(), nn.Conv2d(maps, maps, 3)])
        features.extend([nn.MaxPool2d(2), nn.ReLU(), Dropout(0.25)])
        channels = maps
    features.insert(-2, nn.Flatten())  # [b, 2304]
    dense = [nn.Linear(flat_features(features, size), 512), nn.ReLU(), Dropout(0.5), nn.Linear(512, classes)]
    return keras_init(features.extend(dense))


@register
def keras6(classes: int = 10, size: int = 32) -> nn.Module:
    """Three pairs of convolutions, 32, 64 and 128 maps, and a dense layer whose weights have a largest norm of 3."""
    features = nn.Sequential()
    channels = 3
    for maps in (32, 64, 128):
        features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU(), Dropout(0.2)])
        features.extend([nn.Conv2d(maps, maps, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()])
        channels = maps
    features.insert(-1, nn.Flatten())  # [b, 2048]
    features.append(Dropout(0.2))
    dense = MaxNormLinear(flat_features(features, size), 1024, limit=3.0)
    return keras_init(features.extend([dense, nn.ReLU(), Dropout(0.2), nn.Linear(1024, classes)]))


@register
def firststeps(classes: int = 10, size: int = 32) -> nn.Module:
    """Three pairs of convolutions, 32, 64 and 128 maps, batch normalisation after each activation, rising dropout."""
    features = nn.Sequential()
    channels = 3
    for maps, fraction in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU()])
            features.append(nn.BatchNorm2d(maps, KERAS_EPSILON, KERAS_MOMENTUM))
            channels = maps
        features.extend([nn.MaxPool2d(2), Dropout(fraction)])
    features.append(nn.Flatten())  # [b, 2048]
    network = features.extend([nn.Linear(flat_features(features, size), 128), nn.ReLU()])
    network.extend([nn.BatchNorm1d(128, KERAS_EPSILON, KERAS_MOMENTUM), Dropout(0.5), nn.Linear(128, classes)])
    keras_init(network)
    for layer in list(network)[:-1]:  # all but the output layer
        if isinstance(layer, nn.Conv2d | nn.Linear):
            he_uniform(layer)
    return network
