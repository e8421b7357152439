"""The stop of a run: why, and a way to sleep that ends when it comes."""

from __future__ import annotations

import asyncio
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanout.types import StopKind


class Stop(NamedTuple):
    """Why a run was stopped."""

    kind: StopKind
    reason: str
    cause: BaseException | None = None
    """What was raised, where that is the reason."""


class StopEvent:
    """Whether the run is stopped. Those who wait through `sleep` are woken at once when it is."""

    def __init__(self) -> None:
        self.stopped: Stop | None = None
        self._loop = asyncio.get_running_loop()
        self._sleepers: dict[asyncio.Future[None], None] = {}

    def stop(self, stop: Stop) -> bool:
        """Stop the run. The first reason counts; True if this was it."""
        if self.stopped is not None:
            return False
        self.stopped = stop
        for sleeper in self._sleepers:
            _wake(sleeper)
        return True

    async def sleep(self, seconds: float, bell: WaitQueue | None = None) -> None:
        """Wait ``seconds`` (infinity: without end), or until the run is stopped, or until ``bell`` rings."""
        if self.stopped is not None:
            return
        sleeper = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, sleeper) if isfinite(seconds) else None
        places = (self._sleepers,) if bell is None else (self._sleepers, bell.sleepers)
        for place in places:
            place[sleeper] = None
        try:
            await sleeper
        finally:
            if timer is not None:
                timer.cancel()
            for place in places:
                place.pop(sleeper, None)


class WaitQueue:
    """Wakes those who sleep until something changes."""

    def __init__(self) -> None:
        # Not a set: they wake in the order in which they came, so that the same run has the same events.
        self.sleepers: dict[asyncio.Future[None], None] = {}

    def ring(self) -> None:
        """Wake them all."""
        for sleeper in self.sleepers:
            _wake(sleeper)

    def ring_for_one(self) -> None:
        """Wake the one who sleeps longest."""
        for sleeper in self.sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
                return


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
