"""All-CNN-C of Springenberg et al. 2014 (arXiv 1412.6806), and a variant with max pooling."""

from torch import nn

from cifarlab.models.layers import Dropout, keras_init
from cifarlab.models.registry import register


def _conv_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]


@register
def ygnet(classes: int = 10, early_dropout: float = 0.2, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """All-CNN-C with overlapping max pooling instead of strided convolutions, as in a Keras write-up.

    `early_dropout` is the dropout rate after the first convolution, `dropout` that after each pooling.
    """
    return keras_init(
        nn.Sequential(
            *_conv_relu(in_channels, 96),  # [b, 96, 32, 32]
            Dropout(early_dropout),
            *_conv_relu(96, 96),
            *_conv_relu(96, 96),
            nn.MaxPool2d(3, 2),  # [b, 96, 15, 15]
            Dropout(dropout),
            *_conv_relu(96, 192),
            *_conv_relu(192, 192, padding=0),  # [b, 192, 13, 13]
            *_conv_relu(192, 192),
            nn.MaxPool2d(3, 2),  # [b, 192, 6, 6]
            Dropout(dropout),
            *_conv_relu(192, 192),
            *_conv_relu(192, 192, kernel=1, padding=0),
            nn.Conv2d(192, classes, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),  # [b, classes]
        )
    )


@register
def allcnn_c(classes: int = 10, early_dropout: float = 0.2, dropout: float = 0.5, in_channels: int = 3) -> nn.Module:
    """All-CNN-C of the paper, with ReLU after every convolution, including the last one.

    The seventh convolution has no padding, so the average is over 6x6 positions, as in Table 1 of the paper.
    `early_dropout` is the dropout rate of the input images, `dropout` that after each strided convolution.
    """
    return keras_init(
        nn.Sequential(
            Dropout(early_dropout),
            *_conv_relu(in_channels, 96),  # [b, 96, 32, 32]
            *_conv_relu(96, 96),
            *_conv_relu(96, 96, stride=2),  # [b, 96, 16, 16]
            Dropout(dropout),
            *_conv_relu(96, 192),
            *_conv_relu(192, 192),
            *_conv_relu(192, 192, stride=2),  # [b, 192, 8, 8]
            Dropout(dropout),
            *_conv_relu(192, 192, padding=0),  # [b, 192, 6, 6]
            *_conv_relu(192, 192, kernel=1, padding=0),
            *_conv_relu(192, classes, kernel=1, padding=0),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),  # [b, classes]
        )
    )
