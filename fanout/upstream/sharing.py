"""Sharing: admission for clients whose limits hold for several processes together. Each request makes a `Claim` first.

A client without ``limits.shared`` uses `fanout.upstream.admission` as it is, so that its requests pay nothing for this.
"""

from __future__ import annotations

from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, Any

from fanout.limits.rates import RateLimiter
from fanout.limits.shared import Want, bounds_of, open_backend
from fanout.limits.shared_client import SharedLimits
from fanout.settings import Limits
from fanout.transport import SendAborted
from fanout.types import Action, Verdict
from fanout.upstream.admission import Dispatcher, Ticket, Wait
from fanout.upstream.billing import BilledDispatcher, BilledTicket
from fanout.upstream.group import EndpointState

if TYPE_CHECKING:
    from types import TracebackType

    from fanout.engine.chunker import ChunkTask
    from fanout.errors import TransportError
    from fanout.limits import Account, Reservation
    from fanout.limits.shared_client import Claim
    from fanout.types import Response
    from fanout.upstream.admission import Decision
    from fanout.upstream.group import EndpointGroup

# Seconds by which a sum of times may be off. A timer as short as that would fire at once, again and again.
_ROUNDING = 1e-9


class SharedRates(RateLimiter):
    """The rates of one client whose configured rates are shared: here are those that its endpoint announces."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Limits())
        self._shares_tokens = any(name.startswith("tokens") for name in limits.rates)
        self.takes_tokens = self._shares_tokens

    def is_stale(self, reservation: Reservation, now: float) -> bool:
        """See `RateLimiter.is_stale`. The wait for a claim makes no reservation too late."""
        return super().is_stale(reservation, reservation.start)

    def charge(self, now: float, tokens: float) -> None:
        """See `RateLimiter.charge`."""
        super().charge(now, tokens)
        if self.shared is not None and self._shares_tokens:
            self.shared.charge(tokens)

    def _adopt(self) -> None:
        super()._adopt()
        self.takes_tokens = self.takes_tokens or self._shares_tokens


async def share_limits(group: EndpointGroup, limits: Limits) -> None:
    """Open the shared limits of ``group``, as ``limits`` say. Raises `ConfigError` if they cannot be used."""
    assert limits.shared is not None
    cooldowns = {digest(endpoint): endpoint.cooldown for endpoint in group.balancer.endpoints}
    key = limits.shared_key or _digest("\n".join(sorted(cooldowns)))
    backend = open_backend(limits.shared, key, bounds_of(limits))
    shared = SharedLimits(backend, cooldowns, longest=group.retry.max_pushback)
    await shared.open()
    assert isinstance(group.costs.rates, SharedRates)
    group.costs.rates.shared = shared


def digest(endpoint: EndpointState) -> str:
    """Return the name of an endpoint in messages: equal for all processes, and without secrets."""
    return _digest(endpoint.transport.shown_url)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


class Claiming:
    """The part of a ticket that owns the claim of a request which is not sent yet."""

    claim: Claim | None = None
    shared: SharedLimits

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back_claim()
        await super().__aexit__(kind, error, trace)  # type: ignore[misc]

    def give_back_claim(self) -> None:
        """Return the claim, since no request is sent with it."""
        if self.claim is not None:
            self.shared.give_back(self.claim)
            self.claim = None


class SharedTicket(Claiming, Ticket):
    """See `Ticket` and `Claiming`."""


class SharedBilledTicket(Claiming, BilledTicket):
    """See `BilledTicket` and `Claiming`."""

    def give_back_claim(self) -> None:
        """See `Claiming.give_back_claim`. The estimate is returned, too: a request that is not sent is not billed."""
        if self.claim is not None:
            self.release()
        super().give_back_claim()


class SharedDispatcher(Dispatcher):
    """Sends requests within limits that other processes share."""

    def __init__(self, group: EndpointGroup, *args: Any, **options: Any) -> None:
        assert group.shared is not None
        super().__init__(group, *args, **options)
        self._shared = group.shared

    def ticket(self) -> Ticket:
        """See `Dispatcher.ticket`."""
        ticket = SharedTicket(self._group, self.reporter, urgent=self.call.urgent)
        ticket.shared = self._shared
        return ticket

    def decide(self, ticket: Ticket, task: ChunkTask | None, only: EndpointState | None, now: float) -> Decision:
        """Decide as `Dispatcher.decide` does, and claim a start of the shared limits as the last step."""
        assert isinstance(ticket, Claiming)
        decision = super().decide(ticket, task, only, now)
        if not isinstance(decision, EndpointState):
            # A start kept through a cooldown would let all requests go at once after it.
            ticket.give_back_claim()
            return decision
        claim, late = ticket.claim, None
        if claim is not None and self._shared.is_late(claim, now):
            # Not through the ticket, which would return its estimate of the cost as well.
            self._shared.give_back(claim)
            claim, late = None, claim
        if claim is None:
            want = self._want(decision, ticket, task)
            claim = ticket.claim = self._shared.claim(want, urgent=self.call.urgent, instead_of=late)
        if claim.refused is not None:
            # No request will use it, and other processes may.
            ticket.give_back_claim()
            return Verdict(action=Action.STOP, reason=claim.refused.reason, stop=claim.refused.kind)
        if claim.start is None:
            return Wait(inf, claim.queue)
        # After the wait it is decided anew, since the start may be taken back meanwhile.
        return Wait(claim.start - now, claim.queue) if claim.start > now + _ROUNDING else decision

    def _want(self, endpoint: EndpointState, ticket: Ticket, task: ChunkTask | None) -> Want:
        return Want(digest(endpoint), self._group.costs.of(task))

    async def _send(
        self, endpoint: EndpointState, ticket: Ticket, request: ChunkTask | str, now: float, fresh: bool
    ) -> Response | TransportError:
        assert isinstance(ticket, Claiming)
        claim, ticket.claim = ticket.claim, None
        assert claim is not None
        self._shared.sent(claim)
        aborted = False
        try:
            return await super()._send(endpoint, ticket, request, now, fresh)
        except SendAborted:
            aborted = True
            raise
        finally:
            self._shared.finished(aborted=aborted)


class SharedBilledDispatcher(SharedDispatcher, BilledDispatcher):
    """Sends requests within the limits of an account, and within limits that other processes share."""

    def __init__(self, *args: Any, account: Account, **options: Any) -> None:
        super().__init__(*args, account=account, **options)
        self._shared.add_account(account)

    def ticket(self) -> BilledTicket:
        """See `Dispatcher.ticket`."""
        ticket = SharedBilledTicket(self._group, self.reporter, self._account, self._spending, urgent=self.call.urgent)
        ticket.shared = self._shared
        return ticket

    def _want(self, endpoint: EndpointState, ticket: Ticket, task: ChunkTask | None) -> Want:
        assert isinstance(ticket, BilledTicket)
        want = super()._want(endpoint, ticket, task)
        amount = ticket.reserved_amount
        return want._replace(price=amount.cost, tokens=amount.tokens)
