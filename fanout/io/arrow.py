"""Values of Arrow and of Python, one from the other. pyarrow is optional, and imported when it is needed."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Arrow: TypeAlias = Any
"""An object of pyarrow, which ships no types."""

Piece: TypeAlias = Any
"""Consecutive values of one column: a list, a numpy array, or an Arrow array."""

OLDEST = 18
"""The oldest major version that reads and writes all that this package uses."""

_INSTALL = "pip install 'fanout-ml[arrow]'"


def missing_pyarrow() -> str | None:
    """Return why pyarrow cannot be used, with the remedy; None if it can.

    Does not import pyarrow, which takes 0.1 s: a writer needs it only once the first answers have come.
    """
    version = _version()
    if version is None:
        return f"pyarrow: {_INSTALL}"
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < OLDEST:
        upgrade = _INSTALL.replace("install", "install --upgrade")
        return f"pyarrow {OLDEST} or later, and {version} is installed: {upgrade}"
    return None


def import_pyarrow() -> Arrow:
    """Return the module. Raises `ImportError`, whose text names the remedy."""
    if (missing := missing_pyarrow()) is not None:
        raise ImportError(missing)
    try:
        import pyarrow as pa
    except ImportError as error:
        raise ImportError(f"pyarrow (the installed one cannot be imported: {error}): {_INSTALL}") from None
    return pa


def python_values(pieces: Sequence[Piece]) -> list[Any]:
    """Return the values of a column's pieces as Python objects."""
    return [value for piece in pieces for value in _as_list(piece)]


def arrow_column(pieces: Sequence[Piece], kind: Arrow) -> Arrow:
    """Return the pieces of a column as an Arrow chunked array of the type ``kind``."""
    pa = import_pyarrow()
    arrays = [piece if isinstance(piece, pa.Array) else _arrow_array(piece, kind) for piece in pieces]
    return pa.chunked_array(arrays, kind)


def _as_list(piece: Piece) -> list[Any]:
    if isinstance(piece, list):
        return piece
    values: list[Any] = piece.tolist() if isinstance(piece, np.ndarray) else piece.to_pylist()
    return values


def as_text(value: Any) -> str | None:
    """Return a value as text: JSON for a value of another type; None for a missing value."""
    if isinstance(value, str | None):
        return value
    # orjson refuses integers of more than 64 bits.
    return json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))


def _arrow_array(piece: Piece, kind: Arrow) -> Arrow:
    pa = import_pyarrow()
    values = _as_list(piece)
    if kind == pa.string():
        return pa.array([as_text(value) for value in values], kind)
    return pa.array(values, kind)


def common_type(kind: Arrow, piece: Piece) -> Arrow:
    """Return the type that holds the values so far, of type ``kind``, and those of ``piece``; texts if none does."""
    pa = import_pyarrow()
    if kind == pa.string():
        return kind
    try:
        new = pa.array(_as_list(piece)).type
        fields = [pa.schema([pa.field("", one)]) for one in (kind, new)]
        common = pa.unify_schemas(fields, promote_options="permissive").field(0).type
        # An integer that a float cannot hold exactly is an error here.
        pa.array(_as_list(piece), common)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.string()
    return common


def _version() -> str | None:
    """Return the version of pyarrow; None if it is not installed."""
    # None in sys.modules marks a module that must not be imported, as in tests.
    if "pyarrow" in sys.modules:
        return getattr(sys.modules["pyarrow"], "__version__", None)
    spec = find_spec("pyarrow")
    if spec is None or spec.origin is None:
        return None
    # The name of this folder holds the version. importlib.metadata reads it too, but takes 20 ms to import.
    for folder in Path(spec.origin).parents[1].glob("pyarrow-*.dist-info"):
        return folder.name.removeprefix("pyarrow-").removesuffix(".dist-info")
    # An installation without this folder, for instance a build of one's own.
    from importlib.metadata import version

    return version("pyarrow")
