"""Answers in ``.npy`` files, written chunk by chunk, in any order."""

from __future__ import annotations

import io
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from xxhash import xxh3_64

from fanout.files import PartialFile, checksum, pieces_at, read_at
from fanout.io.publication import Publication
from fanout.io.writers.base import Checkpoint, FileSink, cannot_hold, checksum_error, edited_error
from fanout.paths import PARTIAL, REBUILT, column_paths
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fanout.io.writers.base import Move
    from fanout.results import ChunkResult, Result
    from fanout.types import Array, Schema

# Rows are copied and filled in steps of this size, so that memory does not grow with the output.
_COPIED_BYTES = 2**20

# Disk space reserved in one step if the number of rows is unknown.
_GROWTH_BYTES = 64 * 2**20


class NpySink(FileSink):
    """Writes ``y.npy``, or a file ``y.npy.NAME.npy`` beside it for each of several outputs.

    Rows without an answer hold NaN, 0 or False. The files are written with ``pwrite`` instead of a memory map: mapped
    pages count against the process, and on a full disk a write to one kills it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._n_rows: int | None = None
        # Start, stop and each output's checksum of the ranges written since the last sync. Those of the last range are
        # in the hashes, since it may go on.
        self._written: list[list[Any]] = []
        self._hashes: list[xxh3_64] = []
        self._columns: dict[str, _ColumnFile] = {}
        # Holds the lock on the output before the first answer shows whether there is one output or several.
        self._lock_file: PartialFile | None = None

    def write(self, results: Sequence[ChunkResult]) -> None:
        for chunk in results:
            # Rows that failed are filled at the end.
            if chunk.outputs is None:
                continue
            if not self._columns:
                schema = {name: (array.dtype, array.shape[1:]) for name, array in chunk.outputs.items()}
                self._open_columns(schema, Checkpoint())
            written = [column.write(chunk.start, chunk.outputs[name]) for name, column in self._columns.items()]
            if self.journalled:
                self._note(chunk, written)

    def sync(self) -> list[list[Any]] | None:
        for column in self._columns.values():
            column.file.sync()
        self._end_range()
        note, self._written = self._written, []
        return note or None

    def close(self) -> None:
        for column in self._columns.values():
            column.file.close()
        if self._lock_file is not None:
            self._lock_file.close()

    def rebuild(
        self, checkpoint: Checkpoint, moves: Sequence[Move], *, published: bool
    ) -> tuple[list[Any], Publication]:
        schema = checkpoint.schema or {}
        paths = self._paths_of(schema)
        note: list[list[Any]] = [[move.to, move.to + move.stop - move.start] for move in moves]
        renames: list[tuple[Path, Path]] = []
        for i, (name, (dtype, shape)) in enumerate(schema.items()):
            column = _ColumnFile(paths[name], dtype, shape)
            source = column.path
            if published:
                column.verify_published(checkpoint.notes, i)
            else:
                column.open(None, checkpoint.ok, None)
                column.verify(checkpoint.notes, i)
                source = column.file.path
            # The old file stays whole until the journal switches to the copy.
            copy = PartialFile(column.path, PARTIAL if published else REBUILT)
            try:
                checksums = column.copy(moves, copy, source)
                copy.sync()
            finally:
                copy.close()
                if not published:
                    column.file.close()
            for entry, one in zip(note, checksums, strict=True):
                entry.append(one)
            if not published:
                renames.append((copy.path, source))
        return [note], Publication(tuple(renames))

    def _note(self, chunk: ChunkResult, written: Sequence[memoryview]) -> None:
        """Note the checksums of rows that have an answer: the others may be written again."""
        absent = _absent_rows(chunk)
        n_rows = chunk.stop - chunk.start
        for start, stop in absent.gaps(chunk.start, chunk.stop):
            a, b = start - chunk.start, stop - chunk.start
            parts = [data[a * len(data) // n_rows : b * len(data) // n_rows] for data in written]
            # One entry for ranges that follow one another keeps the journal small.
            if self._hashes and self._written[-1][1] == start:
                self._written[-1][1] = stop
            else:
                self._end_range()
                self._written.append([start, stop])
                self._hashes = [xxh3_64() for _ in parts]
            for one, part in zip(self._hashes, parts, strict=True):
                one.update(part)

    def _end_range(self) -> None:
        if self._hashes:
            self._written[-1] += [one.hexdigest() for one in self._hashes]
            self._hashes = []

    def _open(self, n_rows: int | None, checkpoint: Checkpoint) -> None:
        self._n_rows = n_rows
        if checkpoint.schema is not None:
            self._open_columns(checkpoint.schema, checkpoint)
        if len(self._columns) != 1:
            self._lock_file = PartialFile(self.path)

    def _finish(self, result: Result) -> list[tuple[Path, Path]]:
        # np.save writes an empty list as an array of floats.
        if not self._columns:
            self._open_columns({"": (np.dtype(float), ())}, Checkpoint())
        for column in self._columns.values():
            for start, stop in _absent_rows(result):
                column.fill(start, stop)
            column.finish(len(result.ok))
        return [(column.file.path, column.file.final) for column in self._columns.values()]

    def _temporary_files(self) -> tuple[Path, ...]:
        return () if self._lock_file is None else (self._lock_file.path,)

    def _open_columns(self, schema: Schema, checkpoint: Checkpoint) -> None:
        self.require_writable(schema)
        columns: dict[str, _ColumnFile] = {}
        try:
            paths = self._paths_of(schema)
            for i, (name, (dtype, shape)) in enumerate(schema.items()):
                column = _ColumnFile(paths[name], dtype, shape)
                column.open(self._n_rows, checkpoint.ok, self._lock_file if len(schema) == 1 else None)
                columns[name] = column
                column.verify(checkpoint.notes, i)
        # An open file keeps its lock, and the same process may open the sink again.
        except BaseException:
            for column in columns.values():
                column.file.close()
            raise
        self._columns = columns
        # The only output's file is the lock file.
        if len(schema) == 1:
            self._lock_file = None

    def _paths_of(self, schema: Schema) -> dict[str, Path]:
        return dict.fromkeys(schema, self.path) if len(schema) == 1 else column_paths(self.path, schema)

    def require_writable(self, schema: Schema) -> None:
        for name, (dtype, _) in schema.items():
            if dtype.kind not in "biufc":
                kind = "texts" if dtype.kind in "TUS" else f"dtype {dtype}"
                others = " or ".join(self.path.with_suffix(suffix).name for suffix in (".jsonl", ".parquet"))
                raise cannot_hold(name, f"is {kind}, which a .npy file can hold only as a pickle", f"write to {others}")


class _ColumnFile:
    """The file of one output."""

    file: PartialFile

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.path = path
        self._dtype = dtype
        self._row_shape = row_shape
        self._row_bytes = dtype.itemsize * math.prod(row_shape)
        self._header_bytes = len(_header(dtype, (0, *row_shape)))
        self._length_is_known = True

    def open(self, n_rows: int | None, ok: RowSet, file: PartialFile | None) -> None:
        """Create the file, or keep the bytes of rows in ``ok``. Raises `OSError` without space for all rows."""
        kept = max((stop for _, stop in ok), default=0)
        self.file = file or PartialFile(self.path, size=self._offset(kept) if kept else 0)
        self._length_is_known = n_rows is not None
        # A full disk is reported before the first answer, not after the last.
        if n_rows is not None:
            self.file.reserve(self._offset(n_rows))
        self.file.write_at(_header(self._dtype, (n_rows or kept, *self._row_shape)), 0)

    def write(self, start: int, array: Array) -> memoryview:
        """Write some rows to their places; return their bytes."""
        # The engine has validated this. Here another dtype would go unnoticed, and shift the bytes of other rows.
        assert array.dtype == self._dtype, f"{array.dtype} is not {self._dtype}"
        assert array.shape[1:] == self._row_shape, f"{array.shape[1:]} is not {self._row_shape}"
        end = self._offset(start + len(array))
        if not self._length_is_known and end > self.file.size:
            self.file.reserve(end + _GROWTH_BYTES)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        if data:
            self.file.write_at(data, self._offset(start))
        return data

    def verify(self, notes: Sequence[Sequence[Sequence[Any]]], place: int) -> None:
        """Raise `ConfigError` if the file has other bytes than the notes say; ``place`` is the output's."""
        if (rows := self._other_rows(self.file.pieces_at, notes, place)) is not None:
            raise checksum_error(self.file.path, *rows)

    def verify_published(self, notes: Sequence[Sequence[Sequence[Any]]], place: int) -> None:
        """Raise `ConfigError` if the whole file has other bytes than the notes say. Raises `OSError`."""
        with self.path.open("rb", buffering=0) as file:
            if self._other_rows(partial(pieces_at, file.fileno()), notes, place) is not None:
                raise edited_error(self.path)

    def _other_rows(
        self, pieces_at: Callable[[int, int], Iterator[bytes]], notes: Sequence[Sequence[Sequence[Any]]], place: int
    ) -> tuple[int, int] | None:
        """Return start and stop of the first rows with other bytes than the notes say; None if there are none."""
        for note in notes:
            for start, stop, *checksums in note:
                pieces = pieces_at(self._offset(start), (stop - start) * self._row_bytes)
                if _checksum(pieces, checksums[place]) != checksums[place]:
                    return start, stop
        return None

    def copy(self, moves: Sequence[Move], copy: PartialFile, source: Path) -> list[str]:
        """Copy rows from ``source`` to ``copy``; return the checksum of each move."""
        copy.write_at(_header(self._dtype, (0, *self._row_shape)), 0)
        with source.open("rb", buffering=0) as file:
            return [self._copy_rows(file.fileno(), move, copy) for move in moves]

    def _copy_rows(self, fd: int, move: Move, copy: PartialFile) -> str:
        hashed = xxh3_64()
        step = self._rows_at_once()
        for row in range(move.start, move.stop, step):
            data = read_at(fd, (min(row + step, move.stop) - row) * self._row_bytes, self._offset(row))
            copy.write_at(data, self._offset(move.to + row - move.start))
            hashed.update(data)
        return hashed.hexdigest()

    def fill(self, start: int, stop: int) -> None:
        """Write the fill value of rows without an answer."""
        step = self._rows_at_once()
        value = math.nan if self._dtype.kind in "fc" else 0
        block = np.full((min(step, stop - start), *self._row_shape), value, self._dtype)
        for row in range(start, stop, step):
            self.write(row, block[: stop - row])

    def finish(self, n_rows: int) -> None:
        """Make it the whole file of ``n_rows`` rows, durably."""
        # Space was reserved for more rows if their number was unknown.
        self.file.write_at(_header(self._dtype, (n_rows, *self._row_shape)), 0)
        self.file.truncate(self._offset(n_rows))
        self.file.sync()

    def _offset(self, row: int) -> int:
        return self._header_bytes + row * self._row_bytes

    def _rows_at_once(self) -> int:
        return max(1, _COPIED_BYTES // max(1, self._row_bytes))


def _checksum(pieces: Iterator[bytes], like: object) -> int | str:
    """Return the checksum of some bytes: XXH3 in hexadecimal, or CRC-32, a number, if ``like`` is one."""
    if isinstance(like, int):
        return checksum(pieces, like)
    hashed = xxh3_64()
    for piece in pieces:
        hashed.update(piece)
    return hashed.hexdigest()


def _absent_rows(result: ChunkResult | Result) -> RowSet:
    rows = RowSet((failure.start, failure.stop) for failure in result.failures)
    for chunk in result.pending:
        rows.add(chunk.start, chunk.stop)
    return rows


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header that np.save writes for a C-ordered array. Its length is the same for any number of rows."""
    # numpy pads its header for growth, so that the number of rows can be written over it at the end.
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
