"""Answers into JSON lines: line i is row i."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.sinks.base import FileSink
from fanout.sinks.partial import Partial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.types import Array, Done, Result

_COPY_BYTES = 2**20
_NULL = b"null\n"


class JsonLinesSink(FileSink):
    """Writes one JSON value a row: a number, text or list, or an object of them by name for several outputs.

    Rows without an answer, NaN and infinities are ``null``: JSON has no word for them.

    Chunks are appended to the ``.partial`` file as they come; `finish` copies them in the order of rows, and takes
    as much room on the disk again while it does.
    """

    def __init__(self, path: Path, n_rows: int) -> None:
        super().__init__(path, n_rows)
        self._index = array("q")  # start, stop, offset, length of each chunk: 32 bytes a chunk

    def write(self, done: Sequence[Done]) -> None:
        """Append some chunks."""
        for chunk in done:
            if chunk.outputs is not None:
                text = b"".join(_lines(chunk))
                offset = self._partial.append(text)
                self._index.extend((chunk.start, chunk.stop, offset, len(text)))

    def _publish(self, result: Result) -> tuple[Path, ...]:
        ordered = Partial(self.path, ".ordered")
        try:
            for text in self._in_order(result.ok):
                ordered.append(text)
            ordered.publish()
        except OSError:
            ordered.discard()
            raise
        self._partial.discard()
        return (self.path,)

    def _in_order(self, ok: Array) -> Iterator[bytes]:
        index = np.array(self._index).reshape(-1, 4)
        row = 0
        for start, stop, offset, length in index[index[:, 0].argsort()].tolist():
            yield from _nulls(start - row)
            if ok[start:stop].all():
                yield from self._copied(offset, length)
            else:
                lines = self._partial.read_at(offset, length).splitlines(keepends=True)
                yield b"".join(line if is_ok else _NULL for line, is_ok in zip(lines, ok[start:stop], strict=True))
            row = stop
        yield from _nulls(self.n_rows - row)

    def _copied(self, offset: int, length: int) -> Iterator[bytes]:
        for begin in range(offset, offset + length, _COPY_BYTES):
            yield self._partial.read_at(begin, min(_COPY_BYTES, offset + length - begin))


def _lines(chunk: Done) -> Iterator[bytes]:
    assert chunk.outputs is not None
    columns = {name: _native(column) for name, column in chunk.outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    for i in range(chunk.stop - chunk.start):
        value = {name: column[i] for name, column in columns.items()} if only is None else only[i]
        yield orjson.dumps(value, _listed, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _native(column: Array) -> Array:
    """``column`` as orjson can read its rows. Texts go through `_listed`; their dtype knows no byte order."""
    return column if column.dtype.kind == "T" else np.ascontiguousarray(column, column.dtype.newbyteorder("="))


def _listed(value: Any) -> Any:
    """For what orjson does not know itself: rows of several texts, and texts as numpy scalars."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError


def _nulls(count: int) -> Iterator[bytes]:
    step = _COPY_BYTES // len(_NULL)
    for begin in range(0, count, step):
        yield _NULL * min(step, count - begin)
