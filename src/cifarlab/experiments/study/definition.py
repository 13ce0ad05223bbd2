"""The definition of a study, and the runs that it stands for: one for every combination of the varied values.

A user writes the definition in a TOML file, or as `--vary key=value,value`. Nothing here imports PyTorch or creates
files.
"""

import contextlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from cifarlab import recipes
from cifarlab.errors import UsageError, unknown, validated
from cifarlab.files import with_home
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import flatten, value_text
from cifarlab.runs.listing import LONGEST_NAME

MOST_RUNS = 10_000  # of a study; larger numbers are typing errors
SEED = "seed"
MOST_LISTED = 5  # missing values in an error
_NOT_VARIED = ("name", "description", "published")  # keys that do not change what is trained
_TABLES_OF_ANY_KEYS = ("model_options.", "merge.")
Scalar = str | bool | int | float
Value = Scalar | list[Scalar] | dict[str, Scalar]  # of a recipe's key, as TOML and JSON know it
_RANGE = re.compile(r"(-?\d{1,18}):(-?\d{1,18})")


def list_values(values: Any) -> list[Any]:
    """Return the values of a key as a list: the numbers of a range such as `0:5`, or a single value as its only one."""
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
        if not isinstance(table, Mapping):
            return table
        return flatten(table) | {key: value for key, value in table.items() if value == {}}  # which empties a table


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


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study."""

    name: str  # of the run's folder
    recipe: Recipe
    values: dict[str, Value]  # of the varied keys


@dataclass(frozen=True)
class Study:
    """All runs of a study, before anything is trained."""

    name: str  # of the study's folder
    recipe: str  # name of a built-in recipe, or absolute path of a recipe's file
    fixed: dict[str, Value]  # values that all runs share, by dotted key
    varied: dict[str, list[Value]]  # values to combine, by dotted key
    runs: list[PlannedRun]  # ordered by seed, so that a study that is cut off has whole small tables

    @property
    def keys(self) -> list[str]:
        """The varied keys without the seed."""
        return [key for key in self.varied if key != SEED]

    @property
    def definition(self) -> Definition:
        """The content of study.toml."""
        return Definition(name=self.name, recipe=self.recipe, set=self.fixed, vary=self.varied)

    def describe_missing(self, other: Definition) -> str:
        """Return why some runs of another study are not among this study's runs; empty if all of them are.

        The subject of the sentence is the other study: `it has seed=2, 3, which this command lacks`.
        """
        if other.recipe != self.recipe:
            return f"its recipe is {other.recipe}, not {self.recipe}"
        for key in (*other.vary, *self.varied):
            if key not in self.varied:
                return f"it varies {key}, which this command does not"
            if key not in other.vary:
                return f"it does not vary {key}, as this command does"
        settings = (other.set, self.definition.set)
        for key in settings[0] | settings[1]:
            theirs, ours = (f"{key}={value_text(table[key])}" if key in table else f"no {key}" for table in settings)
            if theirs != ours:
                return f"it has {theirs}, and this command {ours}"
        for key, values in other.vary.items():
            own_values = set(map(value_text, self.varied[key]))
            if missing := [text for text in map(value_text, values) if text not in own_values]:
                listed = ", ".join(missing[:MOST_LISTED]) + (", …" if len(missing) > MOST_LISTED else "")
                return f"it has {key}={listed}, which this command lacks"
        if list(other.vary) != list(self.varied):
            return f"its keys stand in another order: {', '.join(other.vary)}"
        return ""


def define(
    chosen: str,
    fixed: Mapping[str, Any] | None = None,
    varied: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Study:
    """Define a study by a recipe's name or file, or by a study's file whose keys can be replaced and added to.

    The values of `varied` are lists, or texts such as `0:5`, which is 0 to 4.
    """
    definition = read_definition(Path(with_home(chosen))) if chosen.endswith(".toml") else Definition(recipe=chosen)
    settings = dict(sorted({**definition.set, **(fixed or {})}.items()))
    table = definition.vary | {key: list_values(values) for key, values in (varied or {}).items()}
    base, recipe = recipes.load(definition.recipe), definition.recipe
    if recipe.endswith(".toml"):
        recipe = str(Path(with_home(recipe)).resolve())
    _check_table(settings, table)
    default = "-".join([base.name.replace("/", "-"), *map(_last_part, table)])[:LONGEST_NAME]
    return Study(name or definition.name or default, recipe, settings, table, _combine(base, settings, table))


def _check_table(fixed: Mapping[str, Value], varied: Mapping[str, Sequence[Value]]) -> None:
    known = recipes.keys()
    for key in (*fixed, *varied):
        if key not in known and not key.startswith(_TABLES_OF_ANY_KEYS):
            raise unknown("key", key, known)
    if not varied:
        raise UsageError("no key is varied. Give --vary KEY=VALUE,VALUE, or a file with a table [vary].")
    for key, values in varied.items():
        if key in _NOT_VARIED:
            raise UsageError(f"{key} does not change what is trained, so a study cannot vary it")
        if key in fixed:
            raise UsageError(f"{key} is both set and varied. Give either --set or --vary for it.")
        if not values:
            raise UsageError(f"{key} has no value to vary. Give at least one.")
        for place, value in enumerate(values):
            if value in values[:place] and type(value) in map(type, values[:place]):
                raise UsageError(f"{key} has the value {value!r} twice")
    if (count := math.prod(map(len, varied.values()))) > MOST_RUNS:
        raise UsageError(f"a study has at most {MOST_RUNS:,} runs, got {count:,}. Vary fewer values.")


def _combine(base: Recipe, fixed: Mapping[str, Value], varied: Mapping[str, Sequence[Value]]) -> list[PlannedRun]:
    """Return a run for every combination of values, ordered by seed."""
    seed_first = sorted(varied, key=lambda key: key != SEED)
    runs, taken, names_by_recipe = list[PlannedRun](), set[str](), dict[str, str]()
    for number, combination in enumerate(product(*(varied[key] for key in seed_first)), 1):
        by_key = dict(zip(seed_first, combination, strict=True))
        values = {key: by_key[key] for key in varied}
        name = "-".join(f"{_last_part(key)}={_label(value)}" for key, value in values.items())
        if len(name) > LONGEST_NAME or name in taken:
            name = f"{name[: LONGEST_NAME - 7]}-{number}"
        taken.add(name)
        runs.append(PlannedRun(name, base.changed({**fixed, **values}), values))
        recipe = json.dumps(runs[-1].recipe.model_dump(mode="json"), sort_keys=True)
        if (twin := names_by_recipe.setdefault(recipe, name)) != name:
            raise UsageError(f"{twin} and {name} would be the same run. Remove one of the two values.")
    for key in varied:
        if all(idle := [run.recipe.without_effect([key]) for run in runs]):
            raise UsageError(f"{idle[0][0]}, so that a study of it would compare equal trainings")
    return runs


def _last_part(key: str) -> str:
    return _plain(key.rpartition(".")[2])


def _plain(text: str) -> str:
    """Return a text with underscores for the letters that the name of a folder should not have."""
    return re.sub(r"[^\w.+-]+", "_", text)


def _label(value: Value) -> str:
    """Return a value as a part of a folder's name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(_label, value)) or "none"
    return _plain(str(value)).strip("._") or "none"
