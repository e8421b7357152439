"""The clocks over a whole run: its deadline, and how long nothing has succeeded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.engine.halt import Stop

if TYPE_CHECKING:
    from collections.abc import Callable


class Watch:
    """Stops a run that has run too long, or that has had work under way for too long without a success.

    Time in which the run had nothing to do, because the input or the consumer is slow, is no stall.

    Args:
        stop: stops the run; at the deadline what is in flight is abandoned.
        run: seconds that the run may take; None: any number.
        stall: seconds for which work may be under way without a success.
    """

    def __init__(self, stop: Callable[..., None], *, run: float | None, stall: float) -> None:
        self._stop = stop
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._since = self._loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        if run is not None:
            self._deadline = self._loop.call_later(run, self._too_long, run)
        self._stall_timer = self._loop.call_later(stall, self._look)

    def busy(self) -> None:
        """A chunk is under way."""
        if not self._under_way:
            self._since = self._loop.time()
        self._under_way += 1

    def idle(self) -> None:
        """A chunk is no longer under way."""
        self._under_way -= 1

    def progress(self) -> None:
        """Something has succeeded."""
        self._since = self._loop.time()

    def close(self) -> None:
        """The run is over."""
        self._stall_timer.cancel()
        if self._deadline is not None:
            self._deadline.cancel()

    def _look(self) -> None:
        # Set for the earliest moment at which there can be a stall, and never touched by what succeeds.
        if not self._under_way:
            self._since = self._loop.time()
        left = self._since + self._stall - self._loop.time()
        if left <= 0:
            reason = f"nothing has succeeded for {self._stall:g} s (retry.stall)"
            self._stop(Stop("stall", reason), cut=True)
        else:
            self._stall_timer = self._loop.call_later(left, self._look)

    def _too_long(self, limit: float) -> None:
        self._stop(Stop("deadline", f"the run deadline of {limit:g} s has passed (timeouts.run)"), cut=True)
