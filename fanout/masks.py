"""Masked arrays (`numpy.ma`): numpy hands on the values below a mask as if they counted, so they end here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.errors import EncodeError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fanout.types import Array

_REMEDY = "put values in their place with .filled(value), or leave these rows out"


def hides_values(value: object) -> bool:
    """True for a masked array in which a value is masked."""
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def any_is_masked_array(values: Iterable[Any]) -> bool:
    """True if a masked array is among ``values``, whether it masks anything or not."""
    return any(issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, values)))


def without_masks(rows: Sequence[Any]) -> Sequence[Any]:
    """Single rows, those of masked arrays as plain ones. Raises `EncodeError` for rows in which a value is masked."""
    if not any_is_masked_array(rows):
        return rows
    if bad := [i for i, row in enumerate(rows) if hides_values(row)]:
        raise EncodeError(f"a value of the row is masked: {_REMEDY}", rows=bad)
    return [np.ma.getdata(row) if isinstance(row, np.ma.MaskedArray) else row for row in rows]


def without_mask(array: Array, name: str = "the input") -> Array:
    """``array``, as a plain one where its mask hides nothing. Raises `InputError` where it hides values."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if hides_values(array):
        mask = np.ma.getmaskarray(array).reshape(len(array) if array.ndim else 1, -1)
        rows = np.flatnonzero(mask.any(axis=1))
        found = f"{len(rows)} of {len(mask)} rows, the first in row {rows[0]}"
        raise InputError(f"{name} has masked values in {found}, which have no value to be sent: {_REMEDY}")
    return np.asarray(np.ma.getdata(array))
