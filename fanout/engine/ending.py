"""The end of a run: its stop, its asyncio tasks, and the error that it raises once all answers are delivered.

Whatever ends a task, a callback or the source of the rows otherwise than by a return comes to `Ending.report`, and
becomes a stop or an error of the run. So no such end can look like a success.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fanout.callbacks import ENDS_OF_ITERATION
from fanout.engine.events import EventEmitter
from fanout.engine.logs import level_of_phases, log_stop
from fanout.engine.workers import Tasks
from fanout.errors import CallbackError, FanoutError
from fanout.results import Event
from fanout.stop import Stop, StopEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.engine.scheduler import Scheduler
    from fanout.upstream.balancer import Balancer


class Ending:
    """The stop event, the tasks and the events of one run, which depend on each other.

    Args:
        on_event: listener of the run's events.
        isolated: the rows belong to several callers, so that a stop is logged as one of theirs.
    """

    def __init__(self, balancer: Balancer, on_event: Callable[[Event], None] | None, *, isolated: bool) -> None:
        self._balancer = balancer
        self._isolated = isolated
        self.stop_event = StopEvent(balancer.conceal, self._after_stop)
        self.tasks = Tasks(self.report, self.abandon)
        self.emit = EventEmitter(on_event, balancer, self.report)
        self.scheduler: Scheduler | None = None
        """The scheduler of the run, which is made of the stop event."""

        self.error: Exception | None = None
        """The first error for which the run ends, to be raised once all answers that came before it are delivered."""

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Send nothing new. Requests in flight are finished, or abandoned if ``cut``. The first reason counts."""
        self.stop_event.stop(stop, cut=cut)

    def abandon(self) -> None:
        """Stop at once, because the caller of the run was cancelled."""
        self.stop(Stop("interrupted", "the call was cancelled"), cut=True)

    def report(self, error: BaseException) -> None:
        """End the run for an error that no retry can mend, once the requests in flight are finished."""
        cause = error.__cause__ if isinstance(error, CallbackError) else error
        if isinstance(cause, KeyboardInterrupt):
            self.stop(Stop("interrupted", str(error) or "interrupted", cause), cut=True)
        elif isinstance(error, CallbackError):
            self.stop(Stop("error", str(error), cause))
        elif isinstance(error, asyncio.CancelledError):
            self.stop(Stop("error", "a task of the run was cancelled, although the run was not", error))
        elif isinstance(error, Exception) and not isinstance(error, ENDS_OF_ITERATION):
            if isinstance(error, FanoutError):  # it may quote the server, an option or a row; other errors stay whole
                self._balancer.redact(error)
            self.error = self.error or error
            self.stop(Stop("rejected", f"{type(error).__name__}: {error}"))
        else:
            self.stop(Stop("error", f"a task of the run raised {type(error).__name__}: {error}", error))

    def release(self) -> None:
        """Drop all parts, since the run has ended: see `Run.release`."""
        vars(self).clear()

    def _after_stop(self, first: bool, cut: bool) -> None:
        # Requests in flight are abandoned; without ``cut`` only the wait for input ends, which may last for ever.
        if cut:
            self.tasks.cancel_all()
        elif self.scheduler is not None and self.scheduler.reader is not None:
            self.tasks.cancel([self.scheduler.reader])
        stop = self.stop_event.stopped
        if first and stop is not None:
            log_stop(stop, level=level_of_phases(isolated=self._isolated))
            self.emit(Event(kind="stop", reason=stop.reason))
