"""Capacity: how many requests may be in flight at once, fixed by the settings or found by `Adaptive`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from fanout.process import room_for
from fanout.stop import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.settings import Limits

_log = logging.getLogger("fanout")

_MOST_URGENT_IN_A_ROW = 3

_SHORTAGE = "the process has too few file descriptors"

# Reasons for a change of the adaptive limit, by whether an answer led to it (else a refusal), and whether it rose.
_CAUSES = {
    (True, True): "more requests in flight brought more answers a second, or a lower limit had not shortened latency",
    (True, False): "more requests in flight only made each take longer",
    (False, True): "a lower limit had not made refusals rarer",
    (False, False): "the endpoint refused requests or let them time out",
}


class ConcurrencyLimiter:
    """A limit on the requests in flight, granted in the order of asking (anyio calls one a CapacityLimiter).

    Urgent requests go before all others, up to 3 in a row while others wait, so that none of them waits for ever.

    ::

        await limiter.acquire()
        try:
            ...
        finally:
            limiter.release()
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.peak = 0
        """Most requests in flight so far."""

        self.waiters: deque[asyncio.Future[None]] = deque()
        """Requests that wait for a slot; there are none while one is free."""

        self.urgent_waiters: deque[asyncio.Future[None]] = deque()
        self._urgent_in_a_row = 0
        self.urgency = WaitQueue()
        """Notified when an urgent request begins to wait: holders of slots that wait themselves can return theirs."""

    def acquire_nowait(self) -> bool:
        """Take a slot if one is free and no one waits for it. False otherwise."""
        # Every slot that is returned, or added by a higher limit, goes to those that wait, as long as there are any.
        if self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        if self.in_flight > self.peak:
            self.peak = self.in_flight
        return True

    def admits(self, *, urgent: bool, besides: int) -> bool:
        """True while fewer wait, in one priority, than there are slots, or some are free; ``besides`` so many more."""
        waiting = len(self.urgent_waiters if urgent else self.waiters) + besides
        return waiting < self.limit + max(0, self.limit - self.in_flight)

    async def acquire(self, *, urgent: bool = False) -> None:
        """Take a slot, and wait for one if none is free."""
        if self.acquire_nowait():
            return
        waiter = asyncio.get_running_loop().create_future()
        (self.urgent_waiters if urgent else self.waiters).append(waiter)
        if urgent:
            self.urgency.notify_one()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # the slot was handed over at the very moment of the cancellation
            raise

    def release(self) -> None:
        """Return a slot. The task that has waited longest gets it at once, so that no newcomer overtakes it."""
        # After the limit was lowered, slots are returned until it holds again.
        if (self.waiters or self.urgent_waiters) and self.in_flight <= self.limit and self._hand_over():
            return
        self.in_flight -= 1

    def exchange(self, slots: int) -> None:
        """Return one slot and take ``slots`` others, beyond the limit if need be."""
        if slots:
            self.in_flight += slots - 1
            self.peak = max(self.peak, self.in_flight)
        else:
            self.release()

    def resize(self, limit: int) -> None:
        """Set another limit. A higher one serves waiters at once; under a lower one, holders keep their slots."""
        self.limit = limit
        while self.in_flight < limit and self._hand_over():
            self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for a slot."""
        return sum(not waiter.done() for waiter in (*self.urgent_waiters, *self.waiters))

    @property
    def is_urgent(self) -> bool:
        """True while an urgent request waits for a slot."""
        return any(not waiter.done() for waiter in self.urgent_waiters)

    def _hand_over(self) -> bool:
        while self.waiters or self.urgent_waiters:
            # Others get every fourth slot, even if urgent requests keep coming.
            urgent = self.urgent_waiters and (not self.waiters or self._urgent_in_a_row < _MOST_URGENT_IN_A_ROW)
            waiter = (self.urgent_waiters if urgent else self.waiters).popleft()
            if not waiter.done():
                self._urgent_in_a_row = self._urgent_in_a_row + 1 if urgent else 0
                waiter.set_result(None)
                return True
        return False

    def __repr__(self) -> str:
        return f"<ConcurrencyLimiter {self.in_flight}/{self.limit} in flight, {self.waiting} waiting>"


class Flight:
    """One request as `ConcurrencyController` sees it. Times are those of the event loop, in seconds."""

    __slots__ = ("ended_at", "in_flight", "in_flight_seconds", "sent_at")
    ended_at: float
    in_flight: float
    """Requests in flight while this one was, averaged over time; like the end, set by `on_end`."""

    def __init__(self, sent_at: float, in_flight_seconds: float) -> None:
        self.sent_at = sent_at
        self.in_flight_seconds = in_flight_seconds
        """The controller's integral of requests in flight over time, when this request was sent."""


class ConcurrencyController:
    """Measures requests and has the limit set that `Adaptive` derives from them. It knows no clock and never waits.

    A request that waits for a rate, a cooldown or a circuit breaker holds a slot of the limiter, but is not in flight:
    the endpoint does not feel it.

    Args:
        now: the time.
        largest: no limit above this one is tried.
        changed: called with every new limit.
    """

    def __init__(self, now: float, *, largest: int, changed: Callable[[int], None]) -> None:
        from fanout.limits.adaptive import Adaptive  # only for "auto"

        self._adaptive = Adaptive(now, largest=largest)
        self._changed = changed
        self._now = now
        self._in_flight = 0
        self._in_flight_seconds = 0.0
        self.cause = ""
        """Reason for the last change of the limit."""

    @property
    def limit(self) -> int:
        """The present limit on requests in flight."""
        return self._adaptive.limit

    def on_send(self, now: float) -> Flight:
        """Note that a request is sent."""
        self._catch_up(now)
        self._in_flight += 1
        self._adaptive.sent()
        return Flight(now, self._in_flight_seconds)

    def on_end(self, flight: Flight, now: float) -> None:
        """Note that a request is no longer in flight, for whatever reason. `on_result` may follow."""
        self._catch_up(now)
        lasted = now - flight.sent_at
        # An average, because many requests may end together, and the first one sent after them would seem to be alone.
        flight.in_flight = (
            (self._in_flight_seconds - flight.in_flight_seconds) / lasted if lasted > 0 else self._in_flight
        )
        flight.ended_at = now
        self._in_flight -= 1

    def on_result(self, flight: Flight, *, success: bool, overload: bool, certain: bool, timed_out: bool) -> None:
        """Take in the result of a request that has ended.

        An overload is ``certain`` if the endpoint said that it receives too many requests (429). Otherwise only
        failures in excess of the usual share count as an overload.
        """
        adaptive, before = self._adaptive, self.limit
        if success:
            adaptive.succeeded(flight.ended_at, sent=flight.sent_at, in_flight=flight.in_flight)
        elif overload:
            adaptive.overloaded(
                flight.ended_at,
                sent=flight.sent_at,
                in_flight=flight.in_flight,
                certain=certain,
                timed_out=timed_out,
            )
        if self.limit != before:
            self.cause = _CAUSES[success, self.limit > before]
            self._changed(self.limit)

    def _catch_up(self, now: float) -> None:
        self._in_flight_seconds += self._in_flight * (now - self._now)
        self._now = now


class Capacity:
    """The limit on requests in flight of one client, within the file descriptors that the process has.

    Args:
        limits: settings; ``concurrency`` is a number or ``"auto"``.
        now: the time.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.most = limits.most_in_flight
        self.controller = (
            ConcurrencyController(now, largest=self.most, changed=self._resize)
            if limits.concurrency == "auto"
            else None
        )
        self._affordable = room_for(self.most)
        self._shortage_reported = False
        if self._affordable < self.most:
            self._report_shortage()
        self.limiter = ConcurrencyLimiter(min(self._affordable, self._wanted))
        self.listeners: dict[Callable[[], None], None] = {}
        """Called, in this order, after the limit has changed."""

    @property
    def chosen(self) -> int | None:
        """The limit that "auto" has found; None if the settings fix it."""
        return None if self.controller is None else self.controller.limit

    @property
    def cause(self) -> str:
        """Reason for the last change of the limit."""
        if self.controller is None or self.limiter.limit < self.controller.limit:
            return _SHORTAGE
        return self.controller.cause

    def lower(self, in_flight: int) -> None:
        """Reduce the limit because a connection found no file descriptor while ``in_flight`` requests had one."""
        affordable = max(1, in_flight * 9 // 10)  # files and DNS look-ups need some descriptors, too
        if affordable < self.limiter.limit:
            self._affordable = affordable
            self._report_shortage()
            self._resize(affordable)

    def restore(self) -> None:
        """Check, before a new run, whether more file descriptors are free than at the last shortage."""
        # Without a shortage there is nothing to restore, and the process need not be looked at.
        if self._affordable < self.most:
            self._affordable = room_for(self.most)
            self._resize(self._wanted)

    @property
    def _wanted(self) -> int:
        return self.most if self.controller is None else self.controller.limit

    def _resize(self, limit: int) -> None:
        self.limiter.resize(min(limit, self._affordable))
        for listener in list(self.listeners):
            listener()

    def _report_shortage(self) -> None:
        if not self._shortage_reported:
            self._shortage_reported = True
            _log.warning(
                "too few file descriptors for %d requests in flight: %d at most for now; raise the limit (ulimit -n), "
                "or lower limits.concurrency",
                self.most,
                self._affordable,
            )
