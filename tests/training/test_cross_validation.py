"""Cross-validation: the number of folds is checked before anything is trained."""

from __future__ import annotations

import pytest

from cifarlab import Data, Recipe
from cifarlab.errors import UsageError
from cifarlab.training.cross_validation import cross_validate


@pytest.mark.parametrize("folds", [1, 180])
def test_impossible_numbers_of_folds_are_refused(small: Recipe, digits: Data, folds: int) -> None:
    with pytest.raises(UsageError, match=f"folds must be from 2 to 179, half the images, got {folds}"):
        cross_validate(small, digits.test, folds, quiet=True)
