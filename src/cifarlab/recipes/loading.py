"""Recipes by name or TOML file, their text, and `key=value` settings from the command line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cifarlab.errors import UsageError, one_line, unknown
from cifarlab.recipes.recipe import Recipe, check, keys

FOLDER = Path(__file__).parent
DEFAULT = "fast90"
MILD = "lenet5"  # trains most networks, if slowly: for those that no recipe was made for
LARGEST_FILE = 100_000  # bytes; a recipe has about a thousand


def names() -> list[str]:
    """The names of the built-in recipes, in order."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.toml"))


def load(name_or_file: str) -> Recipe:
    """A built-in recipe by its name, or one from a TOML file.

    Raises:
        UsageError: there is no such recipe or file, or something in it is not allowed.
    """
    path = _find(name_or_file)
    fields = read_tables(path)
    builtin = path.is_relative_to(FOLDER)
    name = path.relative_to(FOLDER).with_suffix("").as_posix() if builtin else path.stem
    return check({"name": name} | fields, f"recipe {name_or_file!r}")


def read_tables(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        UsageError: it cannot be read, is far larger than any that is meant here, or is no TOML.
    """
    try:
        return tomllib.loads(_read(path))
    except (ValueError, RecursionError) as error:  # ValueError of numbers with thousands of digits, too
        raise UsageError(f"{path}: not a TOML file: {one_line(error)}") from error


def source(name_or_file: str) -> str:
    """The TOML text of a recipe, comments and all, for copying. Raises as `load` does."""
    return _read(_find(name_or_file))


def to_toml(recipe: Recipe, comment: str = "") -> str:
    """A recipe as the text of a TOML file that `load` reads, without published figures and what is as by default.

    Args:
        recipe: any.
        comment: lines for the head of the file.
    """
    fields = recipe.model_dump(exclude_defaults=True, exclude={"published"})
    plain = {key: value for key, value in fields.items() if not isinstance(value, dict)}
    lines = [f"# {''.join(letter for letter in line if letter.isprintable())}" for line in comment.splitlines()]
    lines += ["", *(f"{key} = {_toml(value)}" for key, value in plain.items())]
    for table in [key for key in fields if key not in plain]:
        lines += ["", f"[{table}]", *(f"{_toml_key(key)} = {_toml(value)}" for key, value in fields[table].items())]
    return "\n".join(lines).strip() + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):  # JSON's strings are TOML's but for one letter
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Turns `key=value` texts into values as TOML reads them; what TOML cannot read is text.

    Example:
        >>> parse_settings(["epochs=3", "model=keras4", "augment.flip=true"])
        {'epochs': 3, 'model': 'keras4', 'augment.flip': True}

    Raises:
        UsageError: no `=`, or an unknown key.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, text = key.strip(), text.strip()
        if not equals:
            raise UsageError(f"--set {setting!r}: should be key=value")
        if key not in keys() and not key.startswith(("model_options.", "merge.")):
            raise unknown("key", key, keys())
        try:
            changes[key] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            changes[key] = text
    return changes


def _find(name_or_file: str) -> Path:
    if name_or_file.endswith(".toml"):
        path = Path(name_or_file)
        if not path.is_file():
            raise UsageError(f"there is no recipe file {name_or_file!r}")
        return path
    if name_or_file not in names():
        if Path(name_or_file).is_file():
            raise UsageError(f"{name_or_file!r} is a file, and no recipe: a recipe's file is called NAME.toml")
        raise unknown("recipe", name_or_file, names())
    return FOLDER / f"{name_or_file}.toml"


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UsageError(f"{path}: larger than {LARGEST_FILE:,} bytes, so not a recipe or the like")
        return path.read_text(encoding="utf-8-sig")  # as some editors on Windows write it
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"cannot read {path}: {told}") from error
