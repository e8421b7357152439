"""The stop of a run: its reason, the event that all waits go through, and those who may call for it.

`StopEvent.stop` is the one place where a run is stopped. A `Watchdog` calls it when a deadline has passed or nothing
succeeds any more, a `RunControl` when the user asks for it. The `Deadline` of an attempt ends that attempt alone.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from math import inf, isfinite
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fanout.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.scheduler import Progress
    from fanout.types import StopKind


STOOD_STILL = 0.5
"""Seconds by which a timer fires late only if the event loop stood still, as in a process that was stopped."""

GRACE = 1.0
"""Seconds that an attempt has left to read its answer after the loop stood still."""


class Stop(NamedTuple):
    """The reason for which a run was stopped."""

    kind: StopKind
    reason: str
    cause: BaseException | None = None
    """The exception that was raised, where that is the reason."""


class StopEvent:
    """The event that a run is stopped. Each wait through `sleep` then ends at once.

    Args:
        conceal: replaces the secrets in a reason.
        on_stop: called after each stop, with whether it was the first one and whether it cuts.
    """

    def __init__(
        self, conceal: Callable[[str], str] = str, on_stop: Callable[[bool, bool], None] = lambda first, cut: None
    ) -> None:
        self.stopped: Stop | None = None
        self._conceal = conceal
        self._on_stop = on_stop
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._sleepers: dict[asyncio.Future[None], None] = {}

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Stop the run; the first reason counts. Requests in flight are finished, or abandoned if ``cut``."""
        # A watchdog's timer or a user's control may still fire after the end.
        if self._closed:
            return
        # A second stop may still cut what the first one let finish, as a second Ctrl-C does.
        first = self.stopped is None
        if first:
            # Set before any other code runs, so that no request slips out.
            self.stopped = stop._replace(reason=self._conceal(stop.reason))
            for sleeper in self._sleepers:
                _wake(sleeper)
        self._on_stop(first, cut)

    def close(self) -> None:
        """Ignore all later stops: the run has ended."""
        self._closed = True

    async def sleep(self, seconds: float, wait_queue: WaitQueue | None = None) -> None:
        """Wait ``seconds`` (may be infinite), or until the run is stopped, or until ``wait_queue`` is notified."""
        if self.stopped is not None:
            return
        sleeper = self._loop.create_future()
        # A future with a timer needs neither a task nor the context of asyncio.timeout.
        timer = self._loop.call_later(seconds, _wake, sleeper) if isfinite(seconds) else None
        places = (self._sleepers,) if wait_queue is None else (self._sleepers, wait_queue.sleepers)
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
    """Tasks that sleep until something changes, in the order in which they came."""

    def __init__(self) -> None:
        # A dict and not a set: the order of waking decides the order of events, which is the same for the same seed.
        self.sleepers: dict[asyncio.Future[None], None] = {}

    def notify_all(self) -> None:
        """Wake all."""
        for sleeper in self.sleepers:
            _wake(sleeper)

    def notify_one(self) -> None:
        """Wake the one that sleeps longest."""
        if (sleeper := next((one for one in self.sleepers if not one.done()), None)) is not None:
            sleeper.set_result(None)


class Until(NamedTuple):
    """A moment at which a run stops."""

    when: float
    """Time of the event loop."""
    seconds: float
    """From the start of the call."""
    option: str
    """The option that set it."""

    @classmethod
    def after(cls, timeout: float | None) -> Until | None:
        """The end of a call that begins now, for its option ``timeout=``; None for none.

        Raises `ConfigError` for anything but a finite number of seconds above 0.
        """
        if timeout is None:
            return None
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not (number and isfinite(timeout) and timeout > 0):
            raise ConfigError(f"timeout must be a finite number of seconds above 0, not {timeout!r}", key="timeout")
        return cls(asyncio.get_running_loop().time() + timeout, timeout, "timeout=")

    def passed(self) -> Stop:
        """The stop of a run that reaches this moment."""
        return Stop("deadline", f"the run deadline of {self.seconds:g} s has passed ({self.option})")


class Stoppable(Protocol):
    """Anything that can be stopped: a `StopEvent`, or a run."""

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Stop; the first reason counts."""


class Watchdog:
    """Stops a run that takes too long, or in which nothing has succeeded for too long although work is under way.

    Time in which the run has nothing to do, because the input or the consumer is slow, is no stall.

    Args:
        run: seconds that the run may take; ``until`` is another deadline beside it.
        stall: seconds for which work may be under way without a success.
        cause: gives the stop for a stall, where its cause is known.
    """

    def __init__(
        self,
        stop_event: StopEvent,
        progress: Progress,
        *,
        run: float | None,
        stall: float,
        until: Until | None = None,
        cause: Callable[[], Stop | None] = lambda: None,
    ) -> None:
        self._cause = cause
        self._stop_event = stop_event
        self._progress = progress
        self._stall = stall
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        own = None if run is None else Until(now + run, run, "timeouts.run")
        self._timers = [self._loop.call_at(end.when, self._pass, end) for end in (own, until) if end is not None]
        self._stall_timer = self._loop.call_at(progress.progress_at + stall, self._look)

    def close(self) -> None:
        """Stop watching: the run is over."""
        for timer in (*self._timers, self._stall_timer):
            timer.cancel()

    def _look(self) -> None:
        # The timer is set for the earliest moment at which there can be a stall, so no success has to move it.
        now = self._loop.time()
        left = (self._progress.progress_at if self._progress.open else now) + self._stall - now
        # Nothing could succeed while the loop stood still, as it does in a process that was stopped (Ctrl-Z).
        late = now - self._stall_timer.when()
        if left <= 0 and late > STOOD_STILL:
            left = min(late, self._stall)
        if left > 0:
            self._stall_timer = self._loop.call_later(left, self._look)
            return
        reason = f"nothing has succeeded for {self._stall:g} s (retry.stall)"
        words = self._progress.last_failure
        stop = Stop("stall", f"{reason}; the last failure: {words}" if words else reason)
        self._stop_event.stop(self._cause() or stop, cut=True)

    def _pass(self, until: Until) -> None:
        self._stop_event.stop(until.passed(), cut=True)


class RunControl:
    """Ends a run from outside, gently or at once.

    ::

        control = fanout.RunControl()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, control.drain)
        try:
            y = await client.map(X, control=control)
        except fanout.RunStopped as stop:
            y = stop.result.values  # stop.result.ok says which rows are answered

    It may be used before the run has begun, and from any thread.
    """

    def __init__(self) -> None:
        self._run: Stoppable | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requested: tuple[Stop, bool] | None = None

    def drain(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Send nothing new, finish the requests in flight, then stop."""
        self._request(Stop(kind, reason), cut=False)

    def cut(self, reason: str = "interrupted", kind: StopKind = "interrupted") -> None:
        """Stop now; requests in flight are abandoned and their rows are pending."""
        self._request(Stop(kind, reason), cut=True)

    def attach(self, run: Stoppable) -> None:
        """Act on ``run``; a stop requested before takes effect now."""
        self._loop, self._run = _running_loop(), run
        if self._requested is not None:
            stop, cut = self._requested
            run.stop(stop, cut=cut)

    def _request(self, stop: Stop, *, cut: bool) -> None:
        # A stop that comes before the run begins must not be lost.
        self._requested = stop, cut
        if self._run is None:
            return
        # A stop from another thread must not touch the loop's objects.
        if self._loop is None or _running_loop() is self._loop:
            self._run.stop(stop, cut=cut)
            return
        with suppress(RuntimeError):  # the loop is closed, so the run has ended
            self._loop.call_soon_threadsafe(partial(self._run.stop, stop, cut=cut))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


# A task may be cancelled for several reasons at once; the text shows traces and logs which one it was.
ATTEMPT_TIMEOUT = "attempt timeout"
"""Argument of the `CancelledError` by which a deadline ends an attempt."""


class Deadline:
    """One reusable timer for the attempts of one asyncio task.

    A request nearly always ends long before its deadline, so the timer is not set and cancelled for each: it stays
    set, and re-arms itself when it fires too early for the attempt then running. At its time it cancels the task;
    `expired` distinguishes that cancellation from any other.
    """

    __slots__ = ("_extended", "_handle", "_loop", "_task", "expired", "fires_at", "when")

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        # The end of the attempt that was given more time last: each gets it once.
        self._extended: float | None = None
        self.fires_at = inf
        """Time at which the timer fires next; infinity if none is set."""

        self.when: float | None = None
        """The end of the attempt that runs. None ends it: the timer may still fire, but does nothing."""

        self.expired = False

    def start(self, when: float) -> None:
        """Cancel the task at ``when``, unless the attribute `when` is set to None before."""
        self.expired = False
        self.when = when
        if self.fires_at > when:
            self.arm()

    def arm(self) -> None:
        """Set the timer to the end of the attempt."""
        assert self.when is not None
        if self._handle is not None:
            self._handle.cancel()  # it would fire too late
        self.fires_at = self.when
        self._handle = self._loop.call_at(self.when, self._fire)

    def absorb(self) -> bool:
        """True if this deadline alone caused the cancellation at hand, which is then taken back from the task."""
        if not self.expired:
            return False
        self.expired = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """Remove the timer from the loop."""
        self.when = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle, self.fires_at = None, inf

    def _fire(self) -> None:
        due = self.fires_at
        self._handle, self.fires_at = None, inf
        if self.when is None:
            return
        now = self._loop.time()
        if now < self.when:
            self.arm()
            return
        if now - due > STOOD_STILL and self.when != self._extended:
            # The answer may have come while the loop stood still. It is read before the request counts as too slow.
            self.when = self._extended = now + GRACE
            self.arm()
            return
        self.expired = True
        self._task.cancel(ATTEMPT_TIMEOUT)
