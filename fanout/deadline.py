"""The deadline of one attempt: a timer on the task itself, cheap enough to be set for every request."""

from __future__ import annotations

import asyncio


class Deadline:
    """One reusable timer for the attempts of one task.

    A request nearly always ends long before its deadline, so the timer is not set and cancelled for each: it stays
    set, and re-arms itself when it fires too early for the attempt then running. At its time it cancels the task;
    `expired` tells that cancellation from any other.
    """

    __slots__ = ("_handle", "_loop", "_task", "_when", "expired", "started")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._when: float | None = None
        self._handle: asyncio.TimerHandle | None = None
        self.expired = False
        self.started = 0.0
        """When the attempt in hand, or the last one, was sent."""

    def start(self, now: float, seconds: float) -> None:
        """Give the task ``seconds`` from ``now`` on."""
        self.expired = False
        self.started = now
        self._when = now + seconds
        if self._handle is not None and self._handle.when() > self._when:  # it would fire too late
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._handle = self._loop.call_at(self._when, self._fire)

    def stop(self) -> None:
        """The attempt is over; the timer may fire, but does nothing."""
        self._when = None

    def absorbed(self) -> bool:
        """True if the cancellation in hand is this deadline's alone; it is then taken back from the task."""
        if not self.expired:
            return False
        self.expired = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """Remove the timer from the loop."""
        self._when = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        if self._when is None:
            return
        if self._loop.time() < self._when:
            self._handle = self._loop.call_at(self._when, self._fire)
            return
        self.expired = True
        self._task.cancel()
