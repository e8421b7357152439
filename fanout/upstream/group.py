"""The endpoints of one client and the limits that hold for them, shared by all of its runs.

Each endpoint has an `EndpointState`: the transport to it, and everything known about it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from fanout.limits import Accounts, Capacity, Cost
from fanout.limits.size_limits import SizeLimits
from fanout.results import EndpointStatistics
from fanout.retry import Backoff
from fanout.stop import WaitQueue
from fanout.upstream.balancer import Balancer
from fanout.upstream.circuit_breaker import CircuitBreaker
from fanout.upstream.health import Health
from fanout.upstream.reporting import RateLimitHeaders
from fanout.usage import tokens_used

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.hedging import Hedger
    from fanout.engine.validator import ResponseDecoder
    from fanout.limits import ConcurrencyLimiter, RateLimiter, TokenMeter
    from fanout.limits.shared_client import SharedLimits
    from fanout.prices import Prices
    from fanout.settings import Limits, RetryPolicy, Timeouts
    from fanout.stop import Stop
    from fanout.transport import CallHeaders, EndpointClient, RowsSent
    from fanout.types import ModelInfo, Rows

_log = logging.getLogger("fanout")


class EndpointState:
    """One endpoint, shared by all runs of a client.

    Args:
        breaker: bounds the requests while the endpoint fails.
        rate_limit_headers: reads the quotas that its responses announce.
        weight: its share beside other endpoints of the same load.
    """

    def __init__(
        self,
        transport: EndpointClient,
        breaker: CircuitBreaker,
        rate_limit_headers: RateLimitHeaders,
        weight: float,
    ) -> None:
        self.transport = transport
        self.breaker = breaker
        # The transport has it too, and looks at it once more when a connection is made, which may take seconds.
        self.cooldown = transport.cooldown
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
        # A cooldown and an open circuit end by themselves, so that neither takes an endpoint out of the choice.
        return self.not_ready_reason is None and self.excluded is None

    def is_available(self, now: float) -> bool:
        """True if neither a cooldown nor an open circuit keeps a request from it."""
        return not self.breaker.is_open and self.cooldown.until <= now

    def load(self, now: float, unknown_latency: float) -> float:
        """Latency x (requests in flight + 1) / weight: the lower, the better a choice it is."""
        seconds = self.health.latency.seconds
        # One more than in flight: an idle endpoint that is slow must not look as good as an idle one that is quick.
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
        known = self.statistics()
        return f"<EndpointState {known.url} {known.state}, {known.in_flight} in flight>"


class RequestCosts:
    """The units that requests take from the rates: rows, and tokens as counted, estimated or reported."""

    def __init__(self, rates: RateLimiter, meter: TokenMeter) -> None:
        self.rates = rates
        self.meter = meter

    def of(self, task: ChunkTask | None) -> Cost:
        """The units of the rates that one attempt of ``task`` takes; None is a request for metadata."""
        if task is None:
            return Cost()
        # An estimate is made anew for each attempt, since it improves with each response; a count stays.
        if self.rates.takes_tokens and (task.tokens is None or not self.meter.counts):
            assert task.payload is not None
            task.tokens = self.meter.of_request(task.rows, task.payload.nbytes)
        return Cost(rows=task.n, tokens=task.tokens or 0.0)

    def charge(self, task: ChunkTask, usage: Mapping[str, int], now: float) -> None:
        """Charge the tokens that a response reports beyond those charged before, and learn from them."""
        tokens = tokens_used(usage)
        # Some APIs report no usage of a response that they have cut off.
        if not tokens or task.payload is None:
            return
        self.meter.learn(task.payload.nbytes, tokens)
        if self.rates.takes_tokens and task.tokens is not None:
            more = tokens - task.tokens
            # The user's own count stands: a response may add tokens that the user could not know, but returns none.
            if more > 0 or not self.meter.counts:
                self.rates.charge(now, more)


class Metadata:
    """The metadata of the model. Runs that begin together request it once and share the outcome."""

    def __init__(self) -> None:
        self.codec: Codec | None = None
        """The codec with the metadata of the model, once an endpoint has sent it."""

        self.model: ModelInfo | None = None
        """The model of the first of several endpoints; the others have to serve the same one."""

        # Held while one run fetches the metadata, so that the others wait for its outcome rather than fetch too.
        self.lock = asyncio.Lock()
        self.failures = 0
        self.stop: Stop | None = None
        """The stop that the last failure led to."""

        self.failed_with: CallHeaders | None = None
        """The header fields of the call that failed, which may be to blame."""


class Answered:
    """The answers so far of all endpoints of a group, from which failures are judged."""

    __slots__ = ("chunks", "row", "sent_at", "sizes")

    def __init__(self) -> None:
        self.chunks = 0
        """Chunks answered, metadata not included. One shows that requests of this form can succeed."""

        # The sending counts, not the answer: an answer to an early request says nothing of the endpoint now.
        self.sent_at = -inf
        """Time at which the last of the requests was sent that have been answered."""

        self.row: Rows | None = None
        """A row that the last run had answered, for a control request of the next one."""

        self.sizes = SizeLimits()
        """The largest requests that the endpoints take, as their answers and refusals show."""


class EndpointGroup:
    """The endpoints that serve one model, and the limits that hold for all of them together.

    Args:
        transports: one for each endpoint.
        hedger: decides on second requests; None sends none.
        decoder: decodes large responses.
        weights: their shares; equal ones if empty.
        prices: of the API; None without any.
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
        hedger: Hedger | None = None,
        decoder: ResponseDecoder,
        weights: Sequence[float] = (),
        prices: Prices | None = None,
    ) -> None:
        self.retry = retry
        self.backoff = Backoff(retry)
        self.timeouts = timeouts
        self.capacity = Capacity(limits, asyncio.get_running_loop().time())
        self.costs = RequestCosts(rates, meter)
        self.accounts = Accounts(prices, limits, meter)
        self.hedger = hedger
        self.decoder = decoder
        wait_queue = WaitQueue()
        self.balancer = Balancer(
            [
                self._endpoint(transport, weight, wait_queue.notify_all, alone=len(transports) == 1)
                for transport, weight in zip(transports, weights or [1.0] * len(transports), strict=True)
            ],
            wait_queue,
        )
        # Before the listeners of runs, so that these find breakers of the new size.
        self.capacity.listeners[self._resize_breakers] = None
        self.metadata = Metadata()
        self.answered = Answered()
        self.on_second_answer: dict[Callable[[EndpointState, Sequence[RowsSent]], None], None] = {}
        """Called with an endpoint that answered a request twice, and the rows whose answers may be those of others."""

    @property
    def limiter(self) -> ConcurrencyLimiter:
        """The limiter of requests in flight."""
        return self.capacity.limiter

    @property
    def shared(self) -> SharedLimits | None:
        """The limits that other processes share; None without any."""
        return self.costs.rates.shared

    def cause_of_stall(self) -> Stop | None:
        """Return the stop for a run in which nothing succeeds, if the limits that processes share are the cause."""
        return None if self.shared is None or not self.shared.needs_claims else self.shared.stop_if_lost()

    @property
    def requests(self) -> int:
        """Requests sent so far, metadata included."""
        return sum(endpoint.requests for endpoint in self.balancer.endpoints)

    async def check_idle_connections(self) -> None:
        """Look for second answers on the connections that are idle."""
        for endpoint in self.balancer.endpoints:
            await endpoint.transport.look_over()

    def _endpoint(
        self, transport: EndpointClient, weight: float, changed: Callable[[], None], *, alone: bool
    ) -> EndpointState:
        concurrency = self.limiter.limit
        breaker = CircuitBreaker(
            concurrency=concurrency,
            budget=self.retry.budget,
            suspect_wait=self._suspect_wait(concurrency),
            changed=changed,
        )
        # The quota of one endpoint among several does not bound the rate of all of them together.
        rates = self.costs.rates if alone else None
        headers = RateLimitHeaders(
            rates, transport.cooldown, self.limiter, self.costs.meter, longest=self.retry.max_pushback
        )
        endpoint = EndpointState(transport, breaker, headers, weight)
        transport.on_second_answer(partial(self._second_answer, endpoint))
        return endpoint

    def _second_answer(self, endpoint: EndpointState, rows: Sequence[RowsSent]) -> None:
        if not self.on_second_answer:
            # Its run has returned its answers by now: a log record is all that is left.
            _log.warning(
                "%s answered a request twice, which was seen after the run: the last answers of each connection to it "
                "may be those of other rows; where the server repeats a request's id in its answer, set "
                "request_id_header",
                endpoint.transport.shown_url,
            )
        # A copy, as a report may end a run, which then removes its own.
        for report in list(self.on_second_answer):
            report(endpoint, rows)

    def _resize_breakers(self) -> None:
        concurrency = self.limiter.limit
        for endpoint in self.balancer.endpoints:
            endpoint.breaker.resize(concurrency, suspect_wait=self._suspect_wait(concurrency))

    def _suspect_wait(self, concurrency: int) -> float:
        """A wait with which every chunk in flight can use up its attempts as a trial in half of the time to a stall."""
        return self.retry.stall / 2 / (concurrency * self.retry.max_attempts)
