"""Columns: which of them are the rows and which the ids, and how several make rows."""

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
"""Some rows of one column: an array, or a list where none can be made, which is so where a value is missing (None)."""


_LEAST_ID, _LARGEST_ID = -(2**63), 2**64 - 1


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that are to be read."""

    names: tuple[str, ...]
    bare: bool
    """A row is the one column's value, not a mapping from names to values."""

    id: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """Those of the rows and that of the ids, each once."""
        return tuple(dict.fromkeys([*self.names, *([] if self.id is None else [self.id])]))

    def block(self, taken: Mapping[str, Column], file: str, first_row: int) -> Block:
        """The rows and ids that some rows of all columns make. Raises `InputError` for an id that is none."""
        rows = rows_of({name: taken[name] for name in self.names}, bare=self.bare)
        return Block(rows, None if self.id is None else ids_of(taken[self.id], self.id, file, first_row))

    def described(self) -> dict[str, Any]:
        """The choice, for a fingerprint."""
        return {"columns": list(self.names), "bare": self.bare, "id": self.id}


def choose(
    held: Sequence[str],
    column: str | Sequence[str] | None,
    id: str | None,  # noqa: A002 - the name it has for users
    *,
    file: str,
    what: str = "column",
    nested: Collection[str] = (),
) -> Columns:
    """The columns to read of a file that has those of ``held``, and parts of them by the names ``nested``.

    Raises:
        InputError: none was named though there are several, or there is none of that name.
    """
    known = [*held, *nested]
    if id is not None:
        _require(id, known, held, file, what, key="input.id")
    if column is None:
        rest = [name for name in held if name != id]
        if len(rest) != 1:
            number = f"{len(rest)} {what}s" + (" beside the ids" if id in held else "")
            listed = _names(rest)
            raise InputError(f"{file} holds {number}: name the one to read ({listed})", key="input.column")
        return Columns((rest[0],), bare=True, id=id)
    if isinstance(column, str):
        _require(column, known, held, file, what)
        return Columns((column,), bare=True, id=id)
    if not column:
        raise InputError(f"column is an empty list; {file} holds {_names(held)}", key="input.column")
    for name in column:
        _require(name, known, held, file, what)
    return Columns(tuple(dict.fromkeys(column)), bare=False, id=id)


def _require(
    name: str, known: list[str], held: Sequence[str], file: str, what: str, *, key: str = "input.column"
) -> None:
    if known.count(name) == 1:
        return
    if name in known:
        raise InputError(f'{file} has {known.count(name)} {what}s "{name}": rename all but one', key=key)
    found = get_close_matches(name, known, n=1)
    hint = f'did you mean "{found[0]}"? It' if found else "it"
    raise InputError(f'{file} has no {what} "{name}"; {hint} holds {_names(held)}', key=key)


def _names(names: Sequence[str], most: int = 30) -> str:
    listed = ", ".join(f'"{name}"' for name in names[:most]) or "none"
    return listed if len(names) <= most else f"{listed}, and {len(names) - most} more"


def rows_of(columns: Mapping[str, Column], *, bare: bool) -> Rows:
    """The rows that columns of one length make: the only column as it is, or arrays by name.

    Where a column is no array, for a value is missing in it for instance, the rows are a list of dicts.
    """
    if bare:
        return next(iter(columns.values()))
    arrays = {name: _texts_as_array(column) for name, column in columns.items()}
    found = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    if len(found) == len(arrays):
        return found
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts_as_array(column: Column) -> Column:
    if isinstance(column, np.ndarray) or set(map(type, column)) != {str}:
        return column
    return np.array(column, np.dtypes.StringDType())


def with_missing(present: Column, missing: Array) -> Column:
    """The values of ``present`` with None between them where ``missing``, a mask of all rows, is true.

    Numbers keep their dtype as numpy's scalars: a row that stays behind alone is then sent as its neighbours are.
    """
    if not missing.any():
        return present
    values = iter(present)
    return [None if gone else next(values) for gone in missing.tolist()]


def cut_into(values: Column, lengths: Array) -> Column:
    """``values`` in pieces of those lengths: an array of one more axis where all are equal, else a list of pieces."""
    if isinstance(values, np.ndarray) and len(set(lengths.tolist())) == 1:
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    ends = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return [values[start:stop] for start, stop in pairwise(ends)]


def ids_of(column: Column, name: str, file: str, first_row: int) -> list[int | str]:
    """The ids of some rows. They only label rows, which are told apart by their numbers: two rows may have the same.

    Raises:
        InputError: one is missing, or neither a text nor an integer.
    """
    ids: list[Any] = column.tolist() if isinstance(column, np.ndarray) else column
    if set(map(type, ids)) <= {str}:
        return ids
    plain = [value.item() if isinstance(value, np.generic) else value for value in ids]
    for row, value in enumerate(plain, first_row):
        if value is None:
            raise InputError(f'{file}: row {row} has no id: "{name}" is missing there', key="input.id")
        if type(value) not in (int, str):
            kind = type(value).__name__
            told = f'the id of row {row} in "{name}" is of type {kind}: ids are texts or integers'
            raise InputError(f"{file}: {told}", key="input.id")
        if type(value) is int and not _LEAST_ID <= value <= _LARGEST_ID:
            told = f'the id of row {row} in "{name}" is an integer of more than 64 bits: write it as a text'
            raise InputError(f"{file}: {told}", key="input.id")
    return plain
