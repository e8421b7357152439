"""A model for the local server: any function that takes an array of rows and returns one. See eight_chunks.py."""

import numpy as np


def softsign(x: np.ndarray) -> np.ndarray:
    """x / (1 + |x|), elementwise."""
    return x / (1 + np.abs(x))
