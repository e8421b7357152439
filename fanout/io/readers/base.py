"""What a source is: rows in blocks, part of them on request, and a fingerprint to know them by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.types import Block, count_rows, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_BYTES = 512 * 1024
"""About how much of an input is read at once."""


class Source(ABC):
    """Rows that are read in blocks, so that memory stays bounded however many there are."""

    n_rows: int | None = None
    """How many rows there are; None where only reading to the end tells."""

    repeatable: bool = True
    """False where the rows can be read but once: stdin, one-shot iterables."""

    uniform: bool = False
    """True where all rows are known to be of one dtype and shape, as those of an array are."""

    files: tuple[Path, ...] = ()
    """The files that it reads, which must not be written to meanwhile."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows in order, in blocks that are never empty; each call is another pass.

        Blocking: not for the event loop's thread. Raises `InputError` for what cannot be read, as it comes to it.
        """

    def blocks_from(self, row: int) -> Iterator[Block]:
        """The rows from number ``row`` on; sources that can seek do, others read what comes before."""
        for block in self.blocks():
            n_rows = count_rows(block.rows)
            if row < n_rows:
                yield cut(block, row, n_rows)
            row = max(0, row - n_rows)

    def rows_about(self) -> int | None:
        """`n_rows`, or else about as many, to show how far a run has come; None where nothing is known. Blocking."""
        return self.n_rows

    @abstractmethod
    def fingerprint(self) -> dict[str, Any] | None:
        """What tells this input from another, as JSON can express it; None where nothing can."""

    def sliced(self, rows: slice) -> Source:
        """The rows that ``rows`` selects, a slice without a step.

        Raises:
            InputError: the slice counts from the end, but where that is is not known before all is read.
        """
        if rows.step not in (None, 1):
            raise InputError(f"rows are sent one after the other: {rows.step} cannot be the step of a slice of them")
        return self if rows in _EVERYTHING else _Slice(self, *_bounds(rows, self.n_rows))


class SeekableSource(Source):
    """A source whose every row can be gone to without reading those before it."""

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        return self.blocks_from(0)

    @abstractmethod
    def blocks_from(self, row: int) -> Iterator[Block]:
        """See `Source.blocks_from`."""


class _Slice(Source):
    """The rows ``start <= i < stop`` of another source, numbered from 0."""

    def __init__(self, source: Source, start: int, stop: int | None) -> None:
        self._source, self._start, self._stop = source, start, stop
        if source.n_rows is not None:
            self.n_rows = max(0, min(source.n_rows, source.n_rows if stop is None else stop) - start)
        self.repeatable, self.files, self.uniform = source.repeatable, source.files, source.uniform

    def blocks(self) -> Iterator[Block]:
        return self.blocks_from(0)

    def blocks_from(self, row: int) -> Iterator[Block]:
        position = self._start + row
        if self._stop is not None and position >= self._stop:
            return
        for block in self._source.blocks_from(position):
            n_rows = count_rows(block.rows)
            if self._stop is not None and position + n_rows >= self._stop:
                yield cut(block, 0, self._stop - position)
                return
            yield block
            position += n_rows

    def rows_about(self) -> int | None:
        if self.n_rows is not None:
            return self.n_rows
        whole = self._source.rows_about()
        return whole if whole is None else max(0, min(whole, whole if self._stop is None else self._stop) - self._start)

    def fingerprint(self) -> dict[str, Any] | None:
        whole = self._source.fingerprint()
        return whole and {**whole, "rows": [self._start, self._stop]}

    def sliced(self, rows: slice) -> Source:
        if rows in _EVERYTHING:
            return self
        start, stop = _bounds(rows, self.n_rows)
        ends = [end for end in (self._stop, None if stop is None else self._start + stop) if end is not None]
        return _Slice(self._source, self._start + start, min(ends, default=None))


_EVERYTHING = (slice(None), slice(0, None))


def cut(block: Block, start: int, stop: int) -> Block:
    """The rows ``start <= i < stop`` of a block."""
    if start == 0 and stop >= count_rows(block.rows):
        return block
    part = slice(start, stop)
    return Block(take_rows(block.rows, part), None if block.ids is None else block.ids[part])


def rows_in_block(row_bytes: float) -> int:
    """How many rows of that size make a block."""
    return max(1, int(BLOCK_BYTES // max(1, row_bytes)))


def _bounds(rows: slice, n_rows: int | None) -> tuple[int, int | None]:
    if n_rows is not None:
        start, stop, _ = rows.indices(n_rows)
        return start, stop
    start = 0 if rows.start is None else rows.start
    if start < 0 or (rows.stop is not None and rows.stop < 0):
        raise InputError(
            "negative row numbers count from the end, but only reading the whole input tells where that is: "
            "count from the start"
        )
    return start, rows.stop
