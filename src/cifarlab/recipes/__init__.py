"""Recipes: every setting of a training in one frozen value, which a TOML file holds.

- `recipe`: the type, its keys and their checks.
- `loading`: recipes by name or file, `--set key=value`, writing TOML.
- `differences`: the settings in which recipes differ, and values as short text.
- The TOML files: the built-in recipes. A recipe's name is its path in this folder without the ending: `keras6`,
  `relabel/drop-truck`.

This package does not import PyTorch, so that listing and checking recipes is quick.
"""

from cifarlab.recipes.loading import (
    DEFAULT,
    MILD,
    load,
    names,
    parse_settings,
    read_tables,
    setting_text,
    source,
    to_toml,
)
from cifarlab.recipes.recipe import LARGEST, SMALLEST, Augment, Normalization, Published, Recipe, check, keys

__all__ = [
    "DEFAULT",
    "LARGEST",
    "MILD",
    "SMALLEST",
    "Augment",
    "Normalization",
    "Published",
    "Recipe",
    "check",
    "keys",
    "load",
    "names",
    "parse_settings",
    "read_tables",
    "setting_text",
    "source",
    "to_toml",
]
