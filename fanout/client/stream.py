"""Streaming: finished chunks as they come, for input of any length, in bounded memory."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from fanout.callbacks import is_its_own
from fanout.client.content import require_unchanged
from fanout.client.verdicts import ending, raise_if_stopped
from fanout.engine import ResultQueue, RowStatus, RunControl, Stop, Until, room_for
from fanout.limits import ConcurrencyLimiter

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fanout.client.session import Session
    from fanout.engine import Run
    from fanout.types import Array, ChunkResult, Result, Statistics


class Stream:
    """An async context manager and async iterator over the `ChunkResult` chunks of one run, in order of completion.

    Leaving the context early abandons what is in flight. The iteration raises `RunStopped` at its end if the run was
    stopped, and what the input raised; failed rows are in their chunks, not raised.
    """

    def __init__(
        self, session: Callable[[], Session], rows: Any, control: RunControl | None, timeout: float | None = None
    ) -> None:
        self._session = session
        self._rows = rows
        self._timeout = timeout
        self._control = control or RunControl()
        self._outbox = ResultQueue()
        self._ledger = RowStatus()
        self._ready: deque[ChunkResult] = deque()
        self._task: asyncio.Task[None] | None = None
        self._run: Run

    async def __aenter__(self) -> Self:
        session, until = self._session(), Until.after(self._timeout)
        self._window = ConcurrencyLimiter(room_for(session.concurrency))
        self._chunker = session.chunker(self._rows, self._window)
        self._run = session.new_run(self._chunker, self._put, self._control, until=until)
        self._task = asyncio.create_task(self._execute(session))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._task is not None and not self._task.cancelled():
            self._task.exception()  # raised at the end of the iteration; who left before it did not want to know

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChunkResult:
        if (done := await self.take()) is None:
            raise StopAsyncIteration
        self.note(done)
        return done

    async def take(self) -> ChunkResult | None:
        """The next chunk, None at the end. Raises as the iteration does. Its consumer has to `note` it."""
        if self._task is None:
            raise RuntimeError("enter the stream first: async with client.stream(rows) as results")
        if not self._ready:
            self._ready.extend(await self._outbox.get_all())
        if not self._ready:
            stop = await self._end(self._task)
            if self._run.collector.suspect:
                self._session().withdraw(self._run, self._ledger)
            result = self.result()
            raise_if_stopped(ending(stop, self._ledger.violation(result, stopped=stop is not None)), result)
            return None
        self._window.release()
        return self._ready.popleft()

    async def _end(self, task: asyncio.Task[None]) -> Stop | None:
        """Why the run was stopped, once its task has ended."""
        try:
            await task
        except asyncio.CancelledError as error:
            if not is_its_own(error):  # the consumer was cancelled
                raise
            return Stop("error", "the task of the stream was cancelled, although its consumer was not", error)
        return self._run.stopped

    def note(self, done: ChunkResult) -> None:
        """The consumer has this chunk: count its rows as done."""
        self._ledger.add(done)

    def statistics(self) -> Statistics:
        """A snapshot of this run's counters."""
        return self._run.statistics()

    async def _execute(self, session: Session) -> None:
        try:
            await session.execute(self._run)
            if self._run.stopped is None:
                require_unchanged(self._chunker)
        finally:
            self._outbox.close()

    def _put(self, done: ChunkResult) -> None:
        """The consumer's arrays are his own: views into an answer's bytes are copied."""
        outputs = done.outputs and {name: _owned(array) for name, array in done.outputs.items()}
        self._outbox.put(replace(done, outputs=outputs))

    def result(self) -> Result:
        """The account of the rows up to now, without values: rows of chunks that were not yielded yet are pending."""
        total = self._chunker.position if self._chunker.total is None else self._chunker.total
        return self._ledger.result(total, self._run.statistics())


def _owned(array: Array) -> Array:
    return array if array.flags.owndata and array.flags.writeable else array.copy()
