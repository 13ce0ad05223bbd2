"""Every layer that is read: what the file says of it, checked, in one form for all versions of Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError, nearest
from cifarlab.keras.keras1 import modern
from cifarlab.keras.layer_settings import Settings

FORMATS = ("channels_last", "channels_first")
BEYOND = "take it out or put another in its place and save the model again (docs/internals/keras.md lists what is read)"
ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "tanh",
    "sigmoid",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "softmax",
    "log_softmax",
    "log_sigmoid",
    "softplus",
    "softsign",
    "exponential",
    "mish",
    "soft_shrink",
    "hard_shrink",
    "tanh_shrink",
    "squareplus",
)
AUGMENTATIONS = (
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPerspective", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation"),
    *("RandomZoom", "AugMix", "CutMix", "MixUp", "RandAugment"),
)
_OTHER_NAMES = {"swish": "silu", "hard_swish": "hard_silu", "softmax_v2": "softmax", "exp": "exponential"}
_RUNS_CODE = ("Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod")


@dataclass(frozen=True)
class Dialect:
    """What of a file's origin changes what its words mean."""

    version: tuple[int, ...]
    """Of Keras: (2, 1, 6)."""
    backend: str | None
    """`tensorflow`, `theano`, … where the file says so."""

    @property
    def major(self) -> int:
        """The first number of the version."""
        return self.version[0]


@dataclass(frozen=True)
class Leaf:
    """One layer of the description, and what Keras stores for it."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    """The names of its arrays in Keras's order."""
    trained: int = 0
    """How many of them are trained: the first."""
    activation: Leaf | None = None
    """What follows it."""
    remark: str = ""
    """What the user should know about it."""


def read_layer(class_name: str, config: object, dialect: Dialect, where: str) -> Leaf:
    """A layer that is not a model.

    Args:
        class_name: as the file has it.
        config: the file's settings.
        dialect: how to read them.
        where: the layer as an error names it.

    Raises:
        UsageError: it is not among the layers that are read, or its settings are not.
    """
    if dialect.major == 1:
        class_name, config = modern(class_name, config, where)
    reader = _READERS.get(class_name)
    if class_name in _RUNS_CODE:
        raise UsageError(f"{where} runs Python code or an operation of its own, which cifarlab never does: {BEYOND}")
    if reader is None:
        near = nearest(class_name, _READERS)
        hint = f"; {near} is" if near is not None else ""
        raise UsageError(f"{where} is not among the layers that cifarlab reads{hint}: {BEYOND}")
    settings = Settings(where, config)
    leaf = reader(settings, dialect)
    settings.finish()
    return leaf


def check_origin(entry: dict[str, Any], where: str) -> None:
    """That a class is Keras's: one of the user's own may have the same name and do something else.

    Args:
        entry: the object with `class_name`, and in newer files `module` and `registered_name`.
        where: the layer as an error names it.

    Raises:
        UsageError: it is the user's own.
    """
    module, registered = str(entry.get("module", "keras")), str(entry.get("registered_name"))  # older files have none
    origins = ("keras", "builtins") if entry.get("class_name") == "function" else ("keras", "tf_keras")
    if module.partition(".")[0] not in origins or ">" in registered:
        raise UsageError(f"{where} is a class of one's own, whose code cifarlab does not run: {BEYOND}")


def _format(s: Settings) -> str:
    return s.choice("data_format", FORMATS, "channels_last")


def _padding(s: Settings, dialect: Dialect) -> str:
    padding = s.choice("padding", ("valid", "same"), "valid")
    return "theano" if padding == "same" and dialect.backend == "theano" else padding


def _activation(s: Settings, dialect: Dialect) -> Leaf | None:
    """What a layer's own setting `activation` asks for."""
    value = s.take("activation")
    if value is None or value == "linear":
        return None
    if isinstance(value, dict):
        name, where = value.get("class_name"), f"the activation of {s.where}"
        check_origin(value, where)
        if name in _ACTIVATION_LAYERS:
            return read_layer(str(name), value.get("config"), dialect, where)
        value = value.get("config") if name == "function" else name
    return Leaf("Activation", {"function": _function(s, dialect, value)})


def _function(s: Settings, dialect: Dialect, name: object) -> str:
    name = _OTHER_NAMES.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise s.wrong("activation", f"one of {', '.join(ACTIVATIONS)}", name)
    return "hard_sigmoid_3" if name == "hard_sigmoid" and dialect.major >= 3 else name


def _convolution(s: Settings, dialect: Dialect) -> dict[str, Any]:
    """What all kinds of convolution have."""
    return {
        "kernel_size": s.pair("kernel_size"),
        "strides": s.pair("strides", default=1),
        "padding": _padding(s, dialect),
        "dilation_rate": s.pair("dilation_rate", default=1),
        "use_bias": s.flag("use_bias", True),
        "data_format": _format(s),
    }


def _conv2d(s: Settings, dialect: Dialect) -> Leaf:
    settings = {"filters": s.whole("filters"), "groups": s.whole("groups", default=1), **_convolution(s, dialect)}
    return _with_bias("Conv2D", settings, ("kernel",), _activation(s, dialect))


def _depthwise(s: Settings, dialect: Dialect) -> Leaf:
    s.take("filters", "groups")  # some versions write those that follow from the input
    settings = {"depth_multiplier": s.whole("depth_multiplier", default=1), **_convolution(s, dialect)}
    return _with_bias("DepthwiseConv2D", settings, ("depthwise_kernel",), _activation(s, dialect))


def _separable(s: Settings, dialect: Dialect) -> Leaf:
    if s.take("groups", default=1) != 1:
        raise s.wrong("groups", "1", "another number")
    multiplier = s.whole("depth_multiplier", default=1)
    settings = {"filters": s.whole("filters"), "depth_multiplier": multiplier, **_convolution(s, dialect)}
    kernels = ("depthwise_kernel", "pointwise_kernel")
    return _with_bias("SeparableConv2D", settings, kernels, _activation(s, dialect))


def _dense(s: Settings, dialect: Dialect) -> Leaf:
    settings = {"units": s.whole("units"), "use_bias": s.flag("use_bias", True)}
    return _with_bias("Dense", settings, ("kernel",), _activation(s, dialect))


def _with_bias(kind: str, settings: dict[str, Any], variables: tuple[str, ...], activation: Leaf | None) -> Leaf:
    variables += ("bias",) if settings["use_bias"] else ()
    return Leaf(kind, settings, variables, len(variables), activation)


def _batch_normalization(s: Settings, dialect: Dialect) -> Leaf:
    if s.flag("renorm", False):
        raise s.wrong("renorm", "off", True)
    s.take("renorm_momentum", "renorm_clipping")
    settings = {
        "axis": s.axis(-1),
        "epsilon": s.number("epsilon", default=1e-3),
        "momentum": s.number("momentum", default=0.99),
        "center": s.flag("center", True),
        "scale": s.flag("scale", True),
    }
    learned = {"gamma": settings["scale"], "beta": settings["center"]}
    trained = [name for name, is_used in learned.items() if is_used]
    return Leaf("BatchNormalization", settings, (*trained, "moving_mean", "moving_variance"), len(trained))


def _pooling(kind: str) -> Callable[[Settings, Dialect], Leaf]:
    def read(s: Settings, dialect: Dialect) -> Leaf:
        size = s.pair("pool_size", default=2)
        strides = s.pair("strides", default=size)
        settings: dict[str, Any] = {"pool_size": size, "strides": strides, "padding": _padding(s, dialect)}
        settings["data_format"] = _format(s)
        if kind == "AveragePooling2D":
            of_some = dialect.backend == "theano" and (2, 0, 4) <= dialect.version <= (2, 1, 4)
            settings["counts_padding"] = of_some and settings["padding"] != "valid"
        return Leaf(kind, settings)

    return read


def _global_pooling(kind: str) -> Callable[[Settings, Dialect], Leaf]:
    return lambda s, _: Leaf(kind, {"data_format": _format(s), "keepdims": s.flag("keepdims", False)})


def _flatten(s: Settings, dialect: Dialect) -> Leaf:
    # Keras 2.1.6 and later bring the channels last first, where data_format is channels_first; what has none does not.
    return Leaf("Flatten", {"moves_channels": s.has("data_format") and _format(s) == "channels_first"})


def _reshape(s: Settings, dialect: Dialect) -> Leaf:
    shape = s.take("target_shape")
    if not isinstance(shape, list) or not 0 < len(shape) < 8 or shape.count(-1) > 1:
        raise s.wrong("target_shape", "a list of whole numbers, one of which may be -1", shape)
    return Leaf(
        "Reshape", {"shape": [each if each == -1 else s.checked_whole("target_shape", each, 1) for each in shape]}
    )


def _permute(s: Settings, dialect: Dialect) -> Leaf:
    dims = s.take("dims")
    if not isinstance(dims, list) or len(dims) > 8 or any(type(each) is not int for each in dims):
        raise s.wrong("dims", "a list of axes from 1", dims)
    if sorted(dims) != list(range(1, len(dims) + 1)):
        raise s.wrong("dims", "each axis from 1 once", dims)
    return Leaf("Permute", {"dims": dims})


def _upsampling(s: Settings, dialect: Dialect) -> Leaf:
    how = s.choice("interpolation", ("nearest", "bilinear"), "nearest")
    old = "it is read as TensorFlow 2 computes it; TensorFlow 1 did otherwise" if how == "bilinear" else ""
    remark = f"{s.where} interpolates: {old}" if old and dialect.major < 3 else ""
    settings = {"size": s.pair("size", default=2), "interpolation": how, "data_format": _format(s)}
    return Leaf("UpSampling2D", settings, remark=remark)


def _edges(kind: str, name: str, default: int) -> Callable[[Settings, Dialect], Leaf]:
    return lambda s, _: Leaf(kind, {"edges": s.edges(name, default), "data_format": _format(s)})


def _activation_layer(s: Settings, dialect: Dialect) -> Leaf:
    return _activation(s, dialect) or Leaf("Identity")


def _relu(s: Settings, dialect: Dialect) -> Leaf:
    largest = s.take("max_value")
    return Leaf(
        "ReLU",
        {
            "max_value": None if largest is None else s.checked_number("max_value", largest),
            "negative_slope": s.number("negative_slope", default=0.0),
            "threshold": s.number("threshold", default=0.0),
        },
    )


def _leaky_relu(s: Settings, dialect: Dialect) -> Leaf:
    slope = s.number("negative_slope", "alpha", default=0.3)
    return Leaf("ReLU", {"max_value": None, "negative_slope": slope, "threshold": 0.0})


def _softmax(s: Settings, dialect: Dialect) -> Leaf:
    axes = s.axes(-1)
    return Leaf("Softmax", {"axis": axes[0] if len(axes) == 1 else axes})


def _prelu(s: Settings, dialect: Dialect) -> Leaf:
    shared = s.take("shared_axes", default=[])
    if not isinstance(shared, list) or len(shared) > 8:
        raise s.wrong("shared_axes", "a list of axes from 1", shared)
    axes = [s.checked_whole("shared_axes", axis, 1) for axis in shared]
    return Leaf("PReLU", {"shared_axes": axes}, ("alpha",), 1)


def _noise(kind: str, setting: str) -> Callable[[Settings, Dialect], Leaf]:
    def read(s: Settings, dialect: Dialect) -> Leaf:
        amount = s.number(setting, default=0.0)
        if amount < 0 or (setting == "rate" and amount >= 1):
            raise s.wrong(setting, "from 0 to below 1" if setting == "rate" else "0 or more", amount)
        form = {"data_format": _format(s)} if kind == "SpatialDropout2D" else {}
        return Leaf(kind, {setting: amount, **form})

    return read


def _rescaling(s: Settings, dialect: Dialect) -> Leaf:
    return Leaf("Rescaling", {"scale": s.numbers("scale", 1.0), "offset": s.numbers("offset", 0.0)})


def _normalization(s: Settings, dialect: Dialect) -> Leaf:
    settings: dict[str, Any] = {"axes": s.axes(-1), "invert": s.flag("invert", False)}
    if not s.has("mean"):
        return Leaf("Normalization", settings, ("mean", "variance", "count"))
    return Leaf("Normalization", settings | {name: s.numbers(name, 0.0) for name in ("mean", "variance")})


def _merge(kind: str) -> Callable[[Settings, Dialect], Leaf]:
    return lambda s, _: Leaf(kind)


def _concatenate(s: Settings, dialect: Dialect) -> Leaf:
    return Leaf("Concatenate", {"axis": s.axis(-1)})


def _nothing(s: Settings, dialect: Dialect) -> Leaf:
    for name in ("l1", "l2"):  # of ActivityRegularization
        s.take(name)
    return Leaf("Identity")


def _augmentation(s: Settings, dialect: Dialect) -> Leaf:
    s.forget()
    return Leaf("Identity", remark=f"{s.where} changes images while Keras trains, and is left out")


_READERS: dict[str, Callable[[Settings, Dialect], Leaf]] = {
    "Conv2D": _conv2d,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "BatchNormalization": _batch_normalization,
    "BatchNormalizationV1": _batch_normalization,
    "BatchNormalizationV2": _batch_normalization,
    "SyncBatchNormalization": _batch_normalization,
    "MaxPooling2D": _pooling("MaxPooling2D"),
    "AveragePooling2D": _pooling("AveragePooling2D"),
    "GlobalAveragePooling2D": _global_pooling("GlobalAveragePooling2D"),
    "GlobalMaxPooling2D": _global_pooling("GlobalMaxPooling2D"),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "ZeroPadding2D": _edges("ZeroPadding2D", "padding", 1),
    "Cropping2D": _edges("Cropping2D", "cropping", 0),
    "UpSampling2D": _upsampling,
    "Activation": _activation_layer,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": lambda s, _: Leaf("ELU", {"alpha": s.number("alpha", default=1.0)}),
    "ThresholdedReLU": lambda s, _: Leaf("ThresholdedReLU", {"theta": s.number("theta", default=1.0)}),
    "PReLU": _prelu,
    "Softmax": _softmax,
    "Dropout": _noise("Dropout", "rate"),
    "SpatialDropout2D": _noise("SpatialDropout2D", "rate"),
    "AlphaDropout": _noise("AlphaDropout", "rate"),
    "GaussianDropout": _noise("GaussianDropout", "rate"),
    "GaussianNoise": _noise("GaussianNoise", "stddev"),
    "ActivityRegularization": _nothing,
    "Identity": _nothing,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Concatenate": _concatenate,
    **{kind: _merge(kind) for kind in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    **dict.fromkeys(AUGMENTATIONS, _augmentation),
}
_ACTIVATION_LAYERS = ("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax")
