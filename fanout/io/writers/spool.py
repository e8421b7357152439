"""Sinks whose rows differ in length: rows are appended to a spool as they come, and put in order at the end."""

from __future__ import annotations

import io
from abc import abstractmethod
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.errors import ConfigError, InputError
from fanout.files import START_FRESH, PartialFile, checksum, pieces_at
from fanout.frames import Reasons
from fanout.io.kept import KEEP
from fanout.io.publication import Publication
from fanout.io.writers.base import Checkpoint, FileSink, cannot_hold, checksum_error, edited_error
from fanout.io.writers.columns import HAS_IDS, PackedColumns, layout_of, pack, unknown_output
from fanout.paths import ORDERED, PARTIAL, REBUILT
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from fanout.arrow import Piece
    from fanout.io.kept import KeptColumns
    from fanout.io.writers.base import Move
    from fanout.io.writers.columns import Layout
    from fanout.results import ChunkResult, Result
    from fanout.types import Schema, Values

# Start, stop, offset, length and checksum of a range of rows.
_ENTRY = 5

# Key of the published file's checksum, beside its layout.
_CHECKSUM = "checksum"


class Group(NamedTuple):
    """Consecutive rows of an output, ready to be written.

    Attributes:
        answers: ids and answers in columns.
        kept: pieces of each kept column.
        errors: the reason for each row without an answer, None for the others; None if all rows have one.
    """

    answers: PackedColumns
    kept: dict[str, list[Piece]]
    errors: list[str | None] | None


class SpoolSink(FileSink):
    """Appends every range of rows to ``NAME.partial``, and at the end writes ``NAME.ordered``, the output, from it.

    The output needs the same disk space again. The memory is 40 bytes a range.

    Args:
        rename: output -> its column; ``value`` stands for an output without a name.
        safe: texts are written so that no spreadsheet computes them.
    """

    _format: str
    _spool: PartialFile

    # A group of rows ends at either of these.
    _group_rows = 2**13
    _group_bytes = 8 * 2**20
    _verbatim = False

    def __init__(self, path: Path, rename: Mapping[str, str] | None = None, *, safe: bool = False) -> None:
        super().__init__(path)
        self._rename = dict(rename or {})
        self._safe = safe
        self._kept: KeptColumns | None = None
        self._layout: Layout | None = None
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
            if self._schema is None and chunk.outputs is not None:
                schema = {name: (values.dtype, values.shape[1:]) for name, values in chunk.outputs.items()}
                self.require_writable(schema)
                self._schema = schema
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
            layout = checkpoint.layout or layout_of(self._schema or (), self._rename, has_ids=True).as_json()
            self._require_unedited(layout.get(_CHECKSUM))
            ranges = self._published_ranges(layout, RowSet((move.start, move.stop) for move in moves))
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

    def _require_holdable(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """Raise `ConfigError` if the format cannot hold an output of that dtype and row shape."""
        # None of the formats has complex numbers or long doubles.
        if dtype.char in "FDGg":
            raise cannot_hold(name, f"has dtype {dtype}, which {self._format} cannot hold", "write to a .npy file")

    @abstractmethod
    def _assemble(self, ordered: PartialFile, layout: Layout, groups: Iterator[Group]) -> None:
        """Write the output from the groups of all of its rows, in order; there may be none. Raises `OSError`."""

    @abstractmethod
    def _published(self, layout: Mapping[str, Any], ok: RowSet) -> Iterator[tuple[int, Values, list[Any] | None]]:
        """Yield rows of the output that is in place, for the rows in ``ok``.

        Each item is the number of its first row, the answers by output, and the ids if the rows have some. Both are of
        as many rows as the answers.
        """

    def keep(self, columns: KeptColumns) -> None:
        self._kept = columns

    def is_outdated(self, published: Checkpoint) -> bool:
        old = published.layout
        if old is None or published.schema is None:
            return False
        self.require_writable(published.schema)
        new = self._layout_for(published.schema, has_ids=old["has_ids"])
        if new.id is not None and old["id"] is None:
            problem = f"{self.path.name} holds no ids of the rows, but a column of the input called {new.id}"
            raise ConfigError(f'{problem}: keep "{new.id}" too, or {START_FRESH}', key=KEEP)
        return any(old.get(name) != value for name, value in new.as_json().items())

    def _layout_for(self, outputs: Iterable[str], *, has_ids: bool) -> Layout:
        kept = self._kept.names if self._kept is not None else ()
        return layout_of(outputs, self._rename, kept=kept, has_ids=has_ids, safe=self._safe)

    def require_writable(self, schema: Schema) -> None:
        for name, (dtype, shape) in schema.items():
            self._require_holdable(name, dtype, shape)
        if (problem := unknown_output(self._rename, schema)) is not None:
            raise ConfigError(problem, key="output.rename")

    def _encode(self, chunk: ChunkResult, rows: slice) -> bytes:
        """Return some rows of a chunk, with or without an answer, as bytes for the spool."""
        ok = chunk.ok[rows]
        outputs = (chunk.outputs or {}).items()
        values = {name: column[rows] if ok.all() else column[rows][ok] for name, column in outputs}
        return pack(values, ok, None if chunk.ids is None else list(chunk.ids[rows]))

    def _cut(self, data: bytes, n_rows: int, start: int, stop: int) -> bytes:
        """Return some of ``n_rows`` rows that were encoded together."""
        if stop - start == n_rows:
            return data
        part = PackedColumns(self._schema or {})
        part.add(n_rows, data)
        ok = part.ok()
        # Only the values of rows with an answer are stored.
        first, last = int(ok[:start].sum()), int(ok[:stop].sum())
        values = {name: part.values(name)[first:last] for name in self._schema or () if first < last}
        return pack(values, ok[start:stop], part.ids[start:stop] if data[0] & HAS_IDS else None)

    def _published_ranges(self, layout: Mapping[str, Any], ok: RowSet) -> Iterator[tuple[int, int, bytes]]:
        for start, values, ids in self._published(layout, ok):
            n_rows = len(next(iter(values.values())))
            yield start, start + n_rows, pack(values, np.ones(n_rows, bool), ids)

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
            start, stop, offset, length, noted = index[at : at + _ENTRY]
            if checksum(spool.pieces_at(offset, length), noted) != noted:
                spool.close()
                raise checksum_error(spool.path, start, stop)
        self._index, self._synced, self._spool = index, len(index), spool

    def _append(self, start: int, stop: int, data: bytes) -> None:
        self._index.extend((start, stop, self._spool.append(data), len(data), checksum((data,))))

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
            flags = self._flags()
            self._layout = self._layout_for(self._schema or {"": None}, has_ids=bool(flags & HAS_IDS))
            self._assemble(ordered, self._layout, self._groups(result))
            ordered.sync()
        except (OSError, InputError):
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

    def _groups(self, result: Result) -> Iterator[Group]:
        reasons, row = Reasons(result), 0
        # Texts stay as they are in the input where the output holds texts too.
        kept = self._kept.reader(verbatim=self._verbatim) if self._kept is not None else None
        for answers in self._row_groups(self._parts(len(result.ok))):
            pieces = {} if kept is None else kept.take(answers.n_rows)
            yield Group(answers, pieces, reasons(row, row + answers.n_rows))
            row += answers.n_rows
        if kept is not None:
            kept.end()

    def _row_groups(self, parts: Iterator[tuple[int, bytes | None]]) -> Iterator[PackedColumns]:
        group = PackedColumns(self._schema or {})
        for n_rows, data in parts:
            # The rows that a stopped run has not sent may be many millions.
            for begin in range(0, n_rows, self._group_rows if data is None else n_rows):
                if data is None:
                    group.add_absent(min(self._group_rows, n_rows - begin))
                else:
                    group.add(n_rows, data)
                if group.n_rows >= self._group_rows or group.n_bytes >= self._group_bytes:
                    yield group
                    group = PackedColumns(self._schema or {})
        if group.n_rows:
            yield group

    def _flags(self) -> int:
        """Return the flags of all encoded ranges together: they decide the type of the ids' column."""
        flags = 0
        for first in {self._spool.read_at(offset, 1) for offset in self._index[2::_ENTRY]}:
            flags |= first[0]
        return flags

    def _layout_as_json(self) -> Mapping[str, Any] | None:
        if self._layout is None or self._ordered is None:
            return None
        return self._layout.as_json() | {_CHECKSUM: _checksum_of(self._ordered.path)}

    def _require_unedited(self, noted: int | None) -> None:
        """Raise `ConfigError` if the output in place has another checksum. Raises `OSError`."""
        # Rows are known by their places alone, so a file that was sorted since would give each a false answer.
        if noted is not None and _checksum_of(self.path, noted) != noted:
            raise edited_error(self.path)


def _checksum_of(path: Path, *like: int) -> int:
    """Return the checksum of a whole file. Raises `OSError`."""
    with path.open("rb", buffering=0) as file:
        return checksum(pieces_at(file.fileno(), 0, file.seek(0, io.SEEK_END)), *like)


def _ranges(index: array[int], spool: PartialFile) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, stop and encoded rows of a spool, in the order of rows."""
    # Sorting row numbers as an array takes 40 bytes a range, and no Python object for each.
    entries = np.array(index).reshape(-1, _ENTRY)
    for start, stop, offset, length, _ in entries[entries[:, 0].argsort(kind="stable")].tolist():
        yield start, stop, spool.read_at(offset, length)
