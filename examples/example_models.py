"""Define a model for the local server: a function from an array of rows to an array. See eight_chunks.py."""

import numpy as np


def softsign(x: np.ndarray) -> np.ndarray:
    """Return x / (1 + |x|), elementwise."""
    return x / (1 + np.abs(x))
