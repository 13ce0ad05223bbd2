"""Weights that ship: a safetensors file for each network, trained on CIFAR-10, with what it reaches in its metadata."""

from __future__ import annotations

from pathlib import Path

from cifarlab.errors import unknown

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The networks that there are weights of."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """The weights file of a network.

    Raises:
        UsageError: there are none of that name.
    """
    if name not in names():
        raise unknown("pretrained weights", name, names())
    return FOLDER / f"{name}.safetensors"
