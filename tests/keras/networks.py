"""Random networks with every layer that `cifarlab import` supports, built with Keras 3, tf.keras or tf_keras.

It runs in the Python of that Keras and imports nothing of cifarlab. `parity.py` compares the results.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

SIZE = 12  # side of the images in pixels
CLASSES = 5
IMAGES = 16


def images(size: int = SIZE) -> np.ndarray:
    """Return uint8 images [n, h, w, 3] that are the same in every library."""
    return np.random.default_rng(7).integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)


class Drawer:
    """Draws layers with random settings. Each method applies one kind of layer to a tensor and returns the result."""

    def __init__(self, keras: Any, seed: int) -> None:
        self.keras, self.layers = keras, keras.layers
        self.draw = random.Random(seed)

    @property
    def is_keras3(self) -> bool:
        return str(getattr(self.keras, "__version__", "2")).startswith("3")

    def form(self) -> str:
        return self.draw.choice(["channels_last", "channels_last", "channels_first"])

    def sizes(self, x: Any, form: str) -> tuple[int, int, int]:
        """Return height, width and channels of a tensor in a data format."""
        _, a, b, c = x.shape
        return (a, b, c) if form == "channels_last" else (b, c, a)

    def pair(self, most: int, *limits: int) -> tuple[int, int]:
        height, width = (self.draw.randint(1, max(1, min(most, limit))) for limit in limits)
        return height, width

    def activation(self) -> Any:
        names = ["relu", "tanh", "sigmoid", "elu", "selu", "softplus", "softsign", "linear", "hard_sigmoid", "swish"]
        names += ["gelu", "exponential", "softmax"]
        if self.is_keras3:
            names += ["relu6", "leaky_relu", "silu", "mish", "hard_silu", "log_softmax", "celu", "hard_tanh"]
            names += ["soft_shrink", "hard_shrink", "tanh_shrink", "log_sigmoid", "squareplus"]
        return self.draw.choice(names)

    def windows(self, x: Any, form: str, stride: int = 3) -> dict[str, Any]:
        """Draw a kernel, and strides or dilation, that fit; TensorFlow does not allow both."""
        height, width, _ = self.sizes(x, form)
        settings: dict[str, Any] = {"padding": self.draw.choice(["same", "valid"]), "data_format": form}
        settings["kernel_size"] = self.pair(5, height, width)
        if settings["padding"] == "same" and self.draw.random() < 0.4:
            settings["dilation_rate"] = self.draw.choice([2, (2, 2), 3])
        else:
            settings["strides"] = self.pair(stride, height, width)
        return settings

    def conv2d(self, x: Any) -> Any:
        form = self.form()
        channels = self.sizes(x, form)[2]
        groups = self.draw.choice([g for g in (1, 1, 2, 3, 4) if channels % g == 0])
        settings = {"groups": groups} if groups > 1 else {}
        settings |= {"use_bias": self.draw.random() < 0.7, "activation": self.activation()}
        return self.layers.Conv2D(groups * self.draw.randint(1, 4), **self.windows(x, form), **settings)(x)

    def depthwise(self, x: Any) -> Any:
        form = self.form()
        settings = self.windows(x, form)
        if "strides" in settings:
            settings["strides"] = settings["strides"][0]  # TensorFlow allows equal strides only
        multiplier = self.draw.randint(1, 2)
        layer = self.layers.DepthwiseConv2D(depth_multiplier=multiplier, activation=self.activation(), **settings)
        return layer(x)

    def separable(self, x: Any) -> Any:
        form = self.form()
        settings = self.windows(x, form)
        if "strides" in settings:
            settings["strides"] = settings["strides"][0]
        multiplier = self.draw.randint(1, 2)
        filters = self.draw.randint(2, 6)
        layer = self.layers.SeparableConv2D(
            filters, depth_multiplier=multiplier, use_bias=self.draw.random() < 0.7, **settings
        )
        return layer(x)

    def dense(self, x: Any) -> Any:
        return self.layers.Dense(self.draw.randint(3, 7), activation=self.activation())(x)

    def batch_normalization(self, x: Any) -> Any:
        axis = self.draw.choice([-1, 1, 2, 3])
        center, scale = self.draw.random() < 0.7, self.draw.random() < 0.7
        return self.layers.BatchNormalization(axis=axis, center=center, scale=scale, epsilon=0.01)(x)

    def pooling(self, x: Any, layer: Any) -> Any:
        form = self.form()
        height, width, _ = self.sizes(x, form)
        strides = self.draw.choice([None, 1, self.pair(2, height, width)])
        settings = {"padding": self.draw.choice(["same", "valid"]), "data_format": form, "strides": strides}
        return layer(pool_size=self.pair(4, height, width), **settings)(x)

    def max_pooling(self, x: Any) -> Any:
        return self.pooling(x, self.layers.MaxPooling2D)

    def average_pooling(self, x: Any) -> Any:
        return self.pooling(x, self.layers.AveragePooling2D)

    def global_pooling(self, x: Any) -> Any:
        kind = self.draw.choice([self.layers.GlobalAveragePooling2D, self.layers.GlobalMaxPooling2D])
        pooled = kind(data_format=self.form(), keepdims=True)(x)
        return self.layers.Multiply()([x, pooled]) if self.fits(x, pooled) else pooled

    def fits(self, x: Any, y: Any) -> bool:
        return all(b in (1, a) for a, b in zip(x.shape[1:], y.shape[1:], strict=True))

    def reshape(self, x: Any) -> Any:
        a, b, c = x.shape[1:]
        return self.layers.Reshape(self.draw.choice([(b, a, c), (c, a, b), (a, -1, b), (b, c, a)]))(x)

    def permute(self, x: Any) -> Any:
        dims = [1, 2, 3]
        self.draw.shuffle(dims)
        return self.layers.Permute(tuple(dims))(x)

    def zero_padding(self, x: Any) -> Any:
        edges = self.draw.choice([1, (2, 1), ((0, 1), (2, 0))])
        return self.layers.ZeroPadding2D(edges, data_format=self.form())(x)

    def cropping(self, x: Any) -> Any:
        form = self.form()
        height, width, _ = self.sizes(x, form)
        edges = ((int(height > 3), 0), (0, int(width > 2)))
        return self.layers.Cropping2D(edges, data_format=form)(x)

    def upsampling(self, x: Any) -> Any:
        how = self.draw.choice(["nearest", "bilinear"])
        return self.layers.UpSampling2D(self.draw.choice([2, (1, 2)]), data_format=self.form(), interpolation=how)(x)

    def activation_layer(self, x: Any) -> Any:
        layers = self.layers
        kinds = [layers.ReLU(), layers.ReLU(6.0), layers.ReLU(2.0, 0.1, 0.21), layers.LeakyReLU(), layers.ELU(0.7)]
        kinds += [layers.PReLU(), layers.PReLU(shared_axes=[1, 2]), layers.Softmax(axis=1), layers.Softmax()]
        kinds += [layers.Activation(self.activation()) for _ in range(3)]
        if not self.is_keras3:
            kinds.append(layers.ThresholdedReLU(0.3))
        return self.draw.choice(kinds)(x)

    def layer_as_activation(self, x: Any) -> Any:
        return self.layers.Dense(4, activation=self.layers.LeakyReLU())(x)

    def dropout(self, x: Any) -> Any:
        layers = self.layers
        kinds = [layers.Dropout(0.3), layers.SpatialDropout2D(0.3), layers.GaussianDropout(0.2)]
        kinds += [layers.GaussianNoise(0.5), layers.AlphaDropout(0.2), layers.ActivityRegularization(l2=0.1)]
        return self.draw.choice(kinds)(x)

    def rescaling(self, x: Any) -> Any:
        channels = x.shape[3]
        scales = [0.5, [0.1 * (1 + place) for place in range(channels)]]
        return self.layers.Rescaling(self.draw.choice(scales), offset=self.draw.choice([0.0, -0.3]))(x)

    def normalization(self, x: Any) -> Any:
        axis = self.draw.choice([-1, 1, None, (1, 3)])
        layer = self.layers.Normalization(axis=axis)
        layer.adapt(np.random.default_rng(1).normal(0.2, 1.3, (32, *x.shape[1:])).astype(np.float32))
        return layer(x)

    def add(self, x: Any) -> Any:
        same = self.layers.Conv2D(x.shape[3], 3, padding="same", activation="tanh")(x)
        kinds = [self.layers.Add, self.layers.Average, self.layers.Maximum, self.layers.Minimum]
        kinds += [self.layers.Multiply, self.layers.Subtract]
        return self.draw.choice(kinds)()([x, same])

    def concatenate(self, x: Any) -> Any:
        axis = self.draw.choice([1, 2, 3, -1])
        return self.layers.Concatenate(axis=axis)([x, self.layers.Activation("tanh")(x)])

    def shared(self, x: Any) -> Any:
        layer = self.layers.Conv2D(x.shape[3], 2, padding="same")
        return layer(self.layers.Activation("tanh")(layer(x)))

    def sequential_inside(self, x: Any) -> Any:
        inner = self.keras.Sequential(
            [
                self.layers.Conv2D(4, 1),
                self.layers.BatchNormalization(),
                self.layers.Conv2D(3, 1, activation="relu"),
                self.layers.BatchNormalization(scale=False),
            ]
        )
        return inner(x)

    def model_inside(self, x: Any) -> Any:
        entry = self.layers.Input(x.shape[1:])
        y = self.layers.Conv2D(x.shape[3], 1)(entry)
        y = self.layers.BatchNormalization()(y)
        inner = self.keras.Model(entry, self.layers.Add()([entry, y]))
        return inner(inner(x))


ANYWHERE = [
    "conv2d",
    "depthwise",
    "separable",
    "dense",
    "batch_normalization",
    "max_pooling",
    "average_pooling",
    "global_pooling",
    "reshape",
    "permute",
    "zero_padding",
    "cropping",
    "upsampling",
    "activation_layer",
    "layer_as_activation",
    "dropout",
    "rescaling",
    "normalization",
    "add",
    "concatenate",
    "shared",
    "sequential_inside",
    "model_inside",
]


def network(keras: Any, seed: int) -> tuple[Any, str]:
    """Return a random model and the kinds of layers in it; every kind appears within a few seeds."""
    drawer = Drawer(keras, seed)
    first = seed % len(ANYWHERE)
    chosen = [ANYWHERE[first], *drawer.draw.sample(ANYWHERE, 3)]
    drawer.draw.shuffle(chosen)
    entry = x = drawer.layers.Input((SIZE, SIZE, 3) if seed % 3 else (3, SIZE, SIZE))
    for kind in chosen:
        x = getattr(drawer, kind)(x)
    ending = drawer.draw.choice(["flatten", "flatten", "pool"])
    if ending == "flatten":
        x = drawer.layers.Flatten(data_format=drawer.form())(x)
    else:
        x = drawer.layers.GlobalAveragePooling2D(data_format=drawer.form())(x)
    x = drawer.layers.Dense(6, activation=drawer.activation())(x)
    x = drawer.layers.BatchNormalization()(x)
    if seed % 5 == 0:
        x = drawer.layers.Dense(1, activation="sigmoid")(x)
    elif seed % 5 == 1:
        x = drawer.layers.Activation("softmax")(drawer.layers.Dense(CLASSES)(x))
    else:
        x = drawer.layers.Dense(CLASSES, activation="softmax")(x)
    model = keras.Model(entry, x)
    shake(model, seed)
    return model, " ".join(chosen)


def shake(model: Any, seed: int, gain: float = 1.5) -> None:
    """Give every weight a value that is neither 0 nor 1 and the same in all libraries.

    Normalization keeps its own. A larger gain makes the probabilities of different images differ more.
    """
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            continue
        drawn = []
        for value in layer.get_weights():
            if value.ndim < 2:  # biases, and variances, which are not negative
                drawn.append(np.abs(generator.normal(0.5, 0.3, value.shape)) + 0.05)
            else:
                deviation = gain / np.prod(value.shape[:-1]) ** 0.5
                drawn.append(generator.normal(0, deviation, value.shape))
        layer.set_weights(drawn)


def probabilities(model: Any, size: int = SIZE) -> np.ndarray:
    """Return the probabilities of `images`, scaled to [0, 1]; of a single output, those of both classes."""
    inputs = images(size).astype(np.float32) / np.float32(255)
    shape = tuple(model.input_shape[1:])
    if shape == (3, size, size):
        inputs = inputs.transpose(0, 3, 1, 2)
    outputs = np.asarray(model.predict(inputs.reshape(IMAGES, *shape), verbose=0, batch_size=IMAGES))
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs
