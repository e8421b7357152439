"""Sends requests that were admitted: each within its deadline, and once more where the first one could not count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from fanout.errors import AttemptTimeout, StaleConnectionError, TransportError
from fanout.transport import NoDescriptor, SendAborted, credentials_refused
from fanout.types import Event, Response, Verdict
from fanout.upstream.admission import Admission, Ticket
from fanout.upstream.endpoint import EndpointState
from fanout.upstream.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.task import ChunkTask
    from fanout.statistics import Counters
    from fanout.stop import StopEvent
    from fanout.upstream.group import EndpointGroup

_REFUSED = (401, 403)
_UNTIL_FREE = 0.1
"""Seconds until a connection is tried again that found no file descriptor."""

Exchanged: TypeAlias = Response | TransportError | Verdict
"""A whole response, the error in its place, or the verdict with which no request was sent."""


class Dispatcher:
    """Sends the requests of one run to endpoints that it shares with other runs.

    Args:
        owner: identifies the run's rows in the report of a second answer. It refers to nothing else.
    """

    def __init__(
        self,
        group: EndpointGroup,
        counters: Counters,
        stop_event: StopEvent,
        emit: Callable[[Event], None],
        *,
        owner: object = None,
    ) -> None:
        self._counters = counters
        self._stop_event = stop_event
        self._emit = emit
        self._group = group
        self._owner = owner
        self._controller = group.capacity.controller
        self._timeout = group.timeouts.attempt
        self._admission = Admission(group, stop_event)
        self.reporter = Reporter(group, emit)
        self.now = self._admission.now

    def ticket(self) -> Ticket:
        """Make a ticket for the attempts of the current asyncio task, which has to call its `close` at the end."""
        return Ticket(self._group, self.reporter)

    async def exchange(self, ticket: Ticket, request: ChunkTask | str, only: EndpointState | None = None) -> Exchanged:
        """Send one request, as a rule, and wait for the response.

        It is sent once more, at no charge, where a kept-alive connection turned out to be closed, or where the server
        refuses the credentials (401, or 403 "expired") and new ones can be obtained.

        Args:
            ticket: has been entered.
            request: an encoded task, or the URL of metadata.
            only: the one endpoint that will do.
        """
        response = await self._send(ticket, request, only)
        if isinstance(response, Response):
            if response.status not in _REFUSED or not _refuses_credentials(response):
                return response
            renewed = await self._renew_headers(ticket, response.status)
            if renewed is True:
                return await self._send(ticket, request, ticket.endpoint)
            return renewed or response
        if isinstance(response, StaleConnectionError):
            return await self._send(ticket, request, ticket.endpoint, fresh=True)
        return response

    async def exchange_again(
        self, ticket: Ticket, request: ChunkTask | str, refused: Response, status: int
    ) -> Exchanged:
        """Send a request once more with new headers, after a response that refused the credentials with status 200.

        ``status`` is the one that ``refused`` means. Returns ``refused`` if no new headers can be obtained.
        """
        endpoint, sent_at = ticket.endpoint, ticket.sent_at
        assert endpoint is not None
        assert sent_at is not None
        await ticket.take_slot()
        if sent_at > endpoint.renewed_at:  # otherwise another request has been refused with the same headers
            endpoint.transport.refuse_headers()
            renewed = await self._renew_headers(ticket, status)
            if renewed is not True:
                return renewed or refused
            endpoint.renewed_at = self.now()
        return await self._send(ticket, request, endpoint)

    async def _renew_headers(self, ticket: Ticket, status: int) -> bool | AttemptTimeout:
        """True once there are new headers; an error if they took longer than an attempt may."""
        assert ticket.endpoint is not None
        deadline = ticket.deadline
        deadline.start(self.now(), self._timeout)
        try:
            renewed: bool | AttemptTimeout = await ticket.endpoint.transport.renew_headers()
        except asyncio.CancelledError:
            if not deadline.absorb():
                raise
            renewed = self._no_headers(status)
        finally:
            deadline.stop()
        # The user's function may have swallowed the cancellation.
        return self._no_headers(status) if deadline.expired and deadline.absorb() else renewed

    def _no_headers(self, status: int) -> AttemptTimeout:
        reason = f"headers= gave no new fields within the attempt timeout of {self._timeout:g} s"
        return AttemptTimeout(f"{reason}, after HTTP {status}")

    async def _send(
        self, ticket: Ticket, request: ChunkTask | str, only: EndpointState | None, *, fresh: bool = False
    ) -> Exchanged:
        """Send one request once it is admitted. Waits count as no attempt: the deadline starts with the request."""
        task = None if isinstance(request, str) else request
        while True:
            now = self.now()
            endpoint = self._admission.decide(ticket, task, only, now)
            if not isinstance(endpoint, EndpointState):
                endpoint = await self._admission.admit(ticket, task, only, endpoint)
                if isinstance(endpoint, Verdict):
                    ticket.endpoint = None
                    return endpoint
                now = self.now()
            reservation, ticket.reservation = ticket.reservation, None
            try:
                return await self._send_to(endpoint, ticket, request, now, fresh)
            except SendAborted as aborted:  # nothing was sent, and nothing is charged
                self._group.rates.give_back(reservation)
                if isinstance(aborted, NoDescriptor):
                    self._group.capacity.lower(sum(one.in_flight for one in self._group.balancer.endpoints))
                    await self._stop_event.sleep(_UNTIL_FREE)

    async def _send_to(  # noqa: C901 - each call that is saved here is saved for every request
        self, endpoint: EndpointState, ticket: Ticket, request: ChunkTask | str, now: float, fresh: bool
    ) -> Response | TransportError:
        counters, deadline = self._counters, ticket.deadline
        ticket.endpoint, ticket.sent_at, ticket.latency = endpoint, now, None
        payload = None if isinstance(request, str) else request.payload
        # The common case of `Payload.nbytes`, without a call.
        size = 0 if payload is None else len(payload.body) if type(payload.body) is bytes else payload.nbytes
        endpoint.requests += 1
        endpoint.in_flight += 1
        counters.requests += 1
        counters.bytes_sent += size
        counters.in_flight += 1
        if counters.in_flight > counters.max_in_flight:
            counters.max_in_flight = counters.in_flight
        if self._controller is not None:
            ticket.flight = self._controller.on_send(now)
        deadline.start(now, self._timeout)
        response: Response | TransportError
        try:
            if isinstance(request, str):
                response = await endpoint.transport.get(request)
            else:
                assert request.payload is not None
                rows = self._owner, request.chunk.start, request.chunk.stop
                response = await endpoint.transport.post(request.payload, fresh=fresh, rows=rows)
            endpoint.answered = True
        except TransportError as error:
            response = error
        except SendAborted:
            endpoint.requests -= 1
            counters.requests -= 1
            counters.bytes_sent -= size
            raise
        except asyncio.CancelledError:
            if not deadline.absorb():
                raise
            response = self._too_late()
        finally:
            endpoint.in_flight -= 1
            counters.in_flight -= 1
            deadline.stop()
            ended = self.now()
            ticket.latency = ended - now
            if self._controller is not None and ticket.flight is not None:
                self._controller.on_end(ticket.flight, ended)
        counters.latencies.record(ticket.latency)
        if isinstance(response, Response):
            counters.bytes_received += len(response.body)
            if endpoint.rate_limit_headers.skips_left:  # mostly so, and a call would cost more than all of this
                endpoint.rate_limit_headers.skips_left -= 1
            elif response.status < 400:
                self._read_headers(endpoint, response, request, ended)
        # Code below may have swallowed the cancellation, or raised another error in its place.
        return self._too_late() if deadline.expired and deadline.absorb() else response

    def _too_late(self) -> AttemptTimeout:
        return AttemptTimeout(f"no whole answer within the attempt timeout of {self._timeout:g} s")

    def _read_headers(self, endpoint: EndpointState, response: Response, request: ChunkTask | str, now: float) -> None:
        try:
            cooldown = endpoint.rate_limit_headers.apply(response, None if isinstance(request, str) else request, now)
        except Exception:  # noqa: BLE001 - a header that makes a parser fail says nothing, and costs no answer
            return
        if cooldown:
            reason = "the endpoint says that its rate limit is exhausted until the window resets"
            self._emit(Event(kind="pause", seconds=cooldown, status=response.status, reason=reason))


def _refuses_credentials(response: Response) -> bool:
    return credentials_refused(response.status, response.headers, response.body)
