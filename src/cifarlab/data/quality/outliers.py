"""Images that a network finds unfamiliar, by their energy (Liu et al. 2020, NeurIPS)."""

import numpy as np
from jaxtyping import Float32, Int64
from scipy.special import logsumexp


def find_outliers(logits: Float32[np.ndarray, "n classes"], count: int) -> Int64[np.ndarray, " outliers"]:
    """Return the indices of the `count` images with the highest energy, the highest first.

    The energy of an image is minus the logarithm of the sum of its exponentiated logits.
    """
    energy = -logsumexp(logits.astype(np.float64), axis=1)
    return np.argsort(-energy, kind="stable")[:count].astype(np.int64)
