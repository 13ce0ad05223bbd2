"""Shipped weights: a weights file for each network, trained on CIFAR-10, with its accuracy in the metadata."""

from pathlib import Path

from cifarlab.errors import unknown

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the networks with shipped weights."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """Return the path of a network's weights file."""
    if name not in names():
        raise unknown("pretrained weights", name, names())
    return FOLDER / f"{name}.safetensors"
