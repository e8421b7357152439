"""Rows and models that the tests of streams and of journals share."""

from __future__ import annotations

import numpy as np

from fanout.serving.exchange import StatusError

X = np.arange(900.0).reshape(300, 3)


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


def no_seven(x: np.ndarray) -> np.ndarray:
    if (x[:, 0] == 21).any():
        raise StatusError(400, "seven")
    return x * 2
