"""One run: workers that send the chunks of an input, until all rows are answered or failed, or the run stops.

The path of a chunk: the chunker cuts it, the scheduler hands it to a worker, the attempter sends it and judges the
answer, and the collector takes the answer to its place. A failure goes back to the scheduler.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from fanout.callbacks import ENDS_OF_ITERATION, Tasks, abnormal, calling
from fanout.engine.attempt import Attempter
from fanout.engine.batching import Isolation
from fanout.engine.bisection import BisectionBudget, Evidence
from fanout.engine.encoding import encode, fitted
from fanout.engine.logs import level_of, level_of_phases, log_event, log_stop, logged
from fanout.engine.metadata import EndpointProbe, prepare
from fanout.engine.polling import PollHooks, PollingAttempter
from fanout.engine.recovery import Recovery
from fanout.engine.request_sizes import RequestSizes
from fanout.engine.results import ResultCollector
from fanout.engine.scheduler import Scheduler
from fanout.errors import CallbackError, FanoutError
from fanout.rowset import RowSet
from fanout.statistics import Counters
from fanout.stop import Stop, StopEvent, Watchdog
from fanout.types import Event, Verdict
from fanout.upstream.admission import Dispatcher
from fanout.upstream.billing import BilledDispatcher
from fanout.upstream.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from fanout.callbacks import Job
    from fanout.codecs.base import Codec
    from fanout.engine.chunker import Chunker
    from fanout.engine.logs import LoggedAttempter
    from fanout.engine.polling import JobRecords
    from fanout.engine.task import ChunkTask
    from fanout.engine.validator import ResponseValidator
    from fanout.limits import Account
    from fanout.stop import Until
    from fanout.telemetry.base import RunTrace
    from fanout.transport import RowsSent
    from fanout.types import ChunkResult, Schema, Statistics
    from fanout.upstream.balancer import Balancer
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
        self._call = call
        self.trace = trace
        self._jobs = jobs
        self.counters = Counters()
        self._codec = codec
        self._group = group
        self._account = account
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
            independent=isolate is not None,
            settle_later=settle_later,
            keep_usage=keep_usage,
            on_dropped=chunker.release,
        )
        budget = BisectionBudget(lambda: group.successes, failed_alone=failed_alone, answered_before=schema is not None)
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
        self._clock = RunClock(until)
        self._n_workers = 0
        self.attempter: Attempter | LoggedAttempter
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
        watchdog = Watchdog(
            self._stop_event, self.scheduler.progress, run=self._group.timeouts.run, stall=self._group.retry.stall,
            until=self._clock.until, cause=self._cause_of_stall,
        )  # fmt: skip
        owner = object()  # connections remember it, so it must not refer to the run and its arrays
        dispatcher = self._dispatcher(owner)
        probe = None
        if self._group.balancer.several:
            probe = EndpointProbe(self._codec, self._group, dispatcher, self._stop_event, self._emit, self._tasks)
        try:
            if self.chunker.remaining != 0 and (self._group.metadata.codec is None or probe is not None):
                await self._join([lambda: self._prepare(dispatcher, probe)])
            self._codec = self._group.metadata.codec or self._codec
            if self._codec.max_rows is not None:
                self.chunker.limit(max(1, self._codec.max_rows))
            if self._stop_event.stopped is None:
                await self._send_all(dispatcher, owner)
        except CallbackError as error:
            self._report(error)
        finally:
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
        if self._error is not None:
            raise self._error

    def release(self) -> None:
        """Let go of everything, at the end of a run that is not looked at any more.

        The parts of a run refer to each other through it. The garbage collector would find them, but its search costs
        more than a small run itself.
        """
        vars(self).clear()

    def statistics(self) -> Statistics:
        """A snapshot of this run's counters."""
        return self.up_to_date_counters().snapshot(
            seconds=self._clock.seconds,
            concurrency=self._group.capacity.chosen,
            endpoints=self._group.balancer.statistics(),
            prices=self._group.prices,
        )

    def up_to_date_counters(self) -> Counters:
        """This run's counters, those included that others keep."""
        isolation = self.recovery.isolation
        # Rows that have left for a run of their own are counted there.
        self.counters.rows = self.chunker.rows_taken - (0 if isolation is None else isolation.n_rows)
        self.counters.backing_off = self.scheduler.n_waiting
        return self.counters

    def _dispatcher(self, owner: object) -> Dispatcher:
        options = (self._group, self.counters.traffic, self._stop_event, self._emit)
        account, spending = self._account or self._group.account, self.counters.spending
        if self._group.shared is not None:
            from fanout.upstream.sharing import SharedBilledDispatcher, SharedDispatcher  # few clients share limits

            if account is None:
                return SharedDispatcher(*options, owner=owner, call=self._call)
            return SharedBilledDispatcher(*options, owner=owner, call=self._call, account=account, spending=spending)
        if account is None:
            return Dispatcher(*options, owner=owner, call=self._call)
        return BilledDispatcher(account, spending, *options, owner=owner, call=self._call)

    def _cause_of_stall(self) -> Stop | None:
        return None if self._group.shared is None else self._group.shared.stop_if_lost()

    async def _prepare(self, dispatcher: Dispatcher, probe: EndpointProbe | None) -> None:
        """Fetch the metadata that the codec needs."""
        self.scheduler.progress.open += 1  # preparation that hangs is a stall, too
        try:
            if probe is None:
                stop = await prepare(self._codec, self._group, dispatcher, self._stop_event)
            else:
                stop = await probe.first()
        finally:
            self.scheduler.progress.open -= 1
        if stop is not None:
            self.stop(stop)

    async def _send_all(self, dispatcher: Dispatcher, owner: object) -> None:
        codec, group = self._codec, self._group
        with calling("the codec's spec"):
            spec = codec.spec
        validator = self.collector.open(
            spec, reject_nonfinite=codec.nonfinite == "reject", capacity=group.capacity.most
        )
        self.attempter = logged(self._attempter(codec, dispatcher, validator))
        if self.trace is not None:
            self.attempter = self.trace.attempter(self.attempter)
        self.chunker.open(codec, self.collector)
        stops_at_end: list[Stop] = []

        def distrust(endpoint: EndpointState, answered: Sequence[RowsSent]) -> None:
            stop = self._distrust(endpoint, owner, answered)
            if not group.balancer.has_alternative(endpoint):
                self.stop(stop, cut=True)
                return
            dispatcher.reporter.exclude(endpoint, "it answered a request twice")
            stops_at_end.append(stop)

        group.capacity.listeners[self._follow] = None
        group.on_second_answer[distrust] = None
        try:
            await self._join(self._hired(self._most_workers()))
            # After a stop no other answer can contradict one that is held, but none can confirm it: it stays pending.
            while self._stop_event.stopped is None or self.chunker.chunks_taken == 1:
                if not (refused := self.collector.confirm_held()):
                    break
                self._send_again(refused)
                await self._join(self._hired(min(len(refused), group.limiter.limit)))
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

    def _attempter(self, codec: Codec, dispatcher: Dispatcher, validator: ResponseValidator) -> Attempter:
        parts = (codec, self._group, dispatcher, validator, self.counters)
        independent = self.recovery.isolation is not None
        if codec.polling is None:
            return Attempter(*parts, stop=self.stop, independent=independent)
        self.chunker.make_room(self._group.limiter.limit + codec.polling.most)
        hooks = PollHooks(
            stop_event=self._stop_event, awaiting=self._follow_jobs, progress=self.scheduler.progress.note,
            records=self._jobs,
        )  # fmt: skip
        return PollingAttempter(*parts, stop=self.stop, independent=independent, polling=codec.polling, hooks=hooks)

    def _follow_jobs(self, n_awaited: int) -> None:
        """Give the places of workers that wait for jobs to others."""
        assert self._codec.polling is not None
        before, self.scheduler.awaited = self.scheduler.awaited, min(n_awaited, self._codec.polling.most)
        if self.scheduler.awaited > before and self._stop_event.stopped is None:
            for worker in self._hired(self._most_workers()):
                self._tasks.start(worker)
            self.scheduler.wake()

    def _most_workers(self) -> int:
        """As many as concurrency allows and the input has chunks for, and as many more as wait for jobs.

        One more than that waits for the input where this takes time, so that the others are free for retries.
        """
        most = self._group.limiter.limit
        if self._codec.polling is not None:
            return most + self.scheduler.awaited + self.chunker.waits
        if (remaining := self.chunker.remaining) is not None:
            most = min(most, -(-remaining // (self.chunker.chunk_rows if self.chunker.packing is None else 1)))
        return most + self.chunker.waits

    def _hired(self, total: int) -> list[Job]:
        """Workers to join the present ones, up to ``total``."""
        more = max(0, total - self._n_workers)
        self._n_workers += more
        return [self._worker] * more

    def _follow(self) -> None:
        """Follow a change of the concurrency: workers join; surplus ones wait until they are needed again."""
        capacity = self._group.capacity
        self._emit(Event(kind="limit", concurrency=capacity.limiter.limit, reason=capacity.cause))
        self.chunker.make_room(capacity.limiter.limit)
        self.scheduler.wake()
        if self._n_workers and self._stop_event.stopped is None:  # after the last one has left, nothing is to be sent
            for worker in self._hired(self._most_workers()):
                self._tasks.start(worker)

    async def _worker(self) -> None:
        scheduler, attempter, recovery = self.scheduler, self.attempter, self.recovery
        ticket = attempter.ticket()
        handle = recovery.handle if self.trace is None else self.trace.handling(recovery.handle)
        try:
            while (task := scheduler.next_nowait() or await scheduler.next()) is not None:
                if task.payload is None and (task := self._encoded(task)) is None:
                    continue
                outcome = await attempter.run(task, ticket)
                if isinstance(outcome, Verdict):
                    handle(task, outcome, ticket.sent_at)
                elif task.is_control:
                    recovery.end_control(None)
                else:
                    refused = self.collector.add(task, outcome)
                    if scheduler.finish(task):
                        recovery.finish(task)
                    if refused:
                        self._send_again(refused)
        finally:
            self._n_workers -= 1
            ticket.close()

    def _encoded(self, task: ChunkTask) -> ChunkTask | None:
        """``task`` with its payload, or its first rows where all are too many; None where none is left to send."""
        if not self._encode(task):
            if self.scheduler.finish(task, succeeded=False):
                self.recovery.finish(task, succeeded=False)
            return None
        if self.chunker.packing is not None and task.bisection is None:
            return fitted(task, self.scheduler.put_back, self.chunker.packing, self._encode)
        return task

    def _encode(self, task: ChunkTask) -> bool:
        transport = self._group.balancer.endpoints[0].transport
        stamp = transport.stamped if transport.stamps else None
        return encode(task, self._codec, stamp, self.recovery.fail_unsent, uniform=self.chunker.uniform)

    def _send_again(self, refused: list[tuple[ChunkTask, Verdict]]) -> None:
        """Send tasks again whose answers are unlike the others."""
        for task, verdict in refused:
            self.attempter.misfit(task, verdict)
            self.recovery.reopen(task, verdict)

    def _distrust(self, endpoint: EndpointState, owner: object, answered: Sequence[RowsSent]) -> Stop:
        """Keep rows pending: ``endpoint`` answers requests twice, so its answers may be those of other requests."""
        rows = RowSet((start, stop) for whose, start, stop, _ in answered if whose is owner)
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
        if cut:
            self._tasks.cancel_all()
        elif self.scheduler.reader is not None:
            self._tasks.cancel([self.scheduler.reader])
        stop = self._stop_event.stopped
        if first and stop is not None:
            log_stop(stop, level=level_of_phases(isolated=self.recovery.isolation is not None))
            self._emit(Event(kind="stop", reason=stop.reason))

    async def _join(self, jobs: list[Job]) -> None:
        for job in jobs:
            self._tasks.start(job)
        await self._tasks.join()

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


class EventEmitter:
    """Calls a listener with events, their secrets concealed.

    If the listener raises an exception, log it and stop calling it; whatever else it raises stops the run.

    Args:
        listener: takes each event. With an attribute ``kinds`` it takes only events of these kinds.
        report: takes the error of a listener that ended abnormally.
    """

    def __init__(
        self,
        listener: Callable[[Event], None] | None,
        balancer: Balancer,
        report: Callable[[BaseException], None],
    ) -> None:
        self._listener = listener
        self._kinds: Container[str] | None = getattr(listener, "kinds", None)
        self._balancer = balancer
        self._report = report

    def wants(self, kind: str) -> bool:
        """Return whether the listener takes events of this kind."""
        return self._listener is not None and (self._kinds is None or kind in self._kinds)

    def __call__(self, event: Event) -> None:
        """Emit ``event``, and log it."""
        level, listener = level_of(event), self._listener if self.wants(event.kind) else None
        if level is None and listener is None:
            return
        if event.reason and (reason := self._balancer.conceal(event.reason)) != event.reason:
            event = replace(event, reason=reason)
        if level is not None:
            log_event(event, level)
        if listener is None:
            return
        try:
            listener(event)
        except BaseException as error:  # noqa: BLE001 - the user's code, beside the run
            self._listener = None
            # Formatted here, because a traceback may quote secrets.
            trace = self._balancer.conceal_lines(traceback.format_exc())
            # Logged in any case: the run may have ended, or have an answer for all of its callers.
            _log.error("on_event raised an error, and is not called again in this run\n%s", trace)
            if not isinstance(error, Exception):
                self._report(abnormal("on_event", error))
