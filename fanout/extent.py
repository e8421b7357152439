"""How large the numbers of an array are, found out in the quickest way: every request and every answer is looked at."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fanout.types import Array

_SMALL = 4096
"""Up to this size a dot product is quickest; beyond it BLAS may bring in threads, and wait for them."""


def within(array: Array, bound: float = inf) -> bool:
    """True only if each of some floats lies between ``-bound`` and ``bound``, as neither these nor NaN do.

    It may be False though they do: where the sum of their squares reaches the square of the bound, or overflows.
    """
    if not array.size:
        return True
    if array.size <= _SMALL and array.dtype.char in "fd":
        return bool(np.vdot(array, array) < bound * bound)
    return -bound < float(array.min()) and float(array.max()) < bound
