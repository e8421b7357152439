"""Answers in JSON lines: line i is row i."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.io.writers.base import cannot_hold
from fanout.io.writers.spool import ID, VALUE, SpoolSink, column_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.files import PartialFile
    from fanout.rowset import RowSet
    from fanout.types import Array, ChunkResult

_BLOCK_LINES = 10_000
_NULL = b"null\n"
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class JsonLinesSink(SpoolSink):
    """Writes one JSON value a row: a number, text or list, or an object of them by name for several outputs.

    Rows without an answer, NaN and infinities are ``null``, because JSON has no other value for them. If rows have ids,
    a line is an object with the fields ``id`` and ``value``, or the outputs' names; without an answer it has the id
    alone. An output that is called ``id`` is written as ``id_``.
    """

    def _encode(self, chunk: ChunkResult, rows: slice) -> bytes:
        return b"".join(_lines(chunk, rows))

    def _cut(self, data: bytes, n_rows: int, start: int, stop: int) -> bytes:
        return data if stop - start == n_rows else b"".join(data.splitlines(keepends=True)[start:stop])

    def _assemble(self, ordered: PartialFile, parts: Iterator[tuple[int, bytes | None]]) -> None:
        for n_rows, lines in parts:
            if lines is not None:
                ordered.append(lines)
                continue
            # The rows that a stopped run has not sent may be many millions.
            for begin in range(0, n_rows, _BLOCK_LINES):
                ordered.append(_NULL * min(_BLOCK_LINES, n_rows - begin))

    def _published_ranges(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        with self.path.open("rb") as lines:
            row = 0
            # The lines between the ranges are skipped without being kept.
            for start, stop in ok:
                next(islice(lines, start - row, start - row), None)
                for begin in range(start, stop, _BLOCK_LINES):
                    end = min(begin + _BLOCK_LINES, stop)
                    yield begin, end, b"".join(islice(lines, end - begin))
                row = stop


def _lines(chunk: ChunkResult, rows: slice) -> Iterator[bytes]:
    outputs = chunk.outputs or {}
    names = column_names(outputs)
    columns = {names[name]: _serializable(name, column) for name, column in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    ok = chunk.ok
    for i in range(rows.start, rows.stop):
        value: Any = None
        if ok[i]:
            value = {name: column[i] for name, column in columns.items()} if only is None else only[i]
        if chunk.ids is not None:
            value = _with_id(chunk.ids[i], value, ok=bool(ok[i]), bare=only is not None)
        yield orjson.dumps(value, _as_python, _OPTIONS)


def _with_id(label: Any, value: Any, *, ok: bool, bare: bool) -> dict[str, Any]:
    # The absence of a value says that there is no answer; null may be one (NaN).
    if not ok:
        return {ID: label}
    return {ID: label, VALUE: value} if bare else {ID: label, **value}


def _serializable(name: str, column: Array) -> Array:
    """Return ``column`` as orjson can read its rows: contiguous and in native byte order."""
    # Complex numbers, and floats with more digits than the readers of JSON accept.
    if column.dtype.char in "FDGg":
        raise cannot_hold(name, f"has dtype {column.dtype}, which JSON cannot hold", "write to a .npy file")
    # A dtype of texts has no byte order; their rows go through `_as_python`.
    return column if column.dtype.kind == "T" else np.ascontiguousarray(column, column.dtype.newbyteorder("="))


def _as_python(value: Any) -> Any:
    """Convert the values that orjson does not know: rows of several texts, and texts as numpy scalars."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError
