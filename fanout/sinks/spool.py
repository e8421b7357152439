"""Sinks whose rows differ in length: appended to a spool as they come, and put in order at the end."""

from __future__ import annotations

from abc import abstractmethod
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.rowset import RowSet
from fanout.sinks.base import FileSink
from fanout.sinks.partial import Partial
from fanout.types import form_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.sinks.base import Earlier
    from fanout.types import Done, Form, Result

_ENTRY = 4


class SpoolSink(FileSink):
    """Appends every range of rows to ``NAME.partial``, and at the end makes of them ``NAME.ordered``, the output.

    That takes as much room on the disk again. The memory is 32 bytes a range.
    """

    _spool: Partial

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._index = array("q")  # start, stop, offset, length of each range
        self._told = 0
        self._form: Form | None = None
        self._ordered: Partial | None = None

    def write(self, done: Sequence[Done]) -> None:
        """Append some chunks."""
        for chunk in done:
            if chunk.outputs is None and chunk.ids is None:
                continue
            self._form = self._form or form_of(chunk.outputs)
            absent = RowSet((rows.start, rows.stop) for rows in chunk.pending)
            for start, stop in absent.gaps(chunk.start, chunk.stop):
                data = self._packed(chunk, slice(start - chunk.start, stop - chunk.start))
                self._index.extend((start, stop, self._spool.append(data), len(data)))

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

    def adopt(self, earlier: Earlier) -> list[Any]:
        """Take the rows of the published file into a new spool."""
        self._spool = Partial(self.path)
        for start, stop, data in self._published(earlier.ok):
            self._index.extend((start, stop, self._spool.append(data), len(data)))
        note = self.sync()
        self._spool.close()
        return [note]

    @abstractmethod
    def _packed(self, chunk: Done, rows: slice) -> bytes:
        """Some rows of a chunk, as they go to the spool. Rows without an answer are among them."""

    @abstractmethod
    def _assemble(self, ordered: Partial, parts: Iterator[tuple[int, bytes | None]]) -> None:
        """Write the output: for each part its number of rows and what was packed of them, None for nothing."""

    @abstractmethod
    def _published(self, ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        """Start, stop and packed rows of the output that is in place, for the rows in ``ok``."""

    def _open(self, n_rows: int | None, earlier: Earlier) -> None:
        self._form = earlier.form
        self._index = array("q", [number for note in earlier.notes for entry in note for number in entry])
        self._told = len(self._index)
        ends = [offset + length for offset, length in zip(self._index[2::_ENTRY], self._index[3::_ENTRY], strict=True)]
        # What lies behind the last place that was noted may be half written.
        self._spool = Partial(self.path, size=max(ends, default=0))

    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        self._ordered = ordered = Partial(self.path, ".ordered")
        try:
            self._assemble(ordered, self._in_order(len(result.ok)))
            ordered.sync()
        except OSError:
            ordered.discard()
            raise
        return [(ordered.path, ordered.final)]

    def _temporary(self) -> tuple[Path, ...]:
        return (self._spool.path,)

    def _in_order(self, n_rows: int) -> Iterator[tuple[int, bytes | None]]:
        index = np.array(self._index).reshape(-1, _ENTRY)
        row = 0
        for start, stop, offset, length in index[index[:, 0].argsort(kind="stable")].tolist():
            if start > row:
                yield start - row, None
            yield stop - start, self._spool.read_at(offset, length)
            row = stop
        if n_rows > row:
            yield n_rows - row, None
