"""Read a layer's settings one by one and check each, because anybody may have written the file."""

from collections.abc import Mapping, Sequence
from typing import Any

from cifarlab.errors import UsageError, one_line, shorten

MAX_INTEGER = 2**24  # for channels, units and pixels
MAX_AXIS = 8
MAX_FLOAT = 1e38  # the range of float32
MAX_SHOWN = 60  # letters of a wrong value in an error

_WITHOUT_EFFECT = {  # settings that do not change what a trained layer computes
    *("name", "trainable", "batch_input_shape", "batch_shape", "input_shape", "input_dim", "input_length"),
    *("input_dtype", "input_spec", "init", "seed", "noise_shape", "synchronized", "fused", "autocast"),
    *("W_regularizer", "b_regularizer", "gamma_regularizer", "W_constraint", "b_constraint"),
}
_ENDINGS_WITHOUT_EFFECT = ("_initializer", "_regularizer", "_constraint", "_init")


class LayerSettings:
    """The settings of one layer. Each is taken once; `refuse_unknown` raises an error for those that remain."""

    def __init__(self, label: str, config: object) -> None:
        """Wrap the settings of a layer; `label` is the layer's name and class, for errors.

        Raises:
            UsageError: `config` is not a dictionary.
        """
        if not isinstance(config, dict):
            raise UsageError(f"{label} has no settings")
        self.label = label
        self._remaining: dict[str, Any] = dict(config)

    def take(self, *names: str, default: Any = None) -> Any:
        """Return a setting, which may have different names in different versions of Keras."""
        values = [self._remaining.pop(name) for name in names if name in self._remaining]
        return next((value for value in values if value is not None), default)

    def has(self, name: str) -> bool:
        """Return True if the file states a setting that was not taken yet."""
        return self._remaining.get(name) is not None

    def integer(self, name: str, *, minimum: int = 1, default: int | None = None) -> int:
        """Return an integer."""
        return self.check_integer(name, self.take(name, default=default), minimum)

    def integer_pair(self, name: str, *, default: Any = None) -> list[int]:
        """Return two positive integers, for height and width; a single integer stands for both."""
        value = self.take(name, default=default)
        pair = [value, value] if _is_integer(value) else value
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise self.error(name, "one or two integers from 1", value)
        return [self.check_integer(name, number, 1) for number in pair]

    def edges(self, name: str, default: int) -> list[list[int]]:
        """Return pixels [[top, bottom], [left, right]]; [1, 2] stands for [[1, 1], [2, 2]]."""
        value = self.take(name, default=default)
        pair = [value, value] if _is_integer(value) else value
        sides = [[side, side] if _is_integer(side) else side for side in pair] if isinstance(pair, list) else []
        if len(sides) != 2 or any(not isinstance(side, list) or len(side) != 2 for side in sides):
            raise self.error(name, "pixels for height and width", value)
        return [[self.check_integer(name, pixels, 0) for pixels in side] for side in sides]

    def number(self, *names: str, default: float | None = None) -> float:
        """Return a finite number."""
        return self.check_number(names[0], self.take(*names, default=default))

    def numbers(self, name: str, default: float) -> float | list[float]:
        """Return a finite number or a flat list of them."""
        value = self.take(name, default=default)
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, list):
            return self.check_number(name, value)
        return [self.check_number(name, number) for number in value]

    def boolean(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.take(name, default=default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        """Return one of a few words."""
        value = self.take(name, default=default)
        if value not in allowed:
            raise self.error(name, " or ".join(map(repr, allowed)), value)
        return str(value)

    def axis(self, default: int) -> int:
        """Return the number of an axis, which may be negative."""
        axes = self.axes(default)
        if len(axes) != 1:
            raise self.error("axis", "one integer", axes)
        return axes[0]

    def axes(self, default: int) -> list[int]:
        """Return the numbers of one or more axes, which may be negative."""
        value = self.take("axis", "concat_axis", default=default)
        axes = value if isinstance(value, list) else [value]
        if len(axes) > MAX_AXIS or any(not _is_integer(axis) or abs(axis) > MAX_AXIS for axis in axes):
            raise self.error("axis", "one or more integers", value)
        return list(axes)

    def check_integer(self, name: str, value: Any, minimum: int) -> int:
        """Return `value` if it is an integer of at least `minimum`."""
        if not _is_integer(value) or not minimum <= value <= MAX_INTEGER:
            raise self.error(name, f"an integer from {minimum} to {MAX_INTEGER:,}", value)
        return int(value)

    def check_number(self, name: str, value: Any) -> float:
        """Return `value` if it is a finite number."""
        if (
            not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < MAX_FLOAT
        ):  # NaN is refused too
            raise self.error(name, "a finite number", value)
        return float(value)

    def ignore_rest(self) -> None:
        """Accept all settings that were not taken."""
        self._remaining.clear()

    def error(self, name: str, allowed: str, value: object) -> UsageError:
        """Return the error for a wrong value."""
        return UsageError(f"{self.label}: {name} must be {allowed}, got {_shortened(value)}")

    def refuse_unknown(self) -> None:
        """Refuse settings that were not taken, unless they are off or without effect on a trained network.

        Raises:
            UsageError: the effect of a setting is unknown.
        """
        dtype = str(self._remaining.pop("dtype", None))
        if "quantized" in dtype.lower() or "int8" in dtype:
            raise UsageError(f"{self.label} is quantized: save the model as it was before quantization")
        for name, value in self._remaining.items():
            if name not in _WITHOUT_EFFECT and not name.endswith(_ENDINGS_WITHOUT_EFFECT) and value:
                raise UsageError(
                    f"{self.label}: the setting {one_line(name)[:MAX_SHOWN]} = {_shortened(value)} is not supported: "
                    "save the model without it"
                )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shortened(value: object) -> str:
    return shorten(one_line(repr(value)), MAX_SHOWN)


def unwrap(value: dict[str, Any]) -> Any:
    """Return the tuple or array in one of Keras's wrappers, or the dictionary itself; for `json.loads`."""
    kind = value.get("class_name")
    if kind in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
        return value["items"]
    if kind in ("__numpy__", "__tensor__") and isinstance(value.get("config"), Mapping):
        return value["config"].get("value")
    if value.get("type") == "ndarray" and "value" in value:
        return value["value"]
    return value
