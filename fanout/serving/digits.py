"""The packaged model: a softmax classifier of the UCI handwritten digits, trained by ``scripts/train_digits.py``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fanout.serving.exchange import StatusError

if TYPE_CHECKING:
    from fanout.types import Array

PIXELS = 64
CLASSES = 10


def classify(images: object) -> Array:
    """Probabilities of the ten digits for images of 8 x 8 pixels in [0, 1].

    softmax(W x + b), as in Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4, in float32.

    Args:
        images: shape (n, 64) or (n, 8, 8), any real dtype; used as float32.

    Returns:
        Shape (n, 10), float32; each row sums to 1. A row has the same bits in whatever batch it comes.

    Raises:
        StatusError: 400, for anything of another shape.
    """
    pixels = _pixels(images)
    weights, bias = _parameters()
    # Not `pixels @ weights.T`: the order in which BLAS sums depends on the number of rows, and so do its last bits.
    logits = np.stack([(pixels * row).sum(axis=1) for row in weights], axis=1) + bias
    # The largest exponent is 0, so that nothing overflows: the softmax does not change under a shift.
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _pixels(images: object) -> Array:
    takes = "digits takes images of shape (n, 64) or (n, 8, 8), pixel values / 16"
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "biuf":
        kind = f"an array of {images.dtype}" if isinstance(images, np.ndarray) else type(images).__name__
        raise StatusError(400, f"{takes}; not numbers: {kind}")
    if images.shape[1:] not in ((PIXELS,), (8, 8)):
        raise StatusError(400, f"{takes}; this is {images.shape}")
    return np.ascontiguousarray(images.reshape(-1, PIXELS), np.float32)


@cache
def _parameters() -> tuple[Array, Array]:
    """Weights, shape (10, 64), and bias, shape (10,), float32."""
    with np.load(Path(__file__).with_name("digits.npz")) as archive:
        return archive["weights"], archive["bias"]
