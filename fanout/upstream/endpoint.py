"""A host: one endpoint as this client sees it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from fanout.types import EndpointStatistics
from fanout.upstream import Health, PeakEwma

if TYPE_CHECKING:
    from fanout.limits import Cooldown
    from fanout.transport import EndpointClient
    from fanout.types import Verdict
    from fanout.upstream.circuit_breaker import CircuitBreaker
    from fanout.upstream.rate_limit_headers import RateLimitHeaders


class EndpointState:
    """The transport to one endpoint, and all that is known of it.

    Args:
        breaker: bounds what may be spent on it while it fails.
        cooldown: shut while it wants no request.
        heed: reads what its answers say is left of an allowance.
        weight: its share beside other endpoints of the same load.
    """

    def __init__(
        self,
        transport: EndpointClient,
        breaker: CircuitBreaker,
        cooldown: Cooldown,
        heed: RateLimitHeaders,
        weight: float,
    ) -> None:
        self.transport = transport
        self.breaker = breaker
        self.cooldown = cooldown
        self.heed = heed
        self.answered = False
        """An HTTP answer of any kind has come: the endpoint exists."""

        self.served = False
        """It has answered rows: the credentials are good for some."""

        self.forbidden: set[int] = set()
        """The chunks (their first rows) that it has answered with 403 since it answered any with success."""

        self.renewed_at = -inf
        """When new headers were last had after an answer that refused them with status 200."""

        self.requests = 0
        self.pending = 0
        self.latency = PeakEwma()
        self.health = Health()
        self.out: Verdict | None = None
        """Why it is never asked again."""

        self.welcome = True
        """It serves what the others do, as far as can be asked; an endpoint that is not welcome yet gets no rows."""

        self.unheard = ""
        """Why it has not told yet what it serves."""

        self.misfits = 0
        """Answers in a row that look unlike those of the others."""

        self.overloaded_at = -inf
        """When it last had too much to do."""

        self._weight = weight

    @property
    def present(self) -> bool:
        """It is one of those that are asked, be it not at this moment."""
        return self.welcome and self.out is None

    def weight(self, now: float) -> float:
        """Its share beside others of the same load, smaller while it comes back from an ejection."""
        return self._weight * self.health.ramp(now)

    def open(self, now: float) -> bool:
        """True where nothing that it has done or said keeps a request from going to it at once."""
        return not self.breaker.braked and self.cooldown.wait(now) == 0

    def statistics(self) -> EndpointStatistics:
        """How it stands."""
        return EndpointStatistics(
            url=self.transport.shown_url,
            requests=self.requests,
            in_flight=self.pending,
            latency=self.latency.seconds,
            state="excluded" if not self.present else "ejected" if self.breaker.braked else "in use",
            reason=self.out.reason if self.out is not None else "" if self.welcome else self.unheard,
        )

    def __repr__(self) -> str:
        state = "excluded" if self.out else "braked" if self.breaker.braked else "in"
        return f"<Host {self.transport.shown_url} {state}, {self.pending} pending>"
