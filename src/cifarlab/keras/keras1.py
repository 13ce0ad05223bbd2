"""Translate layers of Keras 1, and the names of their settings, into those of Keras 2."""

from collections.abc import Mapping
from typing import Any

from cifarlab.errors import UsageError

_CLASS_NAMES = {
    "Convolution2D": "Conv2D",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConv2D": "Conv2D",
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
}
_DATA_FORMATS = {"th": "channels_first", "tf": "channels_last"}


def translate_layer(class_name: str, config: object, label: str) -> tuple[str, object]:
    """Return the class name and settings with which Keras 2 would have written a layer of Keras 1.

    Raises:
        UsageError: Keras 2 has no such layer.
    """
    if not isinstance(config, dict):
        return class_name, config
    renamed: dict[str, Any] = {_SETTING_NAMES.get(str(name), str(name)): value for name, value in config.items()}
    if "nb_row" in renamed:
        renamed["kernel_size"] = [renamed.pop("nb_row"), renamed.pop("nb_col", None)]
    if (ordering := renamed.pop("dim_ordering", None)) is not None:
        renamed["data_format"] = _DATA_FORMATS.get(str(ordering), ordering)
    if class_name == "BatchNormalization" and renamed.pop("mode", 0) != 0:
        raise UsageError(f"{label}: mode must be 0: build the model with batch normalisation of mode 0")
    if class_name == "Merge":
        return _translate_merge(renamed, label)
    if class_name == "ZeroPadding2D":
        renamed["padding"] = _translate_padding(renamed.get("padding"))
    return _CLASS_NAMES.get(class_name, class_name), renamed


def _translate_merge(config: dict[str, Any], label: str) -> tuple[str, object]:
    """Translate `Merge`, a single layer for all kinds of merging; its mode may also be code, which is refused."""
    mode = str(config.get("mode"))
    class_name = _MERGES.get(mode) if config.get("mode_type", "raw") == "raw" else None
    if class_name is None or config.get("layers"):
        raise UsageError(
            f"{label}: mode must be one of {', '.join(_MERGES)}, in a Model: build the model with one of those"
        )
    axis = {"axis": config.get("concat_axis")} if class_name == "Concatenate" else {}
    return class_name, {"name": config.get("name"), **axis}


def _translate_padding(padding: object) -> object:
    """Translate the padding of Keras 1.2: (height, width), (top, bottom, left, right), or those four by name."""
    if isinstance(padding, Mapping):
        padding = [padding.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
    if isinstance(padding, list) and len(padding) == 4:
        return [padding[:2], padding[2:]]
    return padding
