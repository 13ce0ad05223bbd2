"""The search space of a tuning: a TOML file with a table for each key to tune, which gives its range or its choices.

[learning_rate]
low = 1e-3
high = 0.3
log = true

["augment.flip"]
choices = [false, true]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, StrictBool, model_validator

from cifarlab.errors import UsageError, unknown, validated
from cifarlab.files import with_home
from cifarlab.recipes import Recipe, keys, read_tables
from cifarlab.recipes.differences import flatten, value_text

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial

FIXED = ("dataset", "drop", "merge", "train_on", "validate_on", "validation_fraction", "seed")
NOT_TUNED = {
    "it decides which images judge a trial": FIXED,
    "it does not change the training": ("name", "description", "published"),
}
TABLES = ("augment", "model_options")  # recipe tables, whose keys are tuned one by one as "TABLE.KEY"
RANGE_KEYS = ("low", "high", "log", "step")
GRID_TOLERANCE = 1e-9  # distance of a number from a multiple of the step, in steps, that rounding may cause
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Range(BaseModel, frozen=True, extra="forbid"):
    """Numbers from `low` to `high`, both included."""

    low: Number
    high: Number
    log: StrictBool = False  # True if logarithms are drawn evenly
    step: Annotated[Number, Field(gt=0)] | None = None  # None allows every number, or every whole number if `whole`
    whole: bool = False  # True if only integers are drawn

    @model_validator(mode="after")
    def _check_together(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got {self.low:g} and {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log = true needs low above 0 and no step")
        if not self._is_on_grid(self.high):
            raise ValueError(f"step must divide high - low, got {self.step:g}, {self.low:g} and {self.high:g}")
        return self

    def _is_on_grid(self, value: float) -> bool:
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < GRID_TOLERANCE

    def suggest(self, key: str, trial: OptunaTrial) -> float:
        """Return the value of an Optuna trial, drawing it if the trial has none yet."""
        if self.whole:
            return trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)

    def value_of(self, label: Any) -> Any:
        """Return the value that a study stores as this label."""
        return label

    def label_of(self, value: Any) -> Any:
        """Return what a study stores for a value; None if the value lies outside the space."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and self.low <= value <= self.high and self._is_on_grid(value) else None

    def checked_values(self) -> list[Any]:
        """Return values for validation: if a recipe accepts these, it accepts the whole range."""
        return [int(end) if self.whole else end for end in (self.low, self.high)]


class Choice(BaseModel, frozen=True, extra="forbid"):
    """A setting whose value is chosen from a list."""

    choices: list[object]

    @model_validator(mode="after")
    def _check_choices(self) -> Choice:
        if len(set(map(_label, self.choices))) < max(2, len(self.choices)):
            raise ValueError(f"choices must be at least two different values, got {self.choices!r}")
        return self

    def suggest(self, key: str, trial: OptunaTrial) -> object:
        return self.value_of(trial.suggest_categorical(key, list(map(_label, self.choices))))

    def value_of(self, label: Any) -> Any:
        return next(choice for choice in self.choices if _label(choice) == label)

    def label_of(self, value: Any) -> Any:
        value = list(value) if isinstance(value, tuple) else value
        return next((_label(choice) for choice in self.choices if choice == value), None)

    def checked_values(self) -> list[Any]:
        return self.choices


Space = Mapping[str, Range | Choice]


def load(space: Path | str | Mapping[str, Any], recipe: Recipe) -> Space:
    """Read a recipe's search space from a TOML file or its tables; one UsageError lists all that is wrong."""
    tables = space if isinstance(space, Mapping) else read_tables(Path(with_home(space)))
    parameters: dict[str, Range | Choice] = {}
    errors = [] if tables else ["it is empty, but must have a table for each key to tune, such as [learning_rate]"]
    for key, table in tables.items():
        try:
            parameters[key] = _parameter(key, table, _value(recipe, key))
            for value in parameters[key].checked_values():
                _check_value(recipe, key, value)
        except UsageError as error:
            errors.append(str(error))
    if errors:
        source = "space" if isinstance(space, Mapping) else f"--space {space}"
        raise UsageError(f"{source}: {'; '.join(errors)}")
    return parameters


def own_values(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's own values that lie in the search space, by key, as a study stores them."""
    labels = {key: parameter.label_of(_value(recipe, key)) for key, parameter in space.items()}
    return {key: label for key, label in labels.items() if label is not None}


def _parameter(key: str, table: Any, own: Any) -> Range | Choice:
    """Check a table of the file; `own` is the recipe's value, whose type decides if only whole numbers are drawn."""
    settings = table if isinstance(table, dict) else {}
    _check_key(key, settings)
    if "choices" in settings:
        return validated(Choice, settings, key, Choice.model_fields)
    if not {"low", "high"} & settings.keys():
        raise UsageError(f"{key} must be a table with low and high, or with choices")
    if "whole" in settings:  # follows from the numbers
        raise UsageError(f"{key}: {unknown('key', 'whole', RANGE_KEYS)}")
    parameter = validated(Range, settings, key, RANGE_KEYS)
    numbers = [settings[name] for name in ("low", "high", "step") if name in settings]
    whole = all(isinstance(number, int) for number in numbers)
    if type(own) is int and not whole:
        raise UsageError(f"{key} takes whole numbers: write {', '.join(f'{number:.0f}' for number in numbers)}")
    return parameter.model_copy(update={"whole": whole and not isinstance(own, float)})


def _check_key(key: str, settings: Mapping[str, Any]) -> None:
    for reason, names in NOT_TUNED.items():
        if key in names:
            raise UsageError(f"{key} cannot be tuned, because {reason}")
    inner = next((name for name, value in settings.items() if isinstance(value, dict)), None)
    if inner is not None:  # checked first, because `model_options` alone is a key of a recipe, too
        raise UsageError(f'a key with a dot needs quotes: write ["{key}.{inner}"] instead of [{key}.{inner}]')
    if key in TABLES and "choices" not in settings:
        raise UsageError(f'{key} is a table: name one of its keys in quotes, such as ["{key}.KEY"]')
    if key not in keys() and not key.startswith("model_options."):
        raise unknown("key", key, keys())


def _check_value(recipe: Recipe, key: str, value: Any) -> None:
    """Raise UsageError if the recipe refuses a value. Conflicts with other keys are left to the trials."""
    try:
        recipe.changed({key: value})
    except UsageError as error:
        reason = str(error).removeprefix(f"recipe {recipe.name!r}: ")
        if reason.startswith(key):
            raise UsageError(reason) from error


def _value(recipe: Recipe, key: str) -> Any:
    """Return a recipe's value of a key with or without a dot; None if it has none."""
    values = recipe.model_dump()
    return (values | flatten(values)).get(key)


def _label(choice: object) -> Any:
    """Return a choice as a study stores it: lists and tables as JSON text."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, default=str)


def settings_text(parameters: Mapping[str, object]) -> str:
    """Return values by key as text: `learning_rate=0.01, augment.flip=true`."""
    return ", ".join(f"{key}={rounded_text(value)}" for key, value in parameters.items())


def rounded_text(value: object) -> str:
    """Return a value as `--set` takes it, numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
