"""Fits rows into one request, if its bytes or tokens are bounded and not only the number of rows."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from fanout.rows import count_rows

if TYPE_CHECKING:
    from fanout.engine.chunker import ChunkTask
    from fanout.limits import TokenMeter
    from fanout.limits.size_limits import Size
    from fanout.types import Rows

# Part by which the largest ratio seen counts less with every chunk: an odd chunk is not to count for ever.
_FORGOTTEN = 0.01


class Scale:
    """Estimates the bytes of a body from the bytes of its rows; one for all runs of a client.

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
    """Rows that go together."""

    n_rows: int
    size: float
    """Their bytes, as `row_bytes` counts them."""

    tokens: float | None
    """Their tokens, where they are counted."""


class Packing:
    """Packs the rows of one feed, weighing each of them once. The first bound that is reached closes the chunk.

    A row that is beyond a bound by itself goes alone: whether the endpoint takes it is the endpoint's to say.
    """

    def __init__(
        self, scale: Scale, meter: TokenMeter, *, max_bytes: int | None = None, max_tokens: int | None = None
    ) -> None:
        self._scale = scale
        self._meter = meter
        self._max_bytes = inf if max_bytes is None else max_bytes
        self._max_tokens = inf if max_tokens is None else max_tokens
        self._counts = max_tokens is not None and meter.counts
        self.bounded = max_bytes is not None or max_tokens is not None
        """False where only limits that the endpoint turns out to have bound a chunk."""
        self._start = 0
        self._packed = _NOTHING
        """Rows from there on that are known to fit."""
        self._next: tuple[float, float] | None = None
        """Size and tokens of the row after them, where they are known."""

    def fit(self, start: int, rows: Rows, offset: int, n_rows: int, limits: Size | None = None) -> Packed:
        """Fit rows into one request, of ``n_rows`` rows from ``offset`` on; the first is row ``start`` of the input.

        ``limits`` bound them beside the user's bounds. It may be asked again with more rows from the same start. Raises
        `ConfigError` where tokens cannot be counted.
        """
        most, most_tokens = self._most_bytes(), self._max_tokens
        # Learnt limits hold beside the user's, so that the smaller ones count.
        if limits is not None:
            most, most_tokens = min(most, limits.n_bytes), min(most_tokens, limits.tokens)
            if limits.tokens < inf and not self._counts:
                # Only now the tokens of rows are counted, which takes time; those weighed before have no count.
                self._counts = True
                self._begin(start)
        most /= self._scale.ratio
        (fitting, size, tokens) = self._packed
        # The answer before may be of another chunk, of more rows than are asked for, or of wider bounds.
        if start != self._start or fitting > n_rows or (fitting > 1 and (size > most or (tokens or 0.0) > most_tokens)):
            self._begin(start)
            fitting, size, tokens = _NOTHING
        tokens = tokens or 0.0
        while fitting < n_rows:
            row = self._weigh(rows, offset + fitting) if self._next is None else self._next
            # A first row goes alone, however large: the endpoint has to say that it is too large.
            if fitting and (size + row[0] > most or tokens + row[1] > most_tokens):
                # This row begins the next chunk, and need not be weighed again.
                self._begin(start + fitting, row)
                return self._of(fitting, size, tokens)
            fitting, size, tokens, self._next = fitting + 1, size + row[0], tokens + row[1], None
        self._packed = self._of(fitting, size, tokens)
        return self._packed

    def learn(self, task: ChunkTask) -> None:
        """Learn from the body of a chunk how many bytes its rows took."""
        if task.size and task.payload is not None and (body := task.payload.nbytes):
            self._scale.learn(task.size, body)

    def weigh(self, task: ChunkTask) -> None:
        """Learn the same from a chunk that was not packed here."""
        if not task.size:
            task.size = sum(row_bytes(task.rows, index) for index in range(task.n))
        self.learn(task)

    def parts(self, rows: Rows, limits: Size) -> list[int]:
        """Return the numbers of successive rows that fit together within ``limits``."""
        most = limits.n_bytes / self._scale.ratio
        counts, size, tokens = [0], 0.0, 0.0
        for index in range(count_rows(rows)):
            n_bytes = row_bytes(rows, index) if most < inf else 0.0
            n_tokens = self._meter.of_row(row_of(rows, index)) if limits.tokens < inf else 0.0
            size, tokens = size + n_bytes, tokens + n_tokens
            if counts[-1] and (counts[-1] >= limits.rows or size > most or tokens > limits.tokens):
                counts.append(0)
                size, tokens = n_bytes, n_tokens
            counts[-1] += 1
        return counts

    def too_large(self, task: ChunkTask) -> bool:
        """True where the body of several rows is beyond a bound after all: fewer have to be sent."""
        return task.n > 1 and task.payload is not None and task.payload.nbytes > self._most_bytes()

    def _most_bytes(self) -> float:
        if self._counts or self._max_tokens == inf:
            return self._max_bytes
        # Without a counter, tokens are estimated from bytes, so a bound on tokens is one on bytes.
        return min(self._max_bytes, self._max_tokens / self._meter.per_byte)

    def _weigh(self, rows: Rows, index: int) -> tuple[float, float]:
        tokens = self._meter.of_row(row_of(rows, index)) if self._counts else 0.0
        return row_bytes(rows, index), tokens

    def _of(self, n_rows: int, size: float, tokens: float) -> Packed:
        return Packed(n_rows, size, tokens if self._counts else None)

    def _begin(self, start: int, first: tuple[float, float] | None = None) -> None:
        """Begin a chunk, whose first row's weights may be known."""
        self._start, self._packed, self._next = start, _NOTHING, first


_NOTHING = Packed(0, 0.0, None)


def row_of(rows: Rows, index: int) -> Any:
    """One row, of a mapping as a dict."""
    return {name: column[index] for name, column in rows.items()} if isinstance(rows, Mapping) else rows[index]


def row_bytes(rows: Rows, index: int) -> float:
    """Return the bytes of one row: an array's in memory, a text's in UTF-8, otherwise those of its JSON."""
    if isinstance(rows, np.ndarray):
        return _array_bytes(rows, index)
    if isinstance(rows, Mapping):
        return sum(_array_bytes(column, index) for column in rows.values())
    return _bytes_of(rows[index])


def _array_bytes(array: np.ndarray[Any, Any], index: int) -> float:
    if array.dtype == object and array.ndim == 1:  # its own bytes are those of pointers
        return _bytes_of(array[index])
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
