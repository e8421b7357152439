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


def castable(dtype: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """True if numbers of ``dtype`` may become ``target``; see `changed_by_cast` for those that it does not hold."""
    integers = dtype.kind in "iu" and target.kind in "iu"
    # numpy calls int64 -> uint8 another kind, but every number is checked.
    return integers or np.can_cast(dtype, target, "same_kind")


def exact_digits(dtype: np.dtype[Any]) -> int:
    """The power of 2 up to which a floating dtype holds every integer; 0 for another dtype."""
    return int(np.finfo(dtype).nmant) + 1 if dtype.kind == "f" else 0


def changed_by_cast(array: Array, cast: Array, digits: int) -> Array:
    """True for each number that the cast changed: an integer that is not equal, a float that is no longer finite.

    ``digits`` is `exact_digits` of the new dtype.
    """
    if array.dtype.kind == "f":
        return np.asarray(np.isfinite(array) & ~np.isfinite(cast))
    if cast.dtype.kind in "iu" and array.dtype.kind in "iu":
        info = np.iinfo(cast.dtype)
        return np.asarray((array < info.min) | (array > info.max))
    changed = np.zeros(array.shape, bool)
    if array.dtype.kind in "iu":
        # Only integers beyond this bound can change, and they are rare, so that a loop is quick enough.
        exact = 2**digits
        # Python compares an integer and a float exactly, numpy does not.
        for i in np.flatnonzero((array > exact) | (array < -exact)):
            changed.flat[i] = int(array.flat[i]) != float(cast.flat[i])
    return changed


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
