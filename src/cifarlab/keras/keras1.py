"""The words of Keras 1 in those of Keras 2: names of layers and of their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarlab.errors import UsageError

_LAYERS = {
    "Convolution2D": "Conv2D",
    "AtrousConvolution2D": "Conv2D",
    "AtrousConv2D": "Conv2D",
    "SeparableConvolution2D": "SeparableConv2D",
}
_MERGES = {
    "sum": "Add",
    "concat": "Concatenate",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
}
_SETTINGS = {
    "nb_filter": "filters",
    "subsample": "strides",
    "border_mode": "padding",
    "atrous_rate": "dilation_rate",
    "bias": "use_bias",
    "output_dim": "units",
    "p": "rate",
    "sigma": "stddev",
}
_ORDERINGS = {"th": "channels_first", "tf": "channels_last"}


def modern(class_name: str, config: object, where: str) -> tuple[str, object]:
    """A layer of Keras 1 as Keras 2 would have written it.

    Args:
        class_name: of the layer.
        config: its settings.
        where: the layer as an error names it.

    Raises:
        UsageError: it does what Keras 2 does no more.
    """
    if not isinstance(config, dict):
        return class_name, config
    renamed: dict[str, Any] = {_SETTINGS.get(str(name), str(name)): value for name, value in config.items()}
    if "nb_row" in renamed:
        renamed["kernel_size"] = [renamed.pop("nb_row"), renamed.pop("nb_col", None)]
    if (ordering := renamed.pop("dim_ordering", None)) is not None:
        renamed["data_format"] = _ORDERINGS.get(str(ordering), ordering)
    if class_name == "BatchNormalization" and renamed.pop("mode", 0) != 0:
        raise UsageError(f"{where}: cifarlab reads batch normalisation of mode 0 only: build the model with that")
    if class_name == "Merge":
        return _merge(renamed, where)
    if class_name == "ZeroPadding2D":
        renamed["padding"] = _padding(renamed.get("padding"))
    return _LAYERS.get(class_name, class_name), renamed


def _merge(config: dict[str, Any], where: str) -> tuple[str, object]:
    """`Merge` was one layer for all; its mode may also be Python code, which is not in `_MERGES`."""
    mode = str(config.get("mode"))
    class_name = _MERGES.get(mode) if config.get("mode_type", "raw") == "raw" else None
    if class_name is None or config.get("layers"):
        raise UsageError(
            f"{where}: cifarlab reads Merge in a Model with the modes {', '.join(_MERGES)}: build the model with those"
        )
    axis = {"axis": config.get("concat_axis")} if class_name == "Concatenate" else {}
    return class_name, {"name": config.get("name"), **axis}


def _padding(padding: object) -> object:
    """Of Keras 1.2: (height, width), (top, bottom, left, right), or those four by name."""
    if isinstance(padding, Mapping):
        padding = [padding.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
    if isinstance(padding, list) and len(padding) == 4:
        return [padding[:2], padding[2:]]
    return padding
