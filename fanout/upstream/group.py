"""The link: what all runs of one client share about the endpoints that it talks to."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from fanout.limits import ConcurrencyLimiter, Cooldown, Cost
from fanout.limits.controller import ConcurrencyController
from fanout.limits.size_limits import SizeLimits
from fanout.process import room_for
from fanout.stop import WaitQueue
from fanout.upstream.balancer import Balancer
from fanout.upstream.circuit_breaker import CircuitBreaker
from fanout.upstream.decoding import Decoding
from fanout.upstream.endpoint import EndpointState
from fanout.upstream.hedge_policy import Hedger
from fanout.upstream.rate_limit_headers import RateLimitHeaders

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.task import ChunkTask
    from fanout.limits import RateLimiter, TokenMeter
    from fanout.settings import Hedge, Limits, RetryPolicy, Timeouts
    from fanout.stop import Stop
    from fanout.transport import EndpointClient, RowsSent

_log = logging.getLogger("fanout")


class EndpointGroup:
    """The endpoints, and the limits that hold for all of them together.

    Args:
        transports: one for each endpoint.
        weights: their shares, where they are not alike.
    """

    def __init__(
        self,
        transports: Sequence[EndpointClient],
        *,
        limits: Limits,
        retry: RetryPolicy,
        timeouts: Timeouts,
        rates: RateLimiter,
        meter: TokenMeter,
        hedge: Hedge | None = None,
        weights: Sequence[float] = (),
    ) -> None:
        self.limits = limits
        self.retry = retry
        self.timeouts = timeouts
        now = asyncio.get_running_loop().time
        auto = limits.concurrency == "auto"
        self.controller = (
            ConcurrencyController(now(), largest=limits.most_in_flight, changed=self._follow) if auto else None
        )
        self._most = room_for(limits.most_in_flight)
        """Requests in flight for which there are file descriptors."""
        self._short_reported = False
        if self._most < limits.most_in_flight:
            self._report_shortage()
        concurrency = min(self._most, limits.most_in_flight if self.controller is None else self.controller.limit)
        self.limiter = ConcurrencyLimiter(concurrency)
        self.followers: dict[Callable[[], None], None] = {}
        """Called when more or fewer requests may be in flight than before."""
        self.on_second_answer: dict[Callable[[str, Sequence[RowsSent]], None], None] = {}
        """Called when an endpoint has answered a request twice, with its URL and the rows that may be concerned."""
        self.rates = rates
        self.meter = meter
        self.hedger = Hedger(share=hedge.share, delay=hedge.delay) if hedge is not None and hedge.share else None
        self.wait_queue = WaitQueue()
        self.balancer = Balancer(
            [
                self._endpoint(transport, weight, concurrency, alone=len(transports) == 1)
                for transport, weight in zip(transports, weights or [1.0] * len(transports), strict=True)
            ],
            self.wait_queue,
        )
        self.requests = 0
        self.successes = 0
        """Chunks answered so far; if there is one, requests of this form can succeed. Metadata is none of them."""
        self.sizes = SizeLimits()
        """How large a request may be."""
        self._unguarded = limits.max_requests is None
        self.prepared: Codec | None = None
        """The codec with the metadata of the model, once an endpoint has sent it."""
        """The codec has learnt what an endpoint tells of its model."""
        self.preparing = asyncio.Lock()
        self.failed_preparations = 0
        self.why_not_prepared: Stop | None = None
        """The stop to which the last failed preparation led."""
        self.decoding = Decoding()

    def crowded(self, asker: object) -> bool:
        """More have a permit than there are now, and ``asker`` is not the probe for which the others may be waiting."""
        return self.limiter.in_use > self.limiter.total and not self.balancer.probes(asker)

    @property
    def chosen(self) -> int | None:
        """The limit on requests in flight that "auto" has come to; None where it is fixed."""
        return None if self.controller is None else self.controller.limit

    def _endpoint(self, transport: EndpointClient, weight: float, concurrency: int, *, alone: bool) -> EndpointState:
        now = asyncio.get_running_loop().time
        breaker = CircuitBreaker(
            concurrency=concurrency,
            budget=self.retry.budget,
            suspect_wait=self._patience(concurrency),
            changed=self.wait_queue.ring,
        )
        cooldown = Cooldown()
        transport.withhold_if(lambda: cooldown.wait(now()) > 0)
        transport.on_second_answer(partial(self._second_answer, transport.shown_url))
        # What one of several has left says nothing of how fast all of them together may be asked.
        eased = self.rates if alone else None
        heed = RateLimitHeaders(eased, cooldown, self.limiter, self.meter, longest=self.retry.max_pushback)
        return EndpointState(transport, breaker, cooldown, heed, weight)

    def _patience(self, concurrency: int) -> float:
        """So often that, in half of the time to a stall, every chunk in hand can use its attempts up as a probe."""
        return self.retry.stall / 2 / (concurrency * self.retry.max_attempts)

    def lower(self) -> None:
        """Have no more requests in flight than there are file descriptors for: the last one found none."""
        in_flight = sum(endpoint.pending for endpoint in self.balancer.endpoints)
        most = max(1, in_flight * 9 // 10)  # some are left for files and look-ups of names
        if most < self.limiter.total:
            self._most = most
            self._report_shortage()
            self._follow(most)

    def restore(self) -> None:
        """Try again, with a new run, whether there are more file descriptors than before."""
        if self._most < self.limits.most_in_flight:
            self._most = room_for(self.limits.most_in_flight)
            self._follow(self.limits.most_in_flight if self.controller is None else self.controller.limit)

    def _report_shortage(self) -> None:
        if not self._short_reported:
            self._short_reported = True
            _log.warning(
                "too few file descriptors for %d requests in flight: %d at most for now; raise the limit (ulimit -n), "
                "or lower limits.concurrency",
                self.limits.most_in_flight,
                self._most,
            )

    def _follow(self, concurrency: int) -> None:
        concurrency = min(concurrency, self._most)
        self.limiter.resize(concurrency)
        for endpoint in self.balancer.endpoints:
            endpoint.breaker.resize(concurrency, suspect_wait=self._patience(concurrency))
        for follow in list(self.followers):
            follow()

    async def look_over(self) -> None:
        """Look for second answers on the connections that are idle."""
        for endpoint in self.balancer.endpoints:
            await endpoint.transport.look_over()

    def _second_answer(self, url: str, rows: Sequence[RowsSent]) -> None:
        for report in list(self.on_second_answer):
            report(url, rows)

    @property
    def spent(self) -> bool:
        """True when no other request may be sent (``max_requests``)."""
        return self.limits.max_requests is not None and self.requests >= self.limits.max_requests

    @property
    def unlimited(self) -> bool:
        """True where no slot or number has to be reserved for a request."""
        return self._unguarded and not self.rates.active

    def cost(self, work: ChunkTask | None) -> Cost:
        """What one attempt of ``work`` takes from the rates; without one, what asking about the model does."""
        if work is None:
            return Cost()
        if self.rates.takes_tokens and (work.tokens is None or not self.meter.counts):
            assert work.payload is not None
            work.tokens = self.meter.of_request(work.rows, work.payload.nbytes)
        return Cost(rows=work.n, tokens=work.tokens or 0.0)

    def account(self, work: ChunkTask, usage: Mapping[str, int], now: float) -> None:
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
