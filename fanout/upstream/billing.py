"""Billing: admission for runs with prices or a limit on cost or tokens. Every request reserves its estimate first.

A run without them uses `fanout.upstream.admission` as it is, so that its requests pay nothing for this.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from fanout.errors import CertificateError, ConnectError, CredentialsError, StaleConnectionError
from fanout.limits.spending import Amount, Refusal
from fanout.transport import SendAborted
from fanout.types import Action, Response, Verdict
from fanout.upstream.admission import Dispatcher, Ticket, Wait
from fanout.upstream.group import EndpointState
from fanout.usage import token_counts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from fanout.engine.chunker import ChunkTask
    from fanout.errors import TransportError
    from fanout.limits import Account
    from fanout.limits.spending import Reserved
    from fanout.statistics import Spending
    from fanout.upstream.admission import Decision
    from fanout.upstream.group import EndpointGroup
    from fanout.upstream.reporting import Reporter

# The server received no request, or closed the connection before it took one.
_NOT_SENT = (ConnectError, StaleConnectionError, CredentialsError, CertificateError)

# A gateway gave up waiting (504; 524 of Cloudflare), while the server behind it may still answer and bill.
_MAY_BE_BILLED = (504, 524)


class BilledTicket(Ticket):
    """A ticket that also owns the reservation of one request in the account."""

    __slots__ = ("_account", "_is_kept", "_is_valid", "_reserved", "_spending")

    def __init__(
        self, group: EndpointGroup, reporter: Reporter, account: Account, spending: Spending, *, urgent: bool
    ) -> None:
        super().__init__(group, reporter, urgent=urgent)
        self._account = account
        self._spending = spending
        self._reserved: Reserved | None = None
        self._is_kept = self._is_valid = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Cancelled in flight, or answered without a usage: the server may bill both.
        if not self._is_kept:
            self.settle()
        await super().__aexit__(kind, error, trace)

    def report(self, outcome: object, task: ChunkTask | None = None, *, first: bool) -> Verdict | None:
        """See `Ticket.report`."""
        self._is_valid = not isinstance(outcome, Verdict)
        # An error in a body with status 200 is billed no more than one with its own status.
        if isinstance(outcome, Verdict) and (outcome.status or 0) >= 400 and not self._is_kept:
            self.release()
        return super().report(outcome, task, first=first)

    def reserve(self, task: ChunkTask) -> Refusal | bool:
        """Reserve the estimate for ``task``. False: wait for the account's queue."""
        self.release()
        reserved = self._account.reserve(task)
        if isinstance(reserved, Refusal):
            return reserved
        self._reserved, self._is_valid = reserved, False
        return reserved is not None

    def keep(self) -> None:
        """Keep the reservation until `settle`, since the server works on the rows beyond this request."""
        self._is_kept = True

    def settle(self) -> None:
        """Charge the estimate, unless the usage is known."""
        self._is_kept = False
        self.charge_estimate(answered=self._is_valid)

    def charge(self, usage: Mapping[str, int]) -> None:
        """Charge the tokens that the response reports. Without them, the estimate is charged as the ticket closes."""
        counts = token_counts(usage)
        if self._reserved is not None and self._account.measures(counts):
            self._account.charge(self._reserved, counts, self._spending)
            self._reserved = None

    def charge_estimate(self, *, answered: bool = False) -> None:
        """Charge the estimate, unless the request is settled."""
        if self._reserved is not None:
            self._account.charge_estimate(self._reserved, self._spending, answered=answered)
            self._reserved = None

    @property
    def reserved_amount(self) -> Amount:
        """The estimate that is reserved; nothing for metadata."""
        return Amount() if self._reserved is None else self._reserved.amount

    def release(self) -> None:
        """Return the reservation: the request is not billed."""
        if self._reserved is not None:
            self._account.release(self._reserved)
            self._reserved = None


class BilledDispatcher(Dispatcher):
    """Sends requests within the limits of an account.

    Args:
        account: of this run, or of all runs of the client.
        spending: of this run.
    """

    def __init__(self, *args: Any, account: Account, spending: Spending, **options: Any) -> None:
        super().__init__(*args, **options)
        self._account = account
        self._spending = spending

    def ticket(self) -> BilledTicket:
        """See `Dispatcher.ticket`."""
        return BilledTicket(self._group, self.reporter, self._account, self._spending, urgent=self.call.urgent)

    def decide(self, ticket: Ticket, task: ChunkTask | None, only: EndpointState | None, now: float) -> Decision:
        """Decide as `Dispatcher.decide` does, and reserve the estimate of a request with rows as the last step.

        A request that has no room waits until one in flight is settled, so that fewer are in flight near the limit. If
        none is in flight, the run stops.
        """
        decision = super().decide(ticket, task, only, now)
        if task is None or not isinstance(decision, EndpointState):
            return decision
        assert isinstance(ticket, BilledTicket)
        reserved = ticket.reserve(task)
        if reserved is True:
            return decision
        # Requests that wait for money would keep the rates from no other request.
        ticket.return_reservation()
        if isinstance(reserved, Refusal):
            return Verdict(action=Action.STOP, reason=reserved.reason, stop="cost")
        # A job in flight needs a slot to ask for its result.
        return Wait(inf, self._account.wait_queue, frees_slot=True)

    async def _send(
        self, endpoint: EndpointState, ticket: Ticket, request: ChunkTask | str, now: float, fresh: bool
    ) -> Response | TransportError:
        if isinstance(request, str):  # metadata, and the state of a job, are free
            return await super()._send(endpoint, ticket, request, now, fresh)
        assert isinstance(ticket, BilledTicket)
        try:
            response = await super()._send(endpoint, ticket, request, now, fresh)
        except SendAborted:
            ticket.release()
            raise
        if isinstance(response, Response):
            # A success is charged once its usage is read.
            if response.status in _MAY_BE_BILLED:
                ticket.charge_estimate()
            elif not 200 <= response.status < 300:
                ticket.release()
        elif isinstance(response, _NOT_SENT):
            ticket.release()
        else:
            ticket.charge_estimate()
        return response
