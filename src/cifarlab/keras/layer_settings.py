"""The settings of each layer of Keras. Their values are checked, because anybody may have written the file.

A layer here needs its class in `cifarlab.models.keras_graph`, which computes it from these settings.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from cifarlab.errors import UsageError, one_line, shorten, validated

MAX_INTEGER = 2**24  # for channels, units and pixels
MAX_FLOAT = 1e38  # the range of float32
MAX_SHOWN = 60  # letters of a wrong value in an error
AUGMENTATIONS = (
    *("RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform"),
    *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue", "RandomInvert"),
    *("RandomPerspective", "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation"),
    *("RandomZoom", "AugMix", "CutMix", "MixUp", "RandAugment"),
)
_WITHOUT_EFFECT = {  # settings that do not change what a trained layer computes
    *("name", "trainable", "batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length"),
    *("input_dtype", "input_spec", "init", "seed", "noise_shape", "synchronized", "fused", "autocast"),
    *("W_regularizer", "b_regularizer", "gamma_regularizer", "W_constraint", "b_constraint", "l1", "l2"),
    *("renorm_momentum", "renorm_clipping"),
}
_ENDINGS_WITHOUT_EFFECT = ("_initializer", "_regularizer", "_constraint", "_init")


def _twice(value: Any) -> Any:
    return [value, value] if type(value) is int else value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _only_element(value: Any) -> Any:
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


_Length = Annotated[int, Field(ge=-1, le=MAX_INTEGER)]  # -1 stands for the rest
_Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
_Pair = Annotated[list[_Count], Field(min_length=2, max_length=2), BeforeValidator(_twice)]  # height and width
_Pixels = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
_Side = Annotated[list[_Pixels], Field(min_length=2, max_length=2), BeforeValidator(_twice)]  # before and after
_Edges = Annotated[list[_Side], Field(min_length=2, max_length=2), BeforeValidator(_twice)]
_Number = Annotated[float, Field(gt=-MAX_FLOAT, lt=MAX_FLOAT)]
_Numbers = Annotated[
    list[_Number], BeforeValidator(_as_list), BeforeValidator(_only_element), AfterValidator(_only_element)
]
_Axis = Annotated[int, Field(ge=-8, le=8), BeforeValidator(_only_element)]
_Axes = Annotated[list[_Axis], Field(max_length=8), BeforeValidator(_as_list)]
_ANY = (Any, None)
_Format = Literal["channels_last", "channels_first"]
_Interpolation = Literal["nearest", "bilinear"]
_PADDING: dict[str, Any] = {"padding": (Literal["valid", "same"], "valid")}
_DATA_FORMAT: dict[str, Any] = {"data_format": (_Format, "channels_last")}
_CONVOLUTION = {
    "kernel_size": _Pair,
    "strides": (_Pair, [1, 1]),
    **_PADDING,
    "dilation_rate": (_Pair, [1, 1]),
    "use_bias": (bool, True),
    **_DATA_FORMAT,
    "activation": _ANY,  # read by `layer_readers`
}
_BATCH_NORMALIZATION = {
    "axis": (_Axis, -1),
    "epsilon": (_Number, 1e-3),
    "momentum": (_Number, 0.99),
    "center": (bool, True),
    "scale": (bool, True),
}
_POOLING = {"pool_size": (_Pair, [2, 2]), "strides": (_Pair | None, None), **_PADDING, **_DATA_FORMAT}
_GLOBAL_POOLING = _DATA_FORMAT | {"keepdims": (bool, False)}
_RELU = {"max_value": (_Number | None, None), "negative_slope": (_Number, 0.0), "threshold": (_Number, 0.0)}
_LEAKY_SLOPE = Field(0.3, validation_alias=AliasChoices("negative_slope", "alpha"))
_RATE = {"rate": (Annotated[float, Field(ge=0, lt=1)], 0.0)}

SETTINGS: dict[str, dict[str, Any]] = {  # by class in the file: type and default of each setting
    "Conv2D": {"filters": _Count, "groups": (_Count, 1), **_CONVOLUTION},
    "DepthwiseConv2D": {"filters": _ANY, "groups": _ANY, "depth_multiplier": (_Count, 1), **_CONVOLUTION},
    "SeparableConv2D": {"filters": _Count, "depth_multiplier": (_Count, 1), "groups": (Literal[1], 1), **_CONVOLUTION},
    "Dense": {"units": _Count, "use_bias": (bool, True), "activation": _ANY},
    **{f"BatchNormalization{version}": _BATCH_NORMALIZATION for version in ("", "V1", "V2")},
    "SyncBatchNormalization": _BATCH_NORMALIZATION,
    **dict.fromkeys(("MaxPooling2D", "AveragePooling2D"), _POOLING),
    **dict.fromkeys(("GlobalAveragePooling2D", "GlobalMaxPooling2D"), _GLOBAL_POOLING),
    "Flatten": {"data_format": (_Format | None, None)},
    "Reshape": {"shape": (list[_Length], Field(alias="target_shape", min_length=1, max_length=8))},
    "Permute": {"dims": Annotated[list[_Count], Field(max_length=8)]},
    "ZeroPadding2D": {"edges": (_Edges, Field([[1, 1], [1, 1]], alias="padding")), **_DATA_FORMAT},
    "Cropping2D": {"edges": (_Edges, Field([[0, 0], [0, 0]], alias="cropping")), **_DATA_FORMAT},
    "UpSampling2D": {"size": (_Pair, [2, 2]), "interpolation": (_Interpolation, "nearest"), **_DATA_FORMAT},
    "Activation": {"activation": _ANY},
    "ReLU": _RELU,
    "LeakyReLU": _RELU | {"negative_slope": (_Number, _LEAKY_SLOPE)},
    "ELU": {"alpha": (_Number, 1.0)},
    "ThresholdedReLU": {"theta": (_Number, 1.0)},
    "PReLU": {"shared_axes": (Annotated[list[_Count], Field(max_length=8)], [])},
    "Softmax": {"axis": (Annotated[_Axes, AfterValidator(_only_element)], -1)},
    **dict.fromkeys(("Dropout", "AlphaDropout", "GaussianDropout"), _RATE),
    "SpatialDropout2D": _RATE | _DATA_FORMAT,
    "GaussianNoise": {"stddev": (Annotated[_Number, Field(ge=0)], 0.0)},
    "Rescaling": {"scale": (_Numbers, 1.0), "offset": (_Numbers, 0.0)},
    "Normalization": {
        "axes": (_Axes, Field([-1], alias="axis")),
        "invert": (bool, False),
        "mean": (_Numbers | None, None),
        "variance": (_Numbers, 0.0),
    },
    "Concatenate": {"axis": (_Axis, -1)},
    **{name: {} for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    **{name: {} for name in ("Identity", "ActivityRegularization")},
}


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


@functools.cache
def _model_of(class_name: str) -> type[_Settings]:
    return create_model(class_name, __base__=_Settings, **SETTINGS[class_name])


def read_settings(class_name: str, config: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return a layer's settings by their names in `cifarlab.models.keras_graph`; refuse any whose effect is unknown."""
    stated = {name: value for name, value in config.items() if value is not None}
    settings = validated(_model_of(class_name), stated, label)
    others = settings.model_extra or {}
    dtype = str(others.get("dtype"))
    if "quantized" in dtype.lower() or "int8" in dtype:
        raise UsageError(f"{label} is quantized: save the model as it was before quantization")
    for name, value in others.items():
        if value and name not in {*_WITHOUT_EFFECT, "dtype"} and not name.endswith(_ENDINGS_WITHOUT_EFFECT):
            setting = f"{one_line(name)[:MAX_SHOWN]} = {shorten(one_line(repr(value)), MAX_SHOWN)}"
            raise UsageError(f"{label}: the setting {setting} is not supported: save the model without it")
    return {name: getattr(settings, name) for name in SETTINGS[class_name]}
