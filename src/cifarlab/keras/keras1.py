"""Translate layers of Keras 1, and the names of their settings, into those of Keras 2."""

from collections.abc import Mapping
from typing import Any

from cifarlab.errors import UsageError

_CLASS_NAMES = {
    **dict.fromkeys(("Convolution2D", "AtrousConvolution2D", "AtrousConv2D"), "Conv2D"),
    "SeparableConvolution2D": "SeparableConv2D",
}
_MERGES = {"sum": "Add", "concat": "Concatenate", "mul": "Multiply", "ave": "Average", "max": "Maximum"}
_SETTING_NAMES = {
    "nb_filter": "filters",
    "subsample": "strides",
    "border_mode": "padding",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "output_dim": "units",
    "p": "rate",
    "sigma": "stddev",
    "dim_ordering": "data_format",
}
_DATA_FORMATS = {"th": "channels_first", "tf": "channels_last"}


def translate_layer(class_name: str, config: object, label: str) -> tuple[str, object]:
    """Return the class name and settings with which Keras 2 would have written a layer; refuse what it lacks."""
    if not isinstance(config, dict):
        return class_name, config
    renamed: dict[str, Any] = {_SETTING_NAMES.get(str(name), str(name)): value for name, value in config.items()}
    if "nb_row" in renamed:
        renamed["kernel_size"] = [renamed.pop("nb_row"), renamed.pop("nb_col", None)]
    if "data_format" in renamed:
        renamed["data_format"] = _DATA_FORMATS.get(str(renamed["data_format"]), renamed["data_format"])
    if class_name == "BatchNormalization" and renamed.pop("mode", 0) != 0:
        raise UsageError(f"{label}: mode must be 0: build the model with batch normalisation of mode 0")
    if class_name == "Merge":  # one layer for all kinds of merging; its mode may also be code, which is refused
        mode = str(config.get("mode"))
        if mode not in _MERGES or config.get("mode_type", "raw") != "raw" or config.get("layers"):
            modes = ", ".join(_MERGES)
            raise UsageError(f"{label}: mode must be one of {modes}, in a Model: build the model with one of those")
        return _MERGES[mode], {"axis": config.get("concat_axis")} if mode == "concat" else {}
    if class_name == "ZeroPadding2D":  # (height, width), (top, bottom, left, right), or those four by name
        padding = renamed.get("padding")
        if isinstance(padding, Mapping):
            padding = [padding.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
        if isinstance(padding, list) and len(padding) == 4:
            renamed["padding"] = [padding[:2], padding[2:]]
    return _CLASS_NAMES.get(class_name, class_name), renamed
