"""The events of a run, for its listener and the log."""

from __future__ import annotations

import logging
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from fanout.callbacks import abnormal
from fanout.engine.logs import level_of, log_event
from fanout.results import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from fanout.engine.chunker import ChunkTask
    from fanout.types import Verdict
    from fanout.upstream.balancer import Balancer

_log = logging.getLogger("fanout")


class EventEmitter:
    """Calls a listener with events, their secrets concealed.

    If the listener raises an exception, log it and stop calling it; whatever else it raises stops the run.

    Args:
        listener: takes each event. With an attribute ``kinds`` it takes only events of these kinds.
        report: takes the error of a listener that ended abnormally.
    """

    def __init__(
        self,
        listener: Callable[[Event], None] | None,
        balancer: Balancer,
        report: Callable[[BaseException], None],
    ) -> None:
        self._listener = listener
        self._kinds: Container[str] | None = getattr(listener, "kinds", None)
        self._balancer = balancer
        self._report = report
        self.has_failed = False
        """The listener has raised something, and is not called again."""

    def wants(self, kind: str) -> bool:
        """Return whether the listener takes events of this kind."""
        return self._listener is not None and (self._kinds is None or kind in self._kinds)

    def retry(self, task: ChunkTask, verdict: Verdict) -> None:
        """Emit that a task is sent again."""
        self(_event_of("retry", task, verdict, attempt=task.charged))

    def split(self, task: ChunkTask, verdict: Verdict) -> None:
        """Emit that a task is sent in parts."""
        self(_event_of("split", task, verdict))

    def __call__(self, event: Event) -> None:
        """Emit ``event``, and log it."""
        level, listener = level_of(event), self._listener if self.wants(event.kind) else None
        if level is None and listener is None:
            return
        if event.reason and (reason := self._balancer.conceal(event.reason)) != event.reason:
            event = replace(event, reason=reason)
        if level is not None:
            log_event(event, level)
        if listener is None:
            return
        try:
            listener(event)
        except BaseException as error:  # noqa: BLE001 - the user's code, beside the run
            self._listener, self.has_failed = None, True
            # Formatted here, because a traceback may quote secrets.
            trace = self._balancer.conceal_lines(traceback.format_exc())
            # Logged in any case: the run may have ended, or have an answer for all of its callers.
            _log.error("on_event raised an error, and is not called again in this run\n%s", trace)
            if not isinstance(error, Exception):
                self._report(abnormal("on_event", error))


def _event_of(kind: Literal["retry", "split"], task: ChunkTask, verdict: Verdict, *, attempt: int = 0) -> Event:
    chunk, status, reason = task.chunk, verdict.status, verdict.reason
    return Event(kind=kind, start=chunk.start, stop=chunk.stop, attempt=attempt, status=status, reason=reason)
