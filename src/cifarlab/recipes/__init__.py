"""Recipes: every setting of a training in one frozen value, which a TOML file holds.

- `recipe`: the type, its keys and their checks.
- `loading`: recipes by name or file, `--set key=value`, writing TOML.
- `differences`: the settings in which recipes differ, and values as short text.
- The TOML files: the built-in recipes. A recipe's name is its path in this folder without the ending: `keras6`,
  `relabel/drop-truck`.

This package does not import PyTorch, so that listing and checking recipes is quick.
"""

from cifarlab.recipes.differences import differing_settings, flatten, settings_of, value_text
from cifarlab.recipes.loading import (
    DEFAULT,
    FOLDER,
    MILD,
    load,
    names,
    parse_settings,
    read_tables,
    setting_text,
    source,
    to_toml,
    toml_value,
)
from cifarlab.recipes.recipe import (
    LARGEST,
    LARGEST_ZCA,
    SMALLEST,
    Augment,
    Normalization,
    Published,
    Recipe,
    check,
    keys,
)

__all__ = [
    "DEFAULT",
    "FOLDER",
    "LARGEST",
    "LARGEST_ZCA",
    "MILD",
    "SMALLEST",
    "Augment",
    "Normalization",
    "Published",
    "Recipe",
    "check",
    "differing_settings",
    "flatten",
    "keys",
    "load",
    "names",
    "parse_settings",
    "read_tables",
    "setting_text",
    "settings_of",
    "source",
    "to_toml",
    "toml_value",
    "value_text",
]
