"""Three networks of Keras tutorials: four and six convolutions, and six with batch normalisation.

The tutorials pool after an activation; pooling comes first here, for a quarter of the work. The values are the same,
because every activation here is monotonic. The tutorials flatten just before a dense layer; flattening comes before the
activation and the dropout here, because both are faster on flat values after a change of memory order.
"""

from torch import nn

from cifarlab.models.layers import Dropout, MaxNormLinear, flat_features, keras_init
from cifarlab.models.registry import register

KERAS_EPSILON = 1e-3  # of batch normalisation
KERAS_MOMENTUM = 0.01  # of batch normalisation; Keras writes it as 0.99


@register
def keras4(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """Two pairs of convolutions with 32 and 64 channels, the second of each pair without padding."""
    features = nn.Sequential()
    channels = in_channels
    for maps in (32, 64):
        features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU(), nn.Conv2d(maps, maps, 3)])
        features.extend([nn.MaxPool2d(2), nn.ReLU(), Dropout(0.25)])
        channels = maps
    features.insert(-2, nn.Flatten())  # [b, 2304]
    dense = [
        nn.Linear(flat_features(features, size, in_channels), 512),
        nn.ReLU(),
        Dropout(0.5),
        nn.Linear(512, classes),
    ]
    return keras_init(features.extend(dense))


@register
def keras6(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """Three pairs of convolutions with 32, 64 and 128 channels, and a dense layer with a weight norm of at most 3."""
    features = nn.Sequential()
    channels = in_channels
    for maps in (32, 64, 128):
        features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU(), Dropout(0.2)])
        features.extend([nn.Conv2d(maps, maps, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()])
        channels = maps
    features.insert(-1, nn.Flatten())  # [b, 2048]
    features.append(Dropout(0.2))
    dense = MaxNormLinear(flat_features(features, size, in_channels), 1024, limit=3.0)
    return keras_init(features.extend([dense, nn.ReLU(), Dropout(0.2), nn.Linear(1024, classes)]))


@register
def firststeps(classes: int = 10, size: int = 32, in_channels: int = 3) -> nn.Module:
    """Three pairs of convolutions with 32, 64 and 128 channels, batch normalisation and rising dropout."""
    features = nn.Sequential()
    channels = in_channels
    for maps, fraction in ((32, 0.2), (64, 0.3), (128, 0.4)):
        for _ in range(2):
            features.extend([nn.Conv2d(channels, maps, 3, padding=1), nn.ReLU()])
            features.append(nn.BatchNorm2d(maps, KERAS_EPSILON, KERAS_MOMENTUM))
            channels = maps
        features.extend([nn.MaxPool2d(2), Dropout(fraction)])
    features.append(nn.Flatten())  # [b, 2048]
    network = features.extend([nn.Linear(flat_features(features, size, in_channels), 128), nn.ReLU()])
    network.extend([nn.BatchNorm1d(128, KERAS_EPSILON, KERAS_MOMENTUM), Dropout(0.5), nn.Linear(128, classes)])
    keras_init(network)
    for layer in list(network)[:-1]:  # all but the output layer start as Keras's `he_uniform` (He et al. 2015)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    return network
