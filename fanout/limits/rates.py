"""Rates: how many requests, rows and tokens go in a second or a minute. Several at once, and kept by several clients.

The generic cell rate algorithm (ITU-T I.371), which is a token bucket that remembers one time: the theoretical arrival
time, at which all that was let through will have been paid for.
"""

from __future__ import annotations

import threading
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.errors import ConfigError
from fanout.options import checks_options

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from fanout.limits.shared_client import SharedLimits
    from fanout.settings import Limits

_PERIODS = {"second": 1.0, "minute": 60.0}

# A start that is not used is lost. With 0.02, eight processes on two busy processors used 72 % of a rate; with 0.1 all.
LATEST = 0.1
"""Seconds by which any start may be used late. A window may hold that part of the rate more."""


class Cost(NamedTuple):
    """The amount that one request takes from the rates."""

    requests: float = 1.0
    rows: float = 0.0
    tokens: float = 0.0


class Reservation:
    """A reserved start. Its holder may give it back until that time has come."""

    __slots__ = ("cost", "generation", "is_final", "start", "urgent")

    def __init__(
        self, start: float, cost: Cost, generation: int, *, urgent: bool = False, is_final: bool = False
    ) -> None:
        self.start = start
        """An urgent reservation may postpone it."""
        self.cost = cost
        self.urgent = urgent
        self.is_final = is_final
        """It may be used however late."""
        self.generation = generation
        """The generation of the rates under which it was made."""


class RateLimiter:
    """Keeps the rates of ``limits``: in no window of s seconds does more go than rate x s and the burst.

    The burst is ``limits.burst`` of the rate's own second or minute, or one request, whichever is more: a request that
    is larger than that goes alone, once all before it is paid for, and pays its time. Time in which nothing was asked
    for is saved up to the burst.

    Give one object to several clients as their ``limits``, and they keep the rates together, in any threads and event
    loops of one process (loops have one clock: ``time.monotonic``). ``limits.concurrency`` and ``limits.max_requests``
    are for each client alone.
    """

    shared: SharedLimits | None = None
    """The limits that other processes share; None without any."""

    @checks_options
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        # Clients in several threads may share one limiter.
        self._lock = threading.Lock()
        self._lasting = list(_buckets_of(limits))
        self._announced: dict[Hashable, _Bucket] = {}
        self._buckets = self._lasting
        # Reservations that may still be given back, in order.
        self._ahead: deque[Reservation] = deque()
        self._generation = 0
        self.active = bool(self._buckets)
        """False if there is no rate, so that no reservation is needed."""
        self.takes_tokens = any(bucket.unit == "tokens" for bucket in self._buckets)
        """True if a `Cost` has to state the tokens."""

    def reserve(self, now: float, cost: Cost, *, urgent: bool = False, is_final: bool = False) -> Reservation:
        """The first start, now or later, that all rates allow; it is taken from all of them or from none.

        One that is ``urgent`` goes before all that are not, and whose start has not come yet.
        """
        reservation = Reservation(now, cost, self._generation, urgent=urgent, is_final=is_final)
        with self._lock:
            self._settle(now)
            # They are reserved anew behind the urgent one, in their order.
            postponed = [other for other in self._ahead if not other.urgent] if urgent else []
            if postponed:
                self._ahead = deque(other for other in self._ahead if other.urgent)
                self._recount()
            for each in (reservation, *postponed):
                # All rates decide on the start before any is charged: a rate must not count the wait for another one.
                for bucket in self._buckets:
                    each.start = max(each.start, bucket.earliest(each.cost))
                self._ahead.append(each)
                for bucket in self._buckets:
                    bucket.latest = bucket.after(bucket.latest, each)
        return reservation

    def give_back(self, reservation: Reservation | None) -> None:
        """Return a reservation, because no request is sent with it. Does nothing once its start has passed."""
        with self._lock:
            if reservation is not None and reservation in self._ahead:
                self._ahead.remove(reservation)
                self._recount()

    def is_stale(self, reservation: Reservation, now: float) -> bool:
        """Return True if another reservation has to be made, because of a smaller quota or because it is too late.

        A process that stood still would else send at once all that it has missed. A request may be as late as the time
        that it pays for, since the next start comes no sooner.
        """
        if reservation.generation != self._generation:
            return True
        late = now - reservation.start
        if late <= LATEST or reservation.is_final:
            return False
        with self._lock:
            return all(late > bucket.seconds(reservation.cost) for bucket in self._buckets)

    def charge(self, now: float, tokens: float) -> None:
        """Charge the ``tokens`` that a request took beyond its reservation; refund them if negative."""
        with self._lock:
            self._settle(now)
            for bucket in self._buckets:
                if bucket.unit == "tokens":
                    # As if the tokens had been reserved in time: the next requests wait for them.
                    bucket.settled += tokens * bucket.interval
            self._recount()

    def throttle(
        self, name: Hashable, unit: str, left: float, seconds: float, now: float, *, each: float = 1.0
    ) -> None:
        """Spread the ``left`` requests or tokens over the next ``seconds``, beside the rates of the settings.

        ``unit`` is a field of `Cost`, of which one request takes ``each``: the first waits for that. Another call
        with the same ``name`` replaces this one. The next start then pays for the one before it, so that a header in
        every answer does not let one more request go each time.
        """
        with self._lock:
            self._settle(now)
            known = self._announced.get(name)
            bucket = _Bucket(unit, seconds / left, 0.0, until=now + seconds)
            # A quota that is announced again goes on from what was paid under the one before.
            bucket.settled = now + each * bucket.interval if known is None else known.settled
            self._announced[name] = bucket
            self._adopt()
            if known is None:  # earlier reservations may exceed the remaining quota
                self._generation += 1
                self._ahead.clear()
            self._recount()

    def unthrottle(self, name: Hashable) -> None:
        """End the throttling of `throttle`, because enough remains."""
        # Looked at without the lock, because most responses end no throttle.
        if name in self._announced:
            with self._lock:
                self._announced.pop(name, None)
                self._adopt()

    def _settle(self, now: float) -> None:
        """Settle the reservations whose start has passed: they count as used."""
        while self._ahead and self._ahead[0].start <= now:
            reservation = self._ahead.popleft()
            for bucket in self._buckets:
                bucket.settled = bucket.after(bucket.settled, reservation)
        if self._announced and any(bucket.until <= now for bucket in self._announced.values()):
            self._announced = {name: bucket for name, bucket in self._announced.items() if bucket.until > now}
            self._adopt()

    def _recount(self) -> None:
        """Compute the next free start anew, from the reservations that are left."""
        for bucket in self._buckets:
            bucket.latest = bucket.settled
            for reservation in self._ahead:
                bucket.latest = bucket.after(bucket.latest, reservation)

    def _adopt(self) -> None:
        self._buckets = [*self._lasting, *self._announced.values()]
        self.active = bool(self._buckets)
        self.takes_tokens = any(bucket.unit == "tokens" for bucket in self._buckets)

    def __reduce__(self) -> tuple[Any, ...]:
        raise ConfigError(
            "a RateLimiter holds for one process: for several, give each Limits(shared=...) with the URL of a Redis",
            key="limits",
        )

    def __repr__(self) -> str:
        rates = ", ".join(f"{1 / bucket.interval:g} {bucket.unit}/s" for bucket in self._buckets)
        return f"<RateLimiter {rates or 'without rates'}, {len(self._ahead)} starts reserved>"


class _Bucket:
    """One rate.

    Args:
        interval: seconds that one unit pays for.
        capacity: units that may go at once, if that is more than one request has.
        until: when the rate ends.
    """

    __slots__ = ("_place", "capacity", "interval", "latest", "settled", "unit", "until")

    def __init__(self, unit: str, interval: float, capacity: float, until: float = inf) -> None:
        self.unit = unit
        self.interval = interval
        self.capacity = capacity
        self.until = until
        self.settled = -inf
        """When all that has started is paid for."""
        self.latest = -inf
        """The same, with the reservations ahead."""
        self._place = Cost._fields.index(unit)

    def seconds(self, cost: Cost) -> float:
        """Return the time that ``cost`` pays for."""
        return cost[self._place] * self.interval

    def earliest(self, cost: Cost) -> float:
        """When ``cost`` may start: once the bucket holds it, or is full."""
        units = cost[self._place]
        if not units:
            return -inf
        return min(self.until, self.latest - max(0.0, self.capacity - units) * self.interval)

    def after(self, paid: float, reservation: Reservation) -> float:
        """When all is paid for if that was at ``paid`` before ``reservation``."""
        units = reservation.cost[self._place]
        return max(paid, reservation.start) + units * self.interval if units else paid


def _buckets_of(limits: Limits) -> Iterator[_Bucket]:
    for name, most in limits.rates.items():
        unit, _, period = name.split("_")
        yield _Bucket(unit, _PERIODS[period] / most, limits.burst * most)
