"""Answers into ``.npy`` files, chunk by chunk, in any order."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from fanout.errors import ConfigError
from fanout.files import Publication, read_at
from fanout.io.writers.base import FileSink, other_bytes
from fanout.io.writers.partial import Partial
from fanout.paths import ADOPTED, KEY, PARTIAL, column_paths
from fanout.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.io.writers.base import Earlier, Move
    from fanout.types import Array, ChunkResult, Result, Schema

_NO_ROWS = RowSet()
_FILL_BYTES = 2**20
_GROWTH_BYTES = 64 * 2**20
"""Room that is taken on the disk at once where the number of rows is not known."""


class NpySink(FileSink):
    """Writes ``y.npy``, or ``y.npy.NAME.npy`` beside it for each of several outputs.

    Rows without an answer hold NaN, 0 or False. The files are written with ``pwrite`` and not through a memory map:
    a map counts against the process's memory, and on a full disk it kills the process instead of raising.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._n_rows: int | None = None
        self._written: list[list[int]] = []
        """Start, stop and, for each output, the checksum of rows that were written since the last `sync`."""
        self._columns: dict[str, _Column] = {}
        self._first: Partial | None = None
        """The output's own temporary file, until the form of answers tells if it is needed: nobody else writes it."""

    def write(self, done: Sequence[ChunkResult]) -> None:
        """Write some chunks to their places. Raises `ConfigError` for outputs that a ``.npy`` file cannot hold."""
        for chunk in done:
            if chunk.outputs is None:
                continue
            if not self._columns:
                self._open_columns({name: (array.dtype, array.shape[1:]) for name, array in chunk.outputs.items()})
            parts = [column.write(chunk.start, chunk.outputs[name]) for name, column in self._columns.items()]
            if chunk.failures or chunk.pending:
                self._note_answers(chunk, parts)
            else:
                self._note(chunk.start, chunk.stop, parts)

    def sync(self) -> list[list[int]] | None:
        """Return when all that was written is on the disk, with its checksums. Raises `OSError`."""
        for column in self._columns.values():
            column.partial.sync()
        noted, self._written = self._written, []
        return noted or None

    def close(self) -> None:
        """Let go of the files."""
        for column in self._columns.values():
            column.partial.close()
        if self._first is not None:
            self._first.close()

    def adopt(self, earlier: Earlier, moves: Sequence[Move], *, published: bool) -> tuple[list[Any], Publication]:
        """Copy rows of the published files, or of the temporary ones, into new temporary ones."""
        form = earlier.form or {}
        notes = [[move.to, move.to + move.stop - move.start] for move in moves]
        moved: list[tuple[Path, Path]] = []
        paths = self._paths_of(form)
        for place, (name, (dtype, shape)) in enumerate(form.items()):
            old = _Column(paths[name], dtype, shape)
            if not published:
                old.open(None, earlier.ok, None)
                old.verify(earlier.notes, place)
            new = Partial(old.path, PARTIAL if published else ADOPTED)
            try:
                checksums = old.copy(moves, new, old.path if published else old.partial.path)
                new.sync()
            finally:
                new.close()
                old.close()
            for note, checksum in zip(notes, checksums, strict=True):
                note.append(checksum)
            if not published:
                moved.append((new.path, old.partial.path))
        return [notes], Publication(tuple(moved))

    def _note_answers(self, chunk: ChunkResult, parts: Sequence[memoryview]) -> None:
        """Note the rows that have an answer: the others may be written again."""
        absent = RowSet((failure.start, failure.stop) for failure in chunk.failures)
        for rows in chunk.pending:
            absent.add(rows.start, rows.stop)
        n_rows = chunk.stop - chunk.start
        for start, stop in absent.gaps(chunk.start, chunk.stop):
            a, b = start - chunk.start, stop - chunk.start
            self._note(start, stop, [part[a * len(part) // n_rows : b * len(part) // n_rows] for part in parts])

    def _note(self, start: int, stop: int, parts: Sequence[memoryview]) -> None:
        """Note the checksums of rows, and put those together that follow one another."""
        last = self._written[-1] if self._written else None
        if last is not None and last[1] == start:
            last[1:] = [stop, *map(crc32, parts, last[2:])]
        else:
            self._written.append([start, stop, *map(crc32, parts)])

    def _open(self, n_rows: int | None, earlier: Earlier) -> None:
        self._n_rows = n_rows
        if earlier.form is not None:
            self._open_columns(earlier.form, earlier.ok, earlier.notes)
        if len(self._columns) != 1:
            self._first = Partial(self.path)

    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        if not self._columns:  # no rows: what np.save writes of an empty list
            self._open_columns({"": (np.dtype(float), ())})
        for column in self._columns.values():
            for failure in result.failures:
                column.fill(failure.start, failure.stop)
            for chunk in result.pending:
                column.fill(chunk.start, chunk.stop)
            column.end(len(result.ok))
        return [(column.partial.path, column.partial.final) for column in self._columns.values()]

    def _temporary(self) -> tuple[Path, ...]:
        return () if self._first is None else (self._first.path,)

    def _open_columns(self, form: Schema, ok: RowSet = _NO_ROWS, notes: Sequence[Any] = ()) -> None:
        for name, (dtype, _) in form.items():
            self._require_writable(name, dtype)
        columns: dict[str, _Column] = {}
        try:
            paths = self._paths_of(form)
            for name, (dtype, shape) in form.items():
                columns[name] = column = _Column(paths[name], dtype, shape)
                column.open(self._n_rows, ok, self._first if len(form) == 1 else None)
                column.verify(notes, len(columns) - 1)
        except BaseException:
            for column in columns.values():
                column.close()
            raise
        self._columns = columns
        if len(form) == 1:
            self._first = None

    def _paths_of(self, form: Schema) -> dict[str, Path]:
        return dict.fromkeys(form, self.path) if len(form) == 1 else column_paths(self.path, form)

    def _require_writable(self, name: str, dtype: np.dtype[Any]) -> None:
        what = f'output "{name}"' if name else "the output"
        remedy = f"write to {self.path.with_suffix('.jsonl').name} or {self.path.with_suffix('.parquet').name}"
        if dtype.kind not in "biufc":
            kind = "texts" if dtype.kind in "TUS" else f"dtype {dtype}"
            raise ConfigError(f"{what} is {kind}, which a .npy file can hold only as a pickle: {remedy}", key=KEY)


class _Column:
    """One output's file."""

    partial: Partial

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.path = path
        self._dtype = dtype
        self._row_shape = row_shape
        self._row_bytes = dtype.itemsize * math.prod(row_shape)
        self._begin = len(_header(dtype, (0, *row_shape)))
        self._sized = True

    def open(self, n_rows: int | None, ok: RowSet, partial: Partial | None) -> None:
        """Make the file, or keep what it has of the rows in ``ok``. Raises `OSError` where there is no room for it."""
        kept = max((stop for _, stop in ok), default=0)
        self.partial = partial or Partial(self.path, size=self._offset(kept) if kept else 0)
        self._sized = n_rows is not None
        if n_rows is not None:
            self.partial.reserve(self._offset(n_rows))
        self.partial.write_at(_header(self._dtype, (n_rows or kept, *self._row_shape)), 0)

    def close(self) -> None:
        if hasattr(self, "partial"):
            self.partial.close()

    def write(self, start: int, array: Array) -> memoryview:
        """Write some rows to their places; returns their bytes."""
        # The engine has proven this. Here it would not be noticed, but shift bytes into other rows.
        assert array.dtype == self._dtype, f"{array.dtype} is not {self._dtype}"
        assert array.shape[1:] == self._row_shape, f"{array.shape[1:]} is not {self._row_shape}"
        if not self._sized and self._offset(start + len(array)) > self.partial.size:
            self.partial.reserve(self._offset(start + len(array)) + _GROWTH_BYTES)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        if data:
            self.partial.write_at(data, self._offset(start))
        return data

    def verify(self, notes: Sequence[Sequence[Sequence[int]]], place: int) -> None:
        """Raise `ConfigError` if the file holds other bytes than were noted; ``place`` is the output's."""
        for note in notes:
            for start, stop, *checksums in note:
                if self.partial.checksum(self._offset(start), (stop - start) * self._row_bytes) != checksums[place]:
                    raise other_bytes(self.partial.path, start, stop)

    def copy(self, moves: Sequence[Move], new: Partial, source: Path) -> list[int]:
        """Copy rows from ``source`` into a new file; returns the checksum of each move."""
        new.write_at(_header(self._dtype, (0, *self._row_shape)), 0)
        with source.open("rb", buffering=0) as file:
            return [self._copied(file.fileno(), move, new) for move in moves]

    def _copied(self, fd: int, move: Move, new: Partial) -> int:
        checksum, step = 0, max(1, _FILL_BYTES // max(1, self._row_bytes))
        for row in range(move.start, move.stop, step):
            data = read_at(fd, (min(row + step, move.stop) - row) * self._row_bytes, self._offset(row))
            new.write_at(data, self._offset(move.to + row - move.start))
            checksum = crc32(data, checksum)
        return checksum

    def fill(self, start: int, stop: int) -> None:
        """Write the value that stands for no answer, a bounded number of rows at a time."""
        step = max(1, _FILL_BYTES // max(1, self._row_bytes))
        value = math.nan if self._dtype.kind in "fc" else 0
        block = np.full((min(step, stop - start), *self._row_shape), value, self._dtype)
        for row in range(start, stop, step):
            self.write(row, block[: stop - row])

    def end(self, n_rows: int) -> None:
        """Make it the whole file of ``n_rows`` rows, on the disk."""
        self.partial.write_at(_header(self._dtype, (n_rows, *self._row_shape)), 0)
        self.partial.cut(self._offset(n_rows))
        self.partial.sync()

    def _offset(self, row: int) -> int:
        return self._begin + row * self._row_bytes


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header that np.save would write for a C-ordered array; as long for any number of rows."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
