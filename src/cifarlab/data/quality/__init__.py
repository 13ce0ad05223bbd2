"""Checks of a data set's quality.

- `checks`: broken files, blank images, exact duplicates, odd classes; needs no network.
- `duplicates`: test images that are nearly a training image.
- `label_issues`: likely label errors, from a network's logits.
- `outliers`: images that a network finds unfamiliar, from its logits.
"""
