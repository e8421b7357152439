"""Rows and ids made of the columns of a table."""

from __future__ import annotations

from itertools import pairwise
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.types import Array, Rows

if TYPE_CHECKING:
    from collections.abc import Mapping

Column: TypeAlias = Array | list[Any]
"""Some rows of one column: an array, or a list where an array cannot hold them, as with a missing value (None)."""

# Ids are written to JSON and Parquet, which hold integers of 64 bits.
_SMALLEST_ID, _LARGEST_ID = -(2**63), 2**64 - 1
_NUMBERS = (int, float, np.number, np.bool_, NoneType)
_INT64_BYTES = 8


def rows_from_columns(columns: Mapping[str, Column], *, bare: bool) -> Rows:
    """Return the rows that columns of one length make: the only column as it is, or arrays by name.

    If a column is not an array, for instance because a value is missing in it, the rows are a list of dicts.
    """
    if bare:
        return next(iter(columns.values()))
    as_arrays = {name: _texts_as_array(column) for name, column in columns.items()}
    # A codec sends arrays by name in one piece. A list of dicts is sent row by row, and may hold None.
    arrays = {name: column for name, column in as_arrays.items() if isinstance(column, np.ndarray)}
    if len(arrays) == len(columns):
        return arrays
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def vectors(columns: Mapping[str, Column], file: str, first_row: int) -> Rows:
    """Return rows of one number for each column: an array of shape (rows, columns), or a list of vectors.

    It is a list if a value is missing somewhere (None), or if the numbers are Python's own.

    Raises:
        InputError: a value is not a number, or the common dtype cannot hold it exactly.
    """
    for name, column in columns.items():
        _require_numbers(name, column, file, first_row)
    arrays = [column for column in columns.values() if isinstance(column, np.ndarray)]
    dtypes = {array.dtype for array in arrays}
    dtypes |= {
        value.dtype for column in columns.values() if isinstance(column, list) for value in column
        if isinstance(value, np.generic)
    }  # fmt: skip
    if not dtypes:
        return [list(row) for row in zip(*columns.values(), strict=True)]
    dtype = np.result_type(*dtypes)
    if dtype.kind == "f":
        for name, column in columns.items():
            _require_exact(name, column, file, first_row)
    if len(arrays) == len(columns):
        return np.column_stack([array.astype(dtype, copy=False) for array in arrays])
    rows = zip(*columns.values(), strict=True)
    # A row without a missing value is the same vector as in a block that misses none.
    return [list(row) if any(value is None for value in row) else np.array(row, dtype) for row in rows]


def _require_numbers(name: str, column: Column, file: str, first_row: int) -> None:
    if isinstance(column, np.ndarray):
        if column.ndim == 1 and column.dtype.kind in "biuf":
            return
        row, kind = first_row, "texts" if column.dtype.kind in "USTO" else f"arrays of shape {list(column.shape[1:])}"
    else:
        others = (i for i, value in enumerate(column) if not isinstance(value, _NUMBERS))
        place = next(others, None)
        if place is None:
            return
        row, kind = first_row + place, f"a {type(column[place]).__name__}"
    remedy = 'as = "vector" takes columns of numbers, so select those in columns'
    raise InputError(f'{file}: "{name}" holds {kind} in row {row}; {remedy}', key="input.columns")


def _require_exact(name: str, column: Column, file: str, first_row: int) -> None:
    """Raise `InputError` for an integer that float64, the dtype of a mixed vector, cannot hold."""
    if isinstance(column, np.ndarray) and (column.dtype.kind not in "iu" or column.dtype.itemsize < _INT64_BYTES):
        return
    for row, value in enumerate(column, first_row):
        if isinstance(value, np.integer | int) and int(value) != float(value):
            problem = f'"{name}" of row {row} is {value}, which the floats of a vector cannot hold exactly'
            raise InputError(f"{file}: {problem}; leave the column out", key="input.columns")


def _texts_as_array(column: Column) -> Column:
    if isinstance(column, np.ndarray) or set(map(type, column)) != {str}:
        return column
    # StringDType stores texts of any length without padding.
    return np.array(column, np.dtypes.StringDType())


def insert_missing(present: Column, missing: Array) -> Column:
    """Return the values of ``present`` with None between them where ``missing``, a mask of all rows, is true.

    Numbers keep their dtype as numpy scalars, so that a row that is sent alone is encoded as its neighbours are.
    """
    if not missing.any():
        return present
    values = iter(present)
    return [None if is_missing else next(values) for is_missing in missing.tolist()]


def split_by_lengths(values: Column, lengths: Array) -> Column:
    """Return ``values`` in pieces: an array with one more axis if all lengths are equal, else a list of pieces."""
    if isinstance(values, np.ndarray) and len(set(lengths.tolist())) == 1:
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    ends = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return [values[start:stop] for start, stop in pairwise(ends)]


def check_ids(column: Column, name: str, file: str, first_row: int) -> list[int | str]:
    """Return the ids of some rows. They only label rows, so two rows may have the same id.

    Raises:
        InputError: an id is missing, or is neither a text nor an integer of 64 bits.
    """
    ids: list[Any] = column.tolist() if isinstance(column, np.ndarray) else column
    # Nearly all ids are texts: one pass over their types replaces a check of each.
    if set(map(type, ids)) <= {str}:
        return ids
    plain = [value.item() if isinstance(value, np.generic) else value for value in ids]
    for row, value in enumerate(plain, first_row):
        if value is None:
            raise InputError(f'{file}: row {row} has no id: "{name}" is missing there', key="input.id")
        # A bool is an instance of int, but no id.
        if type(value) not in (int, str):
            problem = f"is of type {type(value).__name__}: ids are texts or integers"
        elif type(value) is int and not _SMALLEST_ID <= value <= _LARGEST_ID:
            problem = "is an integer of more than 64 bits: write it as a text"
        else:
            continue
        raise InputError(f'{file}: the id of row {row} in "{name}" {problem}', key="input.id")
    return plain
