"""Rows from arrays of a ``.npz`` archive."""

from __future__ import annotations

import zipfile
import zlib
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from fanout.errors import InputError
from fanout.sources.npy import require_rows, unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.types import Array, Rows


def open_npz(path: Path, column: str | Sequence[str] | None = None) -> Rows:
    """The array called ``column`` of a ``.npz`` archive; a mapping where ``column`` is a list of names.

    An archive cannot be mapped: the arrays asked for are read into memory.

    Raises:
        InputError: not an archive of arrays, no such array, or arrays that do not fit together.
    """
    with path.open("rb") as file:  # np.load would leave it open if it turned out to be damaged
        try:
            archive = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise unreadable(path, error, what="a .npz archive") from None
        if isinstance(archive, np.ndarray):
            raise InputError(f"{path.name} is one array, not an archive: give it the suffix .npy", key="input.path")
        return _rows(path, archive, column)


def _rows(path: Path, archive: Mapping[str, Array], column: str | Sequence[str] | None) -> Rows:
    if column is None or isinstance(column, str):
        return _read(path, archive, _chosen(path, archive, column))
    if not column:
        raise InputError(f"column is an empty list; {path.name} holds {_names(archive)}", key="input.column")
    rows = {name: _read(path, archive, _chosen(path, archive, name)) for name in column}
    if len({len(array) for array in rows.values()}) > 1:
        lengths = ", ".join(f'"{name}" {len(array)}' for name, array in rows.items())
        raise InputError(f"the columns have different numbers of rows: {lengths}", key="input.column")
    return rows


def _chosen(path: Path, archive: Mapping[str, Array], column: str | None) -> str:
    if column is None:
        if len(archive) == 1:
            return next(iter(archive))
        raise InputError(
            f"{path.name} holds {len(archive)} arrays: name the one to read ({_names(archive)})", key="input.column"
        )
    if column not in archive:
        found = get_close_matches(column, archive, n=1)
        hint = f'did you mean "{found[0]}"? It' if found else "it"
        raise InputError(f'{path.name} has no array "{column}"; {hint} holds {_names(archive)}', key="input.column")
    return column


def _names(archive: Mapping[str, Array]) -> str:
    return ", ".join(f'"{name}"' for name in archive) or "none"


def _read(path: Path, archive: Mapping[str, Array], name: str) -> Array:
    try:
        array = archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise unreadable(path, error, what=f'an archive with the array "{name}"', key="input.column") from None
    if not isinstance(array, np.ndarray):  # any other file in the archive comes as bytes
        raise InputError(f'"{name}" in {path.name} is no array', key="input.column")
    require_rows(array, f'"{name}" in {path.name}', key="input.column")
    return array
