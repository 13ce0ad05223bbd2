"""Write docs/reference/recipe-keys.md from the recipe's type and the docstrings of its fields.

`--print` prints the page instead.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cifarlab.recipes import recipe
from cifarlab.recipes.documentation import docstrings

HEAD = """# Recipe keys

A recipe is a TOML file. `cifarlab recipe NAME` prints a built-in one, and `--set key=value` changes a key for one
training. Keys of the table `augment` are written with a dot: `--set augment.flip=true`. Only `model` is required.

A file may begin with `base = "NAME"`, the name of a built-in recipe. Then it needs only the keys that differ. All
others have the values of that recipe, except for `description` and `published`. Another `model` also drops
`model_options` and `progressive_resizing`.

This page is written by `make docs` from the recipe's type; do not edit it here.
"""
SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def type_text(annotation: Any) -> str:
    """Return the allowed values of a type: its choices, or its name in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is tuple:
        return f"list of {type_text(inner[0])}"
    if origin is dict:
        return "table"
    if origin in (Union, UnionType):
        return " or ".join(type_text(part) for part in inner if part is not type(None))
    if inner:  # Annotated
        return type_text(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}[annotation]


def allowed(field: FieldInfo) -> str:
    """Return the allowed values of a field with its limits, as in "number, at least 0, below 1"."""
    limits = [
        f"{words} {getattr(part, sign):,}"
        for part in field.metadata
        for sign, words in SIGNS.items()
        if getattr(part, sign, None) is not None and getattr(part, sign) < 2**62
    ]
    return ", ".join([type_text(field.annotation), *limits])


def default_text(field: FieldInfo) -> str:
    """Return a field's default value as TOML."""
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "see below"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, str):
        return f'`"{field.default}"`'
    return "none" if field.default in (None, (), {}) else f"`{field.default}`"


def table(model: type[BaseModel], prefix: str = "") -> str:
    """Return the Markdown table of a model's fields."""
    texts = docstrings(model)
    lines = ["| key | allowed values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        meaning = texts.get(name, "").replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {allowed(field)} | {default_text(field)} | {meaning} |")
    return "\n".join(lines)


def page() -> str:
    """Return the text of the page."""
    sections = (
        ("The recipe", "", recipe.Recipe, ""),
        ("Augmentation", recipe.Augment.__doc__ or "", recipe.Augment, "augment."),
        ("Published results", "A recipe may hold any number of tables `[[published]]`.", recipe.Published, ""),
    )
    parts = [HEAD]
    for title, text, model, prefix in sections:
        parts.append("\n".join([f"## {title}", "", *([text, ""] if text else []), table(model, prefix), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(page(), end="")
    else:
        (Path(__file__).parent / "reference" / "recipe-keys.md").write_text(page())
