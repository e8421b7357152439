"""The columns of an input with the kinds of their values, from its first rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fanout.errors import InputError
from fanout.io.readers import open_source
from fanout.rows import count_rows, single_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fanout.io.readers import Source

Kind: TypeAlias = Literal["number", "true or false", "text", "vector", "JSON", "missing"]

_LOOKED_AT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFields:
    """The content of an input, as far as its first rows show it.

    Attributes:
        n_rows: number of rows, exact or estimated; None if it is unknown.
        columns: name of each column -> kind of its values; empty if rows are values without names.
        row: kind of a whole row.
    """

    n_rows: int | None
    columns: Mapping[str, Kind]
    row: Kind

    def named(self, *kinds: Kind) -> list[str]:
        """Return the names of the columns of these kinds."""
        return [name for name, kind in self.columns.items() if kind in kinds]


def read_fields(path: Path | str, format: str | None = None) -> InputFields:  # noqa: A002 - the name it has for users
    """Read the first rows of an input. Raises `InputError` if there are none, or they cannot be read."""
    try:
        source = open_source(path, columns=["*"], format=format)
        rows = _first_rows(source, path)
    except InputError as error:
        # Arrays, lines of text and JSON lines without objects have no columns.
        if error.key != "input.columns":
            raise
        source = open_source(path, format=format)
        rows = _first_rows(source, path)
        return InputFields(n_rows=source.estimate_rows(), columns={}, row=_kind_of_all(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _kind_of_all([row.get(name) for row in rows]) for name in names}
    return InputFields(n_rows=source.estimate_rows(), columns=columns, row="JSON")


def _first_rows(source: Source, path: Path | str) -> list[Any]:
    block = next(source.blocks(), None)
    if block is None:
        raise InputError(f"{path} holds no rows", key="input.path")
    return single_rows(take_rows(block.rows, slice(0, min(_LOOKED_AT, count_rows(block.rows)))))


def _kind_of_all(values: list[Any]) -> Kind:
    return next((_kind(value) for value in islice(values, _LOOKED_AT) if value is not None), "missing")


def _kind(value: Any) -> Kind:
    if isinstance(value, bool | np.bool_):
        return "true or false"
    if isinstance(value, int | float | np.number):
        return "number"
    if isinstance(value, str | np.str_):
        return "text"
    if isinstance(value, np.ndarray | list) and len(value) and all(_kind(one) == "number" for one in value):
        return "vector"
    return "JSON"
