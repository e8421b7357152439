"""Columns of a table: the selection that a user makes by name, and the rows and ids made of it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.types import Array, Block, Rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

Column: TypeAlias = Array | list[Any]
"""Some rows of one column: an array, or a list where an array cannot hold them, as with a missing value (None)."""

# Ids are written to JSON and Parquet, which hold integers of 64 bits.
_SMALLEST_ID, _LARGEST_ID = -(2**63), 2**64 - 1


@dataclass(frozen=True, slots=True)
class ColumnSelection:
    """The columns to read.

    Attributes:
        names: columns of the rows.
        bare: True if a row is the one column's value, not a mapping from names to values.
        id: column of the rows' ids.
    """

    names: tuple[str, ...]
    bare: bool
    id: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """The columns of the rows and of the ids, each once."""
        return tuple(dict.fromkeys([*self.names, *([] if self.id is None else [self.id])]))

    def block(self, columns: Mapping[str, Column], file: str, first_row: int) -> Block:
        """Return the rows and ids that some rows of all columns make. Raises `InputError` for an unusable id."""
        ids = None if self.id is None else check_ids(columns[self.id], self.id, file, first_row)
        return Block(self.rows(columns), ids)

    def rows(self, columns: Mapping[str, Column]) -> Rows:
        """Return the rows without their ids."""
        return rows_from_columns({name: columns[name] for name in self.names}, bare=self.bare)

    def as_json(self) -> dict[str, Any]:
        """Return the selection for a fingerprint."""
        return {"columns": list(self.names), "bare": self.bare, "id": self.id}


def select_columns(
    names: Sequence[str],
    column: str | Sequence[str] | None,
    id: str | None,  # noqa: A002 - the name it has for users
    *,
    file: str,
    noun: str = "column",
    nested: Collection[str] = (),
) -> ColumnSelection:
    """Return the selection from a file that has the columns ``names``, and fields of them called ``nested``.

    Raises:
        InputError: a column does not exist or is ambiguous, or none was named and there are several.
    """
    known = [*names, *nested]

    def require(name: str, key: str) -> None:
        if known.count(name) > 1:
            raise InputError(f'{file} has {known.count(name)} {noun}s "{name}": rename all but one', key=key)
        if name not in known:
            raise InputError(f'{file} has no {noun} "{name}"; {suggestion(name, known, "it holds", names)}', key=key)

    if id is not None:
        require(id, "input.id")
    # The column of the ids is not an input, unless it is named as one.
    if column is None:
        rest = [name for name in names if name != id]
        if len(rest) != 1:
            number = f"{len(rest)} {noun}s" + (" beside the ids" if id in names else "")
            raise InputError(f"{file} holds {number}: name the one to read ({_listed(rest)})", key="input.column")
        return ColumnSelection((rest[0],), bare=True, id=id)
    # An empty name is not an empty list: a CSV file may have a column without a name.
    selected = (column,) if isinstance(column, str) else tuple(dict.fromkeys(column))
    if not selected:
        raise InputError(f"column is an empty list; {file} holds {_listed(names)}", key="input.column")
    for name in selected:
        require(name, "input.column")
    return ColumnSelection(selected, bare=isinstance(column, str), id=id)


def suggestion(name: str, known: Sequence[str], statement: str, listed: Sequence[str] | None = None) -> str:
    """Return the end of a message about an unknown name: the nearest known one, and ``statement`` with a list."""
    nearest = get_close_matches(name, known, n=1)
    text = f"{statement} {_listed(known if listed is None else listed)}"
    return f'did you mean "{nearest[0]}"? {text[0].upper()}{text[1:]}' if nearest else text


def _listed(names: Sequence[str], most: int = 30) -> str:
    text = ", ".join(f'"{name}"' for name in names[:most]) or "none"
    return text if len(names) <= most else f"{text}, and {len(names) - most} more"


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
