"""Sinks whose rows differ in length: rows are appended to a spool as they come, and put in order at the end."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from fanout.files import PartialFile, Publication
from fanout.io.writers.base import Checkpoint, FileSink, checksum_error
from fanout.paths import ORDERED, PARTIAL, REBUILT
from fanout.rowset import RowSet
from fanout.types import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fanout.io.writers.base import Move
    from fanout.types import ChunkResult, Result, Schema

ID = "id"
"""Column of the rows' ids."""

VALUE = "value"
"""Column of an output without a name."""

# Start, stop, offset, length and checksum of a range of rows.
_ENTRY = 5


def column_names(outputs: Iterable[str]) -> dict[str, str]:
    """Return the column of each output: its name, with ``_`` appended if that is another column's.

    ``id`` is reserved even if the rows have no ids: the meaning of a column must not depend on the input.
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
    """Appends every range of rows to ``NAME.partial``, and at the end writes ``NAME.ordered``, the output, from it.

    The output needs the same disk space again. The memory is 40 bytes a range.
    """

    _spool: PartialFile

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._index = array("q")
        # Length of the index at the last sync.
        self._synced = 0
        self._schema: Schema | None = None
        self._ordered: PartialFile | None = None

    def write(self, results: Sequence[ChunkResult]) -> None:
        for chunk in results:
            # Failed rows with ids are written too: their ids are in the output.
            if chunk.outputs is None and chunk.ids is None:
                continue
            self._schema = self._schema or schema_of(chunk.outputs)
            pending = RowSet((rows.start, rows.stop) for rows in chunk.pending)
            for start, stop in pending.gaps(chunk.start, chunk.stop):
                self._append(start, stop, self._encode(chunk, slice(start - chunk.start, stop - chunk.start)))

    def sync(self) -> list[list[int]]:
        self._spool.sync()
        new = self._index[self._synced :]
        self._synced = len(self._index)
        return [list(new[at : at + _ENTRY]) for at in range(0, len(new), _ENTRY)]

    def close(self) -> None:
        for file in (getattr(self, "_spool", None), self._ordered):
            if file is not None:
                file.close()

    def rebuild(
        self, checkpoint: Checkpoint, moves: Sequence[Move], *, published: bool
    ) -> tuple[list[Any], Publication]:
        self._schema = checkpoint.schema
        old: PartialFile | None = None
        if published:
            ranges = self._published_ranges(RowSet((move.start, move.stop) for move in moves))
        else:
            self._open_spool(checkpoint)
            old, ranges = self._spool, _ranges(self._index, self._spool)
        try:
            # The ranges are read from the old file while they are appended to the new one.
            self._index, self._synced = array("q"), 0
            self._spool = PartialFile(self.path, PARTIAL if published else REBUILT)
            for start, stop, data in self._moved(moves, ranges):
                self._append(start, stop, data)
            note = self.sync()
            self._spool.close()
        finally:
            if old is not None:
                old.close()
        return [note], Publication(() if old is None else ((self._spool.path, old.path),))

    @abstractmethod
    def _encode(self, chunk: ChunkResult, rows: slice) -> bytes:
        """Return some rows of a chunk, with or without an answer, as bytes for the spool."""

    @abstractmethod
    def _cut(self, data: bytes, n_rows: int, start: int, stop: int) -> bytes:
        """Return some of ``n_rows`` rows that were encoded together."""

    @abstractmethod
    def _assemble(self, ordered: PartialFile, parts: Iterator[tuple[int, bytes | None]]) -> None:
        """Write the output from its parts: the number of rows of each, and their bytes, None for no answer."""

    @abstractmethod
    def _published_ranges(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        """Yield start, stop and encoded rows of the output that is in place, for the rows in ``ok``."""

    def _open(self, n_rows: int | None, checkpoint: Checkpoint) -> None:
        self._schema = checkpoint.schema
        self._open_spool(checkpoint)

    def _open_spool(self, checkpoint: Checkpoint) -> None:
        """Open the spool of an earlier process. Raises `ConfigError` if it has other bytes than were noted."""
        index = array("q", [number for note in checkpoint.notes for entry in note for number in entry])
        # Bytes behind the last noted range may be half written, and are cut.
        ends = [offset + length for offset, length in zip(index[2::_ENTRY], index[3::_ENTRY], strict=True)]
        spool = PartialFile(self.path, size=max(ends, default=0))
        # Every byte is read once more: a damaged answer must not reach the output.
        for at in range(0, len(index), _ENTRY):
            start, stop, offset, length, checksum = index[at : at + _ENTRY]
            if spool.checksum(offset, length) != checksum:
                spool.close()
                raise checksum_error(spool.path, start, stop)
        self._index, self._synced, self._spool = index, len(index), spool

    def _append(self, start: int, stop: int, data: bytes) -> None:
        self._index.extend((start, stop, self._spool.append(data), len(data), crc32(data)))

    def _moved(
        self, moves: Sequence[Move], ranges: Iterable[tuple[int, int, bytes]]
    ) -> Iterator[tuple[int, int, bytes]]:
        """Yield start, stop and encoded rows by their new numbers; ``ranges`` have the old ones, in order."""
        rest = iter(moves)
        move = next(rest, None)
        # Several moves may take rows of one range, and one move rows of several ranges.
        current: list[Move] = []
        for start, stop, data in ranges:
            while move is not None and move.start < stop:
                current.append(move)
                move = next(rest, None)
            for one in current:
                first, last = max(one.start, start), min(one.stop, stop)
                if first < last:
                    to = one.to + first - one.start
                    yield to, to + last - first, self._cut(data, stop - start, first - start, last - start)
            current = [one for one in current if one.stop > stop]

    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        self._ordered = ordered = PartialFile(self.path, ORDERED)
        try:
            # A failure here loses nothing: the spool has every answer.
            self._assemble(ordered, self._parts(len(result.ok)))
            ordered.sync()
        except OSError:
            ordered.discard()
            raise
        return [(ordered.path, ordered.final)]

    def _temporary_files(self) -> tuple[Path, ...]:
        return (self._spool.path,)

    def _parts(self, n_rows: int) -> Iterator[tuple[int, bytes | None]]:
        """Yield the parts of all rows in order, and count them in `finished_rows`."""
        self.finished_rows = row = 0
        for start, stop, data in _ranges(self._index, self._spool):
            if start > row:
                yield start - row, None
            yield stop - start, data
            self.finished_rows = row = stop
        if n_rows > row:
            yield n_rows - row, None
            self.finished_rows = n_rows

    def _first_bytes(self) -> set[bytes]:
        """Return the first bytes of all encoded ranges, each once."""
        return {self._spool.read_at(offset, 1) for offset in self._index[2::_ENTRY]}


def _ranges(index: array[int], spool: PartialFile) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, stop and encoded rows of a spool, in the order of rows."""
    # Sorting row numbers as an array takes 40 bytes a range, and no Python object for each.
    entries = np.array(index).reshape(-1, _ENTRY)
    for start, stop, offset, length, _ in entries[entries[:, 0].argsort(kind="stable")].tolist():
        yield start, stop, spool.read_at(offset, length)
