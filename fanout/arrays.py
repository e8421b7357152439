"""Facts about arrays that every request and every answer is checked for: the range of the numbers, and masks."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import EncodeError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.types import Array

# Numbers up to which a dot product is quickest. For more, BLAS may start threads and wait for them.
_SMALL = 4096
_REMEDY = "put values in their place with .filled(value), or leave these rows out"


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name of ``dtype`` in job files: ``"str"`` for texts of any length."""
    return "str" if dtype.kind in "TU" else str(dtype)


def within(array: Array, bound: float = inf) -> bool:
    """True only if all floats of ``array`` are between ``-bound`` and ``bound``; NaN never is.

    It may be False although they are: where the sum of their squares reaches the square of the bound, or overflows.
    """
    if not array.size:
        return True
    # NaN and infinity make the sum of squares NaN or infinity, so that one pass checks everything.
    if array.size <= _SMALL and array.dtype.char in "fd":
        return bool(np.vdot(array, array) < bound * bound)
    # NaN makes both comparisons false.
    return -bound < float(array.min()) and float(array.max()) < bound


def hides_values(value: object) -> bool:
    """True for a masked array in which a value is masked."""
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def any_is_masked_array(values: Iterable[Any]) -> bool:
    """True if one of ``values`` is a masked array, with or without masked values."""
    return any(issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, values)))


def without_masks(rows: Sequence[Any]) -> Sequence[Any]:
    """Single rows, with plain arrays for masked arrays. Raises `EncodeError` for rows in which a value is masked.

    numpy hands on the values below a mask as if they counted, so no masked array is ever encoded.
    """
    if not any_is_masked_array(rows):
        return rows
    if bad := [i for i, row in enumerate(rows) if hides_values(row)]:
        raise EncodeError(f"a value of the row is masked: {_REMEDY}", rows=bad)
    # Nothing is hidden, so that the data below the mask is the row.
    return [np.ma.getdata(row) if isinstance(row, np.ma.MaskedArray) else row for row in rows]


def without_mask(array: Array, name: str = "the input") -> Array:
    """``array`` as a plain array. Raises `InputError` if its mask hides values."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if hides_values(array):
        mask = np.ma.getmaskarray(array).reshape(len(array) if array.ndim else 1, -1)
        rows = np.flatnonzero(mask.any(axis=1))
        place = f"{len(rows)} of {len(mask)} rows, the first in row {rows[0]}"
        raise InputError(f"{name} has masked values in {place}, which have no value to be sent: {_REMEDY}")
    return np.asarray(np.ma.getdata(array))
