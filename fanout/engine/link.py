"""The link: what all runs of one client share about its endpoint."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.brake import Brake
from fanout.engine.halt import Bell
from fanout.engine.heeding import Heed
from fanout.limits import Cost, Gate, Permits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.engine.work import Work
    from fanout.limits import RateLimiter, TokenMeter
    from fanout.settings import Limits, RetryPolicy, Timeouts
    from fanout.transport import Transport


class Link:
    """State of one endpoint as this client sees it."""

    def __init__(
        self,
        transport: Transport,
        *,
        limits: Limits,
        retry: RetryPolicy,
        timeouts: Timeouts,
        rates: RateLimiter,
        meter: TokenMeter,
    ) -> None:
        self.transport = transport
        self.limits = limits
        self.retry = retry
        self.timeouts = timeouts
        self.permits = Permits(limits.concurrency)
        self.rates = rates
        self.meter = meter
        self.gate = Gate()
        self.heed = Heed(rates, self.gate, self.permits, meter, longest=retry.max_pushback)
        now = asyncio.get_running_loop().time
        transport.withhold_if(lambda: self.gate.wait(now()) > 0)
        self.bell = Bell()
        # So often that, in half of the time to a stall, every chunk in hand can use its attempts up as a probe.
        patience = retry.stall / 2 / (limits.concurrency * retry.max_attempts)
        self.brake = Brake(
            concurrency=limits.concurrency, budget=retry.budget, suspect_wait=patience, changed=self.bell.ring
        )
        self.requests = 0
        self.answered = False
        """An HTTP answer of any kind has come: the endpoint exists."""
        self.successes = 0
        """Chunks answered so far; if there is one, requests of this form can succeed. Metadata is none of them."""
        self._unguarded = limits.max_requests is None
        self.prepared = False
        """The codec has learnt what the endpoint tells of its model."""
        self.preparing = asyncio.Lock()

    def unhindered(self, now: float) -> bool:
        """True where nothing keeps a request from going at once, and no slot or number has to be reserved for it."""
        return self._unguarded and not self.rates.active and not self.brake.braked and self.gate.wait(now) == 0

    def cost(self, work: Work | None) -> Cost:
        """What one attempt of ``work`` takes from the rates; without one, what asking about the model does."""
        if work is None:
            return Cost()
        if self.rates.takes_tokens and (work.tokens is None or not self.meter.counts):
            assert work.payload is not None
            work.tokens = self.meter.of_request(work.rows, work.payload.nbytes)
        return Cost(rows=work.n, tokens=work.tokens or 0.0)

    def account(self, work: Work, usage: Mapping[str, int], now: float) -> None:
        """Take note of what an answer says that it has cost. What was not charged before is charged now."""
        tokens = usage.get("total_tokens")
        if not tokens or work.payload is None:
            return
        self.meter.learn(work.payload.nbytes, tokens)
        if self.rates.takes_tokens and work.tokens is not None:
            more = tokens - work.tokens
            # A count is the user's own word: an answer may add to it what he could not know, but takes nothing back.
            if more > 0 or not self.meter.counts:
                self.rates.charge(now, more)

    @property
    def spent(self) -> bool:
        """True when no other request may be sent (``max_requests``)."""
        return self.limits.max_requests is not None and self.requests >= self.limits.max_requests
