"""Permits: how many requests are in flight at once."""

from __future__ import annotations

import asyncio
from collections import deque


class ConcurrencyLimiter:
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
        if self.in_use <= self.total and self._hand_over():
            return
        self.in_use -= 1

    def resize(self, total: int) -> None:
        """Allow more, which those who wait have at once, or fewer, which those who hold a permit need not give back."""
        self.total = total
        while self.in_use < total and self._hand_over():
            self.in_use += 1
        if self.in_use > self.most_in_use:
            self.most_in_use = self.in_use

    def _hand_over(self) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return True
        return False

    def __repr__(self) -> str:
        return f"<Permits {self.in_use}/{self.total} in use, {len(self._waiters)} waiting>"
