"""First attempts of `predict` without a run: a batch becomes a run only if it needs one.

A run has some thirty parts, nearly all of which serve failures, several chunks or an input that comes slowly. A batch
of `predict` is one chunk, and mostly answered at once. So one asyncio task sends batch after batch by `FirstAttempts`,
and whatever does not succeed goes on as a `Run`, which begins with the attempt that was `Begun`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fanout.callbacks import abnormal, calling
from fanout.engine.attempt import Attempter
from fanout.engine.chunk_bounds import ChunkBounds
from fanout.engine.chunker import ChunkTask
from fanout.engine.ending import Ending
from fanout.engine.logs import log
from fanout.engine.request_sizes import RequestSizes
from fanout.engine.run import dispatcher_of
from fanout.engine.scheduler import Progress
from fanout.engine.second_answers import TWICE, answered_twice
from fanout.engine.validator import ResponseValidator
from fanout.engine.workers import BODIES
from fanout.results import Event
from fanout.rows import count_rows
from fanout.statistics import Counters
from fanout.stop import Watchdog
from fanout.types import Chunk, Payload, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codecs.base import Codec
    from fanout.results import Statistics
    from fanout.stop import Stop, Until
    from fanout.transport import RowsSent
    from fanout.types import Array, Rows
    from fanout.upstream.call import Call
    from fanout.upstream.group import EndpointGroup, EndpointState


class Begun(NamedTuple):
    """A first attempt that has failed, with which a run begins."""

    task: ChunkTask
    verdict: Verdict
    sent_at: float | None
    since: float
    """Time of the loop at which it began."""
    successes_before: int
    """Requests of all runs that had succeeded then."""
    counters: Counters
    """The counts of this attempt, to which the run adds its own."""


def may_be_first(codec: Codec, group: EndpointGroup) -> bool:
    """True if an attempt needs no run before it: the model is known, and nothing but rows bounds a request."""
    ready = all(one.not_ready_reason is None or one.excluded is not None for one in group.balancer.endpoints)
    return (
        group.metadata.codec is codec
        and ready
        and codec.polling is None
        and group.answered.sizes.limits is None
        and not log.isEnabledFor(logging.DEBUG)
    )


class FirstAttempts:
    """Makes the first attempts of one batch after another, in the asyncio task that creates it.

    Args:
        codec: knows the model.
        on_event: takes the events.
        call: the header fields and the priority of the requests.
    """

    def __init__(
        self, codec: Codec, group: EndpointGroup, on_event: Callable[[Event], None] | None, call: Call
    ) -> None:
        self.codec = codec
        self.call = call
        self.counters = Counters()
        self._group = group
        self._ending = ending = Ending(group.balancer, on_event, isolated=True)
        ending.tasks.lend()
        self._dispatcher = dispatcher_of(group, self.counters, ending, call)
        with calling("the codec's spec"):
            spec = codec.spec
        validator = ResponseValidator(
            spec, reject_nonfinite=codec.nonfinite == "reject", capacity=group.capacity.most, independent=True
        )
        self._attempter = Attempter(
            codec, group, self._dispatcher, validator, self.counters, stop=_leave_to_run, independent=True
        )
        self._sizes = RequestSizes(ChunkBounds(rows=1), group)
        self._ticket = self._attempter.ticket()
        self._begun: Begun | None = None
        self._progress = Progress()
        self._progress.open = 1
        self._watchdog = self._watched(None)
        group.on_second_answer[self._distrust] = None
        group.capacity.listeners[self._follow] = None

    async def send(self, rows: Rows, until: Until | None, deliver: Callable[[dict[str, Array]], None]) -> Begun | None:
        """Send all rows in one request, until a moment at most, and ``deliver`` their outputs.

        Returns the attempt if it failed. None if all went well, if it was `stopped`, and if the codec could not encode
        the rows together. Raises the errors that `Run.execute` does.
        """
        if until is not None:
            self._watchdog.close()
            self._watchdog = self._watched(until)
        self._begun = None
        await self._ending.tasks.run([partial(self._attempt, rows, deliver)])
        if self._ending.error is not None:
            raise self._ending.error
        return self._begun

    @property
    def stopped(self) -> Stop | None:
        """The reason for which an attempt was stopped, or None."""
        return self._ending.stop_event.stopped

    @property
    def may_go_on(self) -> bool:
        """False after a stop, or once the listener has failed, which the next batch calls again."""
        return self.stopped is None and not self._ending.emit.has_failed

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Abandon the attempt if ``cut``; otherwise it may end, but no other is made."""
        self._ending.stop(stop, cut=cut)

    def up_to_date_counters(self) -> Counters:
        """The counters of the attempts since they were last set to zero."""
        return self.counters

    def statistics(self) -> Statistics:
        """A snapshot of these counters, for the attempt under way."""
        return self.counters.snapshot(
            seconds=self._dispatcher.now() - self._progress.progress_at,
            concurrency=self._group.capacity.chosen,
            endpoints=self._group.balancer.statistics(),
            prices=self._group.accounts.prices,
        )

    def close(self) -> None:
        """End the attempts, and drop all parts: see `Run.release`."""
        del self._group.on_second_answer[self._distrust], self._group.capacity.listeners[self._follow]
        self._watchdog.close()
        self._ticket.close()
        self._ending.stop_event.close()
        self._ending.release()
        vars(self).clear()

    async def _attempt(self, rows: Rows, deliver: Callable[[dict[str, Array]], None]) -> None:
        if (task := self._encoded(rows)) is None:
            return
        self._progress.progress_at = since = self._dispatcher.now()
        successes_before = self._group.answered.chunks
        self.counters.rows += task.n
        outcome = await self._attempter.run(task, self._ticket)
        if isinstance(outcome, Verdict):
            counters, self.counters = self.counters, Counters()
            self._begun = Begun(task, outcome, self._ticket.sent_at, since, successes_before, counters)
            return
        if self.stopped is not None and self.stopped.kind == "duplicate":
            return  # a second answer lay behind this one, which may be that to other rows
        deliver(outcome)
        self.counters.ok += task.n
        self._sizes.succeeded(task)
        if self._ending.emit.wants("done"):
            self._ending.emit(Event(kind="done", start=0, stop=task.n))

    def _encoded(self, rows: Rows) -> ChunkTask | None:
        """The task of all rows; None if a run has to find those that cannot be encoded."""
        task = ChunkTask(Chunk(0, count_rows(rows)), rows)
        try:
            payload: object = self.codec.encode(rows)
        except Exception:  # noqa: BLE001 - the run calls it again, and judges the error
            return None
        except BaseException as error:
            raise abnormal("the codec's encode", error) from error
        if not (isinstance(payload, Payload) and isinstance(payload.body, BODIES)):
            return None
        transport = self._group.balancer.endpoints[0].transport
        task.payload = transport.stamped(payload) if transport.stamps else payload
        return task

    def _watched(self, until: Until | None) -> Watchdog:
        # The run's own deadline is that of the batch, which counts from the call of `predict`.
        return Watchdog(
            self._ending.stop_event, self._progress, run=None, stall=self._group.retry.stall, until=until,
            cause=self._group.cause_of_stall,
        )  # fmt: skip

    def _follow(self) -> None:
        capacity = self._group.capacity
        self._ending.emit(Event(kind="limit", concurrency=capacity.limiter.limit, reason=capacity.cause))

    def _distrust(self, endpoint: EndpointState, _: Sequence[RowsSent]) -> None:
        # Rows that were answered before are with their callers by now.
        if self._group.balancer.has_alternative(endpoint):
            self._dispatcher.reporter.exclude(endpoint, TWICE)
        else:
            self.stop(answered_twice(endpoint, "rows of an earlier run"), cut=True)


def _leave_to_run(stop: Stop) -> None:
    """Let the run stop that goes on with the attempt: no other request could come between."""
