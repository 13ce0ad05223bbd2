"""Likely label errors: those put there are found, and cleanlab finds the same images."""

from __future__ import annotations

import numpy as np
from cleanlab.filter import find_label_issues as find_with_cleanlab
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from cifarlab import Data
from cifarlab.data.quality.label_issues_and_outliers import find_label_issues


def test_swapped_labels_are_found() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 2000)
    logits = random.normal(0, 1, (2000, 5)).astype(np.float32)
    logits[np.arange(2000), labels] += 5
    swapped = random.permutation(2000)[:40]
    labels[swapped] = (labels[swapped] + 1) % 5
    issues = find_label_issues(logits, labels)
    assert {issue.image for issue in issues[:20]} <= set(swapped.tolist())
    assert len({issue.image for issue in issues} & set(swapped.tolist())) >= 24  # careful: above the class's mean only
    assert all(issue.likely == (issue.label - 1) % 5 for issue in issues[:20])
    margins = [issue.margin for issue in issues]
    assert margins == sorted(margins, reverse=True)


def test_cleanlab_finds_the_same_label_issues(digits: Data) -> None:
    pixels = digits.train.images[:, 0, ::4, ::4].reshape(len(digits.train), -1) / 255
    random = np.random.default_rng(0)
    labels = digits.train.labels.copy()
    swapped = random.permutation(len(labels))[:100]
    labels[swapped] = (labels[swapped] + random.integers(1, 10, 100)) % 10
    probabilities = cross_val_predict(LogisticRegression(C=0.1, max_iter=200), pixels, labels, method="predict_proba")
    logits = np.log(probabilities).astype(np.float32)
    ours = {issue.image for issue in find_label_issues(logits, labels)}
    theirs = set(np.flatnonzero(find_with_cleanlab(labels, probabilities, filter_by="confident_learning", n_jobs=1)))
    assert ours == theirs and len(ours & set(swapped.tolist())) > 50
