"""How hard an endpoint may be driven: permits (in flight), a rate (starts in a second), a gate (not before).

All of it decides synchronously and knows no clock: callers pass in ``loop.time()``.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Permits:
    """A counted number of permits, handed from holder to holder in the order of asking."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.in_use = 0
        self.most_in_use = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a permit if one is free; those who wait for one come first."""
        if self.in_use >= self.total or self._waiters:
            return False
        self.in_use += 1
        if self.in_use > self.most_in_use:
            self.most_in_use = self.in_use
        return True

    async def acquire(self) -> None:
        """Take a permit, waiting for one if need be."""
        if self.take():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()  # it was handed over in the very moment of the cancellation
            raise

    def release(self) -> None:
        """Give a permit back; the one who waits longest has it at once, so nobody can overtake."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.in_use -= 1

    def __repr__(self) -> str:
        return f"<Permits {self.in_use}/{self.total} in use, {len(self._waiters)} waiting>"


class Rate:
    """At most ``per_second`` starts in a second, evenly spaced.

    The generic cell rate algorithm (ITU-T I.371) without burst: every start reserves the next free slot.
    """

    def __init__(self, per_second: float | None) -> None:
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._next_slot = 0.0

    def reserve(self, now: float) -> float:
        """The time at which the caller may start, now or later. The slot is then his, used or not."""
        slot = max(now, self._next_slot)
        self._next_slot = slot + self._interval
        return slot


class Gate:
    """Shut while the endpoint wants no request at all. One was told to wait, so all wait."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def shut_until(self, when: float) -> None:
        """Shut the gate; a later opening that was already promised stays."""
        self._opens_at = max(self._opens_at, when)

    def wait(self, now: float) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        return max(0.0, self._opens_at - now)
