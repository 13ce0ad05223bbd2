"""The networks, for tests of all of them: those that take seconds are slow."""

from __future__ import annotations

import pytest

from cifarlab.models import model_names

QUICK = {"allcnn-c", "convmixer-256-8", "fastnet", "firststeps", "keras4", "keras6", "lenet5", "lenet5-3x3"}
QUICK |= {"lenet5-wide", "resnet20", "vit-tiny", "ygnet"}
SMALLEST = {"lenet5": 32}  # pixels a side; its third convolution sees 5x5 places only there


def networks(*slow: str) -> list[object]:
    """Return the names of all networks for `parametrize`; those that are not quick, and `slow`, are marked."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (name in slow or name not in QUICK)) for name in model_names()
    ]
