"""Outliers are the images that no class claims."""

from __future__ import annotations

import numpy as np

from cifarlab.data.quality.label_issues_and_outliers import find_outliers


def test_images_without_a_large_logit_are_outliers() -> None:
    logits = np.array([[9, 0], [0.1, 0], [0, 7], [0, 0], [99, 0], [0, 99], [70, 0]], np.float32)
    folds = np.array([0, 0, 0, 0, 1, 1, 1])  # the second network has larger logits
    assert find_outliers(logits, folds, 3).tolist() == [6, 3, 1]
