"""Read the layers of a Keras file into one form for all versions of Keras. `layer_settings` checks their settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cifarlab.errors import UsageError, nearest, one_line
from cifarlab.keras.keras1 import translate_layer
from cifarlab.keras.layer_settings import AUGMENTATIONS, SETTINGS, read_settings

HOW_TO_FIX = "remove or replace it and save the model again (docs/internals/keras.md lists the supported layers)"
MAX_NAME_LENGTH = 80  # letters of a name in an error
ACTIVATIONS = (  # each has a function in cifarlab.models.keras_graph.activations
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "tanh", "sigmoid"),
    *("hard_sigmoid", "hard_silu", "hard_tanh", "softmax", "log_softmax", "log_sigmoid", "softplus", "softsign"),
    *("exponential", "mish", "soft_shrink", "hard_shrink", "tanh_shrink", "squareplus"),
)
_ACTIVATION_ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "softmax_v2": "softmax", "exp": "exponential"}
_ACTIVATION_LAYERS = ("Activation", "ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Softmax")
_RUNS_CODE = ("Lambda", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod")
_KINDS = {  # classes that another class of `cifarlab.models.keras_graph` computes
    **dict.fromkeys(("BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"), "BatchNormalization"),
    "LeakyReLU": "ReLU",
    "ActivityRegularization": "Identity",
}
_ARRAYS = {  # in Keras's order
    "Conv2D": ("kernel", "bias"),
    "DepthwiseConv2D": ("depthwise_kernel", "bias"),
    "SeparableConv2D": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "Dense": ("kernel", "bias"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "Normalization": ("mean", "variance", "count"),
    "PReLU": ("alpha",),
}
STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")  # the last arrays, which are not trained
_SETTING_OF_ARRAY = {"bias": "use_bias", "gamma": "scale", "beta": "center"}  # which say whether there is the array

Call = tuple[str, int]
"""The name of a layer and the number of its call."""


@dataclass(frozen=True)
class Origin:
    """The program that wrote a file, which decides how to read some settings."""

    version: tuple[int, ...]  # of Keras, such as (2, 1, 6)
    backend: str | None  # `tensorflow`, `theano`, …, or None if the file does not say

    @property
    def major(self) -> int:
        return self.version[0]


@dataclass
class Layer:
    """A layer of the file, or a model that is used as a layer."""

    name: str
    class_name: str  # in the file
    kind: str = ""  # class in `cifarlab.models.keras_graph`; empty for models and inputs
    settings: dict[str, Any] = field(default_factory=dict)  # keyword arguments of that class, and `data_format`
    arrays: tuple[str, ...] = ()  # names of the layer's arrays in Keras's order
    activation: "Layer | None" = None  # follows the layer
    remark: str = ""  # for the user
    number: int = -1  # in the graph
    is_trainable: bool = True
    layers: "list[Layer]" = field(default_factory=list)  # of a model
    calls: dict[Call, list[Call]] = field(default_factory=dict)  # inputs of each call in a functional model
    entry: Call = ("", 0)  # and the exit: the input and the output of a functional model
    exit: Call = ("", 0)

    def with_arrays(self) -> "Iterator[Layer]":
        """Yield the layer, or the layers of a model, that have arrays, in order."""
        if self.arrays:
            yield self
        for layer in self.layers:
            yield from layer.with_arrays()

    def __str__(self) -> str:
        return f"the layer {shortened(self.name)} ({one_line(self.class_name)[:MAX_NAME_LENGTH]})"


def shortened(name: str) -> str:
    """Return a name as an error shows it."""
    return repr(one_line(name)[:MAX_NAME_LENGTH])


def read_layer(layer: Layer, config: object, origin: Origin) -> None:
    """Read the settings of a layer that is not a model, given its name and class; refuse what is not supported."""
    class_name = layer.class_name
    if origin.major == 1:
        class_name, config = translate_layer(class_name, config, str(layer))
    if class_name in _RUNS_CODE:
        raise UsageError(f"{layer} runs Python code or an operation of its own, which is never run: {HOW_TO_FIX}")
    if class_name in AUGMENTATIONS:
        layer.remark = f"{layer} changes images during training in Keras only, and is left out"
        class_name, config = "Identity", {}
    elif class_name not in SETTINGS:
        similar = nearest(class_name, [*SETTINGS, *AUGMENTATIONS])
        hint = f"; {similar} is" if similar is not None else ""
        raise UsageError(f"{layer} is not a supported layer{hint}: {HOW_TO_FIX}")
    if not isinstance(config, dict):
        raise UsageError(f"{layer} has no settings")
    layer.kind = _KINDS.get(class_name, class_name)
    layer.settings = settings = read_settings(class_name, config, str(layer))
    layer.activation = _read_activation(layer, settings.pop("activation", None), origin)
    layer.arrays = tuple(
        name for name in _ARRAYS.get(layer.kind, ()) if settings.get(_SETTING_OF_ARRAY.get(name, ""), True)
    )
    _adapt(layer, origin)


def _adapt(layer: Layer, origin: Origin) -> None:
    """Change settings that versions of Keras mean differently into what `cifarlab.models.keras_graph` takes."""
    settings = layer.settings
    if settings.get("padding") == "same" and origin.backend == "theano":
        settings["padding"] = "theano"
    match layer.kind:
        case "Activation":
            function = layer.activation or Layer("", "", "Identity")
            layer.kind, layer.settings, layer.activation = function.kind, function.settings, None
        case "AveragePooling2D" | "MaxPooling2D":
            settings["strides"] = settings["strides"] or settings["pool_size"]
            if layer.kind == "AveragePooling2D":
                counts = origin.backend == "theano" and (2, 0, 4) <= origin.version <= (2, 1, 4)
                settings["counts_padding"] = counts and settings["padding"] != "valid"
        case "DepthwiseConv2D":
            del settings["filters"], settings["groups"]
        case "Flatten":
            # Since 2.1.6 Keras moves the channels to the end first for channels_first. Older files state no format.
            layer.settings = {"moves_channels": settings["data_format"] == "channels_first"}
        case "Normalization" if settings["mean"] is None:
            del settings["mean"], settings["variance"]
        case "Normalization":
            layer.arrays = ()
        case "SeparableConv2D":
            del settings["groups"]
        case "UpSampling2D" if settings["interpolation"] == "bilinear" and origin.major < 3:
            layer.remark = f"{layer} is interpolated as in TensorFlow 2; TensorFlow 1 did it differently"


def _read_activation(layer: Layer, setting: Any, origin: Origin) -> Layer | None:
    """Return the activation that follows a layer; None if it is absent or linear."""
    if setting is None or setting == "linear":
        return None
    name, function = f"{layer.name}: activation", setting
    if isinstance(setting, dict):
        class_name = setting.get("class_name")
        check_is_keras(setting, f"the activation of {layer}")
        if class_name in _ACTIVATION_LAYERS:
            activation = Layer(name, str(class_name))
            read_layer(activation, setting.get("config"), origin)
            return activation
        # Keras stores a plain function as class `function`, with its name in `config`.
        function = setting.get("config") if class_name == "function" else class_name
    function = _ACTIVATION_ALIASES.get(str(function), function)
    if function not in ACTIVATIONS:
        raise UsageError(f"{layer}: activation must be one of {', '.join(ACTIVATIONS)}, got {shortened(str(function))}")
    has_new_formula = function == "hard_sigmoid" and origin.major >= 3
    return Layer(name, "Activation", "Activation", {"function": "hard_sigmoid_3" if has_new_formula else function})


def check_is_keras(entry: Mapping[str, Any], label: str) -> None:
    """Refuse a class of the user's own, which may have the name of a class of Keras and do something else."""
    module, registered = str(entry.get("module", "keras")), str(entry.get("registered_name"))
    packages = ("keras", "builtins") if entry.get("class_name") == "function" else ("keras", "tf_keras")
    if module.partition(".")[0] not in packages or ">" in registered:
        raise UsageError(f"{label} is a class of your own, whose code is never run: {HOW_TO_FIX}")
