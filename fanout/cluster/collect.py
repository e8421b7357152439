"""Parts into the output: each row of a part is written and journalled once, as if a chunk had just been answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fanout.client.writing import ChunkStore
from fanout.cluster.part import cut, read_part
from fanout.errors import ConfigError
from fanout.files import START_FRESH
from fanout.io.journal.comparison import Comparison, DigestReader, SentDigests
from fanout.io.journal.format import read_state
from fanout.io.journal.state import JournalState
from fanout.io.parts import added
from fanout.io.row_digests import DIGEST_BYTES, METHOD
from fanout.paths import journal_path
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fanout.client.identity import Content
    from fanout.io.journal.journal import Journal
    from fanout.io.journal.state import RecordedJob, Spent
    from fanout.io.parts import Ranges
    from fanout.io.writers.base import FileSink
    from fanout.results import ChunkResult
    from fanout.types import Array

_KEY = "output.path"

# Chunks that are committed together. A kill between two commits costs reading the part again.
_COMMIT_CHUNKS = 1024
_COMMIT_BYTES = 32 * 2**20


class Collected(NamedTuple):
    """Rows that a part has added to the output, and its spending.

    Attributes:
        ok: new rows with an answer.
        failed: new rows that failed.
        spent: by the attempt; None if it is unknown.
    """

    ok: int = 0
    failed: int = 0
    spent: Spent | None = None


class Collector:
    """Writes the rows of parts to the output.

    Args:
        sink: the output, open.
        journal: the output's.

    Attributes:
        jobs: start and stop of rows -> the job that an asynchronous API was given for them.
    """

    def __init__(self, sink: FileSink, journal: Journal) -> None:
        self._journal = journal
        self._store = ChunkStore(sink, journal)
        self.jobs: dict[tuple[int, int], RecordedJob] = dict(journal.state.jobs)

    def collect(self, part: Path, ranges: Ranges) -> Collected:
        """Write the rows of a part that are in ``ranges`` and not yet done. Blocks on I/O.

        Raises:
            ConfigError: the part is damaged, or its answers have another dtype or shape than earlier ones.
            OSError: the part cannot be read, or the output not be written.
        """
        state = self._read(part)
        if state is None:
            return Collected()
        self.jobs.update(state.jobs)
        unwanted = _complement(ranges)
        for start, stop in self._journal.state.resolved:
            unwanted.add(start, stop)
        if state.resolved and not any(any(unwanted.gaps(a, b)) for a, b in state.resolved):
            # A kill came between the last row's record and the removal of the part.
            return Collected()
        self._require_same_schema(part, state)
        self._journal.digests_of = _digests_of(journal_path(part), RowSet(ranges), self._journal.digest_method)
        before, failed_before = len(self._journal.state.resolved), self._journal.state.failed
        # The record of the last rows has the spending of the part. A kill between the two would lose it, since a part
        # whose rows are all done is not collected again.
        self._add_spending(state.charged)
        self._write(self._pieces(part, state, unwanted))
        self._journal.allow(None)
        for (start, stop), job in state.jobs.items():
            # The part is removed, and a driver that is killed must not give these rows to a second job.
            if any(self._journal.state.resolved.gaps(start, stop)):
                self._journal.record_job(start, stop, job)
        new = len(self._journal.state.resolved) - before
        failed = self._journal.state.failed - failed_before
        return Collected(new - failed, failed, state.charged)

    def compare(self, parts: Sequence[tuple[Path, Ranges]], n_rows: int, rows: Content) -> Comparison:
        """Compare the rows that parts hold with those of the input as it is now. Blocks on I/O.

        Raises `ConfigError` for a damaged part.
        """
        done, known = RowSet(), RowSet()
        digests: Array = np.zeros((n_rows, 2), np.uint64)
        for part, ranges in parts:
            if (state := self._read(part)) is None:
                continue
            others = _complement(ranges)
            for start, stop in state.resolved:
                for a, b in others.gaps(start, stop):
                    done.add(a, b)
            reader = DigestReader(journal_path(part))
            for start, stop, data in reader:
                # The digests of an earlier release's worker cannot be compared with those of the others.
                for a, b in others.gaps(start, stop) if reader.method == METHOD else ():
                    digests[a:b] = np.frombuffer(data, "<u8").reshape(-1, 2)[a - start : b - start]
                    known.add(a, b)
        return Comparison(JournalState({}, done, n_rows=n_rows), SentDigests(digests, known), rows)

    def left_of(self, rows: RowSet) -> RowSet:
        """Return those of ``rows`` that are not done."""
        left = RowSet(rows)
        for start, stop in self._journal.state.resolved:
            left.remove(start, stop)
        return left

    def _read(self, part: Path) -> JournalState | None:
        path = journal_path(part)
        try:
            return read_state(path)
        except (ValueError, KeyError, TypeError) as error:
            remedy = f"remove {part.name}.journal to send its rows again, or {START_FRESH}"
            raise ConfigError(f"{path} is damaged: {error}; {remedy}", key=_KEY) from None

    def _pieces(self, part: Path, state: JournalState, unwanted: RowSet) -> Iterator[ChunkResult]:
        names = self._journal.state.schema or state.schema or {}
        for chunk in read_part(part, state):
            if chunk.outputs is not None:
                # Columns keep the order of the first answer of the whole run.
                chunk.outputs = {name: chunk.outputs[name] for name in names}
            for start, stop in list(unwanted.gaps(chunk.start, chunk.stop)):
                yield cut(chunk, start, stop)

    def _write(self, chunks: Iterator[ChunkResult]) -> None:
        n_chunks = n_bytes = 0
        for chunk in chunks:
            n_chunks += 1
            n_bytes += sum(array.nbytes for array in (chunk.outputs or {}).values())
            commit = n_chunks >= _COMMIT_CHUNKS or n_bytes >= _COMMIT_BYTES
            # Each is written at once, while the processor's cache has its values.
            self._store.write([chunk], commit=commit)
            if commit:
                n_chunks = n_bytes = 0
        if n_chunks:
            self._store.write(())

    def _require_same_schema(self, part: Path, state: JournalState) -> None:
        known = self._journal.state.schema
        if None in (known, state.schema) or known == state.schema:
            return
        raise ConfigError(
            f"the answers in {part} are of another form than those before: {_form(state)} in place of "
            f"{_form(self._journal.state)}; give the codec the dtype and the shape of its outputs",
            key="codec",
        )

    def _add_spending(self, spent: Spent | None) -> None:
        if spent is None:
            return
        total = added(self._journal.state.spent, spent) or spent
        self._journal.spent = lambda: total


def _complement(ranges: Ranges) -> RowSet:
    """Return all rows up to the last that are not in ``ranges``, and those behind it."""
    end = max(stop for _, stop in ranges)
    rows = RowSet(RowSet(ranges).gaps(0, end))
    rows.add(end, 2**62)
    return rows


def _digests_of(journal: Path, rows: RowSet, method: str) -> Callable[[int, int], bytes] | None:
    """Return the function that returns digests of some of ``rows``; None if the part's has none of ``method``."""
    ranges = list(rows)
    first, end = ranges[0][0], ranges[-1][1]
    digests: Array = np.zeros((end - first, DIGEST_BYTES), np.uint8)
    known, reader = RowSet(), DigestReader(journal)
    for start, stop, data in reader:
        if first <= start and stop <= end:
            digests[start - first : stop - first] = np.frombuffer(data, np.uint8).reshape(-1, DIGEST_BYTES)
            known.add(start, stop)
    return (
        (lambda start, stop: digests[start - first : stop - first].tobytes())
        if known and reader.method == method
        else None
    )


def _form(state: JournalState) -> str:
    return ", ".join(
        f"{name or 'the output'} {dtype} {list(shape)}" for name, (dtype, shape) in (state.schema or {}).items()
    )
