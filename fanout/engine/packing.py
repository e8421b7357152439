"""How many rows go into one request, where that is bounded by their bytes and not by their number alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

if TYPE_CHECKING:
    from fanout.engine.work import Work
    from fanout.types import Rows

_FORGOTTEN = 0.01
"""Part by which the largest ratio seen counts less with every chunk: an odd chunk is not to count for ever."""


class Scale:
    """How many bytes of body a byte of rows becomes, at most and of late; one for all runs of a client.

    JSON makes three of each in an array of float64, base64 a third more.
    """

    def __init__(self) -> None:
        self.ratio = 1.0
        self._known = False

    def learn(self, rows: float, body: float) -> None:
        """Rows of so many bytes, as `row_bytes` counts them, became a body of so many."""
        seen = body / rows
        self.ratio = max(seen, self.ratio * (1 - _FORGOTTEN)) if self._known else seen
        self._known = True


class Packed(NamedTuple):
    """The rows of a chunk: how many they are, and how large."""

    n_rows: int
    size: float


class Packing:
    """Packs the rows of one feed, weighing each of them once. The first bound that is reached closes the chunk.

    A row that is beyond the bound by itself goes alone: whether the endpoint takes it is the endpoint's to say.
    """

    def __init__(self, scale: Scale, *, max_bytes: int) -> None:
        self._scale = scale
        self._max_bytes = max_bytes
        self._start = 0
        self._count = 0
        """Rows from there on that are known to fit."""
        self._size = 0.0
        """Their size."""
        self._next: float | None = None
        """The size of the row after them, where it is known."""

    def fit(self, start: int, rows: Rows, offset: int, n_rows: int) -> Packed:
        """How many of ``n_rows`` rows fit, of which the first is number ``start`` of the input, ``offset`` of ``rows``.

        It may be asked again with more rows from the same start.
        """
        if start != self._start or self._count > n_rows:
            self._begin(start)
        most = self._max_bytes / self._scale.ratio
        while self._count < n_rows:
            size = row_bytes(rows, offset + self._count) if self._next is None else self._next
            if self._count and self._size + size > most:
                packed = Packed(self._count, self._size)
                self._begin(start + self._count, size)
                return packed
            self._count, self._size, self._next = self._count + 1, self._size + size, None
        return Packed(self._count, self._size)

    def learn(self, work: Work) -> None:
        """Take note of what the rows of a chunk became."""
        if work.size and work.payload is not None:
            self._scale.learn(work.size, work.payload.nbytes)

    def too_large(self, work: Work) -> bool:
        """True where the body of several rows is beyond the bound after all: fewer have to be sent."""
        return work.n > 1 and work.payload is not None and work.payload.nbytes > self._max_bytes

    def _begin(self, start: int, size: float | None = None) -> None:
        """Begin a chunk, whose first row's size may be known."""
        self._start, self._next = start, size
        self._count, self._size = 0, 0.0


def row_bytes(rows: Rows, index: int) -> float:
    """What one row amounts to: an array's bytes as they lie in memory, a text's in UTF-8, else those of its JSON."""
    if isinstance(rows, np.ndarray):
        return _array_bytes(rows, index)
    if isinstance(rows, Mapping):
        return sum(_array_bytes(column, index) for column in rows.values())
    return _bytes_of(rows[index])


def _array_bytes(array: np.ndarray[Any, Any], index: int) -> float:
    if array.dtype.kind in "UST":
        return sum(map(_bytes_of, np.atleast_1d(array[index]).ravel().tolist()))
    return array.nbytes / len(array)


def _bytes_of(row: Any) -> float:
    if isinstance(row, str):
        return len(row) if row.isascii() else len(row.encode("utf-8", "surrogatepass"))
    if isinstance(row, bytes | bytearray):
        return len(row)
    if isinstance(row, np.ndarray | np.generic):
        return row.nbytes
    try:
        return len(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
    except TypeError:  # nothing that could be sent: it fails when its chunk is encoded
        return 0.0
