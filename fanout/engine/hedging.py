"""Hedged requests: a second request for rows whose answer takes long; the first valid answer counts.

After J. Dean and L. A. Barroso, "The Tail at Scale" (2013): hedged requests, deferred until the first one has taken
longer than most do, cost few extra requests and remove the slowest answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fanout.threads import ended
from fanout.types import Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fanout.engine.chunker import ChunkTask
    from fanout.statistics import Counters
    from fanout.types import Array
    from fanout.upstream.admission import Dispatcher, Ticket
    from fanout.upstream.group import EndpointGroup, EndpointState

    Outcome: TypeAlias = dict[str, Array] | Verdict
    Attempt: TypeAlias = Callable[[ChunkTask, Ticket, EndpointState | None], Awaitable[Outcome]]

_REMEMBERED = 1000

# Latencies that a 95th percentile needs.
_ENOUGH = 40

# New latencies after which the delay is computed again: to sort all of them costs more than a request.
_COMPUTED_EVERY = 20

_PERCENTILE = 0.95

# Multiple of the median that bounds the delay: where a tenth of the answers is slow, the 95th percentile is slow.
_MEDIANS = 3.0


class Hedger:
    """Decides when to hedge, and how often. It never waits, and is shared by all runs of a client.

    Args:
        share: most second requests, as a fraction of the first ones.
        delay: seconds after which one is sent; None: the 95th percentile of the last latencies, at most three times
            their median.
    """

    def __init__(self, *, share: float, delay: float | None) -> None:
        self._share = share
        self._fixed_delay = delay
        self._latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self._new = 0
        self._computed: float | None = None
        self._first_requests = 0
        self._hedges = 0

    @property
    def delay(self) -> float | None:
        """Seconds to wait for the first answer; None while too few latencies are known."""
        if self._fixed_delay is not None:
            return self._fixed_delay
        if self._new >= _COMPUTED_EVERY and len(self._latencies) >= _ENOUGH:
            self._new = 0
            high, median = np.quantile(self._latencies, (_PERCENTILE, 0.5))
            self._computed = float(min(high, _MEDIANS * median))
        return self._computed

    def on_first_request(self) -> None:
        """Count a first request."""
        self._first_requests += 1

    def on_latency(self, seconds: float) -> None:
        """Take in the time that a request took, or after which it was cancelled."""
        self._latencies.append(seconds)
        self._new += 1

    def take(self) -> bool:
        """Take a second request from the allowed share, if one is left."""
        # The share is of the first requests so far, so that a burst at the start cannot use up a whole run's.
        if self._hedges + 1 > self._share * self._first_requests:
            return False
        self._hedges += 1
        return True

    def give_back(self) -> None:
        """Return a second request that was not sent after all."""
        self._hedges -= 1


class HedgedAttempt:
    """One of the two attempts: an asyncio task with a ticket of its own."""

    def __init__(
        self, attempt: Attempt, task: ChunkTask, dispatcher: Dispatcher, only: EndpointState | None = None
    ) -> None:
        self.ticket: Ticket | None = None
        self._dispatcher = dispatcher
        self.running = asyncio.create_task(self._run(attempt, task, only))

    @property
    def won(self) -> bool:
        """True once it has a valid answer."""
        running = self.running
        return running.done() and not running.cancelled() and not isinstance(running.result(), Verdict)

    @property
    def sent_at(self) -> float | None:
        """Time at which the request was sent; None before that."""
        return None if self.ticket is None else self.ticket.sent_at

    async def _run(self, attempt: Attempt, task: ChunkTask, only: EndpointState | None) -> Outcome:
        # A deadline cancels the task that made it, so each attempt needs a ticket of its own.
        self.ticket = ticket = self._dispatcher.ticket()
        try:
            return await attempt(task, ticket, only)
        finally:
            ticket.close()


class HedgedRequests:
    """Makes attempts, and a second one beside each that takes longer than most."""

    def __init__(self, group: EndpointGroup, dispatcher: Dispatcher, counters: Counters) -> None:
        assert group.hedger is not None
        self._hedger = group.hedger
        self._balancer = group.balancer
        self._dispatcher = dispatcher
        self._counters = counters
        self._now = asyncio.get_running_loop().time

    async def run(self, attempt: Attempt, task: ChunkTask) -> tuple[Outcome, Ticket]:
        """The outcome of the first attempt, or of the second if that alone has a valid answer, or has it sooner."""
        self._hedger.on_first_request()
        first, second = HedgedAttempt(attempt, task, self._dispatcher), None
        try:
            # A second request while the first waits for its admission would only wait as well: the time counts from its
            # sending.
            if await self._takes_long(first):
                second = self._second(attempt, task, first)
            if second is not None:
                await asyncio.wait([first.running, second.running], return_when=asyncio.FIRST_COMPLETED)
                if not (first.won or second.won):  # the other attempt may still succeed
                    await asyncio.wait([first.running, second.running])
            # Without a valid answer of either the first one decides, so that hedging changes no verdict.
            decisive = second if second is not None and second.won and not first.won else first
            await asyncio.wait([decisive.running])
        finally:
            await self._end([first] if second is None else [first, second])
        if second is not None:
            self._count(second, won=decisive is second)
        assert decisive.ticket is not None
        return decisive.running.result(), decisive.ticket

    async def _end(self, attempts: Sequence[HedgedAttempt]) -> None:
        """Cancel the attempts that have not ended; their connections are closed then. A cancellation waits for it."""
        # Of an attempt that has ended this is without effect.
        for one in attempts:
            one.running.cancel()
        # Retrieves all exceptions: only the decisive attempt's is raised.
        await ended(asyncio.gather(*(one.running for one in attempts), return_exceptions=True))
        for one in attempts:
            if one.ticket is not None and one.ticket.latency is not None:
                self._hedger.on_latency(one.ticket.latency)

    async def _takes_long(self, first: HedgedAttempt) -> bool:
        """Wait for its end. True as soon as it has taken longer than most do, counted from its sending."""
        while (delay := self._hedger.delay) is not None:
            # Not sent yet: look again after the whole delay.
            since = self._now() if first.sent_at is None else first.sent_at
            left = since + delay - self._now()
            if left <= 0:
                return not first.running.done()
            done, _ = await asyncio.wait([first.running], timeout=left)
            if done:
                return False
        await asyncio.wait([first.running])
        return False

    def _second(self, attempt: Attempt, task: ChunkTask, first: HedgedAttempt) -> HedgedAttempt | None:
        """Start the second attempt, at another endpoint if there is one. That endpoint's retry budget pays for it."""
        asked = None if first.ticket is None else first.ticket.endpoint
        endpoint = self._balancer.choose(self._now(), avoid=() if asked is None else (asked,))
        if endpoint is None or not self._hedger.take():
            return None
        # An endpoint that fails must not get more load by hedging.
        if not endpoint.breaker.spend():
            self._hedger.give_back()
            return None
        return HedgedAttempt(attempt, task, self._dispatcher, only=endpoint)

    def _count(self, second: HedgedAttempt, *, won: bool) -> None:
        # It was cancelled before its admission, and cost nothing.
        if second.sent_at is None:
            self._hedger.give_back()
            return
        self._counters.traffic.hedges += 1
        self._counters.traffic.hedges_won += won
