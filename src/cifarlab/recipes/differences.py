"""Differences between recipes, and the values of a recipe as short text."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cifarlab.recipes.recipe import Recipe

NOT_COMPARED = {"seed", "description", "published", "name", "threads"}  # keys that do not change what is trained


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as one level, with dotted keys: `{"augment.flip": True}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return what a recipe trains, by key: values of `augment` with dotted keys, a network's options by name."""
    fields: dict[str, Any] = recipe.model_dump(mode="json", exclude={"augment", "model_options"} | NOT_COMPARED)
    return fields | flatten({"augment": recipe.augment.model_dump()}) | recipe.model_options


def differing_settings(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values of two recipes by key, as `--set` takes it, where they differ; None where one lacks the key."""
    first, second = (flatten(recipe.model_dump(mode="json", exclude={"description", "published"})) for recipe in (a, b))
    pairs = {key: (first.get(key), second.get(key)) for key in first | second}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def value_text(value: Any) -> str:
    """Return a recipe's value as TOML writes it, without quotes and needless digits."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short_text(value: Any, others: Sequence[Any]) -> str:
    """Return a value as text; a path without its folders, unless one of the `others` is a path of the same end."""
    texts = {text: re.sub(r"[^:]*[/\\](?=[^/\\])", "", text) for text in (value, *others) if isinstance(text, str)}
    is_clear = isinstance(value, str) and len(set(texts.values())) == len(texts)
    return texts[value] if is_clear else value_text(value)
