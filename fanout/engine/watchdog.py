"""The clocks over a whole run: its deadline, and how long nothing has succeeded."""

from __future__ import annotations

import asyncio
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

from fanout.errors import ConfigError
from fanout.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable


class Until(NamedTuple):
    """A moment at which a run stops."""

    when: float
    """By the event loop's clock."""
    seconds: float
    """From the start of the call."""
    option: str
    """That set it."""

    @classmethod
    def after(cls, timeout: float | None) -> Until | None:
        """The end of a call that begins now and has this ``timeout=``. Raises `ConfigError` where it cannot be one."""
        if timeout is None:
            return None
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not (number and isfinite(timeout) and timeout > 0):
            raise ConfigError(f"timeout must be a finite number of seconds above 0, not {timeout!r}", key="timeout")
        return cls(asyncio.get_running_loop().time() + timeout, timeout, "timeout=")

    def passed(self) -> Stop:
        """The stop for which it is the reason."""
        return Stop("deadline", f"the run deadline of {self.seconds:g} s has passed ({self.option})")


class Watchdog:
    """Stops a run that has run too long, or that has had work under way for too long without a success.

    Time in which the run had nothing to do, because the input or the consumer is slow, is no stall.

    Args:
        stop: stops the run; at the deadline what is in flight is abandoned.
        run: seconds that the run may take; None: any number.
        until: another deadline beside ``run``.
        stall: seconds for which work may be under way without a success.
        last_words: gives the reason of the last failure, empty where there was none.
    """

    def __init__(
        self,
        stop: Callable[..., None],
        *,
        run: float | None,
        stall: float,
        until: Until | None = None,
        last_words: Callable[[], str] = lambda: "",
    ) -> None:
        self._stop = stop
        self._stall = stall
        self._last_words = last_words
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._since = self._loop.time()
        own = None if run is None else Until(self._since + run, run, "timeouts.run")
        self._deadlines = [
            self._loop.call_at(until.when, self._too_long, until) for until in (own, until) if until is not None
        ]
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
        for deadline in self._deadlines:
            deadline.cancel()

    def _look(self) -> None:
        # Set for the earliest moment at which there can be a stall, and never touched by what succeeds.
        if not self._under_way:
            self._since = self._loop.time()
        left = self._since + self._stall - self._loop.time()
        if left <= 0:
            reason = f"nothing has succeeded for {self._stall:g} s (retry.stall)"
            words = self._last_words()
            self._stop(Stop("stall", f"{reason}; the last failure: {words}" if words else reason), cut=True)
        else:
            self._stall_timer = self._loop.call_later(left, self._look)

    def _too_long(self, until: Until) -> None:
        self._stop(until.passed(), cut=True)
