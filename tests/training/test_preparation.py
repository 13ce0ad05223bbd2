"""What is said of a training's settings before it begins."""

from __future__ import annotations

import numpy as np
import pytest

import cifarlab
from cifarlab.training.preparation import prepare


@pytest.mark.parametrize("key", ["flip", "alternate_flip"])
def test_mirrored_digits_are_warned_of(key: str) -> None:
    recipe = cifarlab.recipe("lenet5", dataset="digits")
    assert not prepare(recipe).warnings
    texts = prepare(recipe.changed({f"augment.{key}": True})).warnings
    assert texts == [f"signs of Digits are mirrored: --set augment.{key}=false leaves them"]


def test_colours_that_become_gray_are_named() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    recipe = cifarlab.recipe("lenet5", channels="mono")
    for channels, named in ((3, True), (1, False)):
        images = generator.integers(256, size=(40, 32, 32, channels), dtype=np.uint8)
        texts = prepare(recipe, data=(images, labels)).warnings
        assert any("become gray" in text for text in texts) == named


@pytest.mark.parametrize("name", cifarlab.recipes.names())
def test_no_recipe_mirrors_the_signs_it_is_made_for(name: str) -> None:
    recipe = cifarlab.recipe(name)
    mirrors = recipe.augment.flip or recipe.augment.alternate_flip
    assert not mirrors or cifarlab.data.catalogue.DESCRIPTIONS[recipe.dataset].same_if_mirrored
