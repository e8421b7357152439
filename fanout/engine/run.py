"""One run: a fixed set of workers over one feed, and a task of its own for every chunk that did not succeed at once."""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from fanout.callbacks import ENDS_OF_ITERATION, abnormal, calling
from fanout.engine.attempt import Attempter
from fanout.engine.bisection import BisectionBudget
from fanout.engine.encoding import encode, fitted
from fanout.engine.metadata import EndpointProbe, prepare
from fanout.engine.recovery import Recovery
from fanout.engine.refusals import Refusals
from fanout.engine.results import ResultCollector
from fanout.engine.sizing import Sizing
from fanout.engine.tasks import Tasks
from fanout.engine.validator import ResponseValidator
from fanout.engine.watchdog import Watchdog
from fanout.errors import CallbackError, FanoutError
from fanout.limits import ConcurrencyLimiter
from fanout.rowset import RowSet
from fanout.statistics import Counters
from fanout.stop import Stop, StopEvent, WaitQueue
from fanout.types import Event, Verdict
from fanout.upstream.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.chunker import Chunker
    from fanout.engine.task import ChunkTask
    from fanout.engine.tasks import Job
    from fanout.engine.watchdog import Until
    from fanout.transport import RowsSent
    from fanout.types import ChunkResult, Schema, Statistics
    from fanout.upstream.admission import Ticket
    from fanout.upstream.endpoint import EndpointState
    from fanout.upstream.group import EndpointGroup

_log = logging.getLogger("fanout")


class Run:
    """One pass over a feed.

    Args:
        deliver: takes every chunk as soon as all of its rows are answered or failed, in order of completion; it must
            not wait.
        on_event: takes an `Event` for what happens to chunks, after it has happened.
        schema: what all answers look like, where an earlier run has found it out.
        failed_alone: rows that failed alone in an earlier run.
        until: when the run stops at the latest, beside the deadline that the client has for all runs.
        isolate: takes rows (by number) that failed together, the attempts that were made for them, and whether each is
            to be sent alone. They leave the run: each row is another caller's, and none is to wait or fail with others.
        settle_later: chunks count as done not when they are delivered, but when they are given to `settle`.
    """

    def __init__(
        self,
        chunker: Chunker,
        codec: Codec,
        group: EndpointGroup,
        deliver: Callable[[ChunkResult], None],
        on_event: Callable[[Event], None] | None = None,
        *,
        schema: Schema | None = None,
        failed_alone: RowSet | None = None,
        until: Until | None = None,
        isolate: Callable[[list[int], int, bool], None] | None = None,
        settle_later: bool = False,
    ) -> None:
        self.chunker = chunker
        chunker.sizes = group.sizes
        self.counters = Counters()
        self._codec = codec
        self._group = group
        self._listener = on_event
        self._schema = schema
        self._failed_alone = failed_alone
        self._isolate = isolate
        self._isolated = 0
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._ended: float | None = None
        self._until = until
        self._stop_event = StopEvent()
        self._owner = object()
        self._tasks = Tasks(self._report, self._abandon)
        self._dispatcher = Dispatcher(group, self.counters, self._stop_event, self._emit, owner=self._owner)
        self._introductions = (
            EndpointProbe(codec, group, self._dispatcher, self._stop_event, self._emit, self._tasks)
            if group.balancer.several
            else None
        )
        self._retry_slots = ConcurrencyLimiter(group.limiter.limit)
        self._workers = 0
        self._refused = 0
        self._fewer_refused = WaitQueue()
        self._again = 0
        """Attempts under way that are not a chunk's first."""
        self._stood_aside = 0
        self._way_free = WaitQueue()
        self._waiting_for_rows: set[asyncio.Task[None]] = set()
        self._crash: Exception | None = None
        self._last_failure = ""
        self.collector = ResultCollector(
            group.balancer,
            self.counters,
            deliver,
            None if on_event is None else self._emit,
            independent=isolate is not None,
            settle_later=settle_later,
        )

    @property
    def stopped(self) -> Stop | None:
        """Why the run was stopped, or None."""
        return self._stop_event.stopped

    async def execute(self) -> None:
        """Run to the end of the feed, or to the stop, and deliver what there is. `stopped` tells which it was.

        Raises the exception of the source, of ``deliver`` or of the codec's preparation, once all is delivered. What is
        raised and is no `Exception` is a stop.
        """
        timeouts, retry = self._group.timeouts, self._group.retry
        watch = Watchdog(self.stop, run=timeouts.run, stall=retry.stall, until=self._until, last_words=self._last_words)
        self._watch = watch
        try:
            if self.chunker.left != 0:
                watch.busy()
                await self._together([self._prepare])
                watch.idle()
            if self._stop_event.stopped is None:
                await self._work_through()
        except CallbackError as error:
            self._report(error)
        finally:
            watch.close()
            try:
                if self._introductions is not None:
                    await self._introductions.close()
                await self._close_feed()
            finally:
                self._ended = self._loop.time()
        if self._crash is not None:
            raise self._crash

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Send nothing new. What is in flight is finished, or abandoned if ``cut``. The first reason counts."""
        if self._ended is not None:
            return
        stop = stop._replace(reason=self._group.balancer.conceal(stop.reason))
        first = self._stop_event.stop(stop)
        if cut:
            self._tasks.cancel_all()
        else:
            self._tasks.cancel(self._waiting_for_rows)
        if first:
            self._emit(Event(kind="stop", reason=stop.reason))

    def _distrust(self, endpoint: EndpointState, answered: Sequence[RowsSent]) -> None:
        """Stop: an endpoint answers requests twice, so its answers may be those of other requests."""
        mine = RowSet((start, stop) for owner, start, stop in answered if owner is self._owner)
        self.collector.distrust(mine)
        rows = f"rows {mine.listed()} of this run" if mine else "rows of an earlier run"
        url = endpoint.transport.shown_url
        reason = (
            f"{url} answered a request twice, so the answers for {rows}, which came over its connections, may be "
            "those of other rows; where the server repeats a request's id in its answer, set request_id_header"
        )
        self.stop(Stop("duplicate", reason), cut=True)

    def statistics(self) -> Statistics:
        """A snapshot of this run's counters."""
        ended = self._loop.time() if self._ended is None else self._ended
        return self.up_to_date_counters().snapshot(
            seconds=ended - self._started,
            concurrency=self._group.capacity.chosen,
            endpoints=self._group.balancer.statistics(),
        )

    def up_to_date_counters(self) -> Counters:
        """This run's counters; the rows are counted by the feed."""
        self.counters.rows = self.chunker.rows_taken - self._isolated
        return self.counters

    def _emit(self, event: Event) -> None:
        """If the listener raises an exception, log it and stop calling it; whatever else it raises stops the run."""
        if self._listener is None:
            return
        if event.reason and (reason := self._group.balancer.conceal(event.reason)) != event.reason:
            event = replace(event, reason=reason)
        try:
            self._listener(event)
        except Exception:  # noqa: BLE001 - somebody else's code, beside the run
            self._listener = None
            # Formatted here, because a traceback may quote what must not be in a log.
            trace = self._group.balancer.conceal_lines(traceback.format_exc())
            _log.error("on_event raised an error, and is not called again in this run\n%s", trace)
        except BaseException as error:  # noqa: BLE001 - reported, since an event may happen outside of all tasks
            self._listener = None
            self._report(abnormal("on_event", error))

    async def _prepare(self) -> None:
        if self._introductions is None:
            stop = await prepare(self._codec, self._group, self._dispatcher, self._stop_event)
        else:
            stop = await self._introductions.first()
        if stop is not None:
            self.stop(stop)
        self._codec = self._group.metadata.codec or self._codec
        if self._codec.max_rows is not None:
            self.chunker.limit(max(1, self._codec.max_rows))

    async def _work_through(self) -> None:
        with calling("the codec's spec"):
            spec = self._codec.spec
        validator = ResponseValidator(
            spec,
            reject_nonfinite=self._codec.nonfinite == "reject",
            capacity=self._group.capacity.most,
            schema=self._schema,
        )
        self._attempter = Attempter(
            self._codec, self._group, self._dispatcher, validator, self.counters, stop=self.stop,
            independent=self._isolate is not None,
        )  # fmt: skip
        self.collector.validator = validator
        self._stamp = self._group.balancer.endpoints[0].transport.stamped
        self._recovery = Recovery(
            self.chunker,
            self._group,
            self.collector,
            BisectionBudget(
                lambda: self._group.successes > 0,
                failed_alone=self._failed_alone,
                answered_before=self._schema is not None,
            ),
            Refusals(lambda: self._group.successes),
            Sizing(self.chunker, self._group),
            self.counters,
            self._stop_event,
            ticket=self._attempter.ticket,
            attempt=self._attempt_again,
            ended=self._attempter.ended,
            stop=self.stop,
            emit=self._emit,
            isolate=None if self._isolate is None else self._leave,
        )
        self._group.capacity.listeners[self._follow] = None
        self._group.on_second_answer[self._distrust] = None
        try:
            await self._together(self._hired())
            await self._close()
            if self._stop_event.stopped is None:
                self._recovery.release()
            if self.chunker.chunks_taken > 1:
                await self._group.check_idle_connections()
        finally:
            del self._group.capacity.listeners[self._follow]
            del self._group.on_second_answer[self._distrust]
            self.collector.flush()

    def _hired(self) -> list[Job]:
        """Workers to join those that there are: as many as the concurrency allows and the feed has chunks for."""
        more = self._group.limiter.limit - self._workers
        left, rows = self.chunker.left, self.chunker.chunk_rows if self.chunker.packing is None else 1
        if left is not None:
            more = min(more, -(-left // rows))
        self._workers += max(0, more)
        return [self._worker] * more

    def _follow(self) -> None:
        """The concurrency is another: workers join; those that are too many leave once their chunk is done."""
        self.chunker.make_room(self._group.limiter.limit)
        if self._workers and self._stop_event.stopped is None:  # where all have left there is nothing more to take
            for worker in self._hired():
                self._tasks.start(worker)

    async def _worker(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        ticket = self._attempter.ticket()
        limiter = self._group.limiter
        try:
            while self._stop_event.stopped is None and self._workers <= limiter.limit:
                if self._refused >= limiter.limit:
                    await self._stop_event.sleep(inf, self._fewer_refused)
                    continue
                if self._recovery.doubted is not None and self._recovery.unproven:
                    await self._stop_event.sleep(inf, self._recovery.proven)
                    continue
                if self._again > self._stood_aside and limiter.in_flight >= limiter.limit:
                    await self._stand_aside()
                    continue
                if (work := self.chunker.ready()) is None and (work := await self._next(task)) is None:
                    return
                self._watch.busy()
                if self.chunker.packing is not None:
                    work = fitted(work, self.chunker, self.chunker.packing, self._encode)
                if work is not None and (verdict := await self._attempt(work, ticket)) is not None:
                    self._retry_slots.resize(limiter.limit)
                    await self._retry_slots.acquire()
                    self._recover(work, verdict, done=self._retry_slots.release)
                self._watch.idle()
        finally:
            self._workers -= 1
            self._waiting_for_rows.discard(task)
            ticket.close()

    async def _stand_aside(self) -> None:
        """Leave a permit to an attempt that is not a first; else all workers would wait for one in turns."""
        self._stood_aside += 1
        try:
            await self._stop_event.sleep(inf, self._way_free)
        finally:
            self._stood_aside -= 1

    async def _attempt_again(self, work: ChunkTask, ticket: Ticket) -> Verdict | None:
        self._again += 1
        try:
            return await self._attempt(work, ticket)
        finally:
            self._again -= 1
            self._way_free.ring_for_one()

    async def _next(self, worker: asyncio.Task[Any]) -> ChunkTask | None:
        self._waiting_for_rows.add(worker)
        work = await self.chunker.take()
        self._waiting_for_rows.discard(worker)
        return work

    async def _attempt(self, work: ChunkTask, ticket: Ticket) -> Verdict | None:
        """One attempt, and what follows if it is a success: None then, else the verdict on it."""
        if work.payload is None and not self._encode(work):
            return None
        outcome = await self._attempter.run(work, ticket)
        if isinstance(outcome, Verdict):
            self._last_failure = outcome.reason
            return outcome
        self._watch.progress()
        if self._group.sizes.watching or self._recovery.withheld:
            self._recovery.succeeded(work)
        for refused in self.collector.add(work, outcome):
            self._refuse(*refused)
        return None

    def _encode(self, work: ChunkTask) -> bool:
        fail = self.collector.fail if self._isolate is None else self._fail_unsent
        return encode(work, self._codec, self._stamp, fail, uniform=self.chunker.uniform)

    def _fail_unsent(self, work: ChunkTask, verdict: Verdict) -> None:
        """Rows that cannot be encoded, each another caller's: encoded alone, each has a reason of its own."""
        if self.chunker.total == 1:
            self.collector.fail(work, verdict)
        else:
            self._leave(work, verdict)

    def _leave(self, work: ChunkTask, verdict: Verdict) -> None:
        assert self._isolate is not None
        self._isolated += work.n
        self.collector.leave(work)
        # Answers of another shape may each be right: only together they make no array.
        alone = work.payload is None or verdict.error_kind == "shape"
        rows = (work.chunk.start + work.positions()).tolist()
        self._isolate(rows, work.attempts, alone)

    def _last_words(self) -> str:
        """Why the last attempt failed; where none was made, why the last endpoint has not said which model it has."""
        return self._last_failure or next(
            (endpoint.not_ready_reason for endpoint in self._group.balancer.endpoints if endpoint.not_ready_reason), ""
        )

    def _refuse(self, work: ChunkTask, verdict: Verdict) -> None:
        """An answer unlike the others: no slot can be waited for here, so the workers wait while there are too many."""
        self._refused += 1
        if work.endpoint is not None:
            self._dispatcher.reporter.on_misfit(work.endpoint, verdict)
        self._recover(work, verdict, done=self._refused_ended)

    def _refused_ended(self) -> None:
        self._refused -= 1
        self._fewer_refused.ring()

    def _recover(self, work: ChunkTask, verdict: Verdict, *, done: Callable[[], None]) -> None:
        self._watch.busy()
        suspect = self._recovery.begins(work, verdict)

        async def recover() -> None:
            try:
                await self._recovery.recover(work, verdict)
            finally:
                self._watch.idle()
                if suspect:
                    self._recovery.ended(work)
                done()

        self._tasks.start(recover)

    async def _close(self) -> None:
        """What still waits for another chunk's answer to agree with can wait no longer."""
        # After a stop no other answer can contradict the only one, but none can confirm it either: it stays pending.
        refused = self._stop_event.stopped is None or self.chunker.chunks_taken == 1
        while refused:
            again = self.collector.confirm_held()
            for task, verdict in again:
                self._refuse(task, verdict)
            refused = bool(again)
            await self._tasks.join()

    async def _together(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._tasks.start(job)
        await self._tasks.join()

    async def _close_feed(self) -> None:
        try:
            await self.chunker.close()
        except Exception as error:  # noqa: BLE001 - raised again by `execute`
            self._report(error)

    def _abandon(self) -> None:
        self.stop(Stop("interrupted", "the call was cancelled"), cut=True)

    def _report(self, error: BaseException) -> None:
        """An error that no retry can mend ends the run, once what is in flight has come home."""
        cause = error.__cause__ if isinstance(error, CallbackError) else error
        if isinstance(cause, KeyboardInterrupt):
            self.stop(Stop("interrupted", str(error) or "interrupted", cause), cut=True)
        elif isinstance(error, CallbackError):
            self.stop(Stop("error", str(error), cause))
        elif isinstance(error, asyncio.CancelledError):
            self.stop(Stop("error", "a task of the run was cancelled, although the run was not", error))
        elif isinstance(error, Exception) and not isinstance(error, ENDS_OF_ITERATION):
            if isinstance(error, FanoutError):  # it may quote the server, an option or a row; other errors stay whole
                self._group.balancer.redact(error)
            self._crash = self._crash or error
            self.stop(Stop("rejected", f"{type(error).__name__}: {error}"))
        else:
            self.stop(Stop("error", f"a task of the run raised {type(error).__name__}: {error}", error))
