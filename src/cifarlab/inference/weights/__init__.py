"""Shipped weights: files with their accuracy in the metadata.

Those trained on CIFAR-10 are named after their network, others after their recipe.
"""

from pathlib import Path

from cifarlab.errors import unknown

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the shipped weights."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path_of(name: str) -> Path:
    """Return the path of a shipped weights file."""
    if name not in names():
        raise unknown("pretrained weights", name, names())
    return FOLDER / f"{name}.safetensors"
