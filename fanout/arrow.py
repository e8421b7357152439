"""Values of Arrow and of Python, one from the other. pyarrow is optional, and imported when it is needed."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fanout.types import Array, Buffer

Arrow: TypeAlias = Any
"""An object of pyarrow, which ships no types."""

Piece: TypeAlias = Any
"""Consecutive values of one column: a list, a numpy array, or an Arrow array."""

OLDEST = 18
"""The oldest major version that reads and writes all that this package uses."""

LENGTH = np.dtype("<u4")
"""Dtype of the lengths of texts, in bytes."""

_MOST_LISTED = 2**31 - 1
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


def type_of_rows(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Arrow:
    """Return the Arrow type of rows of a dtype and shape: numbers, texts, or lists of them."""
    pa = import_pyarrow()
    kind = pa.string() if dtype.kind in "TU" else pa.from_numpy_dtype(dtype)
    for _ in shape:
        kind = _list_of(kind)
    return kind


def rows_array(values: Array, ok: Array) -> Arrow:
    """Return an Arrow array of rows from ``values``, those in ``ok``; the others are null.

    It is made with ``Array.from_buffers``: unlike ``pyarrow.array`` it does not import pandas, which takes 0.2 s.
    """
    dtype, shape = values.dtype, values.shape[1:]
    if dtype.kind in "TU":
        return packed_array(dtype, shape, ok, *_packed(values.reshape(-1).tolist()))
    numbers = np.ascontiguousarray(values, dtype.newbyteorder("="))
    return packed_array(dtype, shape, ok, numbers.reshape(-1).view(np.uint8).data)


def text_array(texts: Sequence[str | None]) -> Arrow:
    """Return an Arrow array of texts; None is null."""
    ok = np.array([text is not None for text in texts], bool)
    return packed_array(np.dtypes.StringDType(), (), ok, *_packed([text for text in texts if text is not None]))


def _packed(texts: Sequence[str]) -> tuple[bytes, bytes]:
    encoded = [text.encode() for text in texts]
    return b"".join(encoded), np.fromiter(map(len, encoded), LENGTH, len(encoded)).tobytes()


def packed_array(dtype: np.dtype[Any], shape: tuple[int, ...], ok: Array, data: Buffer, lengths: Buffer = b"") -> Arrow:
    """Return an Arrow array as `rows_array` does.

    Args:
        dtype: of the values.
        shape: of a row.
        ok: the mask of rows that have values; shape (rows,), bool.
        data: bytes of the numbers, or UTF-8 of the texts, of these rows alone.
        lengths: the length of each text in bytes, as `LENGTH`.
    """
    pa = import_pyarrow()
    validity = None if ok.all() else pa.py_buffer(np.packbits(ok, bitorder="little"))
    if not shape:
        return _flat_array(dtype, data, lengths, ok, validity)
    array, n_ok = _flat_array(dtype, data, lengths), int(ok.sum())
    for axis in reversed(range(1, len(shape))):
        array = _list_array(np.arange(n_ok * prod(shape[:axis]) + 1) * shape[axis], array)
    # A row without an answer is null and has no elements: readers disagree on null lists that have some.
    return _list_array(np.concatenate(([0], np.cumsum(ok) * shape[0])), array, validity)


def _flat_array(
    dtype: np.dtype[Any], data: Buffer, lengths: Buffer, ok: Array | None = None, validity: Arrow = None
) -> Arrow:
    """Return an Arrow array of numbers or texts, with a place for each row that is not in ``ok``."""
    pa = import_pyarrow()
    if dtype.kind in "TU":
        offsets = np.concatenate(([0], _spread(np.frombuffer(lengths, LENGTH), ok).cumsum(dtype=np.int64)))
        buffers = [validity, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
    array = _spread(np.frombuffer(data, dtype.newbyteorder("=")), ok)
    # Arrow stores a bool in a bit.
    stored = np.packbits(array, bitorder="little") if dtype.kind == "b" else array
    return pa.Array.from_buffers(pa.from_numpy_dtype(dtype), len(array), [validity, pa.py_buffer(stored)])


def _spread(values: Array, ok: Array | None) -> Array:
    if ok is None or len(values) == len(ok):
        return values
    spread: Array = np.zeros(len(ok), values.dtype)
    spread[ok] = values
    return spread


def _list_array(offsets: Array, elements: Arrow, validity: Arrow = None) -> Arrow:
    pa = import_pyarrow()
    # The offsets of the usual lists have 32 bits, and would wrap around without an error.
    is_large = len(elements) > _MOST_LISTED
    buffers = [validity, pa.py_buffer(offsets.astype(np.int64 if is_large else np.int32))]
    kind = _list_of(elements.type, is_large=is_large)
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers, children=[elements])


def _list_of(kind: Arrow, *, is_large: bool = False) -> Arrow:
    """Return the type of lists without a fixed length: pyarrow before 26 cannot read a null list of a fixed length.

    The element has the name that it gets in a Parquet file, so that lists read from a file have the same type.
    """
    pa = import_pyarrow()
    field = pa.field("element", kind)
    return pa.large_list(field) if is_large else pa.list_(field)


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
