"""Admission: when a request may be sent, to which endpoint, and its sending within a deadline.

Concurrency is bounded by slots (`ConcurrencyLimiter`). The `Ticket` takes one as it is entered, and keeps it through
every wait, so that requests are admitted in the order of asking. Everything else is decided by `Dispatcher.decide`, and
`Dispatcher.exchange` sends the admitted request, once more where the first one could not count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from fanout.errors import AttemptTimeout, StaleConnectionError, TransportError
from fanout.statistics import LATENCIES_AT_ONCE
from fanout.stop import Deadline
from fanout.transport import CredentialsDue, NoDescriptor, SendAborted
from fanout.types import Action, Response, Verdict
from fanout.upstream.call import Call
from fanout.upstream.group import EndpointState
from fanout.upstream.renewal import Renewal
from fanout.upstream.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from fanout.engine.chunker import ChunkTask
    from fanout.limits import Reservation
    from fanout.limits.capacity import Flight
    from fanout.results import Event
    from fanout.statistics import Traffic
    from fanout.stop import StopEvent, WaitQueue
    from fanout.upstream.group import EndpointGroup

_PLAIN_CALL = Call()

_REFUSED = (401, 403)
# Seconds until a connection is tried again that found no file descriptor.
_UNTIL_FREE = 0.1

# Seconds by which a sum of times may be off. A timer as short as that would fire at once, again and again.
_ROUNDING = 1e-9


Exchanged: TypeAlias = Response | TransportError | Verdict
"""A whole response, the error in its place, or the verdict with which no request was sent."""


class Wait(NamedTuple):
    """A wait that admission demands: for a time, and for a notification that may end it early.

    Without a time, the ticket returns its slot and waits for another one.
    """

    seconds: float | None
    queue: WaitQueue | None = None
    frees_slot: bool = False
    """Others may be sent meanwhile, on which this wait depends."""


Decision: TypeAlias = EndpointState | Verdict | Wait


class Ticket:
    """One attempt's claim on the endpoints: its slot, its reservation of the rates, and its deadline.

    A worker keeps one ticket for all of its attempts. The ticket identifies a half-open trial, and reports the outcome
    once; an attempt that ends without one is forgotten::

        async with ticket:
            response = await dispatcher.exchange(ticket, task)
            ...
            outcome = ticket.report(outcome, task, first=True)
    """

    __slots__ = ("_group", "_holds_slot", "_reporter", "_reports", "_urgent", "deadline", "endpoint",
                 "flight", "latency", "refund", "reservation", "sent_at")  # fmt: skip

    def __init__(self, group: EndpointGroup, reporter: Reporter, *, urgent: bool = False) -> None:
        self._group = group
        self._reporter = reporter
        self._urgent = urgent
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
        # As `acquire_nowait` has it, without a call for every request.
        if limiter.in_flight < limiter.limit:
            limiter.in_flight += 1
            if limiter.in_flight > limiter.peak:
                limiter.peak = limiter.in_flight
        else:
            await limiter.acquire(urgent=self._urgent)
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
            limiter = self._group.capacity.limiter
            # As `release` has it, without a call for every request: without waiters, a slot is only counted.
            if limiter.waiters or limiter.urgent_waiters:
                limiter.release()
            else:
                limiter.in_flight -= 1

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
            await self._group.capacity.limiter.acquire(urgent=self._urgent)
            self._holds_slot = True

    def return_slot(self) -> None:
        """Return the slot before the ticket closes, so that another request may be sent meanwhile."""
        if self._holds_slot:
            self._holds_slot = False
            self._group.capacity.limiter.release()

    def yield_slot(self) -> None:
        """Return the slot and the reservation if an urgent request waits for a slot, and this one is not urgent.

        A half-open trial keeps them: the urgent request would hold the slot, and wait for the trial's outcome.
        """
        is_trial = self._group.balancer.is_trial(self)
        if not self._urgent and not is_trial and self._group.capacity.limiter.is_urgent:
            self.return_reservation()
            self.return_slot()

    def return_reservation(self) -> None:
        """Return the reservation of the rates, since no request is sent with it."""
        if self.reservation is not None:
            self._group.costs.rates.give_back(self.reservation)
            self.reservation = None

    def close(self) -> None:
        """Remove the timer of the deadline. The worker makes no more attempts."""
        self.deadline.close()


class Dispatcher:
    """Admits and sends the requests of one run, to endpoints that it shares with other runs.

    Attributes:
        call: the header fields and the priority of the requests.
        owner: identifies the run's rows in the report of a second answer.
    """

    def __init__(
        self,
        group: EndpointGroup,
        traffic: Traffic,
        stop_event: StopEvent,
        emit: Callable[[Event], None],
        *,
        call: Call = _PLAIN_CALL,
    ) -> None:
        self.call = call
        self._traffic = traffic
        self._stop_event = stop_event
        self._group = group
        # Connections remember it, so it must not refer to the run and its arrays.
        self.owner = object()
        self._rates = group.costs.rates
        self._max_requests = group.accounts.max_requests
        self._controller = group.capacity.controller
        self._timeout = group.timeouts.attempt
        self._renewal = Renewal(stop_event, group.timeouts.attempt)
        self.reporter = Reporter(group, emit, own_credentials=call.has_credentials)
        self.now = asyncio.get_running_loop().time

    def ticket(self) -> Ticket:
        """Make a ticket for the attempts of the current asyncio task, which has to call its `close` at the end."""
        return Ticket(self._group, self.reporter, urgent=self.call.urgent)

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
            self._group.balancer.forget(ticket)
            return Verdict(action=Action.STOP, reason=stop.reason, stop=stop.kind)

        endpoint = self._group.balancer.single
        if endpoint is None or endpoint.breaker.is_open or endpoint.cooldown.until > now:
            tried = () if task is None else task.tried
            chosen = self._group.balancer.acquire(now, ticket, tried, only)
            if not isinstance(chosen, EndpointState):
                # Reservations kept through a cooldown would let all requests go at once after it.
                ticket.return_reservation()
                return Wait(chosen, self._group.balancer.wait_queue)
            endpoint = chosen

        limiter = self._group.capacity.limiter
        if self._rates.active:
            reservation = ticket.reservation
            if reservation is None or self._rates.is_stale(reservation, now):
                # A second one is final, so that each request is sent even if the process is slow all the time.
                cost, is_final = self._group.costs.of(task), reservation is not None
                ticket.reservation = reservation = self._rates.reserve(
                    now, cost, urgent=self.call.urgent, is_final=is_final
                )
            if reservation.start > now + _ROUNDING:
                return Wait(reservation.start - now, None if self.call.urgent else limiter.urgency)

        if limiter.in_flight > limiter.limit and not self._group.balancer.is_trial(ticket):
            ticket.return_reservation()
            return Wait(None)

        if self._max_requests is not None and self._group.requests >= self._max_requests:
            ticket.return_reservation()
            reason = f"the limit of max_requests = {self._max_requests} is reached"
            return Verdict(action=Action.STOP, reason=reason, stop="max_requests")

        return endpoint

    async def admit(
        self, ticket: Ticket, task: ChunkTask | None, only: EndpointState | None, decision: Decision
    ) -> EndpointState | Verdict:
        """Wait as often as `decide` demands, beginning with ``decision``. No wait counts as an attempt."""
        while isinstance(decision, Wait):
            if decision.seconds is None or decision.frees_slot:
                ticket.return_slot()
            if decision.seconds is not None:
                await self._stop_event.sleep(decision.seconds, decision.queue)
                # Only from a wait for a rate: one that queues for a trial of an open circuit has to keep its slot, for
                # which the others in that queue would wait in vain.
                if decision.queue is self._group.capacity.limiter.urgency:
                    ticket.yield_slot()
            await ticket.take_slot()
            decision = self.decide(ticket, task, only, self.now())
        return decision

    async def exchange(
        self, ticket: Ticket, request: ChunkTask | str, only: EndpointState | None = None, *, resend: bool = True
    ) -> Exchanged:
        """Send one request once it is admitted, and wait for the response. Waits count as no attempt.

        It is sent once more, at no charge, where a kept-alive connection turned out to be closed, or where the server
        refuses the credentials (401, or 403 "expired") and new ones can be obtained; again if these may have expired as
        well while the request waited. Only credentials that were obtained just before are refused for good.

        Args:
            ticket: has been entered.
            request: an encoded task, or the URL of metadata.
            only: the one endpoint that will do.
            resend: False sends one request at most.
        """
        task = None if isinstance(request, str) else request
        fresh = resent = False
        while True:
            now = self.now()
            endpoint = self.decide(ticket, task, only, now)
            if not isinstance(endpoint, EndpointState):
                endpoint = await self.admit(ticket, task, only, endpoint)
                if isinstance(endpoint, Verdict):
                    ticket.endpoint = None
                    return endpoint
                now = self.now()
            reservation, ticket.reservation = ticket.reservation, None
            try:
                response = await self._send(endpoint, ticket, request, now, fresh)
            except SendAborted as aborted:  # nothing was sent, and nothing is charged
                if (error := await self._after_abort(aborted, ticket, reservation)) is not None:
                    return error
                continue
            if not resend or (isinstance(response, Response) and response.status not in _REFUSED):
                return response
            # The client's own credentials would be renewed in vain.
            if self.call.has_credentials and isinstance(response, Response):
                return response
            if resent and not endpoint.transport.may_have_expired(now):
                return response
            fresh = isinstance(response, StaleConnectionError)
            if not fresh and (renewed := await self._renewal.after(response, ticket)) is not True:
                return renewed or response
            only, resent = endpoint, True

    async def exchange_again(
        self, ticket: Ticket, request: ChunkTask | str, refused: Response, status: int
    ) -> Exchanged:
        """Send a request once more with new headers, after a response that refused the credentials with status 200.

        ``status`` is the one that ``refused`` means. Returns ``refused`` if no new headers can be obtained.
        """
        if self.call.has_credentials:
            return refused
        await ticket.take_slot()
        renewed = await self._renewal.after_success(ticket, status)
        if renewed is not True:
            return renewed or refused
        return await self.exchange(ticket, request, ticket.endpoint, resend=False)

    async def _after_abort(
        self, aborted: SendAborted, ticket: Ticket, reservation: Reservation | None
    ) -> TransportError | None:
        """Wait for the resource without which a request was not sent. Returns an error if it cannot be obtained."""
        if isinstance(aborted, CredentialsDue):
            # A reservation made anew might let the credentials expire again before it allows the request.
            if reservation is not None:
                reservation.is_final = True
            ticket.reservation = reservation
            return await self._renewal.wait_for(aborted.authenticator)
        self._rates.give_back(reservation)
        if isinstance(aborted, NoDescriptor):
            self._group.capacity.lower(sum(one.in_flight for one in self._group.balancer.endpoints))
            await self._stop_event.sleep(_UNTIL_FREE)
        return None

    async def _send(  # noqa: C901 - each call that is saved here is saved for every request
        self, endpoint: EndpointState, ticket: Ticket, request: ChunkTask | str, now: float, fresh: bool
    ) -> Response | TransportError:
        """Send an admitted request. The deadline starts with it."""
        traffic, deadline = self._traffic, ticket.deadline
        ticket.endpoint, ticket.sent_at, ticket.latency = endpoint, now, None
        payload = None if isinstance(request, str) else request.payload
        # The common case of `Payload.nbytes`, without a call.
        size = 0 if payload is None else len(payload.body) if type(payload.body) is bytes else payload.nbytes
        endpoint.requests += 1
        endpoint.in_flight += 1
        traffic.requests += 1
        traffic.bytes_sent += size
        traffic.in_flight += 1
        if traffic.in_flight > traffic.max_in_flight:
            traffic.max_in_flight = traffic.in_flight
        if self._controller is not None:
            ticket.flight = self._controller.on_send(now)
        # As `Deadline.start` has it, without a call.
        deadline.expired, deadline.when = False, now + self._timeout
        if deadline.fires_at > deadline.when:
            deadline.arm()
        response: Response | TransportError
        try:
            if isinstance(request, str):
                response = await endpoint.transport.get(request, call=self.call.headers)
            else:
                assert request.payload is not None
                where = None if request.place is None else request.place.where
                rows = self.owner, request.chunk.start, request.chunk.stop, where
                response = await endpoint.transport.post(
                    request.payload, fresh=fresh, rows=rows, call=self.call.headers
                )
            endpoint.answered = True
        except TransportError as error:
            response = error
        except SendAborted:
            endpoint.requests -= 1
            traffic.requests -= 1
            traffic.bytes_sent -= size
            raise
        except asyncio.CancelledError:
            if not deadline.absorb():
                raise
            response = self._too_late()
        finally:
            endpoint.in_flight -= 1
            traffic.in_flight -= 1
            deadline.when = None  # ends the attempt
            ended = self.now()
            ticket.latency = ended - now
            if self._controller is not None and ticket.flight is not None:
                self._controller.on_end(ticket.flight, ended)
        latencies = traffic.latencies.recent
        latencies.append(ticket.latency)
        if len(latencies) >= LATENCIES_AT_ONCE:
            traffic.latencies.sort_in()
        if isinstance(response, Response):
            traffic.bytes_received += len(response.body)
            if endpoint.rate_limit_headers.skips_left:  # mostly so, and a call would cost more than all of this
                endpoint.rate_limit_headers.skips_left -= 1
            elif response.status < 400:
                self.reporter.on_headers(endpoint, response, None if isinstance(request, str) else request, ended)
        # Code below may have swallowed the cancellation, or raised another error in its place.
        return self._too_late() if deadline.expired and deadline.absorb() else response

    def _too_late(self) -> AttemptTimeout:
        return AttemptTimeout(f"no whole answer within the attempt timeout of {self._timeout:g} s (timeouts.attempt)")
