"""Recipes: everything that decides a training, in one frozen value that a TOML file holds.

The TOML files in this folder are the built-in recipes. A recipe's name is its path here without the ending: `keras6`,
`relabel/drop-truck`. Nothing here imports PyTorch, so that listing and checking recipes cost nothing.
"""

from cifarlab.recipes.loading import DEFAULT, FOLDER, MILD, load, names, parse_settings, read_tables, source, to_toml
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
    "keys",
    "load",
    "names",
    "parse_settings",
    "read_tables",
    "source",
    "to_toml",
]
