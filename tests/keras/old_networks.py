"""A few networks for libraries since Keras 1.2, with every layer and both data formats.

They use the names of Keras 2, which `Layers` translates for Keras 1. It runs in the Python of that library.
"""

from __future__ import annotations

from typing import Any

SIZE, CLASSES = 8, 5
KERAS_1 = {
    "filters": "nb_filter",
    "padding": "border_mode",
    "use_bias": "bias",
    "units": "output_dim",
    "rate": "p",
    "stddev": "sigma",
}
FIRST, LAST = "channels_first", "channels_last"


class Layers:
    """Makes layers from the names and settings of Keras 2."""

    def __init__(self, keras: Any, version: str) -> None:
        self.keras, self.layers = keras, keras.layers
        self.version = tuple(int(part) for part in version.split("-")[0].split(".")[:2])

    def __call__(self, kind: str, **settings: Any) -> Any:
        if self.version[0] > 1:
            return getattr(self.layers, kind)(**settings)
        names = dict(KERAS_1)
        if "Conv" in kind:
            names["strides"] = "subsample"
        if kind == "ZeroPadding2D":
            del names["padding"]
        translated = {names.get(key, key): value for key, value in settings.items()}
        if "data_format" in translated:
            translated["dim_ordering"] = {FIRST: "th", LAST: "tf"}[translated.pop("data_format")]
        if "kernel_size" in translated:
            translated["nb_row"], translated["nb_col"] = translated.pop("kernel_size")
        if "dilation_rate" in translated:
            translated["atrous_rate"], kind = translated.pop("dilation_rate"), "AtrousConvolution2D"
        old = {"Conv2D": "Convolution2D", "SeparableConv2D": "SeparableConvolution2D"}
        return getattr(self.layers, old.get(kind, kind))(**translated)

    def flatten(self, form: str) -> Any:
        """Make a Flatten layer with a data_format, if the library has one."""
        return self.layers.Flatten(data_format=form) if self.version >= (2, 2) else self.layers.Flatten()

    def join(self, how: str, values: list[Any], axis: int = -1) -> Any:
        """Add or concatenate values."""
        if self.version[0] > 1:
            return self.layers.Add()(values) if how == "sum" else self.layers.Concatenate(axis=axis)(values)
        return self.layers.merge(values, mode=how, concat_axis=axis)

    def model(self, entry: Any, result: Any) -> Any:
        """Make a functional model."""
        names = ("input", "output") if self.version[0] == 1 else ("inputs", "outputs")
        return self.keras.models.Model(**dict(zip(names, (entry, result), strict=True)))


def channels_first(w: Layers) -> Any:
    return w.keras.models.Sequential(
        [
            w(
                "Conv2D",
                filters=4,
                kernel_size=(3, 3),
                strides=(2, 2),
                padding="same",
                data_format=FIRST,
                activation="relu",
                input_shape=(3, SIZE, SIZE),
            ),
            w("Conv2D", filters=5, kernel_size=(2, 2), padding="same", data_format=FIRST, use_bias=False),
            w("BatchNormalization", axis=1),
            w("Activation", activation="relu"),
            w("MaxPooling2D", pool_size=(3, 3), strides=(2, 2), padding="same", data_format=FIRST),
            w.flatten(FIRST),
            w("Dense", units=7, activation="tanh"),
            w("Dropout", rate=0.3),
            w("Dense", units=CLASSES, activation="softmax"),
        ]
    )


def channels_last(w: Layers) -> Any:
    return w.keras.models.Sequential(
        [
            w("ZeroPadding2D", padding=(1, 2), data_format=LAST, input_shape=(SIZE, SIZE, 3)),
            w("Conv2D", filters=4, kernel_size=(3, 2), strides=(1, 2), data_format=LAST),
            w("ELU", alpha=0.8),
            w("AveragePooling2D", pool_size=(2, 2), strides=(1, 1), padding="same", data_format=LAST),
            w("Conv2D", filters=5, kernel_size=(3, 3), dilation_rate=(2, 2), data_format=LAST),
            w("LeakyReLU", alpha=0.2),
            w("UpSampling2D", size=(2, 1), data_format=LAST),
            w("Cropping2D", cropping=((1, 0), (0, 1)), data_format=LAST),
            w("PReLU", shared_axes=[1, 2]),
            w("SpatialDropout2D", rate=0.2, data_format=LAST),
            w("GlobalMaxPooling2D", data_format=LAST),
            w("Dense", units=6, activation="hard_sigmoid"),
            w("Dense", units=1, activation="sigmoid"),
        ]
    )


def mixed(w: Layers) -> Any:
    """Convolutions of one data format between poolings of the other, as in tutorials ported to another backend."""
    return w.keras.models.Sequential(
        [
            w(
                "Conv2D",
                filters=4,
                kernel_size=(3, 3),
                padding="same",
                data_format=FIRST,
                activation="relu",
                input_shape=(SIZE, SIZE, 3),
            ),
            w("MaxPooling2D", pool_size=(2, 2), data_format=LAST),
            w("Conv2D", filters=3, kernel_size=(2, 2), data_format=FIRST, activation="sigmoid"),
            w("AveragePooling2D", pool_size=(2, 1), data_format=LAST),
            w("BatchNormalization", axis=2),
            w("Permute", dims=(3, 1, 2)),
            w("Reshape", target_shape=(3, 2)),
            w("Flatten"),
            w("Dense", units=CLASSES),
            w("Activation", activation="softmax"),
        ]
    )


def graph(w: Layers) -> Any:
    inner = w.keras.models.Sequential(
        [
            w("Conv2D", filters=3, kernel_size=(1, 1), data_format=LAST, input_shape=(SIZE // 2, SIZE // 2, 8)),
            w("BatchNormalization"),
            w("Conv2D", filters=4, kernel_size=(2, 2), data_format=LAST),
            w("BatchNormalization", axis=3),
        ]
    )
    shared = w("Conv2D", filters=4, kernel_size=(3, 3), padding="same", data_format=LAST, activation="tanh")
    entry = w.layers.Input(shape=(SIZE, SIZE, 3))
    x = w("Conv2D", filters=4, kernel_size=(2, 2), strides=(2, 2), data_format=LAST)(entry)
    y = shared(shared(x))
    x = w.join("sum", [x, y])
    x = w.join("concat", [x, y], axis=3)
    x = w("Flatten")(inner(x))
    return w.model(entry, w("Dense", units=CLASSES, activation="softmax")(x))


def separable(w: Layers) -> Any:
    layers = [
        w(
            "SeparableConv2D",
            filters=5,
            kernel_size=(3, 3),
            depth_multiplier=2,
            padding="same",
            data_format=LAST,
            input_shape=(SIZE, SIZE, 3),
        ),
        w("Activation", activation="softplus"),
        w("GlobalAveragePooling2D", data_format=LAST),
        w("Dense", units=CLASSES, activation="softmax"),
    ]
    if w.version >= (2, 2):
        layers.insert(
            2, w("DepthwiseConv2D", kernel_size=(2, 3), depth_multiplier=2, data_format=LAST, activation="relu")
        )
        layers.insert(3, w("ReLU", max_value=6.0))
        layers.insert(-1, w("Softmax"))
    return w.keras.models.Sequential(layers)


def flat(w: Layers) -> Any:
    return w.keras.models.Sequential(
        [
            w("Dense", units=3, activation="relu", input_dim=SIZE * SIZE * 3),
            w("GaussianNoise", stddev=0.1),
            w("Dense", units=CLASSES, activation="softmax"),
        ]
    )


NETWORKS = (channels_first, channels_last, mixed, graph, separable, flat)
