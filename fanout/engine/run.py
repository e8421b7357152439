"""One run: workers that send the chunks of an input, until all rows are answered or failed, or the run stops.

The path of a chunk: the chunker cuts it, the scheduler hands it to a worker, the attempter sends it and judges the
answer, and the collector takes the answer to its place. A failure goes back to the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fanout.callbacks import ENDS_OF_ITERATION, calling
from fanout.engine.attempt import Attempter
from fanout.engine.batching import Isolation
from fanout.engine.bisection import BisectionBudget, Evidence
from fanout.engine.events import EventEmitter
from fanout.engine.logs import level_of_phases, log_stop, logged
from fanout.engine.metadata import EndpointProbe, prepare
from fanout.engine.polling import PollHooks, PollingAttempter
from fanout.engine.recovery import Recovery
from fanout.engine.request_sizes import RequestSizes
from fanout.engine.results import ResultCollector
from fanout.engine.scheduler import Scheduler
from fanout.engine.workers import Tasks, Workers
from fanout.errors import CallbackError, FanoutError
from fanout.results import Event
from fanout.rows import RowSet
from fanout.statistics import Counters
from fanout.stop import Stop, StopEvent, Watchdog
from fanout.upstream.admission import Dispatcher
from fanout.upstream.billing import BilledDispatcher
from fanout.upstream.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.chunker import Chunker
    from fanout.engine.polling import JobRecords
    from fanout.engine.validator import ResponseValidator
    from fanout.limits import Account
    from fanout.results import ChunkResult, Statistics
    from fanout.stop import Until
    from fanout.telemetry.base import RunTrace
    from fanout.transport import RowsSent
    from fanout.types import Schema
    from fanout.upstream.group import EndpointGroup, EndpointState

_log = logging.getLogger("fanout")

_PLAIN_CALL = Call()


class Run:
    """One pass over an input.

    Args:
        deliver: takes every chunk as soon as all of its rows are answered or failed, in order of completion; it must
            not wait.
        on_event: takes an `Event` after each change of a chunk.
        schema: dtype and shape of all answers, where an earlier run has learnt them.
        failed_alone: rows that failed alone in an earlier run.
        until: a deadline of this run, beside the one that the client has for all runs.
        isolate: takes rows (by number) that failed together, the number of attempts that held them, and whether each
            is to be sent alone. They leave the run: each belongs to another caller, who must not wait or fail for the
            others.
        settle_later: a chunk counts as done when it is given to ``collector.settle``, not when it is delivered.
        keep_usage: results have the tokens of their rows.
        account: of this run alone; that of the group if not given.
        jobs: records the jobs of an asynchronous API.
        call: the header fields and the priority of all requests.
        trace: traces the run; None traces nothing.
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
        account: Account | None = None,
        jobs: JobRecords | None = None,
        keep_usage: bool = False,
        call: Call = _PLAIN_CALL,
        trace: RunTrace | None = None,
    ) -> None:
        self.chunker = chunker
        self.trace = trace
        self._jobs = jobs
        self.counters = Counters()
        self._codec = codec
        self._group = group
        self._stop_event = StopEvent(group.balancer.conceal, self._after_stop)
        self._tasks = Tasks(self._report, self._abandon)
        self._emit = EventEmitter(on_event, group.balancer, self._report)
        self.collector = ResultCollector(
            group.balancer,
            self.counters,
            deliver if trace is None else trace.delivering(deliver),
            None if on_event is None else self._emit,
            emits_done=self._emit.wants("done"),
            schema=schema,
            settle_later=settle_later,
            keep_usage=keep_usage,
            on_dropped=chunker.release,
        )
        budget = BisectionBudget(
            lambda: group.answered.chunks, failed_alone=failed_alone, answered_before=schema is not None
        )
        sizes = RequestSizes(chunker, group)
        evidence = Evidence(group, sizes)
        self.scheduler = Scheduler(chunker, group, evidence, self._stop_event)
        self.recovery = Recovery(
            self.scheduler,
            group,
            self.collector,
            sizes,
            evidence,
            budget,
            self._stop_event,
            emit=self._emit,
            isolation=None if isolate is None else Isolation(group, isolate),
        )
        self._dispatcher = _dispatcher(
            group, self.counters, self._stop_event, self._emit, call, account or group.accounts.common
        )
        self._workers = Workers(
            chunker, group, self.scheduler, self.recovery, self.collector, self._tasks, self._stop_event
        )
        self._clock = RunClock(until)
        self._error: Exception | None = None

    @property
    def stopped(self) -> Stop | None:
        """The reason for which the run was stopped, or None."""
        return self._stop_event.stopped

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Send nothing new. Requests in flight are finished, or abandoned if ``cut``. The first reason counts."""
        self._stop_event.stop(stop, cut=cut)

    async def execute(self) -> None:
        """Run to the end of the input, or to the stop that `stopped` gives, and deliver all results.

        Raises the exception of the source, of ``deliver`` or of the codec, once all is delivered. Whatever else they
        raise is a stop.
        """
        if self.recovery.isolation is not None:  # the task of a batch of `predict` is the run's, any other the caller's
            self._tasks.lend()
        watchdog = Watchdog(
            self._stop_event, self.scheduler.progress, run=self._group.timeouts.run, stall=self._group.retry.stall,
            until=self._clock.until, cause=self._cause_of_stall,
        )  # fmt: skip
        probe = None
        if self._group.balancer.several:
            probe = EndpointProbe(self._codec, self._group, self._dispatcher, self._stop_event, self._emit, self._tasks)
        try:
            if self.chunker.remaining != 0 and (self._group.metadata.codec is None or probe is not None):
                await self._tasks.run([lambda: self._prepare(probe)])
            self._codec = self._group.metadata.codec or self._codec
            if self._codec.max_rows is not None:
                self.chunker.bounds.limit(max(1, self._codec.max_rows))
            # The run may have been stopped while it waited for the metadata.
            if self._stop_event.stopped is None:
                await self._send_all()
        except CallbackError as error:
            self._report(error)
        finally:
            # First all that could start a task or set a timer, then the source of the rows.
            watchdog.close()
            self.scheduler.close()
            self.recovery.close()
            try:
                if probe is not None:
                    await probe.close()
                await self._close_chunker()
            finally:
                self._stop_event.close()
                self._clock.end()
        # Only now, so that all answers which came before the error are delivered.
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Drop all parts of the run, which has ended. It cannot be used afterwards.

        The parts refer to each other through the run, so without this only the garbage collector frees them, and its
        search costs more than a run of one request.
        """
        vars(self).clear()

    def statistics(self) -> Statistics:
        """A snapshot of this run's counters."""
        return self.up_to_date_counters().snapshot(
            seconds=self._clock.seconds,
            concurrency=self._group.capacity.chosen,
            endpoints=self._group.balancer.statistics(),
            prices=self._group.accounts.prices,
        )

    def up_to_date_counters(self) -> Counters:
        """This run's counters, those included that others keep."""
        isolation = self.recovery.isolation
        # Rows that have left for a run of their own are counted there.
        self.counters.rows = self.chunker.rows_taken - (0 if isolation is None else isolation.n_rows)
        self.counters.backing_off = self.scheduler.n_waiting
        return self.counters

    def _cause_of_stall(self) -> Stop | None:
        shared = self._group.shared
        return None if shared is None or not shared.needs_claims else shared.stop_if_lost()

    async def _prepare(self, probe: EndpointProbe | None) -> None:
        """Fetch the metadata that the codec needs."""
        self.scheduler.progress.open += 1  # preparation that hangs is a stall, too
        try:
            if probe is None:
                stop = await prepare(self._codec, self._group, self._dispatcher, self._stop_event)
            else:
                stop = await probe.first()
        finally:
            self.scheduler.progress.open -= 1
        if stop is not None:
            self.stop(stop)

    async def _send_all(self) -> None:
        codec, group = self._codec, self._group
        with calling("the codec's spec"):
            spec = codec.spec
        validator = self.collector.open(
            spec,
            reject_nonfinite=codec.nonfinite == "reject",
            capacity=group.capacity.most,
            independent=self.recovery.isolation is not None,
        )
        attempter = logged(self._attempter(codec, validator))
        if self.trace is not None:
            attempter = self.trace.attempter(attempter)
        self.chunker.open(codec, self.collector)
        stops_at_end: list[Stop] = []

        def distrust(endpoint: EndpointState, answered: Sequence[RowsSent]) -> None:
            stop = self._distrust(endpoint, answered)
            if not group.balancer.has_alternative(endpoint):
                self.stop(stop, cut=True)
                return
            # The others go on; rows in doubt are those of this endpoint's connections alone.
            self._dispatcher.reporter.exclude(endpoint, "it answered a request twice")
            stops_at_end.append(stop)

        group.capacity.listeners[self._follow] = None
        group.on_second_answer[distrust] = None
        try:
            await self._workers.work(codec, attempter, self.trace)
            # After a stop no other answer can contradict one that is held, but none can confirm it: it stays pending.
            while self._stop_event.stopped is None or self.chunker.chunks_taken == 1:
                if not (refused := self.collector.confirm_held()):
                    break
                await self._workers.send_again(refused)
            if self._stop_event.stopped is None:
                self.recovery.release_withheld()
            if self.chunker.chunks_taken > 1:
                await group.check_idle_connections()
            # Other endpoints went on, but the rows that are in doubt stay pending: the next run sends them again.
            if stops_at_end and self.collector.suspect:
                self.stop(stops_at_end[0])
        finally:
            del group.capacity.listeners[self._follow]
            del group.on_second_answer[distrust]
            self.collector.flush()

    def _attempter(self, codec: Codec, validator: ResponseValidator) -> Attempter:
        parts = (codec, self._group, self._dispatcher, validator, self.counters)
        independent = self.recovery.isolation is not None
        if codec.polling is None:
            return Attempter(*parts, stop=self.stop, independent=independent)
        self.chunker.make_room(self._group.limiter.limit + codec.polling.most)
        hooks = PollHooks(
            stop_event=self._stop_event, awaiting=self._workers.follow_jobs, progress=self.scheduler.progress.note,
            records=self._jobs,
        )  # fmt: skip
        return PollingAttempter(*parts, stop=self.stop, independent=independent, polling=codec.polling, hooks=hooks)

    def _follow(self) -> None:
        capacity = self._group.capacity
        # A change of the shared limit is an event of each run that goes on under it.
        self._emit(Event(kind="limit", concurrency=capacity.limiter.limit, reason=capacity.cause))
        self._workers.follow_limit()

    def _distrust(self, endpoint: EndpointState, answered: Sequence[RowsSent]) -> Stop:
        """Keep rows pending: ``endpoint`` answers requests twice, so its answers may be those of other requests."""
        rows = RowSet((start, stop) for whose, start, stop, _ in answered if whose is self._dispatcher.owner)
        self.collector.distrust(rows)
        self.collector.distrust(self.chunker.distrust())
        named = f"rows {rows.listed()} of this run" if rows else "rows of an earlier run"
        reason = (
            f"{endpoint.transport.shown_url} answered a request twice, so the answers for {named}, which came over its "
            "connections, may be those of other rows; where the server repeats a request's id in its answer, set "
            "request_id_header"
        )
        return Stop("duplicate", reason)

    def _after_stop(self, first: bool, cut: bool) -> None:
        # Requests in flight are abandoned; without ``cut`` only the wait for input ends, which may last for ever.
        if cut:
            self._tasks.cancel_all()
        elif self.scheduler.reader is not None:
            self._tasks.cancel([self.scheduler.reader])
        stop = self._stop_event.stopped
        if first and stop is not None:
            log_stop(stop, level=level_of_phases(isolated=self.recovery.isolation is not None))
            self._emit(Event(kind="stop", reason=stop.reason))

    async def _close_chunker(self) -> None:
        try:
            await self.chunker.close()
        except Exception as error:  # noqa: BLE001 - raised again by `execute`
            self._report(error)

    def _abandon(self) -> None:
        self.stop(Stop("interrupted", "the call was cancelled"), cut=True)

    def _report(self, error: BaseException) -> None:
        """End the run for an error that no retry can mend, once the requests in flight are finished."""
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
            self._error = self._error or error
            self.stop(Stop("rejected", f"{type(error).__name__}: {error}"))
        else:
            self.stop(Stop("error", f"a task of the run raised {type(error).__name__}: {error}", error))


class RunClock:
    """The time that a run takes, and its deadline."""

    def __init__(self, until: Until | None) -> None:
        self.until = until
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the run was made, or that it took."""
        return (self._now() if self._ended is None else self._ended) - self._started

    def end(self) -> None:
        """Stop the clock."""
        self._ended = self._now()


def _dispatcher(
    group: EndpointGroup,
    counters: Counters,
    stop_event: StopEvent,
    emit: EventEmitter,
    call: Call,
    account: Account | None,
) -> Dispatcher:
    parts = (group, counters.traffic, stop_event, emit)
    if group.shared is not None and group.shared.needs_claims:
        from fanout.upstream.sharing import SharedBilledDispatcher, SharedDispatcher  # few clients share limits

        if account is None:
            return SharedDispatcher(*parts, call=call)
        return SharedBilledDispatcher(*parts, call=call, account=account, spending=counters.spending)
    if account is None:
        return Dispatcher(*parts, call=call)
    return BilledDispatcher(*parts, call=call, account=account, spending=counters.spending)
