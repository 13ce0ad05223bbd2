"""The definition of a study as a user writes it: in a TOML file, or as `--vary key=value,value`.

Reads and checks the form of definitions. `grid` makes runs of them. Nothing here imports PyTorch or creates files.
"""

import contextlib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from cifarlab import recipes
from cifarlab.errors import UsageError, validated
from cifarlab.recipes.differences import flatten

MOST_RUNS = 10_000  # of a study; larger numbers are typing errors
Scalar = str | bool | int | float
Value = Scalar | list[Scalar] | dict[str, Scalar]  # of a recipe's key, as TOML and JSON know it
_RANGE = re.compile(r"(-?\d{1,18}):(-?\d{1,18})")


def list_values(values: Any) -> list[Any]:
    """Return the values of a key as a list: the numbers of a range such as `0:5`, or a single value as its only one.

    The values themselves are not checked.
    """
    if isinstance(values, str) and (match := _RANGE.fullmatch(values.strip())):
        first, end = int(match[1]), int(match[2])
        if not 0 < end - first <= MOST_RUNS:
            raise UsageError(f"a range must hold 1 to {MOST_RUNS:,} numbers, got {values!r}; 0:5 means 0 to 4")
        return list(range(first, end))
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        return [values]
    return [list(value) if isinstance(value, tuple) else value for value in values]


class Definition(BaseModel):
    """A study's recipe and keys; the content of study.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""  # of the study's folder; empty for one made of the recipe and the varied keys
    recipe: str  # name of a built-in recipe, or path of a recipe's TOML file
    set: dict[str, Value] = {}  # values that all runs share, by dotted key
    vary: dict[str, Annotated[list[Value], BeforeValidator(list_values)]] = {}  # values to combine, by dotted key

    @field_validator("set", "vary", mode="before")
    @classmethod
    def _flatten(cls, table: object) -> object:
        return flatten(table) if isinstance(table, Mapping) else table


def read_definition(path: Path) -> Definition:
    """Read a study's TOML file. The file of a recipe counts as a study of this recipe without varied keys.

    If the file names a recipe's file that lies beside it, the definition gets that file's path.
    """
    fields = recipes.read_tables(path)
    if not fields:
        raise UsageError(f'{path} is empty. A study needs recipe = "NAME" and a table [vary] with lists of values.')
    if not {"recipe", "vary", "set"} & fields.keys():
        return Definition(recipe=str(path))
    definition = validated(Definition, fields, str(path), Definition.model_fields)
    beside = path.parent / definition.recipe
    if definition.recipe.endswith(".toml") and beside.is_file():
        return definition.model_copy(update={"recipe": str(beside)})
    return definition


def parse_varied(settings: Iterable[str]) -> dict[str, list[Value]]:
    """Turn texts `key=value,value` into lists of values by key.

    Example:
        >>> parse_varied(["learning_rate=.1,.01", "seed=0:3", "augment.flip=true,false"])
        {'learning_rate': [0.1, 0.01], 'seed': [0, 1, 2], 'augment.flip': [True, False]}
    """
    varied: dict[str, list[Value]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not text.strip():
            raise UsageError(f"--vary must be KEY=VALUE,VALUE, got {setting!r}")
        if key in varied:
            raise UsageError(f"--vary {key} occurs twice. Give all its values at once: --vary {key}=VALUE,VALUE.")
        parts = map(_parse_value, _split_at_commas(text))
        varied[key] = [value for part in parts for value in (list_values(part) if isinstance(part, str) else [part])]
    return varied


def _split_at_commas(text: str) -> list[str]:
    """Return the parts between commas. Commas inside quotes and brackets do not separate."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == quote:
            quote = ""
        elif not quote:
            quote = letter if letter in "\"'" else ""
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _parse_value(text: str) -> Value:
    """Return a value as TOML reads it, or a number such as `.1`; anything else is text."""
    with contextlib.suppress(ValueError, RecursionError):
        value: Value = tomllib.loads(f"value = {text}")["value"]
        return value
    with contextlib.suppress(ValueError):
        return float(text) if math.isfinite(float(text)) else text
    return text
