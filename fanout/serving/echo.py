"""A model that gives back what it gets, and a small embedding of texts, so that any codec can be rehearsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array

WIDTH = 64
# Knuth's multiplicative constant, 2**32 / golden ratio (The Art of Computer Programming, volume 3, section 6.4).
_SPREAD = np.uint32(2654435769)


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


def _embedded(text: str) -> Array:
    # A space at each end marks where the text starts and stops, and gives the shortest texts a trigram.
    codes = np.frombuffer(f" {text.lower()} ".encode("utf-32-le"), "<u4").astype(np.uint32)
    first, second, third = codes[:-2], codes[1:-1], codes[2:]
    hashed = ((first * _SPREAD + second) * _SPREAD + third) * _SPREAD  # unsigned: wraps modulo 2**32
    counts = np.bincount(hashed >> np.uint32(26), minlength=WIDTH)
    return np.asarray(counts / np.sqrt(np.square(counts).sum()), np.float32)
