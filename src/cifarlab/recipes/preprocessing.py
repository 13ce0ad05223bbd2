"""How a picture of any size becomes a network's input, as one value that recipes and weights files hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

Normalization = Literal["unit", "symmetric", "standard", "zca", "raw"]
Channels = Literal["rgb", "bgr", "gray", "mono"]
Resize = Literal["crop", "stretch", "pad"]
PREPROCESSING = ("normalize", "mean", "std", "channels", "resize")  # the recipe's keys that are about it

_WHITE = {"unit": 1.0, "raw": 255.0}  # value of a white pixel
_CONSTANTS = {"unit": ([0.0], [1.0]), "symmetric": ([0.5], [0.5]), "raw": ([0.0], [1 / 255])}


def _to_list(value: Any) -> Any:
    """Return one number, or the text `0.5,0.4,0.3`, as a list."""
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value


Values = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], BeforeValidator(_to_list)]


@dataclass(frozen=True)
class Preprocessing:
    """Scaling of pixels, order of channels and resizing. `Recipe` has the same fields and describes them."""

    normalize: Normalization = "standard"
    mean: Values = ()
    std: Values = ()
    channels: Channels = "rgb"
    resize: Resize = "crop"

    def __post_init__(self) -> None:
        """Raise ValueError if mean and std fit neither each other nor `normalize`."""
        if not self.mean and not self.std:
            return
        if self.channels == "mono" and max(len(self.mean), len(self.std)) > 1:
            received = f"got mean {_text(self.mean)} and std {_text(self.std)}"
            raise ValueError(f'mean and std should be one number with channels = "mono", {received}')
        if self.normalize not in (*_WHITE, "standard"):
            raise ValueError(f'mean and std need normalize = "unit", "raw" or "standard", got "{self.normalize}"')
        received = f"got mean {_text(self.mean)} and std {_text(self.std)}"
        if (
            not {len(self.mean), len(self.std)} <= {0, 1, 3}
            or 0 in self.std
            or max(*self.mean, *self.std, 0) > self.white
        ):
            limit = f"from 0 to {self.white:g} (a white pixel), std above 0"
            raise ValueError(f"mean and std should be one number or three, {limit}, {received}")
        values = sorted({*self.mean, *self.std} - {0, 1})
        if self.normalize == "standard" and (not values or values[0] < 1 < values[-1]):
            how = 'set normalize to "unit" for pixels from 0 to 1, or to "raw" for pixels from 0 to 255'
            raise ValueError(f"mean and std do not tell the scale of the pixels, {received}: {how}")

    @property
    def in_channels(self) -> int:
        """Number of channels that the network sees, which are equal with `channels = "gray"`."""
        return 1 if self.channels == "mono" else 3

    @property
    def white(self) -> float:
        """Value of a white pixel on the scale of mean and std: 1 or 255."""
        return _WHITE.get(self.normalize, 255.0 if max(*self.mean, *self.std, 0) > 1 else 1.0)

    @property
    def constants(self) -> tuple[list[float], list[float]] | None:
        """Mean and deviation of pixels from 0 to 1, one value or three; None if training images decide."""
        if not self.mean and not self.std:
            return _CONSTANTS.get(self.normalize)
        return [value / self.white for value in self.mean or [0]], [value / self.white for value in self.std or [1]]

    def __str__(self) -> str:
        """Return the settings in a few words, such as `unit, mean 0.5, bgr`."""
        words = (self.normalize, f"mean {_text(self.mean)}", f"std {_text(self.std)}", self.channels, self.resize)
        return ", ".join(word for word in words if word not in ("mean none", "std none", "rgb", "crop"))


def _text(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values) or "none"
