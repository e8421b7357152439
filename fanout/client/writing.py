"""The writing of a run's chunks, in groups on a helper thread: stored, synced, recorded, and only then counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.engine import Stop
from fanout.errors import CallbackError
from fanout.io.writers import FileSink
from fanout.threads import on_thread
from fanout.types import schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fanout.client.file_run import Sink
    from fanout.engine import ResultQueue, RowStatus, Run
    from fanout.io.journal import Journal
    from fanout.limits import ConcurrencyLimiter
    from fanout.results import ChunkResult

_CANCELLED = "the task that writes was cancelled, although the run was not"

# A journalled group of chunks costs two trips to the disk. It has at least these chunks, or those of this time; a group
# of quick chunks has as many as come in the shorter time.
GROUP_CHUNKS = 16
_GROUP_SECONDS = 0.05
_BUSY_SECONDS = 0.01

# Chunks may wait for the disk up to these bounds, so that a slow fsync does not hold up the workers.
_BACKLOG_GROUPS = 16
_BACKLOG_BYTES = 32 * 2**20


class Writer:
    """Writes the chunks of a run in groups, and stops the run if that fails.

    Args:
        store: writes a group, on a helper thread.
        window: bounds the chunks that are taken from the input and not yet written.
        group: chunks of a group, at least.
        path: the output, which a failed write names if its error names no file.

    Attributes:
        queue: the chunks of the run.
        status: account of the rows that are written.
        failed: the stop for a failed write, which may come after the run has ended.
    """

    def __init__(
        self,
        run: Run,
        queue: ResultQueue,
        store: Callable[[Sequence[ChunkResult]], None],
        status: RowStatus,
        window: ConcurrencyLimiter,
        group: int,
        path: Path | None,
    ) -> None:
        self._run = run
        self.queue = queue
        self._store = store
        self.status = status
        self._window = window
        self._group = group
        self._path = path
        self.failed: Stop | None = None

    async def write(self) -> None:
        """Write until the queue is closed and empty. Chunks that cannot be written stay pending."""
        within = _GROUP_SECONDS if self._group > 1 else 0.0
        now = asyncio.get_running_loop().time
        wanted, since = self._group, now()
        while results := await self._take(wanted, within):
            wanted, since = self._next_group(len(results), now() - since), now()
            try:
                # After a failed write or fsync, no later one can be trusted. The queue is still emptied.
                if self.failed is None:
                    await on_thread(self._store, results)
                    self._settle(results)
                    self._widen(results)
            except OSError as error:
                self._fail(error.strerror or str(error), error.filename)
            except CallbackError as error:
                self._end(str(error), error.__cause__)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
                self._release(results)
                # Workers wait for room in the window: without this, the run would not end.
                while results := await self.queue.get_all():
                    self._release(results)
                raise
            self._release(results)

    async def _take(self, wanted: int, within: float) -> list[ChunkResult]:
        """Take the next chunks. A cancellation stops the run, whose chunks have to be taken until it has ended."""
        while True:
            try:
                return await self.queue.get_all(wanted=wanted, within=within)
            except asyncio.CancelledError as error:
                self._end(_CANCELLED, error)

    def _next_group(self, n_chunks: int, seconds: float) -> int:
        """Return how many chunks make the next group, after ``n_chunks`` that took ``seconds`` to come."""
        if self._group == 1:
            return 1
        # Quick chunks come in large groups, so that fsync takes a small share of the time.
        busy = round(n_chunks * _BUSY_SECONDS / max(seconds, _BUSY_SECONDS / n_chunks))
        return max(self._group, min(busy, self._window.limit // 2))

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

    def _release(self, results: Sequence[ChunkResult]) -> None:
        for _ in results:
            self._window.release()

    def _end(self, reason: str, cause: BaseException | None) -> None:
        self.failed = Stop("error", reason, cause)
        self._run.stop(self.failed)

    def _fail(self, reason: str, file: str | None = None) -> None:
        if (place := file or self._path) is not None:
            reason = f"{place}: {reason}"
        self.failed = Stop("output", f"the output cannot be written: {reason}")
        self._run.stop(self.failed)


def storing(sink: Sink, journal: Journal | None) -> Callable[[Sequence[ChunkResult]], None]:
    """Return the function that stores a group of chunks."""

    def store(results: Sequence[ChunkResult]) -> None:
        with calling("the sink's write"):
            sink.write(results)
        if isinstance(sink, FileSink) and sink.observe is not None:
            sink.observe(results)
        # The data is durable before its record, so that a record is never ahead of its data.
        if journal is not None:
            assert isinstance(sink, FileSink)
            schema = next((schema for chunk in results if (schema := schema_of(chunk.outputs)) is not None), None)
            journal.commit(results, sink.sync(), schema)

    return store
