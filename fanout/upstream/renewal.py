"""The renewal of credentials within an attempt, after a server has refused them."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from fanout.errors import AttemptTimeout, TransportError
from fanout.transport import credentials_refused
from fanout.types import Response

if TYPE_CHECKING:
    from fanout.auth import Authenticator
    from fanout.stop import StopEvent
    from fanout.upstream.admission import Ticket


class Renewal:
    """Renews the credentials of the endpoint that a ticket was sent to.

    Args:
        timeout: seconds that a function for header fields may take.
    """

    def __init__(self, stop_event: StopEvent, timeout: float) -> None:
        self._stop_event = stop_event
        self._timeout = timeout
        self._now = asyncio.get_running_loop().time

    async def after(self, response: Response | TransportError, ticket: Ticket) -> bool | AttemptTimeout:
        """Renew the credentials that ``response`` refuses. False if it refuses none, or nothing can be renewed."""
        if isinstance(response, Response) and credentials_refused(response.status, response.headers, response.body):
            return await self._renew(ticket, response.status)
        return False

    async def after_success(self, ticket: Ticket, status: int) -> bool | AttemptTimeout:
        """Renew the credentials that a response with status 200 refused, by saying that its status is ``status``."""
        endpoint, sent_at = ticket.endpoint, ticket.sent_at
        assert endpoint is not None
        assert sent_at is not None
        if sent_at <= endpoint.renewed_at:  # another request has been refused with the same credentials
            return True
        endpoint.transport.refuse_headers()
        renewed = await self._renew(ticket, status)
        if renewed is True:
            endpoint.renewed_at = self._now()
        return renewed

    async def wait_for(self, authenticator: Authenticator) -> TransportError | None:
        """Wait until credentials are there or the run is stopped. Returns or raises the error if there are none."""
        while authenticator.is_renewing and self._stop_event.stopped is None:
            await self._stop_event.sleep(inf, authenticator.ended)
        error = authenticator.error
        if error is None or isinstance(error, TransportError):
            return error
        raise error

    async def _renew(self, ticket: Ticket, status: int) -> bool | AttemptTimeout:
        """True once there are new headers; an error if they took longer than an attempt may."""
        assert ticket.endpoint is not None
        deadline = ticket.deadline
        deadline.start(self._now() + self._timeout)
        try:
            renewed: bool | AttemptTimeout = await ticket.endpoint.transport.renew_headers()
        except asyncio.CancelledError:
            if not deadline.absorb():
                raise
            renewed = self._no_headers(status)
        finally:
            deadline.when = None
        # The user's function may have swallowed the cancellation.
        return self._no_headers(status) if deadline.expired and deadline.absorb() else renewed

    def _no_headers(self, status: int) -> AttemptTimeout:
        reason = f"headers= gave no new fields within the attempt timeout of {self._timeout:g} s"
        return AttemptTimeout(f"{reason}, after HTTP {status}")
