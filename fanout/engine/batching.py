"""Dynamic batching: single rows of concurrent callers, gathered for a moment and sent in one request.

The callers of one request must not affect each other: rows share a request only if they are of one form, a request that
may have failed because of one row is sent again in parts, and each caller gets an answer or an exception of its own.
"""

from __future__ import annotations

import asyncio
import copy
from math import inf
from typing import TYPE_CHECKING, Any

from fanout.engine.gathering import Gathered, HeldRows, form_of_row
from fanout.engine.inputs import stacked
from fanout.errors import ClientStateError, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence

    from fanout.limits import ConcurrencyLimiter
    from fanout.types import Rows
    from fanout.upstream.call import Call

# Most seconds for which rows are held back. If the endpoint does not answer for longer, they wait as a run, whose
# deadlines and watchdog apply.
_LONGEST_HOLD = 1.0


class Caller:
    """One call of `predict` that waits for its answer."""

    __slots__ = ("answer", "batch", "call", "row", "trace")

    def __init__(self, row: Any, answer: asyncio.Future[Any], call: Call, trace: Any) -> None:
        self.row = row
        self.call = call
        self.answer = answer
        self.trace = trace
        self.batch: Batch | None = None
        """The request that the row is part of now; None while it is gathered."""


class Batch:
    """The rows of one request, and the callers that wait for their answers.

    Args:
        resend: sends some of the callers again: in two requests, or each alone.
        since: when the rows were ready to be sent.
        attempts: attempts that were made for these rows before, as parts of larger requests.
    """

    def __init__(
        self,
        callers: Sequence[Caller],
        resend: Callable[[Sequence[Caller], float, int, bool], None],
        since: float,
        attempts: int = 0,
    ) -> None:
        self._callers = callers
        self._resend = resend
        self._open = dict.fromkeys(range(len(callers)))
        self._waiting = len(callers)
        self.since = since
        self.attempts = attempts
        self.task: asyncio.Task[None] | None = None
        for caller in callers:
            caller.batch = self

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self._callers)

    @property
    def rows(self) -> Rows:
        """The rows, in one container."""
        return stacked([caller.row for caller in self._callers])

    @property
    def call(self) -> Call:
        """The header fields and the priority, which are those of each row."""
        return self._callers[0].call

    @property
    def traces(self) -> list[Any]:
        """The trace of each caller."""
        return [caller.trace for caller in self._callers]

    @property
    def open(self) -> list[int]:
        """Rows without an outcome."""
        return list(self._open)

    def answer(self, row: int, outcome: Any) -> None:
        """Give a caller its answer, or raise an exception there."""
        caller = self._take(row)
        if caller is None:
            return
        if isinstance(outcome, BaseException):  # `Interrupted` is no Exception
            caller.answer.set_exception(outcome)
        else:
            caller.answer.set_result(outcome)

    def split(self, rows: Iterable[int], attempts: int, alone: bool) -> None:
        """Send these rows again at once, in two halves or each ``alone``, after so many ``attempts`` together."""
        callers = [caller for row in rows if (caller := self._take(row)) is not None]
        self._resend(callers, self.since, self.attempts + attempts, alone)

    def fail(self, error: Exception) -> None:
        """Raise ``error`` at all callers without an answer."""
        # An exception that several callers raise would collect the tracebacks of all of them.
        for row in self.open:
            self.answer(row, error if self._waiting == 1 else _copied(error))

    def left(self) -> None:
        """A caller has given up. Where none is left, the request is not worth a retry."""
        self._waiting -= 1
        if not self._waiting and self.task is not None:
            self.task.cancel()

    def _take(self, row: int) -> Caller | None:
        """The caller of a row, which has its outcome now; None if it has given up."""
        del self._open[row]
        caller = self._callers[row]
        if caller.answer.done():
            return None
        caller.batch = None
        self._waiting -= 1
        return caller


class Batcher:
    """Gathers rows that can share a request.

    Args:
        send: returns a coroutine that sends a batch and gives each of its rows an outcome: an answer, an exception or
            a place in a part.
        max_rows: most rows of a batch.
        limiter: grants the slots.
        linger: seconds for which a first row waits for others.
        max_pending: most callers that may wait.
        longest_run: seconds that a batch may take, if they are limited: rows are not held for longer.
        trace: returns the trace of the current caller; None traces nothing.
    """

    def __init__(
        self,
        send: Callable[[Batch], Coroutine[Any, Any, None]],
        *,
        max_rows: Callable[[], int],
        limiter: Callable[[], ConcurrencyLimiter],
        linger: float,
        max_pending: int,
        longest_run: float | None = None,
        trace: Callable[[], Any] | None = None,
    ) -> None:
        self._send = send
        self._max_rows = max_rows
        self._linger = linger
        self._max_pending = max_pending
        self._trace = trace
        self._pending = 0
        self._loop = asyncio.get_running_loop()
        self._gathering: dict[tuple[Call, Hashable], Gathered] = {}
        self._held = HeldRows(limiter, self._send_gathered, min(_LONGEST_HOLD, longest_run or inf))
        self._sending: dict[asyncio.Task[None], Batch] = {}
        self._closed = False

    async def predict(self, row: Any, call: Call) -> Any:
        """Return the answer to one row, which shares requests with rows of equal calls.

        Raises `QueueFull` if too many wait already.
        """
        if self._closed:
            raise ClientStateError("the client is closed")
        if self._pending >= self._max_pending:
            raise QueueFull(
                f"{self._pending:,} calls of predict are waiting already (max_pending): call again later, send rows "
                "that you have together with map, or give the client a larger max_pending"
            )
        caller = Caller(row, self._loop.create_future(), call, self._trace and self._trace())
        self._gather(caller)
        self._pending += 1
        try:
            return await caller.answer
        finally:
            self._pending -= 1
            if caller.batch is not None:
                caller.batch.left()

    async def close(self) -> None:
        """End all calls; those without an answer raise `ClientStateError`."""
        self._closed = True
        # Rows that are held back are in both, as long as others may join them.
        gathered = dict.fromkeys([*self._gathering.values(), *self._held.take_all()])
        self._gathering.clear()
        # A batch that is never sent fails its callers in the way that others do.
        callers = [caller for rows in gathered for caller in rows.callers]
        Batch(callers, self._start_parts, self._loop.time()).fail(self._ended_early())
        while self._sending:
            for task in self._sending:
                task.cancel()
            await asyncio.wait(self._sending)

    def _gather(self, caller: Caller) -> None:
        form = caller.call, form_of_row(caller.row)
        gathered = self._gathering.get(form)
        if gathered is None:
            gathered = self._gathering[form] = Gathered(form)
        gathered.callers.append(caller)
        if len(gathered.callers) >= self._max_rows():
            del self._gathering[form]
            self._hold(gathered)
        elif len(gathered.callers) == 1:
            self._loop.call_later(self._linger, self._hold, gathered)

    def _hold(self, gathered: Gathered) -> None:
        # A full batch is held at once, and its timer finds it held already.
        if gathered.since == inf and not self._closed:
            self._held.hold(gathered)

    def _send_gathered(self, gathered: Gathered) -> None:
        if (batch := self._batch_of(gathered)) is not None:
            self._start(batch)

    def _batch_of(self, gathered: Gathered) -> Batch | None:
        """The batch of rows that are held no longer; None if all of their callers have given up."""
        if self._gathering.get(gathered.form) is gathered:
            del self._gathering[gathered.form]
        callers = [caller for caller in gathered.callers if not caller.answer.done()]
        return Batch(callers, self._start_parts, gathered.since) if callers else None

    def started(self, batch: Batch) -> None:
        """Note that the run of a batch begins, which asks for a slot at once."""
        self._held.starting.discard(batch)

    def settled(self, batch: Batch) -> None:
        """Begin the batch after one whose callers all have an outcome."""
        if not self._closed:
            self._held.begin(urgent=batch.call.urgent)

    def next_after(self, batch: Batch) -> Batch | None:
        """Return the batch that the task of ``batch``, whose callers have their answers, has to send now, if any."""
        task, batch.task = batch.task, None  # callers that give up from now on end the task of no others
        assert task is not None
        while (gathered := self._held.take(batch.call)) is not None:
            if (following := self._batch_of(gathered)) is not None:
                self._sending[task], following.task = following, task
                return following
        return None

    def _start_parts(self, callers: Sequence[Caller], since: float, attempts: int, alone: bool) -> None:
        size = 1 if alone else max(1, (len(callers) + 1) // 2)
        for start in range(0, len(callers), size):
            self._start(Batch(callers[start : start + size], self._start_parts, since, attempts))

    def _start(self, batch: Batch) -> None:
        batch.task = task = self._loop.create_task(self._send(batch))
        self._sending[task] = batch
        self._held.starting.add(batch)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Fail the callers that a task leaves without an outcome, however it ended."""
        batch = self._sending.pop(task)
        self._held.starting.discard(batch)  # a task that is cancelled before it begins runs no code of its own
        self.settled(batch)
        error = self._ended_early() if task.cancelled() else task.exception()
        if batch.open:
            batch.fail(error if isinstance(error, Exception) else self._ended_early())

    def _ended_early(self) -> ClientStateError:
        if self._closed:
            return ClientStateError("the client was closed before the answer came")
        return ClientStateError("the task that waited for the answer was cancelled, although the caller was not")


def _copied(error: Exception) -> Exception:
    """An exception of each caller's own: a traceback holds the variables of the one in which it was raised."""
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - a class of another package may have a constructor that `copy` cannot call
        return error
    copied.__cause__ = error.__cause__
    return copied.with_traceback(error.__traceback__)
