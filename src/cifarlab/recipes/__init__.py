"""Recipes: every setting of a training in one frozen value, which a TOML file holds.

The TOML files here are the built-in recipes. A recipe's name is its path in this folder without the ending: `keras6`,
`relabel/drop-truck`. This package does not import PyTorch, so that listing and checking recipes is quick.
"""

from cifarlab.recipes.loading import (
    DEFAULT,
    FEW_IMAGES,
    FINE_TUNING,
    MILD,
    SMALL,
    load,
    names,
    parse_settings,
    read_tables,
    setting_text,
    to_toml,
)
from cifarlab.recipes.preprocessing import PREPROCESSING, Channels, Normalization, Preprocessing, Resize
from cifarlab.recipes.recipe import LARGEST, NEEDS, SMALLEST, Augment, Recipe, check, keys

__all__ = ["DEFAULT", "FEW_IMAGES", "FINE_TUNING", "MILD", "SMALL", "load", "names", "parse_settings", "read_tables"]
__all__ += [
    "LARGEST",
    "NEEDS",
    "PREPROCESSING",
    "SMALLEST",
    "Augment",
    "Normalization",
    "Preprocessing",
    "Recipe",
    "Resize",
]
__all__ += ["Channels", "check", "keys", "setting_text", "to_toml"]
