"""A layer's settings in a file, taken one by one and checked, because anybody may have written them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cifarlab.errors import UsageError, one_line, shorten

LARGEST_NUMBER = 2**24  # of anything that is counted: channels, units, pixels
LARGEST_AXIS = 8
LARGEST_FLOAT = 1e38  # what fp32 holds
LONGEST_SHOWN = 60  # letters of a wrong value

# What does not change what a layer computes once it is trained.
_WITHOUT_EFFECT = {
    "name",
    "trainable",
    "batch_input_shape",
    "batch_shape",
    "input_shape",
    "input_dim",
    "input_length",
    "input_dtype",
    "input_spec",
    "init",
    "seed",
    "noise_shape",
    "synchronized",
    "fused",
    "autocast",
    "W_regularizer",
    "b_regularizer",
    "gamma_regularizer",
    "W_constraint",
    "b_constraint",
}
_ENDINGS_WITHOUT_EFFECT = ("_initializer", "_regularizer", "_constraint", "_init")


class Settings:
    """The settings of one layer. What nobody has taken when `finish` is called is an error, not a wrong result."""

    def __init__(self, where: str, config: object) -> None:
        """Wraps them.

        Args:
            where: the layer as an error names it: "the layer 'conv2d_1' (Conv2D)".
            config: what the file has for it.
        """
        if not isinstance(config, dict):
            raise UsageError(f"{where} has no settings")
        self.where = where
        self._left: dict[str, Any] = dict(config)

    def take(self, *names: str, default: Any = None) -> Any:
        """One setting, under any of the names that it had in versions of Keras; `default` where there is none."""
        found = [self._left.pop(name) for name in names if name in self._left]
        return next((value for value in found if value is not None), default)

    def has(self, name: str) -> bool:
        """Whether the file says anything about a setting."""
        return self._left.get(name) is not None

    def whole(self, *names: str, least: int = 1, default: int | None = None) -> int:
        """A whole number."""
        return self.checked_whole(names[0], self.take(*names, default=default), least)

    def pair(self, *names: str, least: int = 1, default: Any = None) -> list[int]:
        """Two whole numbers, for height and width; one number stands for both."""
        value = self.take(*names, default=default)
        both = [value, value] if _is_whole(value) else value
        if not isinstance(both, list | tuple) or len(both) != 2:
            raise self.wrong(names[0], f"one or two whole numbers from {least}", value)
        return [self.checked_whole(names[0], each, least) for each in both]

    def edges(self, name: str, default: int) -> list[list[int]]:
        """Pixels [[top, bottom], [left, right]]; [1, 2] stands for [[1, 1], [2, 2]]."""
        value = self.take(name, default=default)
        both = [value, value] if _is_whole(value) else value
        if not isinstance(both, list) or len(both) != 2:
            raise self.wrong(name, "pixels for height and width", value)
        sides = [[each, each] if _is_whole(each) else each for each in both]
        if any(not isinstance(side, list) or len(side) != 2 for side in sides):
            raise self.wrong(name, "pixels for height and width", value)
        return [[self.checked_whole(name, each, 0) for each in side] for side in sides]

    def number(self, *names: str, default: float | None = None) -> float:
        """A finite number."""
        return self.checked_number(names[0], self.take(*names, default=default))

    def numbers(self, name: str, default: float) -> float | list[float]:
        """A finite number, or a flat list of them."""
        value = self.take(name, default=default)
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if _is_number(value):
            return float(value)
        if not isinstance(value, list) or not all(_is_number(each) for each in value):
            raise self.wrong(name, "a number or a list of numbers", value)
        return [float(each) for each in value]

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default=default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", value)
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of a few words."""
        value = self.take(name, default=default)
        if value not in allowed:
            raise self.wrong(name, " or ".join(map(repr, allowed)), value)
        return str(value)

    def axis(self, default: int) -> int:
        """A whole number that may be negative, or a list of just one."""
        axes = self.axes(default)
        if len(axes) != 1:
            raise self.wrong("axis", "one whole number", axes)
        return axes[0]

    def axes(self, default: int) -> list[int]:
        """Whole numbers that may be negative, or just one."""
        value = self.take("axis", "concat_axis", default=default)
        axes = value if isinstance(value, list) else [value]
        if len(axes) > LARGEST_AXIS or any(not _is_whole(each) or abs(each) > LARGEST_AXIS for each in axes):
            raise self.wrong("axis", "whole numbers", value)
        return list(axes)

    def checked_whole(self, name: str, value: Any, least: int) -> int:
        """`value` as a whole number from `least`."""
        if not _is_whole(value) or not least <= value <= LARGEST_NUMBER:
            raise self.wrong(name, f"a whole number from {least} to {LARGEST_NUMBER:,}", value)
        return int(value)

    def checked_number(self, name: str, value: Any) -> float:
        """`value` as a finite number."""
        if not _is_number(value):
            raise self.wrong(name, "a number", value)
        return float(value)

    def forget(self) -> None:
        """Lets all settings pass that are left."""
        self._left.clear()

    def wrong(self, name: str, wanted: str, got: object) -> UsageError:
        """The error for a value that cannot be."""
        return UsageError(f"{self.where}: {name} should be {wanted}, got {_shown(got)}")

    def finish(self) -> None:
        """Refuses what nobody has taken, unless it is off or has no effect on a trained network.

        Raises:
            UsageError: there is a setting whose effect nobody here knows.
        """
        dtype = self._left.pop("dtype", None)
        if "quantized" in str(dtype).lower() or "int8" in str(dtype):
            raise UsageError(f"{self.where} is quantized: save the model as it was before that")
        for name, value in self._left.items():
            if name not in _WITHOUT_EFFECT and not name.endswith(_ENDINGS_WITHOUT_EFFECT) and value:
                raise UsageError(
                    f"{self.where}: cifarlab does not know its setting {one_line(name)[:LONGEST_SHOWN]} = "
                    f"{_shown(value)}: save the model without it"
                )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < LARGEST_FLOAT  # False for what is no number


def _shown(value: object) -> str:
    return shorten(one_line(repr(value)), LONGEST_SHOWN)


def plain(value: dict[str, Any]) -> Any:
    """Undoes the wrappings that versions of Keras put around tuples and arrays; for `json.loads`."""
    kind = value.get("class_name")
    if kind in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
        return value["items"]
    if kind in ("__numpy__", "__tensor__") and isinstance(value.get("config"), Mapping):
        return value["config"].get("value")
    if value.get("type") == "ndarray" and "value" in value:
        return value["value"]
    return value
