"""Admission: when a request may be sent, to which endpoint, and the ticket with which it is.

Concurrency is bounded by slots (`ConcurrencyLimiter`). The ticket takes one as it is entered, and keeps it through
every wait, so that requests are admitted in the order of asking. Everything else is decided by `Admission.decide`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fanout.types import Action, Verdict
from fanout.upstream.endpoint import EndpointState

if TYPE_CHECKING:
    from types import TracebackType

    from fanout.engine.task import ChunkTask
    from fanout.limits import Reservation
    from fanout.limits.capacity import Flight
    from fanout.stop import StopEvent, WaitQueue
    from fanout.upstream.group import EndpointGroup
    from fanout.upstream.reporting import Reporter

_ROUNDING = 1e-9
"""Seconds by which a sum of times may be off. A timer as short as that would fire at once, again and again."""


class Wait(NamedTuple):
    """A wait that admission demands: for a time, and for a notification that may end it early."""

    seconds: float
    queue: WaitQueue | None = None


class Requeue:
    """Admission demands that the ticket returns its slot and queues for another one."""


Decision: TypeAlias = "EndpointState | Verdict | Wait | Requeue"
_REQUEUE = Requeue()


class Deadline:
    """One reusable timer for the attempts of one asyncio task.

    A request nearly always ends long before its deadline, so the timer is not set and cancelled for each: it stays
    set, and re-arms itself when it fires too early for the attempt then running. At its time it cancels the task;
    `expired` distinguishes that cancellation from any other.
    """

    __slots__ = ("_handle", "_loop", "_task", "_when", "expired")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expired = False

    def start(self, now: float, seconds: float) -> None:
        """Cancel the task ``seconds`` after ``now``, unless `stop` is called before."""
        self.expired = False
        self._when = when = now + seconds
        handle = self._handle
        if handle is not None:
            if handle.when() <= when:
                return
            handle.cancel()  # it would fire too late
        self._handle = self._loop.call_at(when, self._fire)

    def stop(self) -> None:
        """End the attempt. The timer may still fire, but does nothing."""
        self._when = None

    def absorb(self) -> bool:
        """True if this deadline alone caused the cancellation at hand, which is then taken back from the task."""
        if not self.expired:
            return False
        self.expired = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """Remove the timer from the loop."""
        self._when = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._when is None:
            return
        if self._loop.time() < self._when:
            self._handle = self._loop.call_at(self._when, self._fire)
            return
        self.expired = True
        self._task.cancel()


class Ticket:
    """One attempt's claim on the endpoints: its slot, its reservation of the rates, and its deadline.

    A worker keeps one ticket for all of its attempts. The ticket identifies a half-open trial, and reports the outcome
    once; an attempt that ends without one is forgotten::

        async with ticket:
            response = await dispatcher.exchange(ticket, task)
            ...
            outcome = ticket.report(outcome, task)
    """

    __slots__ = ("_group", "_holds_slot", "_reporter", "_reports", "deadline", "endpoint", "flight", "latency",
                 "refund", "reservation", "sent_at")  # fmt: skip

    def __init__(self, group: EndpointGroup, reporter: Reporter) -> None:
        self._group = group
        self._reporter = reporter
        self._holds_slot = False
        self._reports = False
        self.deadline = Deadline()
        self.endpoint: EndpointState | None = None
        """The endpoint of the last request; None as long as none was sent."""

        self.flight: Flight | None = None
        self.reservation: Reservation | None = None
        self.sent_at: float | None = None
        self.latency: float | None = None
        """Seconds that the last request took; None while it is in flight."""

        self.refund = False
        """The attempt failed for a reason that is not its rows': it should not count against them."""

    async def __aenter__(self) -> Ticket:
        limiter = self._group.capacity.limiter
        if not limiter.acquire_nowait():
            await limiter.acquire()
        self._holds_slot = self._reports = True
        self.endpoint = self.flight = self.sent_at = self.latency = None
        self.refund = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reports:
            self._reports = False
            self._reporter.on_abandoned(self)
        if self.reservation is not None:
            self.return_reservation()
        if self._holds_slot:
            self._holds_slot = False
            self._group.capacity.limiter.release()

    def report(self, outcome: object, task: ChunkTask | None = None, *, first: bool) -> Verdict | None:
        """Report the outcome: to the circuit breaker, the health, the adaptive limit and the cooldown.

        Args:
            outcome: the verdict on a failure; anything else is a valid answer.
            task: the rows; None for metadata.
            first: this was the first attempt.

        Returns:
            None after a success, otherwise the verdict for the run, given the other endpoints. It is to send the rows
            to another endpoint if this one has been excluded since: its answers no longer count.
        """
        self._reports = False
        if isinstance(outcome, Verdict):
            return self._reporter.on_failure(self, outcome, task)
        endpoint, several = self.endpoint, self._group.balancer.several
        assert endpoint is not None
        breaker = endpoint.breaker
        # The quick path of a single endpoint: one success more changes nothing.
        steady = endpoint.served and not several and not breaker.is_open and breaker.tokens == breaker.capacity
        if steady and self.flight is None:
            return None
        return self._reporter.on_success(self, endpoint, first=first, metadata=task is None)

    async def take_slot(self) -> None:
        """Wait for a slot, unless the ticket holds one."""
        if not self._holds_slot:
            await self._group.capacity.limiter.acquire()
            self._holds_slot = True

    def return_slot(self) -> None:
        """Return the slot before the ticket closes, so that another request may be sent meanwhile."""
        if self._holds_slot:
            self._holds_slot = False
            self._group.capacity.limiter.release()

    def return_reservation(self) -> None:
        """Return the reservation of the rates, since no request is sent with it."""
        if self.reservation is not None:
            self._group.rates.give_back(self.reservation)
            self.reservation = None

    def close(self) -> None:
        """Remove the timer of the deadline. The worker makes no more attempts."""
        self.deadline.close()


class Admission:
    """Decides, for one run, whether a ticket may be sent now."""

    def __init__(self, group: EndpointGroup, stop_event: StopEvent) -> None:
        self._group = group
        self._stop_event = stop_event
        self._balancer = group.balancer
        self._single = None if group.balancer.several else group.balancer.endpoints[0]
        self._rates = group.rates
        self._capacity = group.capacity
        self._max_requests = group.limits.max_requests
        self.now = asyncio.get_running_loop().time

    def decide(self, ticket: Ticket, task: ChunkTask | None, only: EndpointState | None, now: float) -> Decision:
        """Decide, without waiting, whether ``ticket`` may be sent at ``now``, and return the I/O or wait still owed.

        Args:
            task: the rows; None for metadata.
            only: the one endpoint that will do.
        """
        # There are six cases:
        #
        # 1. The run is stopped, so no request may be sent.
        # 2. No endpoint is free: each has an open circuit or is cooling down. Wait for the first of them. A ticket that
        #    finds an open circuit due for its trial becomes the half-open trial.
        # 3. The rates allow a start later than now. Wait for it; the reservation stays with the ticket.
        # 4. The concurrency limit was lowered while the ticket waited. Queue for another slot, unless the ticket is a
        #    half-open trial: the other holders of slots may be waiting for it.
        # 5. The requests that the settings allow are spent, so no request may be sent.
        # 6. Otherwise the request is sent to the endpoint.
        if (stop := self._stop_event.stopped) is not None:
            self._balancer.forget(ticket)
            return Verdict(action=Action.STOP, reason=stop.reason, stop=stop.kind)

        endpoint = self._single
        if endpoint is None or endpoint.breaker.is_open or endpoint.cooldown.until > now:
            tried = () if task is None else task.tried
            chosen = self._balancer.acquire(now, ticket, tried, only)
            if not isinstance(chosen, EndpointState):
                # Reservations kept through a cooldown would let all requests go at once after it.
                ticket.return_reservation()
                return Wait(chosen, self._balancer.wait_queue)
            endpoint = chosen

        if self._rates.active:
            reservation = ticket.reservation
            if reservation is None or self._rates.is_stale(reservation):
                ticket.reservation = reservation = self._rates.reserve(now, self._group.cost(task))
            if reservation.start > now + _ROUNDING:
                return Wait(reservation.start - now)

        limiter = self._capacity.limiter
        if limiter.in_flight > limiter.limit and not self._balancer.is_trial(ticket):
            ticket.return_reservation()
            return _REQUEUE

        if self._max_requests is not None and self._group.requests >= self._max_requests:
            ticket.return_reservation()
            reason = f"the limit of max_requests = {self._max_requests} is reached"
            return Verdict(action=Action.STOP, reason=reason, stop="max_requests")

        return endpoint

    async def admit(
        self, ticket: Ticket, task: ChunkTask | None, only: EndpointState | None, decision: Decision
    ) -> EndpointState | Verdict:
        """Wait as often as `decide` demands, beginning with ``decision``. No wait counts as an attempt."""
        while not isinstance(decision, EndpointState | Verdict):
            if isinstance(decision, Wait):
                await self._stop_event.sleep(decision.seconds, decision.queue)
            else:
                ticket.return_slot()
                await ticket.take_slot()
            decision = self.decide(ticket, task, only, self.now())
        return decision
