"""The networks for tests of all of them; those that take seconds are slow."""

import pytest

from cifarlab.models import model_names

LARGE = ("densenet121", "resnet110", "resnet34", "resnet50", "resnext29-8x64d", "vgg16", "wide-resnet28-10")


def networks(*slow: str) -> list[object]:
    """Return all names of networks for `parametrize`; the large ones and `slow` are marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in (*LARGE, *slow))) for name in model_names()]
