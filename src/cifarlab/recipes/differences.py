"""How recipes differ, and their values as short text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cifarlab.recipes.recipe import Recipe

NOT_COMPARED = {"seed", "description", "published", "name"}  # keys that do not change what is trained


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as one level, with dotted keys: `{"augment.flip": True}`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Return all values of a recipe by key, those of `augment` with dotted keys, a network's options by name."""
    fields: dict[str, Any] = recipe.model_dump(mode="json", exclude={"augment", "model_options"})
    return fields | flatten({"augment": recipe.augment.model_dump()}) | recipe.model_options


def value_text(value: Any) -> str:
    """Return a recipe's value as TOML writes it, without quotes and needless digits."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
