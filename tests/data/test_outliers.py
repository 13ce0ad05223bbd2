"""Outliers are the images that no class claims."""

from __future__ import annotations

import numpy as np

from cifarlab.data.quality.label_issues_and_outliers import find_outliers


def test_images_without_a_large_logit_are_outliers() -> None:
    logits = np.array([[9, 0], [0.1, 0], [0, 7], [0, 0]], np.float32)
    assert find_outliers(logits, 2).tolist() == [3, 1]
