"""Streaming: chunks of results in order of completion, for input of any length, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from fanout.callbacks import is_its_own
from fanout.client.outcome import final_stop, raise_if_stopped, require_unchanged, with_result
from fanout.engine import ResultQueue, RowStatus, RunControl, Stop, Until, room_for
from fanout.limits import ConcurrencyLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from fanout.client.session import Session
    from fanout.engine import Run
    from fanout.results import ChunkResult, Result, Statistics
    from fanout.types import Array, Priority


class Stream:
    """An async context manager and async iterator over the `ChunkResult` chunks of one run, in order of completion.

    Leaving the context early abandons the requests in flight. At its end, the iteration raises `RunStopped` if the run
    stopped early. Exceptions of the input, the codec and ``headers`` are raised unchanged, with a ``.result`` added:
    the status of all rows. Failed rows are part of their chunks and raise nothing.

    Args:
        session: returns the client's open session, or raises `ClientStateError`.
        rows: the input.
        control: ends the run from outside.
        timeout: seconds from entering the context until the run stops.
        headers: header fields of this run alone.
        priority: that of its requests.
    """

    def __init__(
        self,
        session: Callable[[], Session],
        rows: Any,
        control: RunControl | None,
        timeout: float | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        priority: Priority = "bulk",
    ) -> None:
        self._headers, self._priority = headers, priority
        self._session = session
        self._rows = rows
        self._timeout = timeout
        self._control = control or RunControl()
        self._queue = ResultQueue()
        self._status = RowStatus()
        self._ready: deque[ChunkResult] = deque()
        self._task: asyncio.Task[None] | None = None
        self._run: Run

    async def __aenter__(self) -> Self:
        session, until = self._session(), Until.after(self._timeout)
        call = session.call(self._headers, self._priority)
        # The window bounds the chunks between the input and the consumer, and with them the memory.
        self._window = ConcurrencyLimiter(room_for(session.concurrency))
        self._chunker = session.sharing_chunker(self._rows, call, self._window)
        self._run = session.new_run(self._chunker, self._put, self._control, until=until, call=call)
        self._task = asyncio.create_task(self._execute(session))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None and not self._task.done():
            # wait() does not raise the cancellation of the task, which await would.
            self._task.cancel()
            await asyncio.wait([self._task])
            # A task that is cancelled before its first step has closed nothing.
            await self._chunker.close()
        if self._task is not None and not self._task.cancelled():
            # The iteration has raised this error already, unless the consumer left before its end. Reading it here
            # keeps asyncio from logging it as never retrieved.
            self._task.exception()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChunkResult:
        if (done := await self.next_chunk()) is None:
            raise StopAsyncIteration
        self.mark_done(done)
        return done

    async def next_chunk(self) -> ChunkResult | None:
        """Return the next chunk; None at the end. Raises as the iteration does.

        Its rows count as pending until `mark_done`, so that an interrupt between the two loses no row.
        """
        if self._task is None:
            raise RuntimeError("enter the stream first: async with client.stream(rows) as results")
        if not self._ready:
            # All chunks that are there are taken at once: a queue operation for each would slow down small chunks.
            self._ready.extend(await self._queue.get_all())
        if not self._ready:
            stop = await self._end(self._task)
            if self._run.collector.suspect:
                self._session().runs.withdraw(self._run, self._status)
            result = self.result()
            raise_if_stopped(final_stop(stop, self._status.violation(result, stopped=stop is not None)), result)
            return None
        # The consumer asked for a chunk, so one more may be read from the input.
        self._window.release()
        return self._ready.popleft()

    def mark_done(self, done: ChunkResult) -> None:
        """Count the rows of a chunk as done: the consumer has it."""
        self._status.add(done)

    def result(self) -> Result:
        """Return the status of all rows so far, without values. Rows of chunks not yet yielded are pending."""
        total = self._chunker.position if self._chunker.total is None else self._chunker.total
        return self._status.result(total, self._run.statistics())

    def statistics(self) -> Statistics:
        """Return a snapshot of the counters of this run."""
        return self._run.statistics()

    async def _execute(self, session: Session) -> None:
        try:
            await session.runs.execute(self._run)
            # A file that changed while it was read makes the answers worthless, also if every request succeeded.
            if self._run.stopped is None:
                require_unchanged(self._chunker)
        finally:
            self._queue.close()

    async def _end(self, task: asyncio.Task[None]) -> Stop | None:
        """Wait for the end of the run; return the reason of its stop."""
        try:
            await task
        except asyncio.CancelledError as error:
            if not is_its_own(error):  # the consumer itself was cancelled
                raise
            return Stop("error", "the task of the stream was cancelled, although its consumer was not", error)
        except Exception as error:
            with_result(error, self.result())
            raise
        return self._run.stopped

    def _put(self, done: ChunkResult) -> None:
        # The consumer may keep and modify its arrays, so they must not be views into a response body.
        outputs = done.outputs and {name: _writable(array) for name, array in done.outputs.items()}
        self._queue.put(replace(done, outputs=outputs))


def _writable(array: Array) -> Array:
    return array if array.flags.owndata and array.flags.writeable else array.copy()
