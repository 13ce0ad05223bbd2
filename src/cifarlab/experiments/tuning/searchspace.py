"""The search space of a tuning: a TOML file with a table for each key to tune, which gives its range or its choices.

    [learning_rate]
    low = 1e-3
    high = 0.3
    log = true

    ["augment.flip"]
    choices = [false, true]

The whole file is checked before anything is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifarlab.errors import UsageError, unknown
from cifarlab.recipes import Recipe, keys, read_tables
from cifarlab.recipes.differences import value_text

if TYPE_CHECKING:
    from optuna import Trial as OptunaTrial

FIXED = ("dataset", "drop", "merge", "train_on", "validate_on", "validation_fraction", "seed")
"""Keys that decide which images judge a trial: trials that differ in them cannot be compared."""
LABELS = ("name", "description", "published")  # keys that do not change the training
TABLES = ("augment", "model_options")  # recipe tables, whose keys are tuned one by one as "TABLE.KEY"
RANGE_SETTINGS, CHOICE_SETTINGS = ("low", "high", "log", "step"), ("choices",)
GRID_TOLERANCE = 1e-9  # distance of a number from a multiple of the step, in steps, that rounding may cause


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    """True if logarithms are drawn evenly."""
    step: float | None = None
    """Distance between neighbouring values; None allows every number, or every whole number if `whole`."""
    whole: bool = False
    """True for integers."""

    def suggest(self, trial: OptunaTrial) -> float:
        """Return the value of an Optuna trial, drawing it if the trial has none yet."""
        if self.whole:
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.key, low, high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def value_of(self, label: Any) -> Any:
        """Return the value that a study stores as this label."""
        return label

    def label_of(self, value: Any) -> Any:
        """Return what a study stores for a value; None if the value lies outside the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return value if self.step is None or _is_multiple(value - self.low, self.step) else None

    def checked_values(self) -> tuple[float, ...]:
        """Return values for validation: if a recipe accepts these, it accepts the whole range."""
        return (self.low, self.high)

    def as_json(self) -> dict[str, Any]:
        """Return the range as JSON."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "whole": self.whole}


@dataclass(frozen=True)
class Choice:
    """A setting whose value is chosen from a list."""

    key: str
    choices: tuple[object, ...]

    def suggest(self, trial: OptunaTrial) -> object:
        """Return the value of an Optuna trial, drawing it if the trial has none yet."""
        return self.value_of(trial.suggest_categorical(self.key, [_label(choice) for choice in self.choices]))

    def value_of(self, label: Any) -> Any:
        """Return the choice that a study stores as this label."""
        return next(choice for choice in self.choices if _label(choice) == label)

    def label_of(self, value: Any) -> Any:
        """Return what a study stores for a value; None if the value is not among the choices."""
        value = list(value) if isinstance(value, tuple) else value
        return next((_label(choice) for choice in self.choices if choice == value), None)

    def checked_values(self) -> tuple[object, ...]:
        """Return values for validation: all choices."""
        return self.choices

    def as_json(self) -> dict[str, Any]:
        """Return the choices as JSON."""
        return {"choices": list(self.choices)}


Parameter = Range | Choice
Space = tuple[Parameter, ...]


def load(path: str | Path, recipe: Recipe) -> Space:
    """Read the search space of a recipe from a TOML file.

    Raises:
        UsageError: one line that lists all errors of the file.
    """
    return check(read_tables(Path(path)), recipe, f"--space {path}")


def check(tables: Mapping[str, Any], recipe: Recipe, source: str = "space") -> Space:
    """Return the search space that these tables describe.

    Args:
        tables: a table for each key, as in the TOML file.
        recipe: the recipe to tune.
        source: name of the search space in errors.

    Raises:
        UsageError: one line that lists all errors.
    """
    parameters, errors = [], []
    for key, table in tables.items():
        try:
            parameter = _parameter(key, table, recipe)
            for value in parameter.checked_values():
                _check_value(recipe, key, value)
            parameters.append(parameter)
        except UsageError as error:
            errors.append(str(error))
    if not tables:
        errors.append("it is empty, but must have a table for each key to tune, such as [learning_rate]")
    if errors:
        raise UsageError(f"{source}: {'; '.join(errors)}")
    return tuple(parameters)


def own_values(space: Space, recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's own values that lie in the search space, by key, as a study stores them."""
    labels = {parameter.key: parameter.label_of(_value(recipe, parameter.key)) for parameter in space}
    return {key: label for key, label in labels.items() if label is not None}


def as_json(space: Space) -> dict[str, Any]:
    """Return the search space as JSON, by key."""
    return {parameter.key: parameter.as_json() for parameter in space}


def _parameter(key: str, table: Any, recipe: Recipe) -> Parameter:
    _check_key(key, table)
    if not isinstance(table, dict) or not ({"choices", "low", "high"} & table.keys()):
        raise UsageError(f"{key} must be a table with low and high, or with choices")
    allowed = CHOICE_SETTINGS if "choices" in table else RANGE_SETTINGS
    for name in table:
        if name not in allowed:
            raise UsageError(f"{key}: {unknown('setting', name, allowed)}")
    if "choices" in table:
        return _choice(key, table["choices"])
    return _range(key, table, _value(recipe, key))


def _check_key(key: str, table: Any) -> None:
    if key in FIXED:
        raise UsageError(f"{key} cannot be tuned, because it decides which images judge a trial")
    if key in LABELS:
        raise UsageError(f"{key} cannot be tuned, because it does not change the training")
    inner = next((name for name in table if isinstance(table[name], dict)), None) if isinstance(table, dict) else None
    if inner is not None:  # checked first, because `model_options` alone is a key of a recipe, too
        raise UsageError(f'a key with a dot needs quotes: write ["{key}.{inner}"] instead of [{key}.{inner}]')
    if key in TABLES and "choices" not in table:
        raise UsageError(f'{key} is a table: name one of its keys in quotes, such as ["{key}.KEY"]')
    if key not in keys() and not key.startswith("model_options."):
        raise unknown("key", key, keys())


def _choice(key: str, choices: Any) -> Choice:
    if not isinstance(choices, list) or len(choices) < 2:
        raise UsageError(f"{key}: choices must be a list of at least two values, got {choices!r}")
    labels = [_label(choice) for choice in choices]
    if any(label in labels[:number] for number, label in enumerate(labels)):
        raise UsageError(f"{key}: choices must differ, got {choices!r}")
    return Choice(key, tuple(choices))


def _range(key: str, table: Mapping[str, Any], own: Any) -> Range:
    """Check a range in the file; `own` is the recipe's value, whose type decides if only whole numbers are drawn."""
    numbers = {name: table.get(name) for name in ("low", "high", "step")}
    for name, value in numbers.items():
        if value is None and name != "step":
            raise UsageError(f"{key}: {name} is missing")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{key}: {name} must be a number, got {value!r}")
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{key}: {name} must be finite, got {value!r}")
    low, high, step, log = numbers["low"], numbers["high"], numbers["step"], table.get("log", False)
    assert low is not None and high is not None
    present = [value for value in (low, high, step) if value is not None]
    all_whole = all(isinstance(value, int) for value in present)
    if type(own) is int and not all_whole:
        raise UsageError(f"{key} takes whole numbers: write {', '.join(f'{value:.0f}' for value in present)}")
    if not isinstance(log, bool):
        raise UsageError(f"{key}: log must be true or false, got {log!r}")
    if not low < high:
        raise UsageError(f"{key}: low must be less than high, got {low!r} and {high!r}")
    if log and (low <= 0 or step is not None):
        raise UsageError(f"{key}: log = true needs low above 0 and no step")
    if step is not None and step <= 0:
        raise UsageError(f"{key}: step must be above 0, got {step!r}; leave it out to allow every number")
    if step is not None and not _is_multiple(high - low, step):
        raise UsageError(f"{key}: high - low must be a multiple of step, got {low!r}, {high!r} and {step!r}")
    return Range(key, low, high, log, step, whole=all_whole and not isinstance(own, float))


def _is_multiple(distance: float, step: float) -> bool:
    return abs(distance / step - round(distance / step)) < GRID_TOLERANCE


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
    table, _, inner = key.partition(".")
    value = recipe.model_dump().get(table)
    return value.get(inner) if inner and isinstance(value, dict) else value


def _label(choice: Any) -> Any:
    """Return a choice as a study stores it: lists and tables as JSON text."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, default=str)


def settings_text(parameters: Mapping[str, object]) -> str:
    """Return values by key as text: `learning_rate=0.01, augment.flip=true`."""
    return ", ".join(f"{key}={rounded_text(value)}" for key, value in parameters.items())


def rounded_text(value: object) -> str:
    """Return a value as `--set` takes it, numbers with four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
