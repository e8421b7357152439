"""One run: workers that send the chunks of an input, until all rows are answered or failed, or the run stops.

The path of a chunk: the chunker cuts it, the scheduler hands it to a worker, the attempter sends it and judges the
answer, and the collector takes the answer to its place. A failure goes back to the scheduler.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from fanout.callbacks import calling
from fanout.engine.attempt import Attempter
from fanout.engine.bisection import Evidence
from fanout.engine.bisection_budget import BisectionBudget
from fanout.engine.ending import Ending
from fanout.engine.isolation import Isolation
from fanout.engine.logs import logged
from fanout.engine.metadata import EndpointProbe, prepare
from fanout.engine.recovery import Recovery
from fanout.engine.request_sizes import RequestSizes
from fanout.engine.results import ResultCollector
from fanout.engine.scheduler import Scheduler
from fanout.engine.second_answers import SecondAnswers
from fanout.engine.workers import Workers
from fanout.errors import CallbackError
from fanout.results import Event
from fanout.statistics import Counters
from fanout.stop import Stop, Watchdog
from fanout.upstream.admission import Dispatcher
from fanout.upstream.billing import BilledDispatcher
from fanout.upstream.call import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine.chunker import Chunker
    from fanout.engine.first_attempts import Begun
    from fanout.engine.polling import JobRecords
    from fanout.engine.validator import ResponseValidator
    from fanout.limits import Account
    from fanout.results import ChunkResult, Statistics
    from fanout.rows import RowSet
    from fanout.stop import Until
    from fanout.telemetry.spans import RunSpans
    from fanout.types import Schema
    from fanout.upstream.group import EndpointGroup

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
        begun: the attempt that was made before the run, with all rows of the input, which have been taken from it.
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
        trace: RunSpans | None = None,
        begun: Begun | None = None,
    ) -> None:
        # Public, since the caller of `execute` encloses the run in its span.
        self.trace = trace
        self._jobs = jobs
        self._begun = begun
        self.counters = Counters() if begun is None else begun.counters
        self._codec = codec
        self._group = group
        self._ending = ending = Ending(group.balancer, on_event, isolated=isolate is not None)
        self.collector = ResultCollector(
            group.balancer,
            self.counters,
            deliver if trace is None else trace.delivering(deliver),
            None if on_event is None else ending.emit,
            emits_done=ending.emit.wants("done"),
            schema=schema,
            settle_later=settle_later,
            keep_usage=keep_usage,
            on_dropped=chunker.release,
        )
        budget = BisectionBudget(
            lambda: group.answered.chunks, failed_alone=failed_alone, answered_before=schema is not None
        )
        sizes = RequestSizes(chunker.bounds, group)
        evidence = Evidence(group, sizes)
        ending.scheduler = self.scheduler = Scheduler(chunker, group, evidence, ending.stop_event)
        self.recovery = Recovery(
            self.scheduler,
            group,
            self.collector,
            sizes,
            evidence,
            budget,
            ending.stop_event,
            emit=ending.emit,
            isolation=None if isolate is None else Isolation(group, isolate, begun),
        )
        self._dispatcher = dispatcher_of(group, self.counters, ending, call, account)
        self._workers = Workers(
            chunker, group, self.scheduler, self.recovery, self.collector, ending.tasks, ending.stop_event
        )
        self._clock = RunClock(until)
        if begun is not None:
            self._clock.started = self.scheduler.progress.progress_at = begun.since

    @property
    def chunker(self) -> Chunker:
        """The source of the chunks."""
        return self.scheduler.chunker

    @property
    def stopped(self) -> Stop | None:
        """The reason for which the run was stopped, or None."""
        return self._ending.stop_event.stopped

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Send nothing new. Requests in flight are finished, or abandoned if ``cut``. The first reason counts."""
        self._ending.stop(stop, cut=cut)

    async def execute(self) -> None:
        """Run to the end of the input, or to the stop that `stopped` gives, and deliver all results.

        Raises the exception of the source, of ``deliver`` or of the codec, once all is delivered. Whatever else they
        raise is a stop.
        """
        tasks, stop_event = self._ending.tasks, self._ending.stop_event
        if self.recovery.isolation is not None:  # the task of a batch of `predict` is the run's, any other the caller's
            tasks.lend()
        watchdog = Watchdog(
            stop_event, self.scheduler.progress, run=self._group.timeouts.run, stall=self._group.retry.stall,
            until=self._clock.until, cause=self._group.cause_of_stall,
        )  # fmt: skip
        probe = None
        if self._group.balancer.several:
            probe = EndpointProbe(self._codec, self._group, self._dispatcher, stop_event, self._ending.emit, tasks)
        try:
            if self.chunker.remaining != 0 and (self._group.metadata.codec is None or probe is not None):
                await tasks.run([lambda: self._prepare(probe)])
            self._codec = self._group.metadata.codec or self._codec
            # Only now: the metadata may have shown a smaller bound than the codec has by itself.
            if self._codec.max_rows is not None:
                self.chunker.bounds.limit(max(1, self._codec.max_rows))
            # The run may have been stopped while it waited for the metadata.
            if stop_event.stopped is None:
                await self._send_all()
        except CallbackError as error:
            self._ending.report(error)
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
                stop_event.close()
                self._clock.end()
        # Only now, so that all answers which came before the error are delivered.
        if self._ending.error is not None:
            raise self._ending.error

    def release(self) -> None:
        """Drop all parts of the run, which has ended. It cannot be used afterwards.

        The parts refer to each other through the run, so without this only the garbage collector frees them, and its
        search costs more than a run of one request.
        """
        self._ending.release()
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

    async def _prepare(self, probe: EndpointProbe | None) -> None:
        """Fetch the metadata that the codec needs."""
        self.scheduler.progress.open += 1  # preparation that hangs is a stall, too
        try:
            if probe is None:
                # A single endpoint has no other to be compared with, so that its metadata are fetched without a probe.
                stop = await prepare(self._codec, self._group, self._dispatcher, self._ending.stop_event)
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
        doubts = SecondAnswers(group, self._dispatcher, self.chunker, self.collector, partial(self.stop, cut=True))
        group.capacity.listeners[self._follow] = None
        try:
            # Followed until the idle connections are checked: a second answer may have come behind the last one.
            with doubts:
                await self._workers.work(codec, attempter, self.trace, self._begun)
                await self._settle_held()
                if self.chunker.chunks_taken > 1:
                    await group.check_idle_connections()
            if doubts.stop_at_end is not None:
                self.stop(doubts.stop_at_end)
        finally:
            del group.capacity.listeners[self._follow]
            self.collector.flush()

    async def _settle_held(self) -> None:
        """Settle the answers and failures that were held for others, since no other will come."""
        # After a stop no other answer can contradict one that is held, but none can confirm it: it stays pending.
        while self.stopped is None or self.chunker.chunks_taken == 1:
            if not (refused := self.collector.confirm_held()):
                break
            await self._workers.send_again(refused)
        if self.stopped is None:
            self.recovery.release_withheld()

    def _attempter(self, codec: Codec, validator: ResponseValidator) -> Attempter:
        parts = (codec, self._group, self._dispatcher, validator, self.counters)
        independent = self.recovery.isolation is not None
        if codec.polling is None:
            return Attempter(*parts, stop=self.stop, independent=independent)
        from fanout.engine.polling import PollHooks, PollingAttempter  # few APIs are asynchronous

        self.chunker.make_room(self._group.limiter.limit + codec.polling.most)
        hooks = PollHooks(
            stop_event=self._ending.stop_event,
            awaiting=self._workers.follow_jobs,
            progress=self.scheduler.progress.note,
            records=self._jobs,
        )
        return PollingAttempter(*parts, stop=self.stop, independent=independent, polling=codec.polling, hooks=hooks)

    def _follow(self) -> None:
        capacity = self._group.capacity
        # A change of the shared limit is an event of each run that goes on under it.
        self._ending.emit(Event(kind="limit", concurrency=capacity.limiter.limit, reason=capacity.cause))
        self._workers.follow_limit()

    async def _close_chunker(self) -> None:
        try:
            await self.chunker.close()
        except Exception as error:  # noqa: BLE001 - raised again by `execute`
            self._ending.report(error)


class RunClock:
    """The time that a run takes, and its deadline."""

    def __init__(self, until: Until | None) -> None:
        self.until = until
        self._now = asyncio.get_running_loop().time
        self.started = self._now()
        self._ended: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the run was made, or that it took."""
        return (self._now() if self._ended is None else self._ended) - self.started

    def end(self) -> None:
        """Stop the clock."""
        self._ended = self._now()


def dispatcher_of(
    group: EndpointGroup, counters: Counters, ending: Ending, call: Call, account: Account | None = None
) -> Dispatcher:
    """Return the dispatcher that the limits of the group demand. Without an ``account``, that of the group counts."""
    account = account or group.accounts.common
    parts = (group, counters.traffic, ending.stop_event, ending.emit)
    if group.shared is not None and group.shared.needs_claims:
        from fanout.upstream.sharing import SharedBilledDispatcher, SharedDispatcher  # few clients share limits

        if account is None:
            return SharedDispatcher(*parts, call=call)
        return SharedBilledDispatcher(*parts, call=call, account=account, spending=counters.spending)
    if account is None:
        return Dispatcher(*parts, call=call)
    return BilledDispatcher(*parts, call=call, account=account, spending=counters.spending)
