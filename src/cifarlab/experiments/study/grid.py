"""What a study is: a recipe, keys that are set for all of its runs, and keys that are varied.

Reads and checks definitions, from the command line or a TOML file, and makes the recipe and the name of every run.
Knows no torch, and creates nothing.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from cifarlab import recipes
from cifarlab.errors import UsageError, unknown
from cifarlab.recipes import Recipe
from cifarlab.runs.listing import LONGEST_NAME

MOST_RUNS = 10_000  # of a study; more is a slip of the pen
SEED = "seed"
_NOT_VARIED = ("name", "description", "published")  # they change nothing that is trained
_FREE_TABLES = ("model_options.", "merge.")
_TABLES = ("recipe", "name", "set", "vary")  # of a study's file
_RANGE = re.compile(r"(-?\d{1,18}):(-?\d{1,18})")


@dataclass(frozen=True)
class Member:
    """One run of a study."""

    name: str
    """Of its folder."""
    recipe: Recipe
    values: dict[str, Any]
    """Of the varied keys."""


@dataclass(frozen=True)
class Study:
    """A table of runs before anything is trained."""

    name: str
    """Of its folder."""
    recipe: str
    """A recipe's name, or the whole path of its file."""
    fixed: dict[str, Any]
    varied: dict[str, list[Any]]
    members: list[Member]
    """Seed by seed, so that what is done first is a whole small table."""

    @property
    def keys(self) -> list[str]:
        """The varied keys but the seed."""
        return [key for key in self.varied if key != SEED]

    def definition(self) -> dict[str, Any]:
        """What its file says but for the name."""
        return {"recipe": self.recipe, "set": self.fixed, "vary": self.varied}

    def lacks(self, told: Mapping[str, Any]) -> str:
        """What keeps some run of a study that `read` read from being one of this study's; empty if all are.

        It is said of that study: `it has seed=2 and 3, which this command lacks`.
        """
        settings, table = told.get("set", {}), {key: values_of(values) for key, values in told.get("vary", {}).items()}
        if told["recipe"] != self.recipe:
            return f"its recipe is {told['recipe']}, not {self.recipe}"
        for key in (*table, *self.varied):
            if key not in self.varied:
                return f"it varies {key}, which this command does not"
            if key not in table:
                return f"it does not vary {key}, as this command does"
        for key in (*settings, *self.fixed):
            there, here = (
                f"{key}={as_toml(values[key])}" if key in values else "" for values in (settings, self.fixed)
            )
            if there != here:
                return f"it has {there or f'no {key}'}, and this command {here or f'no {key}'}"
        for key, values in table.items():
            if missing := [value for value in values if _exact(value) not in map(_exact, self.varied[key])]:
                shown = ", ".join(map(as_toml, missing[:5])) + (", …" if len(missing) > 5 else "")
                return f"it has {key}={shown}, which this command lacks"
        if list(table) != list(self.varied):
            return f"its keys stand in another order: {', '.join(table)}"
        return ""

    def to_toml(self) -> str:
        """The study as a file that `read` reads."""
        lines = [f"name = {as_toml(self.name)}", f"recipe = {as_toml(self.recipe)}"]
        for table, values in (("set", self.fixed), ("vary", self.varied)):
            lines += ["", f"[{table}]", *(f"{_toml_key(key)} = {as_toml(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"


def define(
    chosen: str,
    fixed: Mapping[str, Any] | None = None,
    varied: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Study:
    """A study by a recipe's name or file and its keys, or by a study's file, to which more keys can be added.

    Args:
        chosen: a recipe, or a TOML file with `recipe`, `[set]` and `[vary]`.
        fixed: values for all runs, by key.
        varied: lists of values by key; a text such as `0:5` is a range, here from 0 to 4.
        name: of the study's folder; by default made of the recipe and the varied keys.

    Raises:
        UsageError: a key or value is unknown, wrong or given twice, nothing is varied, or there is too much of it.
    """
    told = read(Path(chosen)) if chosen.endswith(".toml") else {}
    recipe = str(told.get("recipe", chosen))
    settings = dict(sorted({**told.get("set", {}), **(fixed or {})}.items()))
    table = {key: values_of(values) for key, values in {**told.get("vary", {}), **(varied or {})}.items()}
    base = recipes.load(recipe)
    if recipe.endswith(".toml"):
        recipe = str(Path(recipe).resolve())
    _check_table(settings, table)
    members = _members(base, settings, table)
    default = "-".join([base.name.replace("/", "-"), *map(_short, table)])[:LONGEST_NAME]
    return Study(name or told.get("name") or default, recipe, settings, table, members)


def read(path: Path) -> dict[str, Any]:
    """A study's file as `define` needs it; a plain recipe's file is a study of itself without keys.

    Raises:
        UsageError: it cannot be read, or is neither.
    """
    fields = recipes.read_tables(path)
    if not fields:
        raise UsageError(f'{path} is empty: a study needs recipe = "NAME" and a table [vary] with lists of values')
    if not {"recipe", "vary", "set"} & fields.keys():
        return {"recipe": str(path)}
    for key, value in fields.items():
        if key not in _TABLES:
            raise UsageError(f"{path}: {unknown('key', key, _TABLES)}")
        if not isinstance(value, dict if key in ("set", "vary") else str):
            raise UsageError(f"{path}: {key} should be {'a table' if key in ('set', 'vary') else 'a text'}")
    if "recipe" not in fields:
        raise UsageError(f"{path}: the key 'recipe' is missing")
    recipe = fields["recipe"]
    if recipe.endswith(".toml") and (path.parent / recipe).is_file():
        fields["recipe"] = str(path.parent / recipe)
    return fields | {table: flat(fields.get(table, {})) for table in ("set", "vary")}


def parse_varied(settings: Iterable[str]) -> dict[str, list[Any]]:
    """Turns `key=value,value` texts into lists of values.

    Example:
        >>> parse_varied(["learning_rate=.1,.01", "seed=0:3", "augment.flip=true,false"])
        {'learning_rate': [0.1, 0.01], 'seed': [0, 1, 2], 'augment.flip': [True, False]}

    Raises:
        UsageError: no `=`, no value, or a key that is there twice.
    """
    found: dict[str, list[Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not text.strip():
            raise UsageError(f"--vary {setting!r}: should be key=value,value")
        if key in found:
            raise UsageError(f"--vary {key} is there twice: give all its values at once, as in {key}=value,value")
        read = map(_value, _split(text))
        found[key] = [each for value in read for each in (values_of(value) if isinstance(value, str) else [value])]
    return found


def values_of(given: Any) -> list[Any]:
    """A list of values as it is; of a range such as `0:5` its numbers; of a single value, that one."""
    if isinstance(given, str) and (found := _RANGE.fullmatch(given.strip())):
        first, end = int(found[1]), int(found[2])
        if not 0 < end - first <= MOST_RUNS:
            raise UsageError(f"the range {given!r} should hold 1 to {MOST_RUNS:,} numbers; 0:5 is 0 to 4")
        return list(range(first, end))
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no quotes and no brackets."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _value(text: str) -> Any:
    """A value as TOML reads it, or a number such as `.1`; anything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError, KeyError):
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def flat(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Tables in a table as keys with dots."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def _check_table(fixed: Mapping[str, Any], varied: Mapping[str, Sequence[Any]]) -> None:
    known = recipes.keys()
    for key in (*fixed, *varied):
        if key not in known and not key.startswith(_FREE_TABLES):
            raise unknown("key", key, known)
    if not varied:
        raise UsageError("nothing is varied: give --vary KEY=VALUE,VALUE, or a file with a table [vary]")
    for key, values in varied.items():
        if key in _NOT_VARIED:
            raise UsageError(f"{key} changes nothing that is trained, so there is nothing to vary")
        if key in fixed:
            raise UsageError(f"{key} is both set and varied")
        if not values:
            raise UsageError(f"{key}: there is no value to vary")
        for place, value in enumerate(values):
            if value in values[:place] and type(value) in map(type, values[:place]):
                raise UsageError(f"{key}: the value {value!r} is there twice")
    if (runs := math.prod(map(len, varied.values()))) > MOST_RUNS:
        raise UsageError(f"that would be {runs:,} runs, and a study has at most {MOST_RUNS:,}")


def _members(base: Recipe, fixed: Mapping[str, Any], varied: Mapping[str, Sequence[Any]]) -> list[Member]:
    by_seed = sorted(varied, key=lambda key: key != SEED)
    members, taken = list[Member](), set[str]()
    for number, chosen in enumerate(product(*(varied[key] for key in by_seed)), 1):
        by_key = dict(zip(by_seed, chosen, strict=True))
        values = {key: by_key[key] for key in varied}
        name = "-".join(f"{_short(key)}={_label(value)}" for key, value in values.items())
        if len(name) > LONGEST_NAME or name in taken:
            name = f"{name[: LONGEST_NAME - 7]}-{number}"
        taken.add(name)
        members.append(Member(name, base.changed({**fixed, **values}), values))
    first: dict[str, str] = {}
    for member in members:
        settings = json.dumps(member.recipe.model_dump(mode="json"), sort_keys=True)
        if (other := first.setdefault(settings, member.name)) != member.name:
            raise UsageError(f"{other} and {member.name} would be the same run")
    return members


def _exact(value: Any) -> str:
    """A text that tells 1 from 1.0 and true."""
    return json.dumps(value)


def _short(key: str) -> str:
    return _plain(key.rpartition(".")[2])


def _plain(text: str) -> str:
    """A text without the letters that a folder's name should not have."""
    return re.sub(r"[^\w.+-]+", "_", text)


def _label(value: Any) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "+".join(map(_label, value)) or "none"
    return _plain(str(value)).strip("._") or "none"


def _toml_key(key: str) -> str:
    """A key as TOML writes it; one with a dot is quoted, so that it stays one key."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else as_toml(key)


def as_setting(key: str, value: Any) -> str:
    """What `--set` takes for a value: text without quotes where it is read as that text."""
    plain = f"{key}={value}"
    is_plain = isinstance(value, str) and recipes.parse_settings([plain])[key] == value
    return plain if is_plain else f"{key}={as_toml(value)}"


def as_toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_toml(key)} = {as_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
