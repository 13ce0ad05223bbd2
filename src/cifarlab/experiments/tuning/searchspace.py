"""What a tuning may try: a TOML file with a table for each key of a recipe, that gives its range or its choices.

    [learning_rate]
    low = 1e-3
    high = 0.3
    log = true

    ["augment.flip"]
    choices = [false, true]

Everything in it is checked before anything is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarlab.errors import UsageError, unknown
from cifarlab.recipes import Recipe, keys, read_tables
from cifarlab.recipes.differences import value_text

FIXED = ("dataset", "drop", "merge", "train_on", "validate_on", "validation_fraction", "seed")
"""Keys that decide which images a trial is judged on: trials that differ in them could not be compared."""
WORDS = ("name", "description", "published")
TABLES = ("augment", "model_options")  # of keys with a dot
RANGE, CHOICES = ("low", "high", "log", "step"), ("choices",)
ON_THE_GRID = 1e-9  # how far a number may be from a multiple of the step, in steps


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    key: str
    low: float
    high: float
    log: bool = False
    """Draw their logarithms evenly."""
    step: float | None = None
    """Between neighbours; None for any number, or any whole number where they are whole."""
    whole: bool = False

    def suggest(self, trial: Any) -> float:
        """The value that an Optuna trial has for it, drawn if it has none yet."""
        if self.whole:
            low, high = int(self.low), int(self.high)
            return int(trial.suggest_int(self.key, low, high, step=int(self.step or 1), log=self.log))
        return float(trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log))

    def value_of(self, label: Any) -> Any:
        """The value that a study wrote so."""
        return label

    def label_of(self, value: Any) -> Any:
        """How the study writes a value; None if it lies outside."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return value if self.step is None or _is_multiple(value - self.low, self.step) else None

    def ends(self) -> Iterator[Any]:
        """Values that stand for all: what a recipe says to them it says to all between."""
        yield from (self.low, self.high)

    def about(self) -> dict[str, Any]:
        """As the file had it."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "whole": self.whole}


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    key: str
    choices: tuple[Any, ...]

    def suggest(self, trial: Any) -> Any:
        """The value that an Optuna trial has for it, drawn if it has none yet."""
        return self.value_of(trial.suggest_categorical(self.key, [_label(choice) for choice in self.choices]))

    def value_of(self, label: Any) -> Any:
        """The value that a study wrote so."""
        return next(choice for choice in self.choices if _label(choice) == label)

    def label_of(self, value: Any) -> Any:
        """How the study writes a value; None if it is none of the choices."""
        value = list(value) if isinstance(value, tuple) else value
        return next((_label(choice) for choice in self.choices if choice == value), None)

    def ends(self) -> Iterator[Any]:
        """All of them."""
        yield from self.choices

    def about(self) -> dict[str, Any]:
        """As the file had it."""
        return {"choices": list(self.choices)}


Parameter = Range | Choice
Space = tuple[Parameter, ...]


def load(path: str | Path, recipe: Recipe) -> Space:
    """Reads a search space for a recipe.

    Raises:
        UsageError: one line with all that is wrong with it.
    """
    return check(read_tables(Path(path)), recipe, f"--space {path}")


def check(tables: Mapping[str, Any], recipe: Recipe, where: str = "space") -> Space:
    """The search space that these tables describe; `where` begins an error.

    Raises:
        UsageError: one line with all that is wrong.
    """
    found, wrong = [], []
    for key, table in tables.items():
        try:
            parameter = _parameter(key, table, recipe)
            for value in parameter.ends():
                _try(recipe, key, value)
            found.append(parameter)
        except UsageError as error:
            wrong.append(str(error))
    if not tables:
        wrong.append("there is no key in it: it should have a table for each, such as [learning_rate]")
    if wrong:
        raise UsageError(f"{where}: {'; '.join(wrong)}")
    return tuple(found)


def own_values(space: Space, recipe: Recipe) -> dict[str, Any]:
    """The recipe's own values, as the study writes them, of those keys where they lie in the space."""
    labels = {parameter.key: parameter.label_of(_value(recipe, parameter.key)) for parameter in space}
    return {key: label for key, label in labels.items() if label is not None}


def about(space: Space) -> dict[str, Any]:
    """The space as JSON takes it."""
    return {parameter.key: parameter.about() for parameter in space}


def _parameter(key: str, table: Any, recipe: Recipe) -> Parameter:
    _check_key(key, table)
    if not isinstance(table, dict) or not ({"choices", "low", "high"} & table.keys()):
        raise UsageError(f"{key}: should be a table with low and high, or with choices")
    allowed = CHOICES if "choices" in table else RANGE
    for name in table:
        if name not in allowed:
            raise UsageError(f"{key}: {unknown('setting', name, allowed)}")
    if "choices" in table:
        return _choice(key, table["choices"])
    return _range(key, table, _value(recipe, key))


def _check_key(key: str, table: Any) -> None:
    if key in FIXED:
        raise UsageError(f"{key}: cannot be tuned, because it decides which images a trial is judged on")
    if key in WORDS:
        raise UsageError(f"{key}: says nothing about the training")
    inner = next((name for name in table if isinstance(table[name], dict)), None) if isinstance(table, dict) else None
    if inner is not None:  # before all else: `model_options` is a key, too
        raise UsageError(f'a key with a dot needs quotes: ["{key}.{inner}"] instead of [{key}.{inner}]')
    if key in TABLES and "choices" not in table:
        raise UsageError(f'{key}: is a table, of which one key can be tuned, in quotes: ["{key}.KEY"]')
    if key not in keys() and not key.startswith("model_options."):
        raise unknown("key", key, keys())


def _choice(key: str, choices: Any) -> Choice:
    if not isinstance(choices, list) or len(choices) < 2:
        raise UsageError(f"{key}: choices should be a list of two or more")
    labels = [_label(choice) for choice in choices]
    if any(label in labels[:number] for number, label in enumerate(labels)):
        raise UsageError(f"{key}: a choice is there twice")
    return Choice(key, tuple(choices))


def _range(key: str, table: Mapping[str, Any], own: Any) -> Range:
    numbers = {name: table.get(name) for name in ("low", "high", "step")}
    for name, value in numbers.items():
        if value is None and name != "step":
            raise UsageError(f"{key}: {name} is missing")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{key}: {name} should be a number, got {value!r}")
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{key}: {name} should be finite, got {value!r}")
    low, high, step, log = numbers["low"], numbers["high"], numbers["step"], table.get("log", False)
    assert low is not None and high is not None
    given = [value for value in (low, high, step) if value is not None]
    all_whole = all(isinstance(value, int) for value in given)
    if type(own) is int and not all_whole:
        raise UsageError(f"{key}: takes whole numbers: write {', '.join(f'{value:.0f}' for value in given)}")
    if not isinstance(log, bool):
        raise UsageError(f"{key}: log should be true or false, got {log!r}")
    if not low < high:
        raise UsageError(f"{key}: low should be less than high, got {low!r} and {high!r}")
    if log and (low <= 0 or step is not None):
        raise UsageError(f"{key}: log = true needs a low above 0 and no step")
    if step is not None and step <= 0:
        raise UsageError(f"{key}: step should be above 0, got {step!r}: leave it out for any number between")
    if step is not None and not _is_multiple(high - low, step):
        raise UsageError(f"{key}: high should be low and a multiple of step, got {low!r}, {high!r} and {step!r}")
    return Range(key, low, high, log, step, whole=all_whole and not isinstance(own, float))


def _is_multiple(distance: float, step: float) -> bool:
    return abs(distance / step - round(distance / step)) < ON_THE_GRID


def _try(recipe: Recipe, key: str, value: Any) -> None:
    """Raises UsageError if the recipe does not take a value; what only other keys forbid is left to the trials."""
    try:
        recipe.changed({key: value})
    except UsageError as error:
        told = str(error).removeprefix(f"recipe {recipe.name!r}: ")
        if told.startswith(key):
            raise UsageError(told) from error


def _value(recipe: Recipe, key: str) -> Any:
    table, _, inner = key.partition(".")
    value = recipe.model_dump().get(table)
    return value.get(inner) if inner and isinstance(value, dict) else value


def _label(choice: Any) -> Any:
    """A choice as a study can hold it, which knows no lists."""
    return choice if isinstance(choice, bool | int | float | str) else json.dumps(choice, default=str)


def shown(parameters: Mapping[str, Any]) -> str:
    """Values by key, for people: `learning_rate=0.01, augment.flip=true`."""
    return ", ".join(f"{key}={text(value)}" for key, value in parameters.items())


def text(value: Any) -> str:
    """A value as `--set` takes it, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else value_text(value)
