"""Running rows into a sink: finished chunks are written, and journalled, on a helper thread, off the workers' path."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fanout.callbacks import calling
from fanout.client.content import DigestTap, content_of, require_unchanged
from fanout.client.outcome import final_stop, raise_if_stopped
from fanout.client.resuming import carry_over, complete, withdraw
from fanout.engine import ResultQueue, RowStatus, RunControl, Stop, Until, room_for
from fanout.errors import CallbackError
from fanout.io.journal import Journal, JournalState
from fanout.io.readers import Source
from fanout.io.writers import Checkpoint, FileSink
from fanout.limits import ConcurrencyLimiter
from fanout.paths import journal_path, require_apart
from fanout.rowset import RowSet
from fanout.threads import ended, on_thread, opened_on_thread
from fanout.types import schema_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from fanout.client.content import Content
    from fanout.client.session import Session
    from fanout.engine import Chunker, Run
    from fanout.types import ChunkResult, Result

_CANCELLED = "the task that writes was cancelled, although the run was not"
_UNPUBLISHED = ("error", "internal", "duplicate")
"""Kinds of stops after which it is not certain that the rows are the ones that were wanted."""

_GROUP_CHUNKS = 16
_GROUP_SECONDS = 0.05
_BUSY_SECONDS = 0.01
"""What is done in this time may be one group, however many chunks it is: every group costs two trips to the disk."""

_BACKLOG_GROUPS = 16
_BACKLOG_BYTES = 32 * 2**20
"""Chunks may wait for the disk up to these, so that an fsync that takes long does not hold the workers up."""


class Sink(Protocol):
    """What takes finished chunks."""

    def write(self, done: Sequence[ChunkResult]) -> None:
        """Write some chunks, in any order. Called on a helper thread, one call at a time. May raise OSError."""


async def run_into(
    session: Session,
    rows: Any,
    sink: Sink | FileSink,
    journal: Journal | None,
    control: RunControl | None = None,
    until: Until | None = None,
) -> Result:
    """Send ``rows``, write what comes to ``sink``. The result has no values. Raises `RunStopped`."""
    if journal is not None and (result := await on_thread(complete, sink, journal)) is not None:
        return result
    state = journal.state if journal else JournalState({})
    group = max(_GROUP_CHUNKS, session.concurrency) if journal else 1
    room = ConcurrencyLimiter(room_for(session.concurrency))
    content = content_of(rows) if journal is not None else None
    if journal is None or content is None:
        chunker = session.chunker(rows, room, state.resolved)
    else:
        tap = DigestTap(content, state.resolved)
        chunker = session.chunker(tap.rows, room, state.resolved)
        journal.digests_of = tap.take
    state.n_rows = chunker.total
    async with _opened(sink, chunker, journal):
        outbox, ledger = ResultQueue(), RowStatus(state.resolved, state.failures)
        run = session.new_run(
            chunker,
            outbox.put,
            control,
            schema=state.schema,
            failed_alone=_failed_alone(state),
            until=until,
            settle_later=True,
        )
        writer = _Writer(run, outbox, _storing(sink, journal), ledger, room, group)
        writing = asyncio.create_task(writer.write())
        try:
            await session.execute(run)
        finally:
            outbox.close()
            await ended(writing)
        stop = run.stopped or writer.failed
        session.withdraw(run, ledger)
        result = ledger.result(chunker.position if chunker.total is None else chunker.total, run.statistics())
        stop = final_stop(stop, ledger.violation(result, stopped=stop is not None))
        doubtful = stop is not None and stop.kind in _UNPUBLISHED
        if isinstance(sink, FileSink) and (stop is None or (journal is None and not doubtful)):
            await on_thread(require_unchanged, chunker, content, journal)
            began = asyncio.get_running_loop().time()
            stop = await _published(sink, journal, result) or stop
            took = asyncio.get_running_loop().time() - began
            result = replace(result, stats=replace(result.stats, writing_seconds=took))
    if journal is not None and run.collector.suspect and isinstance(sink, FileSink):
        await on_thread(withdraw, sink, journal, run.collector.suspect)
    raise_if_stopped(stop, result)
    return result


def require_own_files(rows: Any, sink: FileSink, journal: Path | None) -> None:
    """Raise `ConfigError` if a run would write over its own input or its journal. Touches no file."""
    columns = rows.values() if isinstance(rows, Mapping) else [rows]
    maps = [Path(column.filename) for column in columns if isinstance(column, np.memmap) and column.filename]
    require_apart(sink.path, [*maps, *(rows.files if isinstance(rows, Source) else ())])
    if journal is not None and journal.resolve() != journal_path(sink.path).resolve():
        require_apart(sink.path, [journal], "journal")


@asynccontextmanager
async def journal_at(
    path: Path, identity: Mapping[str, Any], content: Content | None, sink: FileSink, *, carry: bool
) -> AsyncIterator[Journal]:
    """A journal that is opened on a helper thread, and closed at the end even if that comes while it is opened.

    With ``carry``, answers that it has to rows of another input are carried over to equal rows of this one.
    """

    def opened() -> Journal:
        journal = Journal(path, identity, rows=content, carry=carry)
        try:
            carry_over(sink, journal, content)
        except BaseException:
            journal.close()
            raise
        return journal

    async with opened_on_thread(opened) as journal:
        yield journal


def _failed_alone(state: JournalState) -> RowSet:
    """Rows that failed alone in the run whose failed rows are sent again."""
    failures = state.complete_run.failures if state.complete_run is not None else ()
    return RowSet((failure.start, failure.stop) for failure in failures if failure.stop - failure.start == 1)


class _Writer:
    """Writes what comes out of a run, and stops the run where that fails."""

    def __init__(
        self,
        run: Run,
        outbox: ResultQueue,
        store: Callable[[Sequence[ChunkResult]], None],
        ledger: RowStatus,
        room: ConcurrencyLimiter,
        group: int,
    ) -> None:
        self._run = run
        self._outbox = outbox
        self._store = store
        self._ledger = ledger
        self._room = room
        self._group = group
        self.failed: Stop | None = None
        """Why something could not be written; the run may have ended before."""

    async def write(self) -> None:
        """Write until the outbox is closed and empty. What could not be written stays pending."""
        within = _GROUP_SECONDS if self._group > 1 else 0.0
        now = asyncio.get_running_loop().time
        wanted, since = self._group, now()
        while done := await self._taken(wanted, within):
            wanted, since = self._next_group(len(done), now() - since), now()
            try:
                if self.failed is None:  # after a failed write or fsync nothing that follows can be believed
                    await on_thread(self._store, done)
                    self._settle(done)
                    self._widen(done)
            except OSError as error:
                self._fail(str(error))
            except CallbackError as error:
                self._end(str(error), error.__cause__)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
                _release(self._room, done)
                await _discard(self._outbox, self._room)
                raise
            _release(self._room, done)

    async def _taken(self, wanted: int, within: float) -> list[ChunkResult]:
        """The next chunks. A cancellation stops the run, but its chunks have to be taken until it has ended."""
        while True:
            try:
                return await self._outbox.get_all(wanted=wanted, within=within)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)

    def _next_group(self, n_chunks: int, seconds: float) -> int:
        """How many chunks make a group, after so many that took so long to come."""
        if self._group == 1:
            return 1
        busy = round(n_chunks * _BUSY_SECONDS / max(seconds, _BUSY_SECONDS / n_chunks))
        return max(self._group, min(busy, self._room.limit // 2))

    def _settle(self, done: Sequence[ChunkResult]) -> None:
        for chunk in done:
            self._ledger.add(chunk)
            self._run.collector.settle(chunk)

    def _widen(self, done: Sequence[ChunkResult]) -> None:
        size = sum(array.nbytes for chunk in done for array in (chunk.outputs or {}).values()) // len(done)
        if size:
            fitting = min(_BACKLOG_GROUPS * self._group, _BACKLOG_BYTES // size)
            self._room.resize(max(self._room.limit, fitting))

    def _end(self, why: str, cause: BaseException | None) -> None:
        """Stop the run, but go on to take its chunks, so that its workers come to their end."""
        self.failed = Stop("error", why, cause)
        self._run.stop(self.failed)

    def _fail(self, why: str) -> None:
        self.failed = Stop("output", f"the output cannot be written: {why}")
        self._run.stop(self.failed)


@asynccontextmanager
async def _opened(sink: Sink | FileSink, chunker: Chunker, journal: Journal | None) -> AsyncIterator[None]:
    if not isinstance(sink, FileSink):
        yield
        return

    def open_sink() -> None:
        state = journal.state if journal else JournalState({})
        sink.open(chunker.total, Checkpoint(state.schema, state.ok, journal.notes() if journal else ()))

    try:
        await on_thread(open_sink)
        yield
    finally:
        await chunker.close()
        await on_thread(sink.close)


def _storing(sink: Sink, journal: Journal | None) -> Callable[[Sequence[ChunkResult]], None]:
    """What is done with some chunks on the helper thread: data first, then its record."""

    def store(done: Sequence[ChunkResult]) -> None:
        with calling("the sink's write"):
            sink.write(done)
        if journal is not None:
            assert isinstance(sink, FileSink)
            schema = next((schema for chunk in done if (schema := schema_of(chunk.outputs)) is not None), None)
            journal.commit(done, sink.sync(), schema)

    return store


async def _published(sink: FileSink, journal: Journal | None, result: Result) -> Stop | None:
    def publish() -> None:
        publication = sink.finish(result, journal.replaced_files if journal else ())
        if journal is None:
            publication.carry_out()
        else:
            journal.publish(len(result.ok), publication)

    try:
        await on_thread(publish)
    except OSError as error:
        return Stop("output", f"the output could not be finished: {error}")
    return None


async def _discard(outbox: ResultQueue, room: ConcurrencyLimiter) -> None:
    """Let the workers come to their end when nobody writes any more."""
    while group := await outbox.get_all():
        _release(room, group)


def _release(room: ConcurrencyLimiter, group: Sequence[ChunkResult]) -> None:
    for _ in group:
        room.release()
