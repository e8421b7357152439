"""Log records of runs, on the logger ``fanout``, with their values as ``extra``.

DEBUG has each attempt, INFO phases and stops, WARNING what needs a person. The names of the values begin with
``fanout.``, so that they cannot collide with those of a log record. Reasons are free of secrets. Nothing is formatted
while a level is off, and a run that begins while DEBUG is off makes its attempts without any of this.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fanout.types import Verdict

if TYPE_CHECKING:
    from fanout.engine.attempt import Attempter, Outcome
    from fanout.engine.chunker import ChunkTask
    from fanout.results import Event, Statistics
    from fanout.stop import Stop
    from fanout.upstream.admission import Ticket

log = logging.getLogger("fanout")

# A pause that is shorter passes before a person has looked.
_LONG_PAUSE = 5.0

# Levels of the kinds of events. The others are logged with the attempt or the stop that they follow from.
_LEVELS = {
    "pause": logging.DEBUG,
    "limit": logging.DEBUG,
    "split": logging.DEBUG,
    "opened": logging.INFO,
    "ejected": logging.INFO,
    "restored": logging.INFO,
    "excluded": logging.WARNING,
}


def logged(attempter: Attempter) -> Attempter | LoggedAttempter:
    """Return an attempter that logs, or ``attempter`` itself while DEBUG is off."""
    return LoggedAttempter(attempter) if log.isEnabledFor(logging.DEBUG) else attempter


class LoggedAttempter:
    """Makes attempts by another attempter, and logs each."""

    def __init__(self, attempter: Attempter) -> None:
        self._attempter = attempter
        self.ticket = attempter.ticket
        self.misfit = attempter.misfit

    async def run(self, task: ChunkTask, ticket: Ticket) -> Outcome:
        """Make an attempt, and log its outcome."""
        outcome = await self._attempter.run(task, ticket)
        endpoint = task.endpoint
        values: dict[str, Any] = {
            "start": task.chunk.start,
            "stop": task.chunk.stop,
            "attempt": task.sent,
            "endpoint": None if endpoint is None else endpoint.transport.shown_url,
            # The tickets of hedged requests are their own.
            "seconds": ticket.latency if ticket.endpoint is endpoint else None,
            "bytes": 0 if task.payload is None else task.payload.nbytes,
        }
        words = "succeeded"
        if isinstance(outcome, Verdict):
            reason = self._attempter.conceal(outcome.reason)
            words = f"failed ({outcome.action.value}): {reason}"
            values |= {"status": outcome.status, "action": outcome.action.value, "reason": reason}
        text = "rows %d:%d, attempt %d at %s %s"
        _log(logging.DEBUG, "attempt", text, *list(values.values())[:4], words, **values)
        return outcome


def level_of(event: Event) -> int | None:
    """Return the level at which an event is logged; None if it is not."""
    level = _LEVELS.get(event.kind)
    if event.kind == "pause" and event.seconds >= _LONG_PAUSE:
        level = logging.INFO
    return level if level is not None and log.isEnabledFor(level) else None


def log_event(event: Event, level: int) -> None:
    """Log an event whose reason holds no secret."""
    values: dict[str, Any] = {"reason": event.reason}
    if event.status is not None:
        values["status"] = event.status
    if event.kind == "pause":
        _log(level, "pause", "pause of %.3g s: %s", event.seconds, event.reason, seconds=event.seconds, **values)
    elif event.kind == "limit":
        limit = event.concurrency
        _log(level, "limit", "%d requests may be in flight: %s", limit, event.reason, concurrency=limit, **values)
    elif event.kind == "split":
        rows = {"start": event.start, "stop": event.stop}
        _log(level, "split", "rows %d:%d are split: %s", event.start, event.stop, event.reason, **rows, **values)
    else:
        _log(level, event.kind, "%s", event.reason, **values)


def level_of_phases(*, isolated: bool) -> int:
    """Return the level of the phases of a run. Batches of `predict`, which are ``isolated``, are too many for INFO."""
    return logging.DEBUG if isolated else logging.INFO


def log_stop(stop: Stop, *, level: int) -> None:
    """Log the early stop of a run."""
    if log.isEnabledFor(level):
        _log(level, "stop", "the run stops: %s", stop.reason, kind=stop.kind, reason=stop.reason)


def log_begin(rows: int | None, *, level: int) -> None:
    """Log the beginning of a run of so many rows; None if their number is unknown."""
    if log.isEnabledFor(level):
        _log(level, "begin", "a run of %s rows begins", "an unknown number of" if rows is None else rows, rows=rows)


def log_end(stats: Statistics, *, level: int) -> None:
    """Log the end of a run."""
    counted = {name: getattr(stats, name) for name in ("rows", "ok", "failed", "requests", "retries", "seconds")}
    text = "the run has ended: %d rows taken, %d ok, %d failed, %d requests, %d retries in %.3g s"
    _log(level, "end", text, *counted.values(), **counted)


def _log(level: int, event: str, text: str, *args: Any, **values: Any) -> None:
    extra = {"fanout.event": event} | {f"fanout.{name}": value for name, value in values.items()}
    log.log(level, text, *args, extra=extra)
