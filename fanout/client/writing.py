"""The writing of a run: finished chunks go to the sink on a helper thread, and count once their record is durable.

A sync to the disk costs nearly the same for many chunks as for one. So chunks are written as they come, while the
processor's cache still has their values, and committed together.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.engine import Stop
from fanout.errors import CallbackError
from fanout.io.writers.base import FileSink
from fanout.threads import on_thread
from fanout.types import schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fanout.client.file_run import Sink
    from fanout.engine import ResultQueue, RowStatus, Run
    from fanout.io.journal.journal import Journal
    from fanout.limits import ConcurrencyLimiter
    from fanout.results import ChunkResult
    from fanout.types import Schema

_CANCELLED = "the task that writes was cancelled, although the run was not"

# With a journal, chunks are written in groups of at least this number, or those of this time.
# Each group costs a trip to the helper thread.
_GROUP_CHUNKS = 16
_GROUP_SECONDS = 0.05

# Groups that come quickly are committed together, those of this time: each commit costs two trips to the disk.
_COMMIT_SECONDS = 0.05

# Chunks may wait for the disk up to these bounds, so that a slow fsync does not hold up the workers.
_BACKLOG_GROUPS = 16
_BACKLOG_BYTES = 32 * 2**20


class ChunkStore:
    """Writes chunks to a sink and commits them to a journal, on a helper thread.

    Args:
        journal: None if chunks count as soon as they are written.

    Attributes:
        path: the output; None if the sink is not a file's.
    """

    def __init__(self, sink: Sink, journal: Journal | None) -> None:
        self.path: Path | None = sink.path if isinstance(sink, FileSink) else None
        self.has_journal = journal is not None
        self._sink = sink
        self._journal = journal
        self._schema: Schema | None = None
        self._uncommitted: list[ChunkResult] = []

    def write(self, results: Sequence[ChunkResult], *, commit: bool = True) -> Sequence[ChunkResult]:
        """Write chunks, and commit them and those before them. Returns the chunks that are done from now on.

        Raises:
            CallbackError: the sink is the user's, and has failed.
            OSError: for good.
        """
        if results:
            with calling("the sink's write"):
                self._sink.write(results)
            if isinstance(self._sink, FileSink) and self._sink.observe is not None:
                self._sink.observe(results)
        if self._journal is None:
            return results
        if self._schema is None:
            self._schema = next((schema for chunk in results if (schema := schema_of(chunk.outputs)) is not None), None)
        self._uncommitted += results
        if commit:
            return self._commit(self._journal)
        for chunk in results:
            # The file has the values, and their memory is needed for the next ones.
            chunk.outputs = chunk.outputs and {}
        return ()

    def _commit(self, journal: Journal) -> list[ChunkResult]:
        assert isinstance(self._sink, FileSink)
        done, self._uncommitted = self._uncommitted, []
        # The data is durable before its record, so that a record is never ahead of its data.
        journal.commit(done, self._sink.sync(), self._schema)
        return done


class Writer:
    """Writes the chunks of a run in groups, and stops the run if that fails.

    Args:
        window: bounds the chunks that are taken from the input and not yet done.
        concurrency: chunks that may come at once.

    Attributes:
        queue: the chunks of the run.
        status: account of the rows that are done.
        failed: the stop for a failed write, which may come after the run has ended.
    """

    def __init__(
        self,
        run: Run,
        queue: ResultQueue,
        store: ChunkStore,
        status: RowStatus,
        window: ConcurrencyLimiter,
        concurrency: int,
    ) -> None:
        self._run = run
        self.queue = queue
        self._store = store
        self.status = status
        self._window = window
        self._group = max(_GROUP_CHUNKS, concurrency) if store.has_journal else 1
        # Chunks that are not done, and the time of the loop at which the written ones are to be committed, if any.
        self._open = 0
        self._due: float | None = None
        self.failed: Stop | None = None

    async def write(self) -> None:
        """Write until the queue is closed and empty. Chunks that cannot be written stay pending."""
        while (results := await self._take()) or self._due is not None:
            self._open += len(results)
            try:
                # After a failed write or fsync, no later one can be trusted. The queue is still emptied.
                if self.failed is None:
                    await self._write(results)
            except OSError as error:
                self._fail(error.strerror or str(error), error.filename)
            except CallbackError as error:
                self._end(str(error), error.__cause__)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
                self._release()
                # Workers wait for room in the window: without this, the run would not end.
                while results := await self.queue.get_all():
                    self._open = len(results)
                    self._release()
                raise
            if self._due is None:
                self._release()

    async def _take(self) -> list[ChunkResult]:
        """Take the next chunks; none once written ones are to be committed, or no other will come.

        A cancellation stops the run, whose chunks have to be taken until it has ended.
        """
        within = _GROUP_SECONDS if self._group > 1 else 0.0
        while True:
            try:
                return await self.queue.get_all(wanted=self._group, within=within, until=self._due)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)

    async def _write(self, results: Sequence[ChunkResult]) -> None:
        now = asyncio.get_running_loop().time
        if results:
            # The size of values is not known any more once they are written.
            self._widen(results)
        if self._due is None:
            self._due = now() + _COMMIT_SECONDS
        # A group that is not full has waited for long enough, and no other may follow soon.
        is_last = len(results) < self._group or self.queue.closed
        # The workers need the other half of the window while this one is on its way to the disk.
        commit = is_last or now() >= self._due or 2 * self._open >= self._window.limit
        self._settle(await on_thread(partial(self._store.write, results, commit=commit)))
        if commit:
            self._due = None

    def _settle(self, results: Sequence[ChunkResult]) -> None:
        for chunk in results:
            self.status.add(chunk)
            self._run.collector.settle(chunk)

    def _widen(self, results: Sequence[ChunkResult]) -> None:
        """Let as many chunks wait as the bounds allow, once their size is known."""
        size = sum(array.nbytes for chunk in results for array in (chunk.outputs or {}).values()) // len(results)
        if size:
            fitting = min(_BACKLOG_GROUPS * self._group, _BACKLOG_BYTES // size)
            self._window.resize(max(self._window.limit, fitting))

    def _release(self) -> None:
        for _ in range(self._open):
            self._window.release()
        self._open = 0

    def _end(self, reason: str, cause: BaseException | None) -> None:
        self.failed, self._due = Stop("error", reason, cause), None
        self._run.stop(self.failed)

    def _fail(self, reason: str, file: str | None = None) -> None:
        if (place := file or self._store.path) is not None:
            reason = f"{place}: {reason}"
        self.failed, self._due = Stop("output", f"the output cannot be written: {reason}"), None
        self._run.stop(self.failed)
