"""The packaged models: a classifier of handwritten digits, and one that echoes its rows and embeds texts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.serving.exchange import StatusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array

PIXELS = 64
CLASSES = 10
WIDTH = 64
# Knuth's multiplicative constant, 2**32 / golden ratio (The Art of Computer Programming, volume 3, section 6.4).
_SPREAD = np.uint32(2654435769)


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


def unchanged(rows: Any) -> Any:
    """The rows, as they came."""
    return rows


def embed(texts: Sequence[str]) -> Array:
    """Hashed counts of character trigrams: texts that share many are near each other.

    The hashing trick (Weinberger et al., Feature Hashing for Large Scale Multitask Learning, ICML 2009) without the
    signs, so that no text can come out as zero. Deterministic: the same text gives the same bits in any batch.

    Args:
        texts: n texts.

    Returns:
        Shape (n, 64), float32, each row of unit length.
    """
    return np.stack([_embedded(text) for text in texts])


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


def _embedded(text: str) -> Array:
    # A space at each end marks where the text starts and stops, and gives the shortest texts a trigram.
    codes = np.frombuffer(f" {text.lower()} ".encode("utf-32-le"), "<u4").astype(np.uint32)
    first, second, third = codes[:-2], codes[1:-1], codes[2:]
    hashed = ((first * _SPREAD + second) * _SPREAD + third) * _SPREAD  # unsigned: wraps modulo 2**32
    # The upper 6 bits choose one of 64 buckets: a multiplicative hash mixes them best.
    counts = np.bincount(hashed >> np.uint32(26), minlength=WIDTH)
    return np.asarray(counts / np.sqrt(np.square(counts).sum()), np.float32)
