"""Sinks whose rows differ in length: appended to a spool as they come, and put in order at the end."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from fanout.files import Publication
from fanout.io.writers.base import FileSink, other_bytes
from fanout.io.writers.partial import Partial
from fanout.paths import ADOPTED, ORDERED, PARTIAL
from fanout.rowset import RowSet
from fanout.types import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fanout.io.writers.base import Earlier, Move
    from fanout.types import ChunkResult, Result, Schema

ID = "id"
"""Column of the rows' ids, where they have some."""

VALUE = "value"
"""Column of an output without a name."""

_ENTRY = 5


def column_names(outputs: Iterable[str]) -> dict[str, str]:
    """The column of each output: its name, with ``_`` behind it where that is the name of another column.

    ``id`` is the rows' own, whether they have ids or not: what a column means must not depend on the input.
    """
    columns = {name: name for name in outputs}
    taken = {*columns, ID}
    for name in columns:
        if name in ("", ID):
            column = name or VALUE
            while column in taken:
                column += "_"
            columns[name] = column
            taken.add(column)
    return columns


class SpoolSink(FileSink):
    """Appends every range of rows to ``NAME.partial``, and at the end makes of them ``NAME.ordered``, the output.

    That takes as much room on the disk again. The memory is 40 bytes a range.
    """

    _spool: Partial

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._index = array("q")  # start, stop, offset, length, checksum of each range
        self._told = 0
        self._form: Schema | None = None
        self._ordered: Partial | None = None

    def write(self, done: Sequence[ChunkResult]) -> None:
        """Append some chunks."""
        for chunk in done:
            if chunk.outputs is None and chunk.ids is None:
                continue
            self._form = self._form or schema_of(chunk.outputs)
            absent = RowSet((rows.start, rows.stop) for rows in chunk.pending)
            for start, stop in absent.gaps(chunk.start, chunk.stop):
                self._append(start, stop, self._packed(chunk, slice(start - chunk.start, stop - chunk.start)))

    def sync(self) -> list[list[int]]:
        """Return when all is on the disk, with the places of what came since the last time. Raises `OSError`."""
        self._spool.sync()
        new = self._index[self._told :]
        self._told = len(self._index)
        return [list(new[at : at + _ENTRY]) for at in range(0, len(new), _ENTRY)]

    def close(self) -> None:
        """Let go of the files."""
        for partial in (getattr(self, "_spool", None), self._ordered):
            if partial is not None:
                partial.close()

    def adopt(self, earlier: Earlier, moves: Sequence[Move], *, published: bool) -> tuple[list[Any], Publication]:
        """Take rows of the published file, or of the spool that is there, into a new spool."""
        old: Partial | None = None
        if published:
            pieces = self._published(RowSet((move.start, move.stop) for move in moves))
        else:
            self._reopen(earlier)
            old, pieces = self._spool, _entries(self._index, self._spool)
        try:
            self._index, self._told = array("q"), 0
            self._spool = Partial(self.path, PARTIAL if published else ADOPTED)
            for start, stop, data in self._moved(moves, pieces):
                self._append(start, stop, data)
            note = self.sync()
            self._spool.close()
        finally:
            if old is not None:
                old.close()
        return [note], Publication(() if old is None else ((self._spool.path, old.path),))

    @abstractmethod
    def _packed(self, chunk: ChunkResult, rows: slice) -> bytes:
        """Some rows of a chunk, as they go to the spool. Rows without an answer are among them."""

    @abstractmethod
    def _assemble(self, ordered: Partial, parts: Iterator[tuple[int, bytes | None]]) -> None:
        """Write the output: for each part its number of rows and what was packed of them, None for nothing."""

    @abstractmethod
    def _published(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        """Start, stop and packed rows of the output that is in place, for the rows in ``ok``."""

    @abstractmethod
    def _part(self, data: bytes, start: int, stop: int) -> bytes:
        """Some of the rows that were packed together."""

    def _open(self, n_rows: int | None, earlier: Earlier) -> None:
        self._form = earlier.form
        self._reopen(earlier)

    def _reopen(self, earlier: Earlier) -> None:
        """Open the spool that an earlier process has left. Raises `ConfigError` if it holds other bytes than noted."""
        index = array("q", [number for note in earlier.notes for entry in note for number in entry])
        ends = [offset + length for offset, length in zip(index[2::_ENTRY], index[3::_ENTRY], strict=True)]
        # What lies behind the last place that was noted may be half written.
        spool = Partial(self.path, size=max(ends, default=0))
        for at in range(0, len(index), _ENTRY):
            start, stop, offset, length, checksum = index[at : at + _ENTRY]
            if spool.checksum(offset, length) != checksum:
                spool.close()
                raise other_bytes(spool.path, start, stop)
        self._index, self._told, self._spool = index, len(index), spool

    def _append(self, start: int, stop: int, data: bytes) -> None:
        self._index.extend((start, stop, self._spool.append(data), len(data), crc32(data)))

    def _moved(
        self, moves: Sequence[Move], pieces: Iterable[tuple[int, int, bytes]]
    ) -> Iterator[tuple[int, int, bytes]]:
        """Start, stop and packed rows by their new numbers; ``pieces`` are by the old ones, in order."""
        coming = iter(moves)
        move = next(coming, None)
        here: list[Move] = []
        for start, stop, data in pieces:
            while move is not None and move.start < stop:
                here.append(move)
                move = next(coming, None)
            for one in here:
                first, last = max(one.start, start), min(one.stop, stop)
                if first < last:
                    to = one.to + first - one.start
                    yield to, to + last - first, self._part(data, first - start, last - start)
            here = [one for one in here if one.stop > stop]

    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        self._ordered = ordered = Partial(self.path, ORDERED)
        try:
            self._assemble(ordered, self._counted(len(result.ok)))
            ordered.sync()
        except OSError:
            ordered.discard()
            raise
        return [(ordered.path, ordered.final)]

    def _temporary(self) -> tuple[Path, ...]:
        return (self._spool.path,)

    def _counted(self, n_rows: int) -> Iterator[tuple[int, bytes | None]]:
        self.finished_rows = 0
        for n_in_part, data in self._in_order(n_rows):
            yield n_in_part, data
            self.finished_rows += n_in_part

    def _in_order(self, n_rows: int) -> Iterator[tuple[int, bytes | None]]:
        row = 0
        for start, stop, data in _entries(self._index, self._spool):
            if start > row:
                yield start - row, None
            yield stop - start, data
            row = stop
        if n_rows > row:
            yield n_rows - row, None


def _entries(index: array[int], spool: Partial) -> Iterator[tuple[int, int, bytes]]:
    """Start, stop and packed rows of a spool, in the order of rows."""
    entries = np.array(index).reshape(-1, _ENTRY)
    for start, stop, offset, length, _ in entries[entries[:, 0].argsort(kind="stable")].tolist():
        yield start, stop, spool.read_at(offset, length)
