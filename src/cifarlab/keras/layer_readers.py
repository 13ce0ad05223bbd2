"""Read the layers of a Keras file: their settings, checked and in one form for all versions of Keras.

A layer here needs its class in `cifarlab.models.keras_graph`, which computes it from these settings.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError, nearest
from cifarlab.keras.keras1 import translate_layer
from cifarlab.keras.layer_settings import LayerSettings

DATA_FORMATS = ("channels_last", "channels_first")
HOW_TO_FIX = "remove or replace it and save the model again (docs/internals/keras.md lists the supported layers)"
ACTIVATIONS = (  # each has a function in cifarlab.models.keras_graph.activations
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "tanh", "sigmoid"),
    *("hard_sigmoid", "hard_silu", "hard_tanh", "softmax", "log_softmax", "log_sigmoid", "softplus", "softsign"),
    *("exponential", "mish", "soft_shrink", "hard_shrink", "tanh_shrink", "squareplus"),
)
AUGMENTATIONS = (
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPerspective", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation"),
    *("RandomZoom", "AugMix", "CutMix", "MixUp", "RandAugment"),
)
_ACTIVATION_ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "softmax_v2": "softmax", "exp": "exponential"}
_RUNS_CODE = ("Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod")


@dataclass(frozen=True)
class Origin:
    """The program that wrote a file, which decides how to read some settings."""

    version: tuple[int, ...]
    """Version of Keras, such as (2, 1, 6)."""
    backend: str | None
    """`tensorflow`, `theano`, …, or None if the file does not say."""

    @property
    def major(self) -> int:
        """The first number of the version."""
        return self.version[0]


@dataclass(frozen=True)
class ReadLayer:
    """A layer for `cifarlab.models.keras_graph`, and the arrays that Keras stores for it."""

    kind: str
    """Name of the class in `keras_graph`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class, and `data_format`."""
    arrays: tuple[str, ...] = ()
    """Names of the layer's arrays in Keras's order."""
    trained: int = 0
    """Number of arrays that are trained, which come first."""
    activation: "ReadLayer | None" = None
    """Activation that follows the layer."""
    remark: str = ""
    """A remark for the user."""


def read_layer(class_name: str, config: object, origin: Origin, label: str) -> ReadLayer:
    """Read a layer that is not a model.

    Args:
        class_name: class of the layer in the file.
        config: settings of the layer in the file.
        origin: the program that wrote the file.
        label: the layer's name and class, for errors.

    Raises:
        UsageError: the layer or one of its settings is not supported.
    """
    if origin.major == 1:
        class_name, config = translate_layer(class_name, config, label)
    reader = READERS.get(class_name)
    if class_name in _RUNS_CODE:
        raise UsageError(f"{label} runs Python code or an operation of its own, which is never run: {HOW_TO_FIX}")
    if reader is None:
        similar = nearest(class_name, READERS)
        hint = f"; {similar} is" if similar is not None else ""
        raise UsageError(f"{label} is not a supported layer{hint}: {HOW_TO_FIX}")
    settings = LayerSettings(label, config)
    layer = reader(settings, origin)
    settings.refuse_unknown()
    return layer


def check_is_keras(entry: dict[str, Any], label: str) -> None:
    """Check that a class is Keras's own: a class of the user may have the same name and do something else.

    Args:
        entry: the object with `class_name` and, in newer files, `module` and `registered_name`.
        label: the layer's name and class, for errors.

    Raises:
        UsageError: the class is the user's own.
    """
    module, registered = str(entry.get("module", "keras")), str(entry.get("registered_name"))
    packages = ("keras", "builtins") if entry.get("class_name") == "function" else ("keras", "tf_keras")
    if module.partition(".")[0] not in packages or ">" in registered:
        raise UsageError(f"{label} is a class of your own, whose code is never run: {HOW_TO_FIX}")


def _data_format(layer: LayerSettings) -> str:
    return layer.choice("data_format", DATA_FORMATS, "channels_last")


def _padding(layer: LayerSettings, origin: Origin) -> str:
    padding = layer.choice("padding", ("valid", "same"), "valid")
    return "theano" if padding == "same" and origin.backend == "theano" else padding


def _activation(layer: LayerSettings, origin: Origin) -> ReadLayer | None:
    """Read a layer's setting `activation`; return None if it is absent or linear."""
    name = setting = layer.take("activation")
    if setting is None or setting == "linear":
        return None
    if isinstance(setting, dict):
        class_name, label = setting.get("class_name"), f"the activation of {layer.label}"
        check_is_keras(setting, label)
        if class_name in _ACTIVATION_LAYERS:
            return read_layer(str(class_name), setting.get("config"), origin, label)
        # Keras stores a plain function as class `function`, with its name in `config`.
        name = setting.get("config") if class_name == "function" else class_name
    name = _ACTIVATION_ALIASES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise layer.error("activation", f"one of {', '.join(ACTIVATIONS)}", name)
    has_new_formula = name == "hard_sigmoid" and origin.major >= 3
    return ReadLayer("Activation", {"function": "hard_sigmoid_3" if has_new_formula else name})


def _convolution(layer: LayerSettings, origin: Origin) -> dict[str, Any]:
    """Read the settings that all kinds of convolution have."""
    return {
        "kernel_size": layer.integer_pair("kernel_size"),
        "strides": layer.integer_pair("strides", default=1),
        "padding": _padding(layer, origin),
        "dilation_rate": layer.integer_pair("dilation_rate", default=1),
        "use_bias": layer.boolean("use_bias", True),
        "data_format": _data_format(layer),
    }


def _conv2d(layer: LayerSettings, origin: Origin) -> ReadLayer:
    counts = {"filters": layer.integer("filters"), "groups": layer.integer("groups", default=1)}
    return _with_bias("Conv2D", counts | _convolution(layer, origin), ("kernel",), _activation(layer, origin))


def _depthwise(layer: LayerSettings, origin: Origin) -> ReadLayer:
    layer.take("filters", "groups")  # some versions write these, which follow from the input
    settings = {"depth_multiplier": layer.integer("depth_multiplier", default=1), **_convolution(layer, origin)}
    return _with_bias("DepthwiseConv2D", settings, ("depthwise_kernel",), _activation(layer, origin))


def _separable(layer: LayerSettings, origin: Origin) -> ReadLayer:
    groups = layer.take("groups", default=1)
    if groups != 1:
        raise layer.error("groups", "1", groups)
    multiplier = layer.integer("depth_multiplier", default=1)
    settings = {"filters": layer.integer("filters"), "depth_multiplier": multiplier, **_convolution(layer, origin)}
    kernels = ("depthwise_kernel", "pointwise_kernel")
    return _with_bias("SeparableConv2D", settings, kernels, _activation(layer, origin))


def _dense(layer: LayerSettings, origin: Origin) -> ReadLayer:
    settings = {"units": layer.integer("units"), "use_bias": layer.boolean("use_bias", True)}
    return _with_bias("Dense", settings, ("kernel",), _activation(layer, origin))


def _with_bias(kind: str, settings: dict[str, Any], arrays: tuple[str, ...], activation: ReadLayer | None) -> ReadLayer:
    arrays += ("bias",) if settings["use_bias"] else ()
    return ReadLayer(kind, settings, arrays, len(arrays), activation)


def _batch_normalization(layer: LayerSettings, origin: Origin) -> ReadLayer:
    if layer.boolean("renorm", False):
        raise layer.error("renorm", "off", True)
    layer.take("renorm_momentum", "renorm_clipping")
    settings = {
        "axis": layer.axis(-1),
        "epsilon": layer.number("epsilon", default=1e-3),
        "momentum": layer.number("momentum", default=0.99),
        "center": layer.boolean("center", True),
        "scale": layer.boolean("scale", True),
    }
    trained = [name for name, setting in (("gamma", "scale"), ("beta", "center")) if settings[setting]]
    return ReadLayer("BatchNormalization", settings, (*trained, "moving_mean", "moving_variance"), len(trained))


def _pooling(kind: str) -> Callable[[LayerSettings, Origin], ReadLayer]:
    def read(layer: LayerSettings, origin: Origin) -> ReadLayer:
        size = layer.integer_pair("pool_size", default=2)
        strides = layer.integer_pair("strides", default=size)
        settings: dict[str, Any] = {"pool_size": size, "strides": strides, "padding": _padding(layer, origin)}
        settings["data_format"] = _data_format(layer)
        if kind == "AveragePooling2D":
            counts = origin.backend == "theano" and (2, 0, 4) <= origin.version <= (2, 1, 4)
            settings["counts_padding"] = counts and settings["padding"] != "valid"
        return ReadLayer(kind, settings)

    return read


def _global_pooling(kind: str) -> Callable[[LayerSettings, Origin], ReadLayer]:
    return lambda layer, _: ReadLayer(
        kind, {"data_format": _data_format(layer), "keepdims": layer.boolean("keepdims", False)}
    )


def _flatten(layer: LayerSettings, origin: Origin) -> ReadLayer:
    # Since 2.1.6 Keras moves the channels to the end first if data_format is channels_first. Older files have none.
    return ReadLayer(
        "Flatten", {"moves_channels": layer.has("data_format") and _data_format(layer) == "channels_first"}
    )


def _reshape(layer: LayerSettings, origin: Origin) -> ReadLayer:
    shape = layer.take("target_shape")
    if not isinstance(shape, list) or not 0 < len(shape) < 8 or shape.count(-1) > 1:
        raise layer.error("target_shape", "a list of integers, one of which may be -1", shape)
    lengths = [length if length == -1 else layer.check_integer("target_shape", length, 1) for length in shape]
    return ReadLayer("Reshape", {"shape": lengths})


def _permute(layer: LayerSettings, origin: Origin) -> ReadLayer:
    dims = layer.take("dims")
    if not isinstance(dims, list) or len(dims) > 8 or any(type(axis) is not int for axis in dims):
        raise layer.error("dims", "a list of axes from 1", dims)
    if sorted(dims) != list(range(1, len(dims) + 1)):
        raise layer.error("dims", "each axis from 1 once", dims)
    return ReadLayer("Permute", {"dims": dims})


def _upsampling(layer: LayerSettings, origin: Origin) -> ReadLayer:
    interpolation = layer.choice("interpolation", ("nearest", "bilinear"), "nearest")
    is_ambiguous = interpolation == "bilinear" and origin.major < 3
    remark = (
        f"{layer.label} is interpolated as in TensorFlow 2; TensorFlow 1 did it differently" if is_ambiguous else ""
    )
    size = layer.integer_pair("size", default=2)
    settings = {"size": size, "interpolation": interpolation, "data_format": _data_format(layer)}
    return ReadLayer("UpSampling2D", settings, remark=remark)


def _edges(kind: str, name: str, default: int) -> Callable[[LayerSettings, Origin], ReadLayer]:
    return lambda layer, _: ReadLayer(kind, {"edges": layer.edges(name, default), "data_format": _data_format(layer)})


def _activation_layer(layer: LayerSettings, origin: Origin) -> ReadLayer:
    return _activation(layer, origin) or ReadLayer("Identity")


def _relu(layer: LayerSettings, origin: Origin) -> ReadLayer:
    max_value = layer.take("max_value")
    settings = {
        "max_value": None if max_value is None else layer.check_number("max_value", max_value),
        "negative_slope": layer.number("negative_slope", default=0.0),
        "threshold": layer.number("threshold", default=0.0),
    }
    return ReadLayer("ReLU", settings)


def _leaky_relu(layer: LayerSettings, origin: Origin) -> ReadLayer:
    slope = layer.number("negative_slope", "alpha", default=0.3)
    return ReadLayer("ReLU", {"max_value": None, "negative_slope": slope, "threshold": 0.0})


def _softmax(layer: LayerSettings, origin: Origin) -> ReadLayer:
    axes = layer.axes(-1)
    return ReadLayer("Softmax", {"axis": axes[0] if len(axes) == 1 else axes})


def _prelu(layer: LayerSettings, origin: Origin) -> ReadLayer:
    shared = layer.take("shared_axes", default=[])
    if not isinstance(shared, list) or len(shared) > 8:
        raise layer.error("shared_axes", "a list of axes from 1", shared)
    axes = [layer.check_integer("shared_axes", axis, 1) for axis in shared]
    return ReadLayer("PReLU", {"shared_axes": axes}, ("alpha",), 1)


def _noise(kind: str, setting: str) -> Callable[[LayerSettings, Origin], ReadLayer]:
    def read(layer: LayerSettings, origin: Origin) -> ReadLayer:
        amount = layer.number(setting, default=0.0)
        if amount < 0 or (setting == "rate" and amount >= 1):
            raise layer.error(setting, "from 0 to below 1" if setting == "rate" else "0 or more", amount)
        data_format = {"data_format": _data_format(layer)} if kind == "SpatialDropout2D" else {}
        return ReadLayer(kind, {setting: amount, **data_format})

    return read


def _rescaling(layer: LayerSettings, origin: Origin) -> ReadLayer:
    return ReadLayer("Rescaling", {"scale": layer.numbers("scale", 1.0), "offset": layer.numbers("offset", 0.0)})


def _normalization(layer: LayerSettings, origin: Origin) -> ReadLayer:
    settings: dict[str, Any] = {"axes": layer.axes(-1), "invert": layer.boolean("invert", False)}
    if not layer.has("mean"):
        return ReadLayer("Normalization", settings, ("mean", "variance", "count"))
    return ReadLayer("Normalization", settings | {name: layer.numbers(name, 0.0) for name in ("mean", "variance")})


def _merge(kind: str) -> Callable[[LayerSettings, Origin], ReadLayer]:
    return lambda layer, _: ReadLayer(kind)


def _concatenate(layer: LayerSettings, origin: Origin) -> ReadLayer:
    return ReadLayer("Concatenate", {"axis": layer.axis(-1)})


def _identity(layer: LayerSettings, origin: Origin) -> ReadLayer:
    layer.take("l1", "l2")  # of ActivityRegularization
    return ReadLayer("Identity")


def _augmentation(layer: LayerSettings, origin: Origin) -> ReadLayer:
    layer.ignore_rest()
    return ReadLayer("Identity", remark=f"{layer.label} changes images during training in Keras only, and is left out")


READERS: dict[str, Callable[[LayerSettings, Origin], ReadLayer]] = {
    "Conv2D": _conv2d,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    **dict.fromkeys(("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2"), _batch_normalization),
    "SyncBatchNormalization": _batch_normalization,
    **{kind: _pooling(kind) for kind in ("MaxPooling2D", "AveragePooling2D")},
    **{kind: _global_pooling(kind) for kind in ("GlobalAveragePooling2D", "GlobalMaxPooling2D")},
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "ZeroPadding2D": _edges("ZeroPadding2D", "padding", 1),
    "Cropping2D": _edges("Cropping2D", "cropping", 0),
    "UpSampling2D": _upsampling,
    "Activation": _activation_layer,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": lambda layer, _: ReadLayer("ELU", {"alpha": layer.number("alpha", default=1.0)}),
    "ThresholdedReLU": lambda layer, _: ReadLayer("ThresholdedReLU", {"theta": layer.number("theta", default=1.0)}),
    "PReLU": _prelu,
    "Softmax": _softmax,
    **{kind: _noise(kind, "rate") for kind in ("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout")},
    "GaussianNoise": _noise("GaussianNoise", "stddev"),
    "ActivityRegularization": _identity,
    "Identity": _identity,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Concatenate": _concatenate,
    **{kind: _merge(kind) for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    **dict.fromkeys(AUGMENTATIONS, _augmentation),
}
_ACTIVATION_LAYERS = ("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax")
