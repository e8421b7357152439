"""The stop of a run: why, and a way to sleep that ends when it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fanout.types import StopKind


class Stop(NamedTuple):
    """Why a run was stopped."""

    kind: StopKind
    reason: str


class Halt:
    """Whether the run is stopped. Those who wait through `sleep` are woken at once when it is."""

    def __init__(self) -> None:
        self.stopped: Stop | None = None
        self._loop = asyncio.get_running_loop()
        self._sleepers: set[asyncio.Future[None]] = set()

    def stop(self, stop: Stop) -> bool:
        """Stop the run. The first reason counts; True if this was it."""
        if self.stopped is not None:
            return False
        self.stopped = stop
        for sleeper in self._sleepers:
            _wake(sleeper)
        return True

    async def sleep(self, seconds: float) -> None:
        """Wait ``seconds``, or until the run is stopped."""
        if self.stopped is not None:
            return
        sleeper = self._loop.create_future()
        timer = self._loop.call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            timer.cancel()
            self._sleepers.discard(sleeper)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
