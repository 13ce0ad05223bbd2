"""The grid of a study: one run for every combination of the varied values, each with its recipe and its name.

Nothing here imports PyTorch or creates files.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tomli_w

from cifarlab import recipes
from cifarlab.errors import UsageError, unknown
from cifarlab.experiments.study.definition import MOST_RUNS, Definition, Value, list_values, read_definition
from cifarlab.recipes import Recipe
from cifarlab.recipes.differences import value_text
from cifarlab.runs.listing import LONGEST_NAME

SEED = "seed"
MOST_LISTED = 5  # missing values in an error
_NOT_VARIED = ("name", "description", "published")  # keys that do not change what is trained
_TABLES_OF_ANY_KEYS = ("model_options.", "merge.")


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
        return Definition(name=self.name, recipe=self.recipe, set=self.fixed, vary=self.varied)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.definition.model_dump())

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
    """Define a study by a recipe and its keys, or by a study's file whose keys can be replaced and added to.

    Args:
        chosen: a recipe's name or file, or a TOML file with `recipe`, `[set]` and `[vary]`.
        fixed: values that all runs share, by key.
        varied: lists of values by key; a text such as `0:5` is a range, here from 0 to 4.
        name: name of the study's folder; by default made of the recipe and the varied keys.
    """
    definition = read_definition(Path(chosen)) if chosen.endswith(".toml") else Definition(recipe=chosen)
    settings = dict(sorted({**definition.set, **(fixed or {})}.items()))
    table = definition.vary | {key: list_values(values) for key, values in (varied or {}).items()}
    base, recipe = recipes.load(definition.recipe), definition.recipe
    if recipe.endswith(".toml"):
        recipe = str(Path(recipe).resolve())
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
    return runs


def _last_part(key: str) -> str:
    """Return a dotted key's last part, for the name of a folder."""
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
