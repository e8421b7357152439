"""The part of a shard: its answers in a spool, in any order, with their checksums in the part's journal."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fanout.files import checksum, read_at
from fanout.io.publication import Publication
from fanout.io.writers.base import checksum_error
from fanout.io.writers.columns import HAS_IDS, PackedColumns
from fanout.io.writers.spool import SpoolSink
from fanout.paths import PARTIAL
from fanout.results import ChunkResult
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fanout.io.journal.state import JournalState
    from fanout.io.writers.base import FileSink
    from fanout.results import Failure, Result
    from fanout.types import Array, Schema


class PartSink(SpoolSink):
    """Keeps the answers of a shard for the driver, which writes them to the output.

    Args:
        path: the part.
        output: the sink of the job, which is not opened: it refuses outputs that its format cannot hold.
    """

    def __init__(self, path: Path, output: FileSink) -> None:
        super().__init__(path)
        self._output = output

    def require_writable(self, schema: Schema) -> None:
        self._output.require_writable(schema)

    def finish(self, result: Result, replaced: Sequence[Path] = ()) -> Publication:
        # The answers stay in the spool: nothing is published.
        self.finished_rows = len(result.ok)
        return Publication()

    def _require_holdable(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        return

    def _assemble(self, *_: object) -> NoReturn:
        raise NotImplementedError("a part is not assembled")

    def _published(self, *_: object) -> NoReturn:
        raise NotImplementedError("a part is not published")


def read_part(path: Path, state: JournalState) -> Iterator[ChunkResult]:
    """Yield the rows that a part holds, according to its journal. Takes no lock: its writer may still be alive.

    Raises:
        ConfigError: the part has other bytes than its journal has noted.
        OSError: it cannot be read.
    """
    failures = _Failures(state.failures)
    stored = RowSet()
    entries = sorted(tuple(entry) for note in state.notes for entry in note)
    if entries:
        spool = path.with_name(path.name + PARTIAL)
        with spool.open("rb", buffering=0) as file:
            for start, stop, offset, length, noted in entries:
                data = read_at(file.fileno(), length, offset)
                if checksum((data,), noted) != noted:
                    raise checksum_error(spool, start, stop)
                stored.add(start, stop)
                yield _chunk(start, stop, data, state.schema or {}, failures.within(start, stop))
    # Failed rows without ids are in the journal alone.
    for failure in state.failures:
        for start, stop in stored.gaps(failure.start, failure.stop):
            yield ChunkResult(start=start, stop=stop, outputs=None, failures=failures.within(start, stop))


def cut(chunk: ChunkResult, start: int, stop: int) -> ChunkResult:
    """Return the rows ``start <= row < stop`` of a chunk that has no pending rows."""
    if (start, stop) == (chunk.start, chunk.stop):
        return chunk
    rows = slice(start - chunk.start, stop - chunk.start)
    failures = _Failures(chunk.failures).within(start, stop)
    # A piece in which every row failed has no outputs, as if it were a chunk of its own.
    has_answer = sum(failure.stop - failure.start for failure in failures) < stop - start
    outputs = {name: array[rows] for name, array in chunk.outputs.items()} if chunk.outputs and has_answer else None
    ids = None if chunk.ids is None else chunk.ids[rows]
    return ChunkResult(start=start, stop=stop, outputs=outputs, failures=failures, ids=ids)


def _chunk(start: int, stop: int, data: bytes, schema: Schema, failures: tuple[Failure, ...]) -> ChunkResult:
    columns = PackedColumns(schema)
    columns.add(stop - start, data)
    ok = columns.ok()
    outputs = {name: _spread(columns.values(name), ok) for name in schema} if ok.any() else None
    ids = columns.ids if data[0] & HAS_IDS else None
    return ChunkResult(start=start, stop=stop, outputs=outputs, failures=failures, ids=ids)


def _spread(values: Array, ok: Array) -> Array:
    """Return an array with the values in the rows of ``ok``, and zeros in the others."""
    if ok.all():
        return values
    spread: Array = np.zeros((len(ok), *values.shape[1:]), values.dtype)
    spread[ok] = values
    return spread


class _Failures:
    """The failures of some rows, which do not overlap."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self._sorted = sorted(failures, key=lambda failure: failure.start)
        self._stops = [failure.stop for failure in self._sorted]

    def within(self, start: int, stop: int) -> tuple[Failure, ...]:
        """Return the failures of the rows ``start <= row < stop``, cut to them."""
        pieces = []
        for failure in self._sorted[bisect_right(self._stops, start) :]:
            if failure.start >= stop:
                break
            first, last = max(failure.start, start), min(failure.stop, stop)
            ids = failure.ids[first - failure.start : last - failure.start]
            pieces.append(replace(failure, start=first, stop=last, ids=ids))
        return tuple(pieces)
