"""One endpoint as its client sees it: the transport to it, and everything known about it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fanout.types import EndpointStatistics
from fanout.upstream.health import Health

if TYPE_CHECKING:
    from fanout.transport import EndpointClient
    from fanout.upstream.circuit_breaker import CircuitBreaker
    from fanout.upstream.cooldown import Cooldown, RateLimitHeaders


class EndpointState:
    """One endpoint, shared by all runs of a client.

    Args:
        breaker: bounds the requests while the endpoint fails.
        cooldown: bars requests for as long as the endpoint asks.
        rate_limit_headers: reads the quotas that its responses announce.
        weight: its share beside other endpoints of the same load.
    """

    def __init__(
        self,
        transport: EndpointClient,
        breaker: CircuitBreaker,
        cooldown: Cooldown,
        rate_limit_headers: RateLimitHeaders,
        weight: float,
    ) -> None:
        self.transport = transport
        self.breaker = breaker
        self.cooldown = cooldown
        self.rate_limit_headers = rate_limit_headers
        self.health = Health(weight)
        self.answered = False
        """An HTTP response of any kind has come: the endpoint exists."""

        self.served = False
        """It has answered rows: the credentials are valid for some."""

        self.not_ready_reason: str | None = None
        """Why its model is not known yet: such an endpoint gets no rows. None once it is ready."""

        self.excluded: str | None = None
        """Why it gets no request ever again."""

        self.renewed_at = -inf
        """When new headers were last obtained after a response that refused them with status 200."""

        self.requests = 0
        self.in_flight = 0

    @property
    def is_candidate(self) -> bool:
        """True if rows may be sent to it at some time: a cooldown or an open circuit only delays them."""
        return self.not_ready_reason is None and self.excluded is None

    def is_available(self, now: float) -> bool:
        """True if neither a cooldown nor an open circuit keeps a request from it."""
        return not self.breaker.is_open and self.cooldown.until <= now

    def load(self, now: float, unknown_latency: float) -> float:
        """Latency x (requests in flight + 1) / weight: the lower, the better a choice it is."""
        seconds = self.health.latency.seconds
        return (unknown_latency if seconds is None else seconds) * (self.in_flight + 1) / self.health.weight(now)

    def statistics(self) -> EndpointStatistics:
        """A frozen snapshot."""
        return EndpointStatistics(
            url=self.transport.shown_url,
            requests=self.requests,
            in_flight=self.in_flight,
            latency=self.health.latency.seconds,
            state="excluded" if not self.is_candidate else "ejected" if self.breaker.is_open else "in use",
            reason=self.excluded or self.not_ready_reason or "",
        )

    def __repr__(self) -> str:
        state = "excluded" if self.excluded else "ejected" if self.breaker.is_open else "in use"
        return f"<EndpointState {self.transport.shown_url} {state}, {self.in_flight} in flight>"
