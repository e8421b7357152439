"""Rows: their containers, sets of their numbers, and the values that every request and answer is checked for."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from copy import deepcopy
from math import inf
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from fanout.errors import EncodeError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fanout.types import Array, Rows

FEW_NUMBERS = 4096
"""Numbers up to which a dot product is quickest. For more, BLAS may start threads and wait for them."""

_REMEDY = "put values in their place with .filled(value), or leave these rows out"


def count_rows(rows: Rows) -> int:
    """Return the number of rows."""
    if isinstance(rows, Mapping):
        return len(next(iter(rows.values()), ()))
    return len(rows)


def take_rows(rows: Rows, index: slice | Array) -> Rows:
    """Return the rows at ``index`` in the same kind of container; views where the container supports them."""
    if isinstance(rows, np.ndarray):
        return rows[index]
    if isinstance(rows, Mapping):
        return {name: column[index] for name, column in rows.items()}
    if isinstance(index, slice):
        return rows[index]
    return [rows[int(i)] for i in index]


def copy_rows(rows: Rows) -> Rows:
    """Return a copy of the rows that shares nothing with them, be they nested lists or views of a larger array."""
    if isinstance(rows, np.ndarray) and rows.dtype.kind != "O":
        return rows.copy()  # numpy 2.0 crashes in a deep copy of its own texts
    if isinstance(rows, Mapping):
        return {name: cast("Array", copy_rows(column)) for name, column in rows.items()}
    return deepcopy(rows)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Concatenate rows.

    Arrays of one dtype and row shape give an array, mappings of such arrays under the same names give a mapping. Any
    other mixture gives a list of single rows, in which a row of a mapping is a dict.
    """
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    # numpy would promote mixed dtypes silently, and rows would be sent as other values.
    if parts and len(arrays) == len(parts) and _same_row_type(arrays):
        return np.concatenate(arrays)
    columns = [part for part in parts if isinstance(part, Mapping)]
    if parts and len(columns) == len(parts) and all(part.keys() == columns[0].keys() for part in columns):
        by_name = {name: [part[name] for part in columns] for name in columns[0]}
        if all(map(_same_row_type, by_name.values())):
            return {name: np.concatenate(pieces) for name, pieces in by_name.items()}
    return [row for part in parts for row in single_rows(part)]


def single_rows(rows: Rows) -> list[Any]:
    """Return the rows as a list; a row of a mapping is a dict."""
    if isinstance(rows, Mapping):
        return [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    return list(rows)


def _same_row_type(arrays: Sequence[Array]) -> bool:
    # The width is part of the dtype of fixed-width texts, but concatenation widens all of them to the largest.
    dtypes = {array.dtype.kind if array.dtype.kind in "US" else array.dtype for array in arrays}
    return len(dtypes) == 1 and len({array.shape[1:] for array in arrays}) == 1


class RowSet:
    """Row numbers as sorted ranges that neither overlap nor touch. Its memory is proportional to the ranges.

    Args:
        ranges: (start, stop) of each, in any order.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Add the rows ``start <= row < stop``."""
        if start >= stop:
            return
        # Nearly always, rows come in order.
        if self._stops and start == self._stops[-1]:
            self._stops[-1] = stop
            self._count += stop - start
        else:
            # The ranges first <= i < last overlap or touch the new one, which swallows them.
            first = bisect_left(self._stops, start)
            last = bisect_right(self._starts, stop)
            if first < last:
                start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
            self._replace(first, last, [start], [stop])

    def remove(self, start: int, stop: int) -> None:
        """Remove the rows ``start <= row < stop`` that are in the set."""
        # Ranges that only touch the removed rows stay, so the sides of the bisections are the other ones than in `add`.
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        if start < stop and first < last:
            left, right = (self._starts[first], start), (stop, self._stops[last - 1])
            rest = [part for part in (left, right) if part[0] < part[1]]
            self._replace(first, last, [start for start, _ in rest], [stop for _, stop in rest])

    def gap(self, start: int, stop: int) -> tuple[int, int] | None:
        """Return the first range of rows in ``start <= row < stop`` that are not in the set; None if all are."""
        # The range before this place may contain ``start``.
        at = bisect_right(self._starts, start)
        if at and self._stops[at - 1] > start:
            start = self._stops[at - 1]
        end = min(stop, self._starts[at]) if at < len(self._starts) else stop
        return (start, end) if start < end else None

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield all ranges of rows in ``start <= row < stop`` that are not in the set."""
        while (gap := self.gap(start, stop)) is not None:
            yield gap
            start = gap[1]

    def overlaps(self, start: int, stop: int) -> bool:
        """Return True if any of the rows ``start <= row < stop`` is in the set."""
        return self.gap(start, stop) != (start, stop)

    def listed(self, most: int = 8) -> str:
        """Return the first ``most`` ranges as text, for a message."""
        ranges = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in self]
        more = f" and {len(ranges) - most:,} more ranges" if len(ranges) > most else ""
        return ", ".join(ranges[:most]) + more

    def mask(self, n_rows: int) -> Array:
        """Return a mask of the rows in the set; shape (n_rows,), bool."""
        mask = np.zeros(n_rows, bool)
        for start, stop in self:
            mask[start:stop] = True
        return mask

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over the ranges (start, stop), sorted."""
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        """The number of rows."""
        return self._count

    def __repr__(self) -> str:
        return f"<RowSet {self._count:,} rows in {len(self._starts):,} ranges>"

    def _replace(self, first: int, last: int, starts: list[int], stops: list[int]) -> None:
        for at in range(first, last):
            self._count -= self._stops[at] - self._starts[at]
        self._count += sum(stops) - sum(starts)
        self._starts[first:last], self._stops[first:last] = starts, stops


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
    if array.size <= FEW_NUMBERS and array.dtype.char in "fd":
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


def _masked_arrays() -> Any:
    """The class of masked arrays, for `isinstance`.

    As long as nothing has imported numpy.ma there are none, and its import takes a tenth of the start of fanout.
    """
    return getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())


def is_masked_array(value: object) -> TypeGuard[np.ma.MaskedArray[Any, Any]]:
    """True for a masked array, with or without masked values."""
    return isinstance(value, _masked_arrays())


def hides_values(value: object) -> bool:
    """True for a masked array in which a value is masked."""
    return is_masked_array(value) and bool(np.ma.is_masked(value))


def any_is_masked_array(values: Iterable[Any]) -> bool:
    """True if one of ``values`` is a masked array, with or without masked values."""
    masked = _masked_arrays()
    return any(issubclass(kind, masked) for kind in set(map(type, values)))


def without_masks(rows: Sequence[Any]) -> Sequence[Any]:
    """Single rows, with plain arrays for masked arrays. Raises `EncodeError` for rows in which a value is masked.

    numpy hands on the values below a mask as if they counted, so no masked array is ever encoded.
    """
    if not any_is_masked_array(rows):
        return rows
    if bad := [i for i, row in enumerate(rows) if hides_values(row)]:
        raise EncodeError(f"a value of the row is masked: {_REMEDY}", rows=bad)
    # Nothing is hidden, so that the data below the mask is the row.
    return [np.ma.getdata(row) if is_masked_array(row) else row for row in rows]


def without_mask(array: Array, name: str = "the input") -> Array:
    """``array`` as a plain array. Raises `InputError` if its mask hides values."""
    if not is_masked_array(array):
        return array
    if hides_values(array):
        mask = np.ma.getmaskarray(array).reshape(len(array) if array.ndim else 1, -1)
        rows = np.flatnonzero(mask.any(axis=1))
        place = f"{len(rows)} of {len(mask)} rows, the first in row {rows[0]}"
        raise InputError(f"{name} has masked values in {place}, which have no value to be sent: {_REMEDY}")
    return np.asarray(np.ma.getdata(array))
